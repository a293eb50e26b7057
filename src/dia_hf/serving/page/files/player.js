// Playback of a clip while it grows.
//
// Samples are scheduled on the clock of an AudioContext that has the clip's own rate, so that nothing is resampled at
// the joins. Where they come too late, playback waits and goes on; nothing is left out.

const LEAD = 0.1; // seconds between the first samples and their playback: the main thread's jitter
const SLICE = 5; // seconds of one scheduled buffer, at most
const AHEAD = 15; // seconds that are scheduled ahead

export class Player extends EventTarget {
  constructor() {
    super();
    this.context = null;
    this.clip = null;
    this.sources = new Set();
    this.isPlaying = false;
    this.numUnderruns = 0;
    this.held = 0; // sample at which playback is paused
  }

  /** Open the audio device; browsers allow it in the listener of a click or key only. */
  open(rate) {
    if (this.context?.sampleRate !== rate) {
      this.context?.close();
      this.context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
    }
    return this.context.resume();
  }

  /** Begin to play a clip, which may be empty still. */
  start(clip) {
    this.halt();
    this.clip = clip;
    this.held = this.numUnderruns = 0;
    this.isFirst = true;
    this.play();
  }

  /** Position in seconds of what is heard now. */
  get position() {
    if (!this.clip) return 0;
    if (!this.isPlaying) return this.held / this.clip.rate;
    const heard = this.context.currentTime - (this.context.outputLatency || 0);
    const sample = this.anchorSample + (heard - this.anchorTime) * this.clip.rate;
    return Math.min(Math.max(sample, this.anchorSample), this.scheduled) / this.clip.rate;
  }

  /** Play from the position at which playback was paused; from the beginning, if that is the end. */
  play() {
    if (this.isPlaying || !this.clip) return;
    if (this.clip.isComplete && this.held >= this.clip.length) this.held = 0;
    this.isPlaying = true;
    this.scheduled = this.anchorSample = Math.round(this.held);
    this.anchorTime = null;
    this.pump();
    this.tell();
  }

  pause() {
    if (!this.isPlaying) return;
    const held = this.position * this.clip.rate;
    this.halt();
    this.held = held;
    this.tell();
  }

  /** Go to a position in seconds. */
  seek(seconds) {
    if (!this.clip) return;
    const wasPlaying = this.isPlaying;
    this.halt();
    this.held = Math.min(Math.max(seconds, 0) * this.clip.rate, this.clip.length);
    if (wasPlaying) this.play();
    this.tell();
  }

  halt() {
    for (const source of this.sources) {
      source.onended = null;
      source.stop();
    }
    this.sources.clear();
    this.isPlaying = false;
  }

  /** Schedule what has come; called after each change of the clip. */
  pump() {
    if (!this.isPlaying) return;
    const { clip, context } = this;
    for (;;) {
      const now = context.currentTime;
      const end = this.anchorTime === null ? -1 : this.anchorTime + (this.scheduled - this.anchorSample) / clip.rate;
      if (this.scheduled >= clip.length || end - now > AHEAD) break;
      if (end < now) {
        if (this.anchorTime !== null) this.numUnderruns++;
        this.anchorTime = now + LEAD;
        this.anchorSample = this.scheduled;
      }
      this.schedule(Math.min(this.scheduled + SLICE * clip.rate, clip.length));
    }
    if (clip.isComplete && this.sources.size === 0 && this.scheduled >= clip.length) {
      this.halt();
      this.held = clip.length;
      this.tell();
    }
  }

  schedule(end) {
    const { clip, context } = this;
    const buffer = context.createBuffer(1, end - this.scheduled, clip.rate);
    buffer.copyToChannel(Float32Array.from(clip.buffer.subarray(this.scheduled, end), (value) => value / 32768), 0);
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.onended = () => {
      this.sources.delete(source);
      this.pump();
    };
    const time = this.anchorTime + (this.scheduled - this.anchorSample) / clip.rate;
    source.start(time);
    this.sources.add(source);
    this.scheduled = end;
    if (this.isFirst) {
      this.isFirst = false;
      const latency = context.outputLatency || context.baseLatency || 0;
      performance.mark("dia-first-sound", {
        startTime: performance.now() + 1000 * (time - context.currentTime + latency),
      });
    }
  }

  tell() {
    this.dispatchEvent(new Event("change"));
  }
}
