// @ts-check
/** Shows the figures of browser and server: a table each, one line when folded, and an overlay over the picture. */

/** @typedef {import("./stats.js").Figures} Figures */

/** Names in the server's emo.stats, what people read, and the unit. @type {[string, string, string][]} */
const SERVER = [
  ["first_frame_ms", "Speech in to first picture", "ms"],
  ["playout_depth_ms", "Playout depth", "ms"],
  ["engine_ms_per_frame", "Engine, per picture", "ms"],
  ["headroom", "Engine's time left", "%"],
  ["pacer_late_p95_ms", "Pacer late, 95 %", "ms"],
  ["underruns", "Underruns", ""],
  ["level", "Degradation level", ""],
];

/** @param {unknown} value @param {string} unit @param {number} digits */
function text(value, unit, digits = 0) {
  if (value === null || value === undefined || value === "") return "–";
  const shown = typeof value === "number" ? value.toFixed(digits) : String(value);
  return unit ? `${shown} ${unit}` : shown;
}

/** @param {Figures} figures @param {number} firstFrameMs @returns {[string, string][]} */
function browserRows(figures, firstFrameMs) {
  return [
    ["Start to first picture", text(firstFrameMs || null, "ms")],
    ["Round trip", text(figures.rttMs, "ms")],
    ["Jitter buffer, picture", text(figures.videoBufferMs, "ms")],
    ["Jitter buffer, sound", text(figures.audioBufferMs, "ms")],
    ["Network to glass", text(figures.networkToGlassMs, "ms")],
    ["Pictures a second", text(figures.fps, "", 1)],
    ["Bitrate", text(figures.kbps, "kb/s")],
    ["Format", text([figures.codec, figures.size].filter(Boolean).join(", "), "")],
    ["Packets lost", text(figures.lostPercent, "%", 1)],
    ["Freezes", `${figures.freezes} (${text(figures.freezeS, "s", 1)})`],
  ];
}

/** The few that fit beside a face. @param {Figures} figures @param {Record<string, any>} stats @returns {[string, string][]} */
function overlayRows(figures, stats) {
  return [
    ["rtt", text(figures.rttMs, "ms")],
    ["buffer", text(figures.audioBufferMs, "ms")],
    ["to glass", text(figures.networkToGlassMs, "ms")],
    ["fps", text(figures.fps, "", 1)],
    ["kb/s", text(figures.kbps, "")],
    ["codec", text(figures.codec, "")],
    ["freezes", text(figures.freezes, "")],
    ["engine", text(stats.engine_ms_per_frame, "ms", 1)],
    ["playout", text(stats.playout_depth_ms, "ms")],
    ["level", text(stats.level, "")],
  ];
}

/** @param {Record<string, any>} stats @returns {[string, string][]} */
function serverRows(stats) {
  return SERVER.filter(([name]) => stats[name] !== undefined).map(([name, label, unit]) => {
    const value = unit === "%" ? stats[name] * 100 : stats[name];
    return [label, text(value, unit, typeof value === "number" && !Number.isInteger(value) && unit !== "%" ? 1 : 0)];
  });
}

export class FigurePanel {
  /** @param {{tables: HTMLElement, summary: HTMLElement, overlay: HTMLElement, toggle: HTMLInputElement}} parts */
  constructor(parts) {
    this.parts = parts;
    parts.toggle.addEventListener("change", () => this.#showOverlay());
  }

  /** @param {Figures} figures @param {Record<string, any>} server @param {number} firstFrameMs */
  show(figures, server, firstFrameMs) {
    const browser = browserRows(figures, firstFrameMs);
    const rows = serverRows(server);
    this.parts.tables.replaceChildren(table("Browser", browser), ...(rows.length ? [table("Server", rows)] : []));
    this.parts.summary.textContent = `${text(figures.fps, "fps")}, ${text(figures.rttMs, "ms")} round trip`;
    const few = overlayRows(figures, server).flatMap(([name, value]) => [made("dt", name), made("dd", value)]);
    this.parts.overlay.replaceChildren(...few);
    this.#showOverlay();
  }

  clear() {
    this.parts.tables.replaceChildren(made("p", "They appear once the avatar is live."));
    this.parts.summary.textContent = "";
    this.parts.overlay.replaceChildren();
    this.#showOverlay();
  }

  #showOverlay() {
    this.parts.overlay.hidden = !this.parts.toggle.checked || !this.parts.overlay.childElementCount;
  }
}

/** @param {string} tag @param {string} content */
function made(tag, content) {
  const element = document.createElement(tag);
  element.textContent = content;
  return element;
}

/** @param {string} title @param {[string, string][]} rows */
function table(title, rows) {
  const element = document.createElement("table");
  element.createCaption().textContent = title;
  const body = element.createTBody();
  for (const [name, value] of rows) {
    const row = body.insertRow();
    const head = made("th", name);
    head.setAttribute("scope", "row");
    row.append(head);
    row.insertCell().textContent = value;
  }
  return element;
}
