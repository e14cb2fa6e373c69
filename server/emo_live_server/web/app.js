// @ts-check
/** The page: puts the parts together and shows what they tell. What each part does is in its own file. */
import { Problem, requestJson } from "./api.js";
import { Captions } from "./captions.js";
import { Devices, canChooseSpeaker } from "./devices.js";
import { FigurePanel } from "./figures.js";
import { Live } from "./live.js";
import { Portraits, picture } from "./portraits.js";
import { Recorder, canRecord, download } from "./recorder.js";
import { BrowserStats } from "./stats.js";
import { VoiceButton } from "./voice.js";

/** @typedef {import("./api.js").AvatarInfo} AvatarInfo */

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
const get = (id) => /** @type {T} */ (document.getElementById(id));
/** @param {string} id */
const button = (id) => /** @type {HTMLButtonElement} */ (get(id));
/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ (get(id));
/** @param {string} id */
const select = (id) => /** @type {HTMLSelectElement} */ (get(id));

const STATES = /** @type {Record<string, string>} */ ({
  off: "Ready",
  failed: "Not connected",
  connecting: "Connecting",
  reconnecting: "Reconnecting",
  idle: "Idle",
  listening: "Listening",
  speaking: "Speaking",
  paused: "Paused",
});
const FIGURES_MS = 1000;
const SILENCED = "The browser plays no sound before you ask for it: press the sound button.";

const body = document.body;
const stage = get("stage");
const video = /** @type {HTMLVideoElement} */ (get("video"));
const poster = /** @type {HTMLImageElement} */ (get("poster"));
const text = /** @type {HTMLTextAreaElement} */ (get("text"));

const live = new Live(video);
const devices = new Devices(select("microphone"), select("speaker"));
const captions = new Captions(get("captions"));
const stats = new BrowserStats(video);
const figures = new FigurePanel({
  tables: get("tables"),
  summary: get("figures-summary"),
  overlay: get("overlay"),
  toggle: input("overlay-toggle"),
});
const portraits = new Portraits(get("portraits"), get("portrait-problem"), (avatar) => void show(avatar));
const voice = new VoiceButton(button("mic"), live, {
  deviceId: () => select("microphone").value,
  onLevel: showLevel,
  onChange: (on) => {
    button("mic").setAttribute("aria-pressed", String(on));
    body.dataset.mic = on ? "on" : "off";
    showState();
    if (on) void devices.refresh();
  },
  onProblem: say,
  ready: ensureLive,
});
/** @type {Recorder | null} */
let recorder = null;
/** @type {Record<string, any>} */
let serverStats = {};
let state = "idle";
let silenced = false;
/** @type {Promise<boolean> | null} */
let starting = null;

// ---- what is shown ----

/** @param {string} message "" for none @param {{retry?: boolean, calm?: boolean}} [options] */
function say(message, { retry = false, calm = false } = {}) {
  const notice = get("notice");
  /** @type {HTMLElement} */ (notice.querySelector("p")).textContent = message;
  notice.classList.toggle("calm", calm);
  notice.hidden = !message;
  get("retry").hidden = !retry;
}

/** @param {unknown} error @param {{retry?: boolean}} [options] */
function complain(error, options) {
  const known = error instanceof Problem;
  say(known ? error.message : "Something went wrong on this page. Reload it and try again.", options);
  if (!known) reportError(error);
}

function showState() {
  const heard = live.phase === "live" && state === "idle" && voice.wanted ? "listening" : state;
  const shown = live.phase === "live" ? heard : live.phase === "off" && body.dataset.state === "failed" ? "failed" : live.phase;
  body.dataset.state = shown;
  const line = /** @type {HTMLElement} */ (get("state").querySelector("span"));
  if (line.textContent !== STATES[shown]) line.textContent = STATES[shown] ?? shown;
}

/** @param {number} level */
function showLevel(level) {
  body.style.setProperty("--level", level.toFixed(2));
  get("meter").setAttribute("aria-valuenow", String(Math.round(level * 100)));
}

/** @param {AvatarInfo} avatar */
async function show(avatar) {
  poster.alt = `Portrait: ${avatar.name}`;
  poster.src = await picture(avatar);
  if (live.phase !== "off") await begin({ greet: false });
}

function showPhase() {
  body.dataset.phase = live.phase;
  const on = live.phase !== "off";
  button("end").disabled = !on;
  for (const id of ["record", "interrupt"]) button(id).disabled = live.phase !== "live";
  if (live.phase !== "live") {
    state = "idle";
    captions.clear();
    void stopRecording();
  }
  if (!on) {
    void voice.set(false);
    figures.clear();
    serverStats = {};
    get("reduced").hidden = true;
  }
  showState();
}

// ---- what is done ----

/** @param {{greet: boolean}} options @returns {Promise<boolean>} whether the avatar is live */
async function begin({ greet }) {
  say("");
  body.dataset.state = "off";
  stage.focus({ preventScroll: true });
  const [speed, motion] = [input("speed").valueAsNumber, input("motion").valueAsNumber];
  try {
    starting = live.start({ avatar: portraits.chosen?.id, speed, motion, greet });
    return await starting;
  } catch (error) {
    body.dataset.state = "failed";
    showState();
    complain(error, { retry: true });
    button("start").focus({ preventScroll: true });
    return false;
  }
}

/** Starts what is not live yet: who types first and presses Start never is served too. */
async function ensureLive() {
  if (live.phase === "live") return true;
  if (live.phase === "connecting" && starting) return starting.catch(() => false);
  return begin({ greet: false });
}

/** @param {string} action @param {RequestInit & {json?: unknown}} [options] */
async function command(action, options) {
  if (!(await ensureLive())) return;
  say("");
  await live.command(action, options).catch(complain);
}

async function speak() {
  const words = text.value.trim();
  if (!words) return;
  text.value = "";
  const chosen = select("voice").value;
  await command("say", { json: chosen ? { text: words, voice: chosen } : { text: words } });
}

/** @param {File} file */
async function speakFile(file) {
  const form = new FormData();
  form.append("audio", file);
  await command("audio", { body: form });
}

async function interrupt() {
  if (live.phase !== "live") return;
  captions.clear();
  await live.command("interrupt").catch(complain);
}

function end() {
  live.stop();
  button("start").focus({ preventScroll: true });
}

async function toggleRecording() {
  if (recorder) return stopRecording();
  recorder = new Recorder(/** @type {MediaStream} */ (video.srcObject));
  button("record").setAttribute("aria-pressed", "true");
  get("recording").hidden = false;
  showRecordingTime();
}

async function stopRecording() {
  const done = recorder;
  recorder = null;
  button("record").setAttribute("aria-pressed", "false");
  get("recording").hidden = true;
  if (done) download(await done.stop());
}

function showRecordingTime() {
  if (!recorder) return;
  const [minutes, seconds] = [Math.floor(recorder.seconds / 60), recorder.seconds % 60];
  /** @type {HTMLElement} */ (get("recording").querySelector("span")).textContent = `${minutes}:${String(seconds).padStart(2, "0")}`;
}

function showSound() {
  button("sound").setAttribute("aria-pressed", String(!video.muted));
  button("sound").title = video.muted ? "Sound is off" : "Sound is on";
  button("sound").querySelector("use")?.setAttribute("href", video.muted ? "icons.svg#mute" : "icons.svg#sound");
}

// ---- what happens ----

/** @param {string} id @param {(event: Event) => void} action */
const onClick = (id, action) => get(id).addEventListener("click", action);

function listenToPage() {
  onClick("start", () => void begin({ greet: input("greet").checked }));
  onClick("retry", () => void (button("start").disabled ? open() : begin({ greet: false })));
  onClick("dismiss", () => say(""));
  onClick("end", end);
  onClick("interrupt", () => void interrupt());
  onClick("record", () => void toggleRecording());
  onClick("caption-toggle", () => {
    const on = !get("captions").classList.toggle("off");
    button("caption-toggle").setAttribute("aria-pressed", String(on));
  });
  onClick("sound", () => (video.muted = !video.muted));
  video.addEventListener("volumechange", showSound);
  get("say").addEventListener("submit", (event) => {
    event.preventDefault();
    void speak();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    void speak();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.defaultPrevented) void interrupt();
  });
  input("audio").addEventListener("change", () => {
    const file = input("audio").files?.[0];
    input("audio").value = "";
    if (file) void speakFile(file);
  });
  // A closed page gives its place back at once.
  window.addEventListener("pagehide", () => live.stop());
  listenToDrops();
  listenToSettings();
}

function listenToDrops() {
  /** @param {DragEvent} event */
  const files = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    body.dataset.drag = "";
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) delete body.dataset.drag;
  });
  document.addEventListener("drop", (event) => {
    delete body.dataset.drag;
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault();
    void (file.type.startsWith("image/") ? portraits.upload(file) : speakFile(file));
  });
}

function listenToSettings() {
  for (const [id, written] of /** @type {[string, (value: number) => string][]} */ ([
    ["motion", (value) => value.toFixed(1)],
    ["speed", (value) => `${value}°/s`],
  ])) {
    const slider = input(id);
    slider.addEventListener("input", () => {
      /** @type {HTMLOutputElement} */ (slider.nextElementSibling).value = written(slider.valueAsNumber);
    });
    slider.addEventListener("change", () => {
      if (live.phase === "live") void live.command("control", { json: { [id]: slider.valueAsNumber } }).catch(complain);
    });
  }
  select("microphone").addEventListener("change", () => {
    if (voice.wanted) void voice.set(false).then(() => voice.set(true));
  });
  select("speaker").addEventListener("change", () => {
    video.setSinkId(select("speaker").value).catch(() => say("That speaker cannot be used. Choose another one."));
  });
}

function listenToAvatar() {
  live.addEventListener("phase", showPhase);
  live.addEventListener("live", () => {
    if (live.connection) stats.attach(live.connection.pc);
    if (silenced) say(SILENCED, { calm: true });
    else if (get("notice").classList.contains("calm")) say("");
    silenced = false;
  });
  on("state", (value) => {
    state = value;
    showState();
  });
  on("caption", ({ utterance, text: words }) => captions.add(utterance, words));
  on("speech", ({ what, utterance }) => {
    if (what === "started") captions.begin(utterance);
    else captions.finish(utterance, what === "cleared");
  });
  on("stats", (value) => (serverStats = value));
  on("muted", () => (silenced = true));
  on("degraded", ({ level }) => (get("reduced").hidden = level === 0));
  on("recovered", ({ level }) => (get("reduced").hidden = level === 0));
  on("message", ({ text: words, retry, calm }) => {
    if (retry) body.dataset.state = "failed";
    showState();
    say(words, { retry, calm });
  });
  setInterval(async () => {
    showRecordingTime();
    const seen = live.phase === "live" ? await stats.sample() : null;
    if (!seen) return;
    figures.show(seen, serverStats, live.firstFrameMs);
    if (seen.kbps !== null) live.tellRate(seen.kbps);
  }, FIGURES_MS);
}

/** @param {string} type @param {(detail: any) => void} handler */
function on(type, handler) {
  live.addEventListener(type, (event) => handler(/** @type {CustomEvent} */ (event).detail));
}

function showWhatTheBrowserCan() {
  button("record").hidden = !canRecord();
  get("speaker").hidden = get("speaker-label").hidden = !canChooseSpeaker(video);
  button("sound").hidden = false;
  showSound();
  button("pip").hidden = !document.pictureInPictureEnabled;
  onClick("pip", () => {
    const done = document.pictureInPictureElement ? document.exitPictureInPicture() : video.requestPictureInPicture();
    done.catch(() => say("Press Start first: there is no picture yet.", { calm: true }));
  });
  button("full").hidden = !document.fullscreenEnabled;
  onClick("full", () => void (document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen()));
}

async function load() {
  const config = /** @type {import("./api.js").Config} */ (await requestJson("v1/config"));
  live.rtcSettings = {
    iceServers: config.ice_servers,
    iceTransportPolicy: config.relay_only ? "relay" : "all",
  };
  get("badge").hidden = !config.badge;
  input("greet").checked = config.greet;
  text.maxLength = config.max_text_chars;
  get("version").textContent = `emo_live ${config.version}`;
  select("voice").replaceChildren(...config.voices.map((name) => new Option(name, name)));
  select("voice").hidden = config.voices.length < 2;
  await portraits.load(config.default_avatar, config.max_upload_bytes);
  for (const id of ["start", "speak", "mic"]) button(id).disabled = false;
  showPhase();
  await devices.refresh();
}

listenToPage();
listenToAvatar();
showWhatTheBrowserCan();
function open() {
  say("");
  load().catch((error) => {
    body.dataset.state = "failed";
    showState();
    complain(error, { retry: true });
  });
}
open();
