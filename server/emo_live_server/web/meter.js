// AudioWorklet of mic.js: the RMS of the sound, about 20 times a second.
const BLOCKS = Math.round(sampleRate / 128 / 20);

class Meter extends AudioWorkletProcessor {
  sum = 0;
  blocks = 0;

  process([[channel]]) {
    if (!channel) return true;
    for (const sample of channel) this.sum += sample * sample;
    this.blocks += 1;
    if (this.blocks === BLOCKS) {
      this.port.postMessage(Math.sqrt(this.sum / (BLOCKS * channel.length)));
      this.sum = this.blocks = 0;
    }
    return true;
  }
}

registerProcessor("meter", Meter);
