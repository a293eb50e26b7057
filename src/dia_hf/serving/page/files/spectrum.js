// Levels and spectrum of audio, block by block, as it comes.

export const BANDS = 80;
const WINDOW_SECONDS = 0.025; // about; a power of two of samples
const HOPS = 4; // blocks of a window
const HIGHEST = 10_000; // hertz of the highest band
const FLOOR = -75; // decibels of full scale that are shown as silence

/** Fast Fourier transform of a fixed size. */
class Transform {
  constructor(size) {
    this.size = size;
    this.cosines = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sines = Float32Array.from({ length: size / 2 }, (_, i) => -Math.sin((2 * Math.PI * i) / size));
    this.real = new Float32Array(size);
    this.imaginary = new Float32Array(size);
    this.places = Uint16Array.from({ length: size }, (_, i) => {
      let reversed = 0;
      for (let bit = 1; bit < size; bit <<= 1) reversed = (reversed << 1) | (i & bit ? 1 : 0);
      return reversed;
    });
  }

  /** Transform real values; `valueOf(i)` gives each. The result is in `real` and `imaginary`. */
  run(valueOf) {
    const { size, cosines, sines, real, imaginary } = this;
    for (let i = 0; i < size; i++) real[this.places[i]] = valueOf(i);
    imaginary.fill(0);
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let begin = 0; begin < size; begin += 2 * half) {
        for (let i = 0; i < half; i++) {
          const a = begin + i;
          const b = a + half;
          const turnedReal = real[b] * cosines[i * stride] - imaginary[b] * sines[i * stride];
          const turnedImaginary = real[b] * sines[i * stride] + imaginary[b] * cosines[i * stride];
          real[b] = real[a] - turnedReal;
          imaginary[b] = imaginary[a] - turnedImaginary;
          real[a] += turnedReal;
          imaginary[a] += turnedImaginary;
        }
      }
    }
  }
}

export class Spectrum {
  constructor(clip) {
    this.clip = clip;
    this.size = 2 ** Math.round(Math.log2(WINDOW_SECONDS * clip.rate));
    this.hop = this.size / HOPS; // samples of a block
    this.highest = Math.min(HIGHEST, clip.rate / 2); // hertz
    this.lows = []; // of each block, -1 to 1
    this.highs = [];
    this.columns = []; // of each block, BANDS values from 0 to 255
    this.transform = new Transform(this.size);
    this.window = Float32Array.from({ length: this.size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / this.size));
  }

  /** Take what has come since the last call: blocks whose windows are complete, and at the end of the clip the others. */
  update() {
    const { clip, hop, size } = this;
    const needed = clip.isComplete ? hop : (hop + size) / 2;
    while (this.columns.length * hop + needed <= clip.length) this.addBlock(this.columns.length * hop);
  }

  addBlock(begin) {
    const { hop, size, window } = this;
    const { buffer, length } = this.clip;
    let low = 0;
    let high = 0;
    for (let i = begin; i < begin + hop; i++) {
      low = Math.min(low, buffer[i]);
      high = Math.max(high, buffer[i]);
    }
    this.lows.push(low / 32768);
    this.highs.push(high / 32768);
    const first = begin + hop / 2 - size / 2; // the window's middle is the block's
    const isThere = (place) => place >= 0 && place < length;
    this.transform.run((i) => (isThere(first + i) ? (window[i] * buffer[first + i]) / 32768 : 0));
    this.columns.push(this.bands());
  }

  bands() {
    const { real, imaginary } = this.transform;
    const numBins = (this.highest * this.size) / this.clip.rate;
    const column = new Uint8Array(BANDS);
    for (let band = 0; band < BANDS; band++) {
      const begin = Math.floor((band * numBins) / BANDS);
      const end = Math.max(begin + 1, Math.floor(((band + 1) * numBins) / BANDS));
      let power = 0;
      for (let bin = begin; bin < end; bin++) power = Math.max(power, real[bin] ** 2 + imaginary[bin] ** 2);
      const decibels = 10 * Math.log10((16 * power) / this.size ** 2 + 1e-12);
      column[band] = Math.max(0, Math.min(255, (255 * (decibels - FLOOR)) / -FLOOR));
    }
    return column;
  }
}
