// @ts-check
/** Records what is seen and heard into a file that says it is AI-generated, in its name and (WebM) in its tags. */

// VP8 first: it leaves the CPU to the avatar, which may run on the same computer.
const TYPES = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];
const MARK = "AI-generated with emo_live";
const CLUSTER = [0x1f, 0x43, 0xb6, 0x75];

export const canRecord = () => "MediaRecorder" in window && TYPES.some((type) => MediaRecorder.isTypeSupported(type));

export class Recorder {
  /** @param {MediaStream} stream */
  constructor(stream) {
    this.type = TYPES.find((type) => MediaRecorder.isTypeSupported(type)) ?? "";
    this.recorder = new MediaRecorder(stream, { mimeType: this.type, videoBitsPerSecond: 2_500_000 });
    /** @type {Blob[]} */
    this.parts = [];
    this.recorder.addEventListener("dataavailable", ({ data }) => this.parts.push(data));
    this.startedMs = performance.now();
    this.recorder.start(1000);
  }

  get seconds() {
    return Math.floor((performance.now() - this.startedMs) / 1000);
  }

  /** @returns {Promise<File>} */
  async stop() {
    if (this.recorder.state !== "inactive") {
      const stopped = new Promise((resolve) => this.recorder.addEventListener("stop", resolve, { once: true }));
      this.recorder.stop();
      await stopped;
    }
    const webm = this.type.startsWith("video/webm");
    const parts = webm ? tagged(new Uint8Array(await new Blob(this.parts).arrayBuffer())) : this.parts;
    const time = new Date().toISOString().slice(0, 19).replace(/[T:]/g, "-");
    return new File(parts, `emo_live AI-generated ${time}.${webm ? "webm" : "mp4"}`, { type: this.type.split(";")[0] });
  }
}

/** @param {File} file */
export function download(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  // The browser reads the file after this turn.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * Puts a Tags element (Matroska, RFC 9559 section 5.1.8) before the first cluster. Recorders write segments of unknown
 * size, so no length before it changes.
 * @param {Uint8Array<ArrayBuffer>} bytes @returns {BlobPart[]}
 */
function tagged(bytes) {
  const at = bytes.findIndex((_, start) => CLUSTER.every((byte, k) => bytes[start + k] === byte));
  if (at < 0) return [bytes];
  return [bytes.subarray(0, at), tags({ COMMENT: MARK, DIGITAL_SOURCE_TYPE: "trainedAlgorithmicMedia" }), bytes.subarray(at)];
}

/** @param {Record<string, string>} values */
function tags(values) {
  const encoder = new TextEncoder();
  const simple = Object.entries(values).flatMap(([name, text]) =>
    element([0x67, 0xc8], [...element([0x45, 0xa3], encoder.encode(name)), ...element([0x44, 0x87], encoder.encode(text))]),
  );
  return new Uint8Array(element([0x12, 0x54, 0xc3, 0x67], element([0x73, 0x73], [...element([0x63, 0xc0], []), ...simple])));
}

/** An EBML element of less than 16383 bytes. @param {number[]} id @param {ArrayLike<number>} body */
function element(id, body) {
  return [...id, 0x40 | (body.length >> 8), body.length & 0xff, ...Array.from(body)];
}
