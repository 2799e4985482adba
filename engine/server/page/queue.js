// The files: two at a time are uploaded and transcribed, the others wait. Each has its own progress, result or error.
import { transcribe } from "./api.js";
import { clock, make, plural } from "./dom.js";

const AT_ONCE = 2;

export class Queue {
  // `onSelect(item)`: the reader wants to see it. `onChange(item, what)`: "state", "segments", "done" or "removed".
  constructor(list, { onSelect, onChange }) {
    Object.assign(this, { list, onSelect, onChange, items: [] });
  }

  add(file, options) {
    const item = { ...blank(file.name), file, options, url: URL.createObjectURL(file) };
    this.insert(item);
    this.start();
    return item;
  }

  // A recording that has its text already: `fields` are those of an item.
  addDone(fields) {
    const item = { ...blank(fields.name), ...fields, state: "done", url: URL.createObjectURL(fields.file) };
    this.insert(item);
    return item;
  }

  again(item) {
    Object.assign(item, blank(item.name));
    this.tell(item);
    this.start();
  }

  remove(item) {
    item.abort?.abort();
    URL.revokeObjectURL(item.url);
    item.row.remove();
    this.items = this.items.filter(each => each !== item);
    this.onChange(item, "removed");
    this.start();
  }

  insert(item) {
    this.items.push(item);
    item.pick = make("button", { type: "button", className: "pick", onclick: () => this.onSelect(item) });
    const drop = make("button", { type: "button", className: "quiet", textContent: "✕", onclick: () => this.remove(item) });
    drop.setAttribute("aria-label", `Remove ${item.name}`);
    item.bar = make("progress", { max: 1 });
    item.bar.setAttribute("aria-label", `Progress of ${item.name}`);
    item.said = make("span", { className: "small said" });
    item.pick.append(make("span", { className: "file-name", textContent: item.name }), item.said);
    item.row = make("li", {}, item.pick, drop, item.bar);
    this.list.append(item.row);
    this.tell(item);
  }

  mark(selected) {
    for (const item of this.items) item.pick.setAttribute("aria-current", item === selected);
  }

  start() {
    const isBusy = item => ["uploading", "reading", "transcribing"].includes(item.state);
    while (this.items.filter(isBusy).length < AT_ONCE) {
      const next = this.items.find(item => item.state === "waiting");
      if (!next) return;
      this.run(next);
    }
  }

  async run(item) {
    item.abort = new AbortController();
    item.state = "uploading";
    this.tell(item);
    const onUpload = fraction => {
      Object.assign(item, fraction < 1 ? { fraction } : { state: "reading", fraction: undefined });
      this.tell(item);
    };
    try {
      await transcribe(item.file, item.options, { onUpload, onEvent: event => this.hear(item, event), signal: item.abort.signal });
    } catch (error) {
      if (!this.items.includes(item)) return;
      Object.assign(item, blank(item.name), { state: "failed", error: error.message });
      this.tell(item);
    }
    this.start();
  }

  hear(item, event) {
    if (event.event === "read") {
      const peaks = Uint8Array.from(atob(event.peaks), character => character.charCodeAt(0));
      Object.assign(item, { state: "transcribing", fraction: 0, duration: event.duration, peaks, perSecond: event.peaks_per_s });
      this.tell(item);
    } else if (event.event === "segment") {
      item.parts[event.number] = event.segments;
      const fresh = [];
      for (; item.parts[item.numShown]; item.numShown++) fresh.push(...item.parts[item.numShown]);
      item.fraction = event.progress;
      item.segments.push(...fresh);
      this.tell(item, "segments", fresh);
    } else {
      const { segments, ...rest } = event.transcript;
      Object.assign(item, { state: "done", fraction: 1, segments, about: { ...rest, key: item.name.replace(/\.[^.]*$/, "") }, parts: [] });
      this.tell(item, "done");
    }
  }

  tell(item, what = "state", fresh = []) {
    item.said.textContent = saidOf(item);
    item.row.dataset.state = item.state;
    item.bar.hidden = ["done", "failed", "waiting"].includes(item.state);
    if (item.fraction === undefined) item.bar.removeAttribute("value"); else item.bar.value = item.fraction;
    this.onChange(item, what, fresh);
  }
}

function blank(name) {
  return {
    name, state: "waiting", fraction: undefined, duration: 0, peaks: new Uint8Array(), perSecond: 50,
    segments: [], parts: [], numShown: 0, about: null, error: null, hues: new Map(), isEdited: false,
  };
}

export function saidOf(item) {
  switch (item.state) {
    case "waiting": return "waiting";
    case "uploading": return `uploading ${Math.floor((item.fraction ?? 0) * 100)} %`;
    case "reading": return "the server reads the audio";
    case "transcribing": return `${clock(item.fraction * item.duration)} of ${clock(item.duration)} transcribed`;
    case "failed": return item.error;
  }
  const warnings = item.about.warnings?.length;
  return clock(item.duration) + (warnings ? ` · ${plural(warnings, "warning")}` : "") + (item.isEdited ? " · corrected" : "");
}
