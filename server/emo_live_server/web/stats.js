// @ts-check
/**
 * What the browser itself measures about the picture and sound it gets. Each figure is of the last second unless its
 * name says otherwise. There is no "total latency" among them: a browser cannot see when the server made a picture.
 */

/**
 * @typedef {object} Figures
 * @property {number | null} rttMs
 * @property {number | null} videoBufferMs
 * @property {number | null} audioBufferMs
 * @property {number | null} networkToGlassMs from the arrival of a picture's last packet to its display, median
 * @property {number | null} fps
 * @property {number | null} kbps
 * @property {string} codec
 * @property {number} freezes since the connection was made
 * @property {number} freezeS
 * @property {number} lostPercent
 * @property {string} size
 */

const MAX_SAMPLES = 60;

export class BrowserStats {
  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.video = video;
    /** @type {number[]} */
    this.toGlass = [];
    /** @type {RTCPeerConnection | null} */
    this.pc = null;
    /** @type {Record<string, any>} */
    this.before = {};
    this.watching = false;
  }

  /** @param {RTCPeerConnection} pc */
  attach(pc) {
    this.pc = pc;
    this.before = {};
    if (this.watching || !this.video.requestVideoFrameCallback) return;
    this.watching = true;
    /** @type {VideoFrameRequestCallback} */
    const look = (now, frame) => {
      if (frame.receiveTime) this.toGlass.push(Math.max(0, frame.expectedDisplayTime - frame.receiveTime));
      if (this.toGlass.length > MAX_SAMPLES) this.toGlass.shift();
      this.video.requestVideoFrameCallback(look);
    };
    this.video.requestVideoFrameCallback(look);
  }

  /** @returns {Promise<Figures | null>} null before there is anything */
  async sample() {
    if (!this.pc || this.pc.connectionState === "closed") return null;
    /** @type {Record<string, any>} */
    const found = {};
    const report = await this.pc.getStats();
    for (const entry of report.values()) {
      if (entry.type === "inbound-rtp") found[entry.kind] = entry;
      if (entry.type === "candidate-pair" && (entry.nominated || entry.selected)) found.pair = entry;
    }
    const { video, audio, pair } = found;
    if (!video) return null;
    const old = this.before;
    this.before = found;
    const seconds = old.video ? (video.timestamp - old.video.timestamp) / 1000 : 0;
    /** @param {string} kind @param {string} name */
    const gained = (kind, name) => (found[kind]?.[name] ?? 0) - (old[kind]?.[name] ?? 0);
    const lost = gained("video", "packetsLost") + gained("audio", "packetsLost");
    const got = gained("video", "packetsReceived") + gained("audio", "packetsReceived");
    return {
      rttMs: pair?.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000,
      videoBufferMs: buffered(gained, "video"),
      audioBufferMs: audio ? buffered(gained, "audio") : null,
      networkToGlassMs: median(this.toGlass.splice(0)),
      fps: seconds ? gained("video", "framesDecoded") / seconds : null,
      kbps: seconds ? ((gained("video", "bytesReceived") + gained("audio", "bytesReceived")) * 8) / 1000 / seconds : null,
      codec: String(report.get(video.codecId)?.mimeType ?? "").replace("video/", ""),
      freezes: video.freezeCount ?? 0,
      freezeS: video.totalFreezesDuration ?? 0,
      lostPercent: got + lost > 0 ? (100 * Math.max(0, lost)) / (got + lost) : 0,
      size: video.frameWidth ? `${video.frameWidth} × ${video.frameHeight}` : "",
    };
  }
}

/** Mean time in the jitter buffer. @param {(kind: string, name: string) => number} gained @param {string} kind */
function buffered(gained, kind) {
  const count = gained(kind, "jitterBufferEmittedCount");
  return count > 0 ? (gained(kind, "jitterBufferDelay") / count) * 1000 : null;
}

/** @param {number[]} values */
function median(values) {
  return values.length ? values.sort((a, b) => a - b)[values.length >> 1] : null;
}
