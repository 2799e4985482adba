// The waveform: peaks as bars, the segments beneath, the playhead; zoom, and drag to seek.
import { clock } from "./dom.js";

const BAR = 3, STRIP = 8, SHORTEST_S = 2, STEP_S = 5;

export class Waveform {
  // `onSeek(seconds)` is called while the reader drags, and for keys. `onView()` when another part is shown.
  constructor(canvas, { onSeek, onView }) {
    Object.assign(this, { canvas, onSeek, onView, peaks: new Uint8Array(), perSecond: 50, spans: [], time: 0 });
    this.duration = this.from = this.to = 0;
    canvas.onpointerdown = event => { canvas.setPointerCapture(event.pointerId); this.seekTo(event); };
    canvas.onpointermove = event => { if (canvas.hasPointerCapture(event.pointerId)) this.seekTo(event); };
    canvas.onkeydown = event => this.press(event);
    canvas.addEventListener("wheel", event => this.roll(event), { passive: false });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // `spans`: [{ start, end, hue }] of the segments; `hue` is undefined where the speaker is unknown.
  show({ peaks, perSecond, duration, spans }) {
    Object.assign(this, { peaks, perSecond, duration, spans, time: 0, from: 0, to: duration });
    this.loudest = peaks.reduce((most, peak) => Math.max(most, peak), 1);
    this.canvas.setAttribute("aria-valuemax", duration.toFixed(1));
    this.look(0, duration);
  }

  get isZoomed() { return this.to - this.from < this.duration - 1e-3; }

  setTime(seconds) {
    this.time = seconds;
    const width = this.to - this.from;
    if (this.isZoomed && !this.isHeld && (seconds < this.from || seconds > this.to)) this.look(seconds - width * 0.1, seconds + width * 0.9);
    this.canvas.setAttribute("aria-valuenow", seconds.toFixed(1));
    this.canvas.setAttribute("aria-valuetext", `${clock(seconds)} of ${clock(this.duration)}`);
    this.draw();
  }

  zoom(factor) {
    const inside = this.time >= this.from && this.time <= this.to;
    const centre = inside ? this.time : (this.from + this.to) / 2;
    const width = Math.min(this.duration, Math.max(SHORTEST_S, (this.to - this.from) / factor));
    this.look(centre - width / 2, centre + width / 2);
  }

  fit() { this.look(0, this.duration); }

  look(from, to) {
    const width = Math.min(to - from, this.duration);
    this.from = Math.min(Math.max(0, from), this.duration - width);
    this.to = this.from + width;
    this.bars = null;
    this.onView();
    this.draw();
  }

  seekTo(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    this.isHeld = true;
    this.onSeek(this.from + share * (this.to - this.from));
    this.isHeld = false;
  }

  press(event) {
    const steps = { ArrowLeft: -STEP_S, ArrowDown: -STEP_S, ArrowRight: STEP_S, ArrowUp: STEP_S, PageUp: 30, PageDown: -30 };
    const places = { Home: 0, End: this.duration };
    if (event.key in steps) this.onSeek(Math.min(this.duration, Math.max(0, this.time + steps[event.key])));
    else if (event.key in places) this.onSeek(places[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(2);
    else if (event.key === "-") this.zoom(1 / 2);
    else return;
    event.preventDefault();
  }

  // Ctrl and the wheel, or a pinch, zoom; a sideways wheel moves. Anything else scrolls the page.
  roll(event) {
    const isZoom = event.ctrlKey || event.metaKey;
    if (!isZoom && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    if (isZoom) this.zoom(Math.exp(-event.deltaY / 200));
    else this.look(this.from + event.deltaX / this.canvas.clientWidth * (this.to - this.from), this.to + event.deltaX / this.canvas.clientWidth * (this.to - this.from));
  }

  // Heights in [0, 1] of the bars of this view.
  heights(count) {
    if (this.bars?.length === count) return this.bars;
    const perBar = (this.to - this.from) / count * this.perSecond, first = this.from * this.perSecond;
    this.bars = Float32Array.from({ length: count }, (_, bar) => {
      const end = Math.max(Math.floor(first + (bar + 1) * perBar), Math.floor(first + bar * perBar) + 1);
      let peak = 0;
      for (let i = Math.floor(first + bar * perBar); i < end; i++) peak = Math.max(peak, this.peaks[i] ?? 0);
      return (peak / this.loudest) ** 0.7;
    });
    return this.bars;
  }

  draw() {
    const { canvas } = this, scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !this.duration) return;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const [accent, quiet, ink, voice] = ["--accent", "--wave", "--ink", "--voice"].map(name => style.getPropertyValue(name)), x = seconds => (seconds - this.from) / (this.to - this.from) * width;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const middle = (height - STRIP - 4) / 2, now = x(this.time), heights = this.heights(Math.max(1, Math.floor(width / BAR)));
    for (let bar = 0; bar < heights.length; bar++) {
      const half = Math.max(0.75, heights[bar] * (middle - 2));
      pen.fillStyle = bar * BAR < now ? accent : quiet;
      pen.fillRect(bar * BAR, middle - half, BAR - 1, 2 * half);
    }
    for (const span of this.spans) {
      if (span.end < this.from || span.start > this.to) continue;
      pen.fillStyle = span.hue === undefined ? quiet : `oklch(${voice} ${span.hue})`;
      pen.fillRect(x(span.start), height - STRIP, Math.max(1, x(span.end) - x(span.start) - 1), STRIP);
    }
    pen.fillStyle = ink;
    pen.fillRect(Math.min(width - 2, Math.max(0, now - 1)), 0, 2, height);
  }
}
