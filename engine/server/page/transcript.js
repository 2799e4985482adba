// The transcript as paragraphs by speaker. It changes the segments that it shows: corrected words, names of speakers.
import { clock, make } from "./dom.js";

export const LOW = 0.5, MID = 0.8;  // confidences below which a word is marked
const PAUSE_S = 2, LONG_CHARS = 400;  // where a paragraph ends although nobody else speaks
const UNSPACED = /[\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\uff00-\uff60]/;  // scripts that put no spaces between words

export class TranscriptView {
  // `onPlay(seconds)`: a place was asked for. `onPick(entry)`: a word has the cursor. `onBegin()`: a word
  // is about to be corrected. `onEdit(before, after)`: something was changed; the names are those of a speaker.
  constructor(root, { onPlay, onPick, onBegin, onEdit }) {
    Object.assign(this, { root, onPlay, onPick, onBegin, onEdit });
    root.onclick = event => this.click(event);
    root.ondblclick = event => { if (event.target.entry) this.edit(event.target.entry); };
    root.onkeydown = event => this.press(event);
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.segments = [];
    this.entries = [];  // { segment, word, gap, span, start, end, confidence } in order of the text
    this.hues = new Map();
    this.last = this.cursor = this.now = this.byTime = null;
  }

  // `hues`: those that the speakers of these segments already have.
  show(segments, hues = new Map()) {
    this.clear();
    this.hues = hues;
    this.append(segments);
  }

  append(segments) {
    const block = document.createDocumentFragment();
    for (const segment of segments) this.write(segment, block);
    this.segments.push(...segments);
    this.root.append(block);
    this.byTime = null;
    if (!this.cursor && this.entries.length) this.setCursor(this.entries[0]);
  }

  get speakers() { return [...this.hues.keys()]; }
  hueOf(speaker) { return this.hues.get(speaker); }
  count(test) { return this.entries.reduce((sum, entry) => sum + (test(entry) ? 1 : 0), 0); }

  write(segment, block) {
    const { last } = this;
    const isNewVoice = !last || last.segment.speaker !== segment.speaker || last.segment.channel !== segment.channel;
    if (isNewVoice || segment.start - last.segment.end >= PAUSE_S || last.chars > LONG_CHARS)
      this.last = { ...this.paragraph(segment, isNewVoice, block), chars: 0 };
    else if (!UNSPACED.test(last.segment.text.at(-1) ?? "") || !UNSPACED.test(segment.text[0] ?? "")) last.text.append(" ");
    this.last.segment = segment;
    this.last.chars += segment.text.length;
    this.fill(segment, this.last.text);
  }

  paragraph(segment, isNewVoice, block) {
    const head = make("div", { className: "who" }), text = make("p");
    const { speaker, channel } = segment;
    const section = make("div", { className: "para" }, head, text);
    if (speaker) {
      if (!this.hues.has(speaker)) this.hues.set(speaker, Math.round(255 + this.hues.size * 137.5) % 360);
      section.style.setProperty("--hue", this.hues.get(speaker));
      section.classList.add("voiced");
    }
    if (channel !== undefined) section.classList.add("split");
    if (speaker && isNewVoice) head.append(make("button", { type: "button", className: "name", textContent: speaker, title: "Rename", speaker }));
    if (channel !== undefined && isNewVoice) head.append(make("span", { className: "channel", textContent: `Channel ${channel + 1}` }));
    const at = make("button", { type: "button", className: "at figures", textContent: clock(segment.start), seconds: segment.start });
    at.setAttribute("aria-label", `Play from ${clock(segment.start)}`);
    head.append(at);
    block.append(section);
    return { text };
  }

  fill(segment, text) {
    if (segment.warnings?.length) {
      const said = segment.warnings.map(warning => warning.message).join("; ");
      const flag = make("span", { className: "flag", textContent: "⚠", title: said });
      flag.setAttribute("role", "img");
      flag.setAttribute("aria-label", `Warning: ${said}`);
      text.append(flag, " ");
    }
    const gaps = gapsOf(segment);
    if (!gaps) { this.add({ segment, word: null, start: segment.start, end: segment.end }, segment.text, text); return; }
    segment.words.forEach((word, i) => {
      if (gaps[i]) text.append(gaps[i]);
      this.add({ segment, word, gap: gaps[i], start: word.start, end: word.end, confidence: word.confidence }, word.text, text);
    });
    if (gaps.at(-1)) text.append(gaps.at(-1));
  }

  add(entry, content, text) {
    const span = make("span", { className: markOf(entry), textContent: content });
    span.entry = entry;
    entry.span = span;
    entry.index = this.entries.length;
    this.entries.push(entry);
    text.append(span);
  }

  // --- the word that is heard

  setTime(seconds, { isFollowed = false } = {}) {
    this.byTime ??= [...this.entries].sort((a, b) => a.start - b.start);
    let low = 0, high = this.byTime.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.byTime[middle].start <= seconds) low = middle + 1; else high = middle;
    }
    const entry = this.byTime[low - 1], found = entry && seconds < entry.end ? entry : null;
    if (found === this.now) return;
    this.now?.span.classList.remove("now");
    found?.span.classList.add("now");
    this.now = found;
    if (found && isFollowed) reveal(found.span);
  }

  // --- clicks and keys

  click(event) {
    const { target } = event;
    if (target.seconds !== undefined) this.onPlay(target.seconds);
    else if (target.speaker) this.rename(target);
    else if (target.entry && getSelection().isCollapsed) {
      this.setCursor(target.entry, { isFocused: true });
      this.onPlay(target.entry.start);
    }
  }

  press(event) {
    const { entry } = event.target;
    if (!entry || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 12, ArrowUp: -12 };
    if (event.key in steps) {
      const index = Math.min(this.entries.length - 1, Math.max(0, entry.index + steps[event.key]));
      this.setCursor(this.entries[index], { isFocused: true });
    } else if (event.key === "Enter") this.onPlay(entry.start);
    else if (event.key === "F2") this.edit(entry);
    else return;
    event.preventDefault();
  }

  // Only the word with the cursor can be reached with Tab; the arrow keys lead to the others.
  setCursor(entry, { isFocused = false } = {}) {
    if (this.cursor) for (const name of ["tabindex", "role"]) this.cursor.span.removeAttribute(name);
    this.cursor = entry;
    entry.span.tabIndex = 0;
    entry.span.setAttribute("role", "button");
    if (!isFocused) return;
    entry.span.focus({ preventScroll: true });
    reveal(entry.span);
    this.onPick(entry);
  }

  nextUncertain() {
    const isUncertain = entry => entry.confidence < MID, from = (this.cursor?.index ?? -1) + 1;
    const entry = this.entries.slice(from).find(isUncertain) ?? this.entries.find(isUncertain);
    if (entry) this.setCursor(entry, { isFocused: true });
  }

  // --- corrections

  edit(entry) {
    const { span } = entry, before = span.textContent;
    this.onBegin();
    const field = make(before.length > 40 ? "textarea" : "input", { value: before, className: "edit" });
    if (field.type === "textarea") field.rows = Math.ceil(before.length / 60);
    else field.size = Math.max(3, before.length + 1);
    field.setAttribute("aria-label", `Correct ${before.slice(0, 60)}`);
    getSelection().removeAllRanges();
    replaceWhile(field, span, isKept => {
      const after = field.value.replace(/\s+/g, " ").trim();
      if (isKept && after !== before) this.correct(entry, after);
      const place = this.entries[Math.min(entry.index, this.entries.length - 1)];
      if (place) this.setCursor(place, { isFocused: document.activeElement === document.body });
    });
  }

  correct(entry, after) {
    const { segment, word, span } = entry;
    if (word) {
      const gaps = gapsOf(segment), place = segment.words.indexOf(word);
      word.text = after;
      if (after) word.confidence = entry.confidence = 1;  // a person has said so
      segment.text = segment.words.map((each, i) => gaps[i] + each.text).join("") + gaps.at(-1);
      if (!after) segment.words.splice(place, 1);
    } else {
      segment.text = after;
      segment.words = null;
    }
    if (!after) segment.text = segment.text.replace(/\s+/g, " ").trim();
    span.textContent = after;
    span.className = markOf(entry);
    if (!after) this.show(this.segments.filter(each => each.text), this.hues);
    this.onEdit();
  }

  rename(button) {
    const before = button.speaker, place = [...this.root.querySelectorAll(".name")].indexOf(button);
    const field = make("input", { value: before, maxLength: 64, className: "edit" });
    field.setAttribute("aria-label", `Name of ${before}`);
    replaceWhile(field, button, (isKept, isByKey) => {
      const after = field.value.trim();
      if (isKept && after && after !== before) this.renameAll(before, after);
      if (isByKey) this.root.querySelectorAll(".name")[place]?.focus();
    });
  }

  renameAll(before, after) {
    const hues = new Map([...this.hues].map(([name, hue]) => [name === before ? after : name, hue]));
    for (const segment of this.segments)
      for (const each of [segment, ...(segment.words ?? [])]) if (each.speaker === before) each.speaker = after;
    this.show(this.segments, hues);
    this.onEdit(before, after);
  }
}

// Puts a field in the place of an element until Enter, Escape or the loss of focus; then calls `done(isKept, isByKey)`.
function replaceWhile(field, element, done) {
  let isOver = false;
  const end = (isKept, isByKey) => {
    if (isOver) return;
    isOver = true;
    field.replaceWith(element);
    done(isKept, isByKey);
  };
  field.onkeydown = event => {
    event.stopPropagation();
    if (!["Enter", "Escape"].includes(event.key) || event.isComposing) return;
    event.preventDefault();
    end(event.key === "Enter", true);
  };
  field.onblur = () => end(true, false);
  element.replaceWith(field);
  field.focus();
  field.select();
}

// The text before each word and behind the last; null if there are no words, or they do not stand in the text in order.
function gapsOf(segment) {
  if (!segment.words?.length) return null;
  const gaps = [];
  let end = 0;
  for (const word of segment.words) {
    const at = segment.text.indexOf(word.text, end);
    if (at < 0) return null;
    gaps.push(segment.text.slice(end, at));
    end = at + word.text.length;
  }
  return [...gaps, segment.text.slice(end)];
}

function markOf({ confidence }) { return confidence < LOW ? "w low" : confidence < MID ? "w mid" : "w"; }

function reveal(span) {
  const box = span.getBoundingClientRect(), top = (document.querySelector(".sticky")?.getBoundingClientRect().bottom ?? 0) + 8;
  if (box.top < Math.max(top, 0) || box.bottom > innerHeight - 24) span.scrollIntoView({ block: "center" });
}
