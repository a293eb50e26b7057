// Audio of one request, as it grows.

const HEADER = 44; // bytes of a WAV file before its samples

export class Clip {
  /** @param {number} rate Sampling rate in hertz. */
  constructor(rate) {
    this.rate = rate;
    this.length = 0; // samples
    this.isComplete = false;
    this.buffer = new Int16Array(rate * 8);
  }

  get seconds() {
    return this.length / this.rate;
  }

  get samples() {
    return this.buffer.subarray(0, this.length);
  }

  append(samples) {
    if (this.length + samples.length > this.buffer.length) {
      const larger = new Int16Array(2 * (this.length + samples.length));
      larger.set(this.samples);
      this.buffer = larger;
    }
    this.buffer.set(samples, this.length);
    this.length += samples.length;
  }

  /** Note that nothing follows, and give unused memory back. */
  complete() {
    this.isComplete = true;
    this.buffer = this.buffer.slice(0, this.length);
  }

  /** The clip as a WAV file, 16-bit, mono. */
  wav() {
    const view = new DataView(new ArrayBuffer(HEADER));
    const text = (offset, letters) => [...letters].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
    const numBytes = 2 * this.length;
    text(0, "RIFF");
    view.setUint32(4, HEADER - 8 + numBytes, true);
    text(8, "WAVEfmt ");
    view.setUint32(16, 16, true); // bytes of this section
    view.setUint16(20, 1, true); // PCM
    view.setUint16(22, 1, true); // channels
    view.setUint32(24, this.rate, true);
    view.setUint32(28, 2 * this.rate, true); // bytes a second
    view.setUint16(32, 2, true); // bytes of a sample of all channels
    view.setUint16(34, 16, true); // bits
    text(36, "data");
    view.setUint32(40, numBytes, true);
    return new Blob([view, this.samples], { type: "audio/wav" }); // little-endian, as all machines with browsers
  }
}
