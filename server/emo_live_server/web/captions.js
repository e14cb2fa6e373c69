// @ts-check
/**
 * Shows what an utterance says, in pieces that fit, while it is spoken. The server tells the whole text and when it is
 * begun and over; how far it has come in between is estimated from its length.
 */

const PIECE_CHARS = 84;
const CHARS_PER_S = 14;
const LINGER_MS = 1500;
const REMEMBERED = 32;

export class Captions {
  /** @param {HTMLElement} line */
  constructor(line) {
    this.line = line;
    /** @type {Map<string, string>} */
    this.texts = new Map();
    this.current = "";
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /** The text may come before its utterance begins or after. @param {string} utterance @param {string} text */
  add(utterance, text) {
    this.texts.set(utterance, text);
    if (this.texts.size > REMEMBERED) this.texts.delete([...this.texts.keys()][0]);
    if (utterance === this.current) this.#show(pieces(text));
  }

  /** @param {string} utterance */
  begin(utterance) {
    this.clear();
    this.current = utterance;
    this.#show(pieces(this.texts.get(utterance) ?? ""));
  }

  /** @param {string} utterance @param {boolean} interrupted */
  finish(utterance, interrupted) {
    this.texts.delete(utterance);
    if (utterance !== this.current) return;
    this.current = "";
    clearTimeout(this.timer);
    if (interrupted) this.line.textContent = "";
    else this.timer = setTimeout(() => this.clear(), LINGER_MS);
  }

  clear() {
    clearTimeout(this.timer);
    this.current = "";
    this.line.textContent = "";
  }

  /** @param {string[]} left */
  #show(left) {
    clearTimeout(this.timer);
    const [piece = "", ...rest] = left;
    this.line.textContent = piece;
    if (rest.length) this.timer = setTimeout(() => this.#show(rest), (piece.length / CHARS_PER_S) * 1000);
  }
}

/** Cuts at the ends of sentences, of clauses, and where that is not enough at spaces. @param {string} text */
export function pieces(text) {
  /** @type {string[]} */
  const found = [];
  for (const sentence of text.trim().split(/(?<=[.!?…])\s+/)) {
    const before = found.at(-1);
    if (before !== undefined && before.length + sentence.length < PIECE_CHARS) found[found.length - 1] = `${before} ${sentence}`;
    else found.push(...cut(sentence.trim()));
  }
  return found;
}

/** @param {string} sentence @returns {string[]} */
function cut(sentence) {
  if (sentence.length <= PIECE_CHARS) return sentence ? [sentence] : [];
  const room = sentence.slice(0, PIECE_CHARS);
  const clause = room.search(/[,;:–][^,;:–]*$/) + 1;
  const space = room.lastIndexOf(" ");
  const end = clause > PIECE_CHARS / 3 ? clause : space > 0 ? space : PIECE_CHARS;
  return [sentence.slice(0, end).trim(), ...cut(sentence.slice(end).trim())];
}
