// @ts-check
/**
 * The microphone button: a click switches it on or off, holding it (or the space bar) is push to talk. What is said is
 * sent to the session until then; switching on interrupts what the avatar is saying.
 */
import { Microphone } from "./mic.js";

/** @typedef {import("./live.js").Live} Live */

/** Longer is holding, shorter is a click. */
const HOLD_MS = 350;
/** What was said last is still on its way when the button is released. */
const TAIL_MS = 300;

export class VoiceButton {
  /**
   * @param {HTMLButtonElement} button @param {Live} live
   * @param {{deviceId: () => string, onLevel: (level: number) => void, onChange: (on: boolean) => void,
   *   onProblem: (text: string) => void, ready: () => Promise<boolean>}} hooks ready: makes the avatar live if it is not
   */
  constructor(button, live, hooks) {
    this.button = button;
    this.live = live;
    this.hooks = hooks;
    this.microphone = new Microphone(hooks.onLevel);
    this.wanted = false;
    this.#listen();
  }

  #listen() {
    let pressedMs = 0;
    let wasOn = false;
    const press = () => {
      pressedMs = performance.now();
      wasOn = this.wanted;
      if (!wasOn) void this.set(true);
    };
    const release = () => {
      if (!pressedMs) return;
      const held = performance.now() - pressedMs > HOLD_MS;
      pressedMs = 0;
      if (wasOn || held) void this.set(false);
    };
    this.button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.button.disabled) return;
      this.button.setPointerCapture(event.pointerId);
      press();
    });
    this.button.addEventListener("pointerup", release);
    this.button.addEventListener("pointercancel", release);
    this.button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch is talking
    // Screen readers click without a pointer; a pointer's click came as pointerdown already.
    this.button.addEventListener("click", (event) => {
      if (event.detail === 0 && !pressedMs) void this.set(!this.wanted);
    });
    document.addEventListener("keydown", (event) => {
      if (event.code !== "Space" || event.repeat || takesSpace(event.target) || this.button.disabled) return;
      event.preventDefault();
      press();
    });
    document.addEventListener("keyup", (event) => {
      if (event.code === "Space" && pressedMs) release();
    });
    window.addEventListener("blur", release);
  }

  /** @param {boolean} on */
  async set(on) {
    if (on === this.wanted) return;
    this.wanted = on;
    this.hooks.onChange(on);
    if (on) await this.#open();
    else await this.#close();
  }

  async #open() {
    try {
      const track = await this.microphone.open(this.hooks.deviceId());
      // Pulled out, or forbidden while it was on.
      track.addEventListener("ended", () => void this.set(false));
      if (!this.wanted || !(await this.hooks.ready())) throw new Error("");
      if (this.live.speaking) await this.live.command("interrupt").catch(() => {});
      if (this.wanted) await this.live.setMicrophone(track);
      else this.microphone.close();
    } catch (error) {
      this.microphone.close();
      if (error instanceof Error && error.message) this.hooks.onProblem(error.message);
      await this.set(false);
    }
  }

  async #close() {
    await new Promise((resolve) => setTimeout(resolve, TAIL_MS));
    if (this.wanted) return; // pressed again meanwhile
    this.microphone.close();
    await this.live.setMicrophone(null);
  }
}

/** @param {EventTarget | null} target */
function takesSpace(target) {
  return target instanceof Element && target.closest("input, textarea, select, button, summary, a, [contenteditable]") !== null;
}
