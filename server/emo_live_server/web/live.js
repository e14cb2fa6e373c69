// @ts-check
/**
 * One conversation: a session on the server, its media and its events; makes lost connections again. No DOM but the
 * video element it plays in. Dispatches "phase", "state", "caption", "speech", "stats", "degraded",
 * "recovered", "message" and "live".
 */
import { Problem, request, requestJson } from "./api.js";
import { EventSocket } from "./events.js";
import { Connection } from "./rtc.js";

/** @typedef {"off" | "connecting" | "live" | "reconnecting"} Phase */
/** @typedef {{avatar?: string, speed?: number, motion?: number, greet?: boolean}} Wish */

const FIRST_FRAME_MS = 12_000;
/** Addresses of this machine are known at once, those that TURN servers lend after some round trips. */
const PATHS_MS = 4000;
/** A connection that stops for a moment mostly comes back by itself. */
const PATIENCE_MS = 2500;
const WARM_UP_MS = 90_000;
const SILENT_S = 3;
const AGAIN_MS = [200, 1000, 2000, 4000, 8000, 8000];
const NO_MEDIA =
  "The server answers, but its video does not arrive. A firewall may block UDP between you and it: " +
  "a TURN server in its settings helps, and emo-live doctor says more.";

const NO_EVENTS =
  "Messages of the server do not arrive: something between you and it may block WebSockets. " +
  "The avatar talks all the same; captions, its state and the server's figures are missing.";
const NO_NETWORK =
  "This browser found no network to receive video over. Connect this computer to any network, " +
  "turn off what blocks WebRTC (an extension, a setting of a VPN), and try again.";
const NO_RELAY =
  "This server sends its video through a TURN server only, and this browser cannot reach that one. " +
  "Try another network, or ask whoever runs the server.";

export class Live extends EventTarget {
  /** @param {HTMLVideoElement} video */
  constructor(video) {
    super();
    this.video = video;
    /** @type {RTCConfiguration} */
    this.rtcSettings = {};
    this.speaking = false;
    /** @type {Phase} */
    this.phase = "off";
    /** @type {import("./api.js").Session | null} */
    this.session = null;
    /** @type {Connection | null} */
    this.connection = null;
    /** @type {EventSocket | null} */
    this.events = null;
    /** @type {MediaStreamTrack | null} */
    this.microphone = null;
    this.firstFrameMs = 0;
    this.silentS = 0;
    /** Every start and stop begins a new run; what belongs to an older one gives up at its next step. */
    this.run = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.patience = undefined;
    /** Done when the last session's place is free again. @type {Promise<void>} */
    this.left = Promise.resolve();
  }

  /** @param {string} type @param {any} [detail] */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @param {Phase} phase */
  #enter(phase) {
    if (this.phase === phase) return;
    this.phase = phase;
    this.#tell("phase", phase);
  }

  /**
   * @param {Wish} wish
   * @returns {Promise<boolean>} when the first picture is on the screen; false if another start or the end came before
   * @throws {Problem}
   */
  async start(wish) {
    this.#leave();
    const run = this.run;
    const clicked = performance.now();
    this.wish = wish;
    this.#enter("connecting");
    try {
      // A small server has one place: it is given back before another is asked for.
      await this.left;
      this.#check(run);
      await this.#establish(run);
      this.firstFrameMs = performance.now() - clicked;
      return true;
    } catch (error) {
      if (run !== this.run) return false;
      this.stop();
      throw error;
    }
  }

  /** @param {number} run */
  async #establish(run) {
    const connection = new Connection(this.rtcSettings);
    try {
      const session = (this.session ??= await this.#newSession(run));
      await connection.open(session.webrtc_url);
      this.#check(run);
      this.connection?.close();
      this.connection = connection;
      await connection.setMicrophone(this.microphone);
      this.events ??= new EventSocket(
        session.realtime_url,
        (event) => this.#onEvent(run, event),
        () => void this.#probe(run),
        () => this.#tell("message", { text: NO_EVENTS, calm: true }),
      );
      this.video.srcObject = connection.stream;
      await this.#firstFrame(connection);
      this.#check(run);
    } catch (error) {
      connection.close();
      if (this.connection === connection) this.connection = null;
      throw error;
    }
    connection.pc.addEventListener("connectionstatechange", () => this.#watch(run, connection));
    this.#watch(run, connection);
    this.silentS = 0;
    this.#enter("live");
    this.#tell("live");
  }

  /** @param {number} run */
  async #newSession(run) {
    const session = await this.#ask(run);
    if (run !== this.run) this.left = forget(session);
    this.#check(run);
    return session;
  }

  /** Waits for a server that has just been started. @param {number} run */
  async #ask(run) {
    const deadline = performance.now() + WARM_UP_MS;
    for (;;) {
      try {
        return await requestJson("v1/sessions", { method: "POST", json: this.wish });
      } catch (error) {
        if (!(error instanceof Problem) || error.status !== 409 || performance.now() > deadline) throw error;
        this.#tell("message", { text: "The server is still warming up: one moment.", calm: true });
        await new Promise((resolve) => setTimeout(resolve, Math.max(1, error.retryAfterS) * 1000));
        this.#check(run);
      }
    }
  }

  /** @param {number} run */
  #check(run) {
    if (run !== this.run) throw new Problem("stopped");
  }

  /** @param {Connection} connection */
  async #firstFrame(connection) {
    // Without a click on the page (after a reload) a browser may refuse sound: then the picture comes without it.
    this.video.play().catch((error) => {
      if (error.name !== "NotAllowedError") return; // another stream came in between
      this.video.muted = true;
      this.#tell("muted");
      this.video.play().catch(() => {});
    });
    const listening = new AbortController();
    const { signal } = listening;
    const shown = new Promise((resolve, reject) => {
      const giveUp = () => reject(new Problem(this.#whyNoMedia(connection)));
      const timers = [
        setTimeout(giveUp, FIRST_FRAME_MS),
        setTimeout(() => connection.hasPaths || connection.pc.connectionState === "connected" || giveUp(), PATHS_MS),
      ];
      signal.addEventListener("abort", () => timers.forEach(clearTimeout));
      const look = () => ["failed", "closed"].includes(connection.pc.connectionState) && giveUp();
      connection.pc.addEventListener("connectionstatechange", look, { signal });
      const told = Boolean(this.video.requestVideoFrameCallback);
      if (told) this.video.requestVideoFrameCallback(resolve);
      // Nothing is painted in a tab that is not looked at.
      const goesOn = () => (document.hidden || !told) && resolve(null);
      this.video.addEventListener("timeupdate", goesOn, { signal });
    });
    await shown.finally(() => listening.abort());
  }

  /** @param {Connection} connection */
  #whyNoMedia(connection) {
    if (connection.hasPaths) return NO_MEDIA;
    return this.rtcSettings.iceTransportPolicy === "relay" ? NO_RELAY : NO_NETWORK;
  }

  /** @param {number} run @param {Connection} connection */
  #watch(run, connection) {
    clearTimeout(this.patience);
    if (run !== this.run || connection !== this.connection) return;
    const state = connection.pc.connectionState;
    if (state === "failed" || state === "closed") void this.#reconnect(run);
    else if (state === "disconnected") this.patience = setTimeout(() => void this.#reconnect(run), PATIENCE_MS);
  }

  /**
   * A silent connection is lost long before ICE says so: sound and pictures come all the time, idle or not.
   * @param {number} kbps received in the last second
   */
  tellRate(kbps) {
    this.silentS = kbps > 0 ? 0 : this.silentS + 1;
    if (this.silentS === SILENT_S) void this.#probe(this.run);
    else if (this.silentS === 2 * SILENT_S) void this.#reconnect(this.run);
  }

  /** Is the session still there? @param {number} run */
  async #probe(run) {
    if (run !== this.run || this.phase !== "live" || !this.session) return;
    try {
      await request(`v1/sessions/${this.session.id}/stats`);
    } catch {
      void this.#reconnect(run);
    }
  }

  /** @param {number} run */
  async #reconnect(run) {
    if (run !== this.run || this.phase !== "live") return;
    this.#enter("reconnecting");
    let last = new Problem(NO_MEDIA);
    for (const wait of AGAIN_MS) {
      await new Promise((resolve) => setTimeout(resolve, Math.max(wait, last.retryAfterS * 1000)));
      if (run !== this.run) return;
      try {
        await this.#establish(run);
        return;
      } catch (error) {
        last = error instanceof Problem ? error : new Problem(String(error));
        if (last.status === 404 || last.status === 410) this.#newLife();
      }
    }
    if (run !== this.run) return;
    this.stop();
    this.#tell("message", { text: `The connection is lost. ${last.message}`, retry: true });
  }

  /** The session is gone: the next attempt asks for a new one, which need not say hello again. */
  #newLife() {
    this.events?.close();
    this.events = null;
    this.session = null;
    if (this.wish) this.wish = { ...this.wish, greet: false };
  }

  /** @param {number} run @param {{type: string, [name: string]: any}} event */
  #onEvent(run, event) {
    if (run !== this.run) return;
    const [space, name] = event.type.split(".");
    if (event.type === "emo.state") {
      this.speaking = event.state === "speaking";
      this.#tell("state", event.state);
    } else if (event.type === "emo.closed") this.#closed(run, event.reason);
    else if (event.type === "emo.stats") this.#tell("stats", event.stats);
    else if (space === "emo") this.#tell(name, event);
    else if (space === "output_audio_buffer") this.#tell("speech", { what: name, utterance: event.utterance });
    else if (event.type === "error") this.#tell("message", { text: event.error?.message ?? "The server reports an error." });
  }

  /** @param {number} run @param {string} reason */
  #closed(run, reason) {
    if (reason !== "too_long") return void this.#reconnect(run);
    this.stop();
    this.#tell("message", { text: "The time that this server gives to a session is over.", retry: true });
  }

  /** @param {MediaStreamTrack | null} track sent until another one is given */
  async setMicrophone(track) {
    this.microphone = track;
    await this.connection?.setMicrophone(track);
  }

  /** @param {string} action @param {RequestInit & {json?: unknown}} [options] @throws {Problem} */
  async command(action, options = {}) {
    if (!this.session) throw new Problem("Press Start first.");
    return requestJson(`v1/sessions/${this.session.id}/${action}`, { method: "POST", ...options });
  }

  #leave() {
    this.run += 1;
    clearTimeout(this.patience);
    this.events?.close();
    this.connection?.close();
    if (this.session) this.left = forget(this.session);
    this.events = this.connection = this.session = null;
    this.speaking = false;
  }

  stop() {
    this.#leave();
    this.video.srcObject = null;
    this.#enter("off");
  }
}

/** Gives the place back, even while the page is being closed. @param {import("./api.js").Session} session */
async function forget(session) {
  await request(`v1/sessions/${session.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}
