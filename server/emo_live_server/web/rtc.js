// @ts-check
/**
 * One peer connection to the server: the avatar's picture and sound in, the microphone out, set up by HTTP as in WHEP
 * (draft-ietf-wish-whep): POST the offer, PATCH late candidates, DELETE at the end.
 */
import { Problem, address, request } from "./api.js";

/** Host candidates are there within milliseconds; those of STUN and TURN servers follow by PATCH. */
const GATHER_MS = 120;
const NO_WEBRTC =
  "This browser does not allow live video (WebRTC): an extension or a policy may have turned it off. " +
  "Allow it, or use another browser.";
const FRAGMENT = "application/trickle-ice-sdpfrag";

export class Connection {
  /** @param {RTCConfiguration} settings */
  constructor(settings) {
    this.pc = peerConnection({ ...settings, bundlePolicy: "max-bundle" });
    this.stream = new MediaStream();
    /** @type {string | null} */
    this.resource = null;
    this.etag = "";
    /** @type {RTCIceCandidate[]} */
    this.late = [];
    this.offered = false;
    // The microphone comes later, by replaceTrack: nobody is asked for it before they press its button.
    this.voice = this.pc.addTransceiver("audio", { direction: "sendrecv" });
    this.pc.addTransceiver("video", { direction: "recvonly" });
    this.pc.addEventListener("track", (event) => this.stream.addTrack(event.track));
    this.pc.addEventListener("icecandidate", ({ candidate }) => {
      if (!this.offered || !candidate?.candidate) return;
      this.late.push(candidate);
      void this.#trickle();
    });
    // The offer is made while the session is still being asked for.
    this.offer = this.#prepare();
    this.offer.catch(() => {});
  }

  async #prepare() {
    await this.pc.setLocalDescription();
    await Promise.race([
      new Promise((resolve) => {
        const look = () => this.pc.iceGatheringState === "complete" && resolve(null);
        this.pc.addEventListener("icegatheringstatechange", look);
        look();
      }),
      new Promise((resolve) => setTimeout(resolve, GATHER_MS)),
    ]);
    this.offered = true;
    return /** @type {RTCSessionDescription} */ (this.pc.localDescription).sdp;
  }

  /** Whether the browser has found any way at all to be reached. */
  get hasPaths() {
    return /^a=candidate:/m.test(this.pc.localDescription?.sdp ?? "");
  }

  /** @param {string} url of the session's duplex endpoint @throws {Problem} */
  async open(url) {
    const response = await request(url, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: await this.offer.catch(() => {
        throw new Problem(NO_WEBRTC);
      }),
    });
    this.resource = new URL(response.headers.get("Location") ?? "", address(url)).href;
    this.etag = response.headers.get("ETag") ?? "";
    try {
      await this.pc.setRemoteDescription({ type: "answer", sdp: await response.text() });
    } catch {
      throw new Problem("This browser and the server found no video format that both know.");
    }
    await this.#trickle();
  }

  async #trickle() {
    if (!this.resource || !this.late.length) return;
    const body = fragment(this.late.splice(0));
    /** @type {Record<string, string>} */
    const headers = { "Content-Type": FRAGMENT };
    if (this.etag) headers["If-Match"] = this.etag;
    // A candidate that does not arrive is one way less to connect, not the end of it.
    await request(this.resource, { method: "PATCH", headers, body }).catch(() => {});
  }

  /** @param {MediaStreamTrack | null} track */
  async setMicrophone(track) {
    await this.voice.sender.replaceTrack(track);
  }

  close() {
    this.pc.close();
    if (this.resource) void request(this.resource, { method: "DELETE", keepalive: true }).catch(() => {});
    this.resource = null;
  }
}

/** @param {RTCConfiguration} settings @throws {Problem} */
function peerConnection(settings) {
  try {
    return new RTCPeerConnection(settings);
  } catch {
    throw new Problem(NO_WEBRTC);
  }
}

/** Candidates as an SDP fragment, RFC 8840 section 9. @param {RTCIceCandidate[]} candidates */
function fragment(candidates) {
  const lines = [`a=ice-ufrag:${candidates[0].usernameFragment ?? ""}`];
  for (const mid of new Set(candidates.map((candidate) => candidate.sdpMid ?? "0"))) {
    lines.push("m=audio 9 UDP/TLS/RTP/SAVPF 0", `a=mid:${mid}`);
    for (const candidate of candidates) {
      if ((candidate.sdpMid ?? "0") === mid) lines.push(`a=${candidate.candidate}`);
    }
  }
  return `${lines.join("\r\n")}\r\n`;
}
