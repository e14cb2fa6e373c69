// @ts-check
/** The microphone: a track to send and its level. Asked for when it is switched on, released when it is switched off. */

const FLOOR_DB = -60;

export class Microphone {
  /** @param {(level: number) => void} onLevel 0 (silence) to 1 (full scale), about 20 times a second */
  constructor(onLevel) {
    this.onLevel = onLevel;
    /** @type {MediaStream | null} */
    this.stream = null;
    /** @type {AudioContext | null} */
    this.context = null;
  }

  get isOpen() {
    return this.stream !== null;
  }

  /** @param {string} deviceId "" for the system's choice @returns {Promise<MediaStreamTrack>} @throws {Error} in plain words */
  async open(deviceId) {
    if (!navigator.mediaDevices) {
      throw new Error("Browsers give the microphone only to pages on https:// or on this computer (localhost).");
    }
    const audio = {
      ...(deviceId && { deviceId: { exact: deviceId } }),
      echoCancellation: true, // the avatar's own voice must not come back as yours
      noiseSuppression: true,
      autoGainControl: true,
      channelCount: 1,
    };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Error(explain(error));
    }
    await this.#measure(this.stream);
    return this.stream.getAudioTracks()[0];
  }

  /** @param {MediaStream} stream */
  async #measure(stream) {
    const context = new AudioContext();
    this.context = context;
    await context.audioWorklet.addModule(new URL("meter.js", import.meta.url));
    if (this.stream !== stream) return; // closed meanwhile
    const meter = new AudioWorkletNode(context, "meter", { numberOfOutputs: 0 });
    meter.port.onmessage = ({ data: rms }) => {
      if (this.stream === stream) this.onLevel(Math.min(1, Math.max(0, 1 - (20 * Math.log10(rms + 1e-9)) / FLOOR_DB)));
    };
    context.createMediaStreamSource(stream).connect(meter);
  }

  close() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    void this.context?.close().catch(() => {});
    this.stream = this.context = null;
    this.onLevel(0);
  }
}

/** @param {unknown} error */
function explain(error) {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return "This page may not use the microphone. Allow it in the browser's address bar, then press the button again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone was found. Plug one in, or choose another under Devices.";
    case "NotReadableError":
      return "The microphone is in use by another program.";
    default:
      return "The microphone could not be opened.";
  }
}
