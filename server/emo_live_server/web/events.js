// @ts-check
/** The session's WebSocket: events of the server come in, a few commands go out. Opens again by itself. */
import { socketAddress } from "./api.js";

const AGAIN_MS = [500, 1000, 2000, 4000, 8000];
const BLOCKED_AFTER = 3;

export class EventSocket {
  /**
   * @param {string} path
   * @param {(event: {type: string, [name: string]: any}) => void} onEvent
   * @param {() => void} onLost called each time an open socket closes by itself
   * @param {() => void} onBlocked called once, when it has never opened after some attempts
   */
  constructor(path, onEvent, onLost, onBlocked) {
    this.path = path;
    this.onEvent = onEvent;
    this.onLost = onLost;
    this.onBlocked = onBlocked;
    this.everOpen = false;
    this.closed = false;
    this.failures = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.#open();
  }

  #open() {
    const socket = new WebSocket(socketAddress(this.path));
    this.socket = socket;
    let wasOpen = false;
    socket.addEventListener("open", () => {
      wasOpen = this.everOpen = true;
      this.failures = 0;
    });
    socket.addEventListener("message", ({ data }) => {
      if (typeof data === "string" && !this.closed) this.onEvent(JSON.parse(data));
    });
    socket.addEventListener("close", () => {
      if (this.closed) return;
      const wait = AGAIN_MS[Math.min(this.failures, AGAIN_MS.length - 1)];
      this.failures += 1;
      this.timer = setTimeout(() => this.#open(), wait);
      if (wasOpen) this.onLost();
      if (!this.everOpen && this.failures === BLOCKED_AFTER) this.onBlocked();
    });
  }

  /** @param {object} event dropped when there is no connection */
  send(event) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }
}
