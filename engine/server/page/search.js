// Search in the transcript: matches are highlighted, and Enter goes from one to the next.
import { $ } from "./dom.js";

const MOST = 5000;  // matches that are highlighted

export class Search {
  constructor(root) {
    Object.assign(this, { root, ranges: [], place: -1 });
    $("search").oninput = () => this.run();
    $("search").onkeydown = event => {
      if (event.key === "Enter") { event.preventDefault(); this.step(event.shiftKey ? -1 : 1); }
      if (event.key === "Escape") this.clear();
    };
    $("found-next").onclick = () => this.step(1);
    $("found-previous").onclick = () => this.step(-1);
  }

  clear() {
    $("search").value = "";
    this.run();
  }

  run() {
    const query = $("search").value.trim().toLowerCase();
    this.ranges = query ? [...this.root.querySelectorAll(".para > p")].flatMap(text => rangesIn(text, query)).slice(0, MOST) : [];
    this.place = -1;
    paint("found", this.ranges);
    paint("found-now", []);
    const isMany = this.ranges.length === MOST;
    $("found").textContent = !query ? "" : this.ranges.length ? `${this.ranges.length}${isMany ? " or more" : ""}` : "none";
    for (const id of ["found-next", "found-previous"]) $(id).disabled = !this.ranges.length;
  }

  step(by) {
    if (!this.ranges.length) return;
    this.place = (this.place + by + this.ranges.length + (this.place < 0 && by < 0 ? 1 : 0)) % this.ranges.length;
    const range = this.ranges[this.place];
    paint("found-now", [range]);
    range.startContainer.parentElement.scrollIntoView({ block: "center" });
    $("found").textContent = `${this.place + 1} of ${this.ranges.length}`;
  }
}

function rangesIn(text, query) {
  const content = text.textContent.toLowerCase(), starts = [];
  for (let at = content.indexOf(query); at >= 0; at = content.indexOf(query, at + query.length)) starts.push(at);
  if (!starts.length) return [];
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  let node = walker.nextNode(), before = 0;
  const placeOf = offset => {
    while (before + node.length < offset) { before += node.length; node = walker.nextNode(); }
    return [node, offset - before];
  };
  return starts.map(start => {
    const range = new Range();
    range.setStart(...placeOf(start));
    range.setEnd(...placeOf(start + query.length));
    return range;
  });
}

// Browsers without highlights still go from match to match.
function paint(name, ranges) {
  if (globalThis.CSS?.highlights) CSS.highlights.set(name, new Highlight(...ranges));
}
