// @ts-check
/**
 * Requests to the server, and plain words for what goes wrong. Knows nothing of WebRTC or of the page.
 * A server that asks for a token gets the one at the end of the page's address: `#token=...`.
 */

/** @typedef {{id: string, name: string, portrait_url: string}} AvatarInfo */
/** @typedef {{id: string, avatar: string, webrtc_url: string, realtime_url: string}} Session */
/**
 * @typedef {object} Config
 * @property {RTCIceServer[]} ice_servers
 * @property {boolean} relay_only
 * @property {string} default_avatar
 * @property {number} max_upload_bytes
 * @property {number} max_text_chars
 * @property {boolean} badge
 * @property {boolean} greet
 * @property {string} version
 * @property {string[]} voices
 */

const TIMEOUT_MS = 20_000;

/** The server said no, or nothing. status is 0 when there was no answer. */
export class Problem extends Error {
  /** @param {string} message @param {number} status @param {number} retryAfterS */
  constructor(message, status = 0, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

const token = takeToken();

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  // Out of the address at once, so that it does not end up in screenshots and bookmarks; a reload still has it.
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return given ?? sessionStorage.getItem("token");
}

/** @param {string} path relative to the page, or from the server's root */
export const address = (path) => new URL(path, document.baseURI).href;

/** @param {string} path */
export const socketAddress = (path) => address(path).replace(/^http/, "ws");

/**
 * @param {string} path
 * @param {RequestInit & {json?: unknown}} [options]
 * @returns {Promise<Response>} only with a status of 200 to 299
 * @throws {Problem}
 */
export async function request(path, options = {}) {
  const { json, ...init } = options;
  const headers = new Headers(init.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  if (json !== undefined) {
    headers.set("Content-Type", "application/json");
    init.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(address(path), { signal: AbortSignal.timeout(TIMEOUT_MS), ...init, headers });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new Problem(late ? "The server takes too long to answer." : "The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  throw new Problem(await explain(response), response.status, Number(response.headers.get("Retry-After")) || 0);
}

/** @param {string} path @param {RequestInit & {json?: unknown}} [options] @returns {Promise<any>} */
export async function requestJson(path, options) {
  return (await request(path, options)).json();
}

/** @param {Response} response */
async function explain(response) {
  const said = await response.json().catch(() => ({}));
  const detail = typeof said.detail === "string" ? sentence(said.detail) : "";
  const reason = typeof said.type === "string" ? said.type.split(":").pop() : "";
  switch (response.status) {
    case 403:
      if (detail) return detail;
    // falls through
    case 401:
      return "This server asks for an access token. Open the page with #token=… at the end of its address.";
    case 413:
      return detail || "That file is too large for this server.";
    case 429:
      return "That was too much at once. Wait a moment and try again.";
    case 503: {
      if (detail && reason !== "full") return detail;
      const wait = Number(response.headers.get("Retry-After"));
      return `All places on this server are taken${wait ? `. Try again in ${wait} s` : ". Try again in a moment"}.`;
    }
    default:
      return detail || `The server answered with an error (${response.status}).`;
  }
}

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim();
  return trimmed && trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}
