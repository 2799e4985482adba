// Live captions: the microphone's audio goes to the server, whose text comes back while somebody speaks.
import { liveSocket } from "./api.js";
import { $, clock, make, trouble } from "./dom.js";

// What browsers do for telephone calls would be heard by the model.
const MICROPHONE = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const RATE = 16000, PEAK_SAMPLES = RATE / 50, BAR = 4;
const REFUSED = {
  NotAllowedError: "The browser may not use the microphone. Allow it beside the address of this page, then press Speak again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone is in use by another program.",
};

export class Live {
  // `onEnd(recording)`: { file, peaks, duration, segments, warnings } of what was said; null if nothing was heard.
  constructor(onEnd) {
    this.onEnd = onEnd;
    $("stop").onclick = () => this.stop();
    $("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : $("live").requestFullscreen());
    document.addEventListener("fullscreenchange", () => {
      $("full").textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
    });
  }

  get isOn() { return Boolean(this.context); }

  // `options`: { language, hotwords, spk }.
  async start(options) {
    Object.assign(this, { buffers: [], blobs: [], peaks: [], numSamples: 0, sentences: [], warnings: [], numShown: 0, isStopping: false });
    $("fixed").replaceChildren();
    $("open").replaceChildren();
    trouble($("live-trouble"), null);
    this.media = await openMicrophone();
    let source, node;
    try {
      this.context = new AudioContext({ sampleRate: RATE });
      await this.context.audioWorklet.addModule(new URL("microphone-worklet.js", import.meta.url));
      source = this.context.createMediaStreamSource(this.media);
      node = new AudioWorkletNode(this.context, "pcm");
    } catch (error) {
      this.release();
      throw new Error(`This browser cannot record at ${RATE} Hz: ${error.message}`);
    }
    node.port.onmessage = event => this.hear(event.data);
    try { this.socket = liveSocket(); } catch (error) {
      this.release();
      throw error;
    }
    this.socket.onopen = () => {
      this.socket.send(`SPK:${options.spk}`);
      this.socket.send("START");
      if (options.language) this.socket.send(`LANGUAGE:${options.language}`);
      if (options.hotwords) this.socket.send(`HOTWORDS:${options.hotwords}`);
      source.connect(node);
    };
    this.socket.onmessage = event => this.read(JSON.parse(event.data));
    this.socket.onclose = event => this.close(event);
  }

  stop() {
    if (!this.isOn || this.isStopping) return;
    this.isStopping = true;
    this.media.getTracks().forEach(track => track.stop());
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send("STOP"); else this.socket.close();
  }

  hear(pcm) {
    if (this.isStopping || this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(pcm);
    const samples = new Int16Array(pcm);
    this.numSamples += samples.length;
    for (let at = 0; at < samples.length; at += PEAK_SAMPLES)
      this.peaks.push(samples.subarray(at, at + PEAK_SAMPLES).reduce((most, sample) => Math.max(most, Math.abs(sample)), 0) >> 7);
    this.buffers.push(pcm);
    if (this.buffers.length === 64) this.blobs.push(new Blob(this.buffers.splice(0)));  // which a browser may put on the disk
    $("elapsed").textContent = clock(this.numSamples / RATE);
    $("level").value = Math.max(...this.peaks.slice(-5)) / 255;
    this.drawLevels();
  }

  drawLevels() {
    const canvas = $("levels"), scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d"), shown = this.peaks.slice(-Math.floor(width / BAR));
    pen.scale(scale, scale);
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    shown.forEach((peak, i) => {
      const tall = Math.max(1.5, (peak / 255) ** 0.6 * height);
      pen.fillRect(width - (shown.length - i) * BAR, (height - tall) / 2, BAR - 1.5, tall);
    });
  }

  read(answer) {
    if (answer.event === "error") trouble($("live-trouble"), answer.error);
    if (answer.event === "stopped") { this.isDone = true; this.socket.close(1000); }
    if (!answer.sentences) return;
    const box = $("captions"), isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 40;
    this.warnings.push(...(answer.warnings ?? []));
    this.sentences = answer.sentences;
    if (answer.is_final) { this.numShown = 0; $("fixed").replaceChildren(); }  // speakers may have other numbers now
    for (; this.numShown < this.sentences.length; this.numShown++) this.write(this.sentences[this.numShown], this.sentences[this.numShown - 1]);
    const firm = answer.partial_confirmed ?? "";
    $("open").replaceChildren(firm, make("i", { textContent: answer.partial.slice(firm.length) }));
    if (isAtEnd) box.scrollTop = box.scrollHeight;
  }

  write(sentence, before) {
    if (sentence.spk !== undefined && sentence.spk !== before?.spk) {
      if (before) $("fixed").append(make("br"));
      $("fixed").append(make("b", { textContent: nameOf(sentence) }), " ");
    }
    $("fixed").append(sentence.text, " ");
  }

  close(event) {
    if (!this.isDone && event.code !== 1000) {
      const reason = event.reason || "The connection to the server was lost";
      trouble($("live-trouble"), this.numSamples ? `${reason}. What was said until then is kept.` : reason);
    }
    this.release();
    if (document.fullscreenElement) document.exitFullscreen();
    this.isDone = false;
    this.onEnd(this.numSamples ? this.recording() : null);
  }

  release() {
    this.media.getTracks().forEach(track => track.stop());
    this.context?.close();
    this.context = null;
  }

  recording() {
    const pcm = [...this.blobs, ...this.buffers], size = 2 * this.numSamples;
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    return {
      name: `live_${time}.wav`,
      file: new File([wavHead(size), ...pcm], `live_${time}.wav`, { type: "audio/wav" }),
      peaks: Uint8Array.from(this.peaks),
      duration: this.numSamples / RATE,
      warnings: this.warnings,
      segments: this.sentences.map(sentence => ({
        text: sentence.text, start: sentence.start / 1000, end: sentence.end / 1000, words: null, confidence: null,
        warnings: [], ...(sentence.spk === undefined ? {} : { speaker: nameOf(sentence) }),
      })),
    };
  }
}

// The name of a known speaker; else the number of the voice.
function nameOf(sentence) {
  return sentence.speaker ?? `SPK${sentence.spk}`;
}

async function openMicrophone() {
  if (!navigator.mediaDevices)
    throw new Error("Browsers give the microphone only to pages that come over https, or from localhost.");
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE });
  } catch (error) {
    throw new Error(REFUSED[error.name] ?? `The microphone cannot be used: ${error.message}`);
  }
}

// The head of a WAV file: PCM of 16 bits, one channel.
function wavHead(size) {
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, RATE, true);
  head.setUint32(28, 2 * RATE, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, size, true);
  return head.buffer;
}
