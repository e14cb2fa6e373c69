// @ts-check
/**
 * Runs in the browser under test: plays what a WHEP address sends and notes when pictures are shown and beeps are
 * heard, on one clock (performance.now). Loaded by the benchmark into an empty page; not part of the website.
 */

const WORKLET = `
  class Onsets extends AudioWorkletProcessor {
    quiet = sampleRate;
    process([[channel]]) {
      if (channel) for (let k = 0; k < channel.length; k += 1) {
        if (Math.abs(channel[k]) < 0.1) { this.quiet += 1; continue; }
        // A beep after at least a fifth of a second without one.
        if (this.quiet > sampleRate / 5) this.port.postMessage((currentFrame + k) / sampleRate);
        this.quiet = 0;
      }
      return true;
    }
  }
  registerProcessor("onsets", Onsets);
`;
const FLASH = 205;

/**
 * @param {{url: string, seconds: number, say?: {url: string, text: string, everyS: number}}} what
 *   say: a request that makes the avatar speak, repeated while it is watched
 * @returns {Promise<{flashes: number[], beeps: number[], frames: number[], startMs: number, report: Record<string, any>}>}
 *   times in ms
 */
async function measure({ url, seconds, say }) {
  const started = performance.now();
  const pc = new RTCPeerConnection();
  const stream = new MediaStream();
  pc.addTransceiver("audio", { direction: "recvonly" });
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.addEventListener("track", ({ track }) => stream.addTrack(track));
  await pc.setLocalDescription();
  await new Promise((resolve) => {
    pc.addEventListener("icegatheringstatechange", () => pc.iceGatheringState === "complete" && resolve(null));
    setTimeout(resolve, 1000);
  });
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/sdp" },
    body: pc.localDescription?.sdp,
  });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  await pc.setRemoteDescription({ type: "answer", sdp: await response.text() });

  const video = document.createElement("video");
  document.body.append(video);
  video.srcObject = stream;
  await video.play();
  const found = { flashes: /** @type {number[]} */ ([]), beeps: /** @type {number[]} */ ([]), frames: /** @type {number[]} */ ([]) };
  watch(video, found);
  const context = await listen(stream, found);
  const talking = say && talk(say);
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  clearInterval(talking);
  const report = await summary(pc);
  await context.close();
  pc.close();
  const location = response.headers.get("Location");
  if (location) await fetch(new URL(location, response.url), { method: "DELETE" });
  return { ...found, startMs: (found.frames[0] ?? NaN) - started, report };
}

/** @param {{url: string, text: string, everyS: number}} say */
function talk({ url, text, everyS }) {
  const speak = () =>
    void fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }) });
  speak();
  return setInterval(speak, everyS * 1000);
}

/** @param {HTMLVideoElement} video @param {{flashes: number[], frames: number[]}} found */
function watch(video, found) {
  const canvas = new OffscreenCanvas(4, 4);
  const paint = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  let white = false;
  /** @type {VideoFrameRequestCallback} */
  const look = (now) => {
    found.frames.push(now);
    paint.drawImage(video, 0, 0, 4, 4);
    const { data } = paint.getImageData(0, 0, 4, 4);
    const darkest = Math.min(...data.filter((_, k) => k % 4 === 1));
    if (darkest > FLASH && !white) found.flashes.push(now);
    white = darkest > FLASH;
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
}

/** @param {MediaStream} stream @param {{beeps: number[]}} found */
async function listen(stream, found) {
  const context = new AudioContext();
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" })));
  const onsets = new AudioWorkletNode(context, "onsets", { numberOfOutputs: 0 });
  onsets.port.onmessage = ({ data: seconds }) => {
    // When this sound leaves the device, not when it was computed.
    const { contextTime = 0, performanceTime = 0 } = context.getOutputTimestamp();
    found.beeps.push(performanceTime + (seconds - contextTime) * 1000);
  };
  context.createMediaStreamSource(stream).connect(onsets);
  return context;
}

/** @param {RTCPeerConnection} pc */
async function summary(pc) {
  const stats = [...(await pc.getStats()).values()];
  const video = stats.find((entry) => entry.type === "inbound-rtp" && entry.kind === "video") ?? {};
  return {
    codec: stats.find((entry) => entry.id === video.codecId)?.mimeType ?? "",
    freezes: video.freezeCount ?? 0,
    freeze_s: video.totalFreezesDuration ?? 0,
    frames_dropped: video.framesDropped ?? 0,
    packets_lost: video.packetsLost ?? 0,
  };
}
