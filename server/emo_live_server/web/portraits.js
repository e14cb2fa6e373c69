// @ts-check
/** The choice of portraits: a radio group of pictures and a tile that uploads another one, with its preview. */
import { Problem, request, requestJson } from "./api.js";

/** @typedef {import("./api.js").AvatarInfo} AvatarInfo */

export class Portraits {
  /**
   * @param {HTMLElement} group @param {HTMLElement} problem where to say what is wrong with a picture
   * @param {(avatar: AvatarInfo) => void} onChoice
   */
  constructor(group, problem, onChoice) {
    this.group = group;
    this.problem = problem;
    this.onChoice = onChoice;
    this.maxBytes = Infinity;
    /** @type {AvatarInfo | null} */
    this.chosen = null;
    this.add = this.#addTile();
    group.replaceChildren(this.add);
  }

  /** @param {string} preferred id @param {number} maxBytes of an upload */
  async load(preferred, maxBytes) {
    this.maxBytes = maxBytes;
    const avatars = /** @type {AvatarInfo[]} */ (await requestJson("v1/avatars"));
    this.group.replaceChildren(...(await Promise.all(avatars.map((avatar) => this.#tile(avatar)))), this.add);
    const first = avatars.find(({ id }) => id === preferred) ?? avatars[0];
    if (first) this.#choose(first);
  }

  /** @param {File} file */
  async upload(file) {
    this.#complain("");
    if (file.size > this.maxBytes) {
      this.#complain(`That picture is too large: at most ${Math.floor(this.maxBytes / 1e6)} MB, please.`);
      return;
    }
    const preview = document.createElement("label");
    preview.className = "busy";
    const image = document.createElement("img");
    image.alt = "The picture you chose, being prepared";
    image.src = URL.createObjectURL(file);
    preview.append(image);
    this.group.insertBefore(preview, this.add);
    this.group.setAttribute("aria-busy", "true");
    try {
      const body = new FormData();
      body.append("portrait", file);
      const avatar = await requestJson("v1/avatars", { method: "POST", body });
      // The same picture again is the same avatar: one tile.
      this.group.querySelector(`input[value="${CSS.escape(avatar.id)}"]`)?.closest("label")?.remove();
      this.group.insertBefore(await this.#tile(avatar), this.add);
      this.#choose(avatar);
    } catch (error) {
      this.#complain(error instanceof Problem ? error.message : "The picture could not be sent.");
    } finally {
      preview.remove();
      URL.revokeObjectURL(image.src);
      this.group.removeAttribute("aria-busy");
    }
  }

  /** @param {AvatarInfo} avatar */
  #choose(avatar) {
    this.chosen = avatar;
    const radio = this.group.querySelector(`input[value="${CSS.escape(avatar.id)}"]`);
    if (radio instanceof HTMLInputElement) radio.checked = true;
    this.onChoice(avatar);
  }

  /** @param {AvatarInfo} avatar */
  async #tile(avatar) {
    const tile = document.createElement("label");
    tile.title = avatar.name;
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "portrait";
    radio.value = avatar.id;
    radio.className = "unseen";
    radio.addEventListener("change", () => this.#choose(avatar));
    const image = document.createElement("img");
    image.alt = avatar.name;
    image.draggable = false;
    image.src = await picture(avatar);
    tile.append(radio, image);
    return tile;
  }

  #addTile() {
    const tile = document.createElement("label");
    tile.className = "add";
    const input = document.createElement("input");
    input.type = "file";
    input.id = "portrait";
    input.accept = "image/*";
    input.className = "unseen";
    input.addEventListener("change", () => {
      const file = input.files?.[0];
      input.value = ""; // so that the same file can be chosen again
      if (file) void this.upload(file);
    });
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    icon.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", "icons.svg#plus");
    icon.append(use);
    tile.append(input, icon, "Your picture");
    return tile;
  }

  /** @param {string} message "" for none */
  #complain(message) {
    this.problem.textContent = message;
    this.problem.hidden = !message;
  }
}

/**
 * The address of an avatar's portrait. It is fetched here, not by the img element, which could not send a token.
 * @param {AvatarInfo} avatar
 */
export async function picture(avatar) {
  try {
    return URL.createObjectURL(await (await request(avatar.portrait_url)).blob());
  } catch {
    return "favicon.svg";
  }
}
