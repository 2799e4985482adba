// The microphone's samples as 16-bit PCM, 100 ms at a time.
const CHUNK = 1600;

registerProcessor("pcm", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.pcm = new Int16Array(CHUNK);
    this.count = 0;
  }

  process([[heard]]) {
    for (const sample of heard ?? []) {
      this.pcm[this.count++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.count === CHUNK) {
        this.port.postMessage(this.pcm.slice().buffer);
        this.count = 0;
      }
    }
    return true;
  }
});
