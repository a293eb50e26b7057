// Waveform and spectrogram of a clip, with axes and a playhead; a slider to assistive technology.
import { clock, make } from "./dom.js";
import { BANDS, Spectrum } from "./spectrum.js";

const SHORTEST = 5; // seconds of the time axis, at least
const [WAVE, SPECTROGRAM, AXIS] = [72, 112, 18]; // heights in pixels
const STEPS = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];

export class Plots {
  /** @param {Player} player Player of the clip; a click or key moves it. */
  constructor(player) {
    this.player = player;
    this.spectrum = null;
    this.drawn = "";
    this.canvas = make("canvas", {
      class: "dia-plots",
      role: "slider",
      tabindex: 0,
      "aria-label": "Position in the speech, in seconds",
      "aria-valuemin": 0,
      onpointerdown: (event) => this.seekTo(event),
      onkeydown: (event) => this.seekBy(event),
    });
    this.image = make("canvas"); // the spectrogram, a pixel a block and band
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  show(clip) {
    this.spectrum = new Spectrum(clip);
    this.drawn = "";
  }

  get span() {
    return Math.max(this.spectrum?.clip.seconds ?? 0, SHORTEST);
  }

  seekTo(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    this.player.seek(((event.clientX - left) / width) * this.span);
  }

  seekBy(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -5, PageUp: 5 };
    const { position } = this.player;
    const places = { Home: 0, End: this.span };
    if (event.key in steps) this.player.seek(position + steps[event.key]);
    else if (event.key in places) this.player.seek(places[event.key]);
    else return;
    event.preventDefault();
  }

  /** Draw, if anything has changed. */
  draw() {
    const { canvas, spectrum } = this;
    spectrum?.update();
    const { position } = this.player;
    const [width, ratio] = [canvas.clientWidth, window.devicePixelRatio || 1];
    const style = getComputedStyle(canvas);
    const state = [spectrum?.columns.length, position.toFixed(3), width, ratio, style.color].join();
    if (state === this.drawn || width === 0) return;
    this.drawn = state;
    canvas.setAttribute("aria-valuemax", (spectrum?.clip.seconds ?? 0).toFixed(1));
    canvas.setAttribute("aria-valuenow", position.toFixed(1));
    canvas.setAttribute("aria-valuetext", `${position.toFixed(1)} seconds`);
    const height = WAVE + SPECTROGRAM + AXIS;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const paint = canvas.getContext("2d");
    paint.scale(ratio, ratio);
    const colorOf = (name) => style.getPropertyValue(name);
    const colors = { text: style.color, line: colorOf("--dia-line"), wave: colorOf("--dia-accent") };
    if (spectrum) {
      this.drawWave(paint, width, colors);
      this.drawSpectrogram(paint, width);
    }
    this.drawAxes(paint, width, colors);
    if (spectrum?.clip.length) {
      paint.fillStyle = colors.text;
      paint.fillRect(Math.min((position / this.span) * width, width - 1), 0, 1.5, WAVE + SPECTROGRAM);
    }
  }

  drawWave(paint, width, { wave }) {
    const { lows, highs, clip, hop } = this.spectrum;
    const blocksOfPixel = (this.span * clip.rate) / hop / width;
    paint.fillStyle = wave;
    for (let x = 0; x < width; x++) {
      const begin = Math.floor(x * blocksOfPixel);
      if (begin >= lows.length) break;
      let [low, high] = [lows[begin], highs[begin]];
      for (let block = begin + 1; block < Math.min((x + 1) * blocksOfPixel, lows.length); block++) {
        low = Math.min(low, lows[block]);
        high = Math.max(high, highs[block]);
      }
      const middle = WAVE / 2;
      paint.fillRect(x, middle - high * middle, 1, Math.max((high - low) * middle, 1));
    }
  }

  drawSpectrogram(paint, width) {
    const { columns, clip, hop } = this.spectrum;
    const numBlocks = Math.ceil((this.span * clip.rate) / hop);
    const numPixels = Math.min(numBlocks, 2 * Math.ceil(width));
    [this.image.width, this.image.height] = [numPixels, BANDS];
    const pixels = new ImageData(numPixels, BANDS);
    for (let x = 0; x < numPixels; x++) {
      const column = columns[Math.floor((x * numBlocks) / numPixels)];
      if (!column) break;
      for (let band = 0; band < BANDS; band++) {
        const level = column[band] / 255;
        pixels.data.set(
          [79 + 170 * level ** 2, 70 + 45 * level, 229 - 117 * level ** 2, 255 * Math.min(1, 1.3 * level)],
          4 * ((BANDS - 1 - band) * numPixels + x),
        );
      }
    }
    this.image.getContext("2d").putImageData(pixels, 0, 0);
    paint.drawImage(this.image, 0, WAVE, width, SPECTROGRAM);
  }

  drawAxes(paint, width, { text, line }) {
    const bottom = WAVE + SPECTROGRAM;
    paint.fillStyle = line;
    paint.fillRect(0, WAVE, width, 1);
    paint.fillRect(0, bottom, width, 1);
    paint.fillStyle = text;
    paint.globalAlpha = 0.75;
    paint.font = "11px system-ui, sans-serif";
    const highest = (this.spectrum?.highest ?? 10_000) / 1000;
    paint.fillText(`${highest} kHz`, 4, WAVE + 12);
    paint.fillText(`${highest / 2}`, 4, WAVE + SPECTROGRAM / 2 + 4);
    const step = STEPS.find((one) => (one / this.span) * width >= 48) ?? 1200;
    for (let seconds = 0; seconds <= this.span; seconds += step) {
      const x = (seconds / this.span) * width;
      paint.fillRect(x, bottom, 1, 4);
      const label = step < 1 ? `${seconds.toFixed(1)} s` : step < 60 ? `${seconds} s` : clock(seconds).slice(0, -2);
      if (x + paint.measureText(label).width + 4 < width) paint.fillText(label, x + 4, bottom + 13);
    }
    paint.globalAlpha = 1;
  }
}
