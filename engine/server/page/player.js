// The audio of one file: playing, seeking, speed and zoom. The waveform and the transcript follow it.
import { $, clock } from "./dom.js";
import { Waveform } from "./waveform.js";

export class Player {
  // `onTime(seconds, isPlaying)` is called for each picture while it plays, and after each jump.
  constructor(onTime) {
    this.audio = $("audio");
    this.onTime = onTime;
    this.duration = this.time = 0;
    this.waveform = new Waveform($("wave"), { onSeek: seconds => this.seek(seconds), onView: () => this.showView() });
    $("play").onclick = () => this.toggle();
    $("speed").onchange = () => { this.audio.playbackRate = Number($("speed").value); };
    $("zoom-in").onclick = () => this.waveform.zoom(2);
    $("zoom-out").onclick = () => this.waveform.zoom(1 / 2);
    $("zoom-fit").onclick = () => this.waveform.fit();
    $("pan").oninput = () => {
      const from = Number($("pan").value);
      this.waveform.look(from, from + this.waveform.to - this.waveform.from);
    };
    this.audio.onplay = this.audio.onpause = () => this.showState();
    this.audio.onerror = () => { if (this.audio.hasAttribute("src")) this.setPlayable(false); };
    const follow = () => {
      if (!this.audio.paused) this.setTime(this.audio.currentTime);
      requestAnimationFrame(follow);
    };
    follow();
  }

  // `item`: { url, duration, peaks, perSecond }; `spans` as for the waveform.
  load(item, spans) {
    this.duration = item.duration;
    if (this.audio.src !== item.url) {
      this.audio.src = item.url;
      this.audio.playbackRate = Number($("speed").value);
      this.setPlayable(true);
      this.time = 0;
    }
    this.waveform.show({ ...item, spans });
    this.setTime(this.time);
  }

  unload() {
    this.audio.pause();
    this.audio.removeAttribute("src");
    this.time = 0;
  }

  setSpans(spans) {
    this.waveform.spans = spans;
    this.waveform.draw();
  }

  seek(seconds, { isPlayed = false } = {}) {
    this.audio.currentTime = seconds;
    this.setTime(seconds);
    if (isPlayed && !$("play").disabled) this.audio.play().catch(() => this.setPlayable(false));
  }

  toggle() {
    if (!this.audio.paused) this.audio.pause();
    else this.seek(this.time >= this.duration - 0.05 ? 0 : this.time, { isPlayed: true });
  }

  pause() { this.audio.pause(); }

  setTime(seconds) {
    this.time = seconds;
    $("clock").textContent = `${clock(seconds)} / ${clock(this.duration)}`;
    this.waveform.setTime(seconds);
    this.onTime(seconds, !this.audio.paused);
  }

  setPlayable(isPlayable) {
    $("play").disabled = !isPlayable;
    $("no-sound").hidden = isPlayable;
  }

  showState() {
    const isPaused = this.audio.paused;
    $("play").textContent = isPaused ? "▶" : "❚❚";
    $("play").setAttribute("aria-label", isPaused ? "Play" : "Pause");
  }

  showView() {
    const { waveform } = this;
    $("pan").hidden = !waveform.isZoomed;
    $("pan").max = Math.max(0, this.duration - (waveform.to - waveform.from));
    $("pan").value = waveform.from;
    $("pan").setAttribute("aria-valuetext", `${clock(waveform.from)} to ${clock(waveform.to)}`);
  }
}
