// Speaking a script: the request, playback while it is generated, and the result.
import { call, stream, subtitles } from "./api.js";
import { Captions } from "./captions.js";
import { Clip } from "./clip.js";
import { Alert, Piece, button, clock, make, saveFile } from "./dom.js";
import { Player } from "./player.js";
import { Plots } from "./plots.js";
import { about, bus, cast, currentSettings, requestOf, tell } from "./state.js";

const SUBTITLES = ["srt", "vtt"];
const REASONS = { length: "cut at the limit", implausible: "this may not be what the script says" };

export class Speak extends Piece {
  build() {
    this.player = new Player();
    this.plots = new Plots(this.player);
    this.alert = new Alert();
    this.editor = make("dia-editor");
    this.go = button("Speak", () => this.speak(), { kind: "primary", id: "dia-speak" });
    this.stop = button("Cancel", () => this.cancel(), { disabled: true, id: "dia-cancel" });
    this.status = make("span", { class: "dia-status", role: "status" });
    this.progress = make("progress", { class: "dia-progress", "aria-label": "Parts of the script", hidden: true });
    this.append(
      make(
        "section",
        { class: "dia-card", "aria-label": "Speak" },
        this.editor,
        make("div", { class: "dia-row" }, this.go, this.stop, this.status),
        this.progress,
        this.alert.element,
        this.makePlayer(),
      ),
    );
    this.player.addEventListener("change", () => this.update());
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.update();
    this.draw();
  }

  makePlayer() {
    this.toggle = button("Play", () => (this.player.isPlaying ? this.player.pause() : this.player.play()), {
      id: "dia-toggle",
    });
    this.time = make("span", { class: "dia-time" });
    this.format = make("select", { "aria-label": "Format of the file", id: "dia-format" });
    this.format.append(...about.formats.map((name) => make("option", { value: name }, name)));
    this.format.value = "wav";
    this.format.append(...SUBTITLES.map((name) => make("option", { value: name }, name)));
    this.wantsCaptions = make("input", { type: "checkbox", id: "dia-captions", checked: about.hasTimes });
    this.save = button("Download", () => this.download(), { id: "dia-download" });
    return make(
      "div",
      { class: "dia-player" },
      this.plots.canvas,
      make(
        "div",
        { class: "dia-row dia-spread" },
        make("div", { class: "dia-row" }, this.toggle, this.time, this.makeCaptionsBox()),
        make("div", { class: "dia-row" }, this.format, this.save),
      ),
    );
  }

  makeCaptionsBox() {
    const hint = about.hasTimes ? "" : "At the first use, the model speaks four sentences to find the times of words.";
    return make("label", { class: "dia-row dia-hint", title: hint }, this.wantsCaptions, "Captions");
  }

  onKey(event) {
    if (!this.checkVisibility()) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.speak();
    } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      this.cancel();
    }
  }

  /** Draw as often as the screen does, while anything is to be seen. */
  draw() {
    if (this.plots.canvas.clientWidth) {
      this.plots.draw();
      this.editor.mark(this.captions?.placeAt(this.player.position, this.editor.value) ?? null);
      this.time.textContent = `${clock(this.player.position)} / ${clock(this.clip?.seconds ?? 0)}`;
    }
    requestAnimationFrame(() => this.draw());
  }

  update() {
    this.go.disabled = Boolean(this.running);
    this.stop.disabled = !this.running;
    const hasAudio = Boolean(this.clip?.length);
    this.toggle.disabled = !hasAudio;
    this.toggle.textContent = this.player.isPlaying ? "Pause" : "Play";
    this.format.disabled = this.save.disabled = !hasAudio || Boolean(this.running);
  }

  /** Stop generating, or, where that is over, playing. */
  cancel() {
    if (this.running) this.running.abort();
    else this.player.pause();
  }

  async speak() {
    if (this.running) return;
    this.alert.show(null);
    const script = this.editor.value;
    let request;
    try {
      request = requestOf(script);
      this.player.open(about.sampleRate);
    } catch (error) {
      this.alert.show(error);
      return;
    }
    if (this.wantsCaptions.checked) request.word_timestamps = true;
    const clip = (this.clip = new Clip(about.sampleRate));
    this.captions = new Captions(script);
    this.made = { script, request, cast: { ...cast }, settings: currentSettings(), clip, seed: null, isWhole: false };
    this.running = new AbortController();
    this.player.start(clip);
    this.plots.show(clip);
    this.status.textContent = "Waiting for the first sound …";
    this.update();
    try {
      this.finish(await this.receive(request, clip));
    } catch (error) {
      this.status.textContent = error.name === "AbortError" ? "Canceled." : "";
      if (error.name === "AbortError") this.player.pause();
      else this.alert.show(error);
    }
    this.running = null;
    this.progress.hidden = true;
    clip.complete();
    this.player.pump();
    if (clip.length) tell("clip", this.made);
    this.update();
  }

  receive(request, clip) {
    for (const name of ["dia-request", "dia-first-bytes", "dia-first-sound"]) performance.clearMarks(name);
    performance.mark("dia-request");
    return stream(request, {
      signal: this.running.signal,
      seed: (seed) => (this.made.seed = Number(seed)),
      samples: (samples) => {
        const isFirst = clip.length === 0;
        clip.append(samples);
        this.player.pump();
        if (isFirst) {
          this.status.textContent = "Speaking …";
          this.update();
        }
      },
      words: (words) => this.captions.add(words),
      progress: ({ chunk, num_chunks: numChunks }) => {
        if (numChunks === 1) return;
        this.progress.hidden = false;
        this.progress.max = numChunks;
        this.progress.value = chunk - 1;
        this.status.textContent = `Part ${chunk} of ${numChunks} …`;
      },
    });
  }

  finish({ finish_reason: reason, doubt, seed }) {
    this.made.isWhole = true;
    const why = doubt ?? REASONS[reason];
    this.status.textContent = `${this.clip.seconds.toFixed(1)} s, seed ${seed}` + (why ? `: ${why}` : "");
  }

  /** Save the audio: what was heard as wav, and in other formats as the server generates it again. */
  async download() {
    const { clip, request, seed, isWhole } = this.made;
    const format = this.format.value;
    this.alert.show(null);
    if (SUBTITLES.includes(format)) {
      await this.downloadSubtitles(format);
      return;
    }
    if (format === "wav") {
      saveFile(clip.wav(), `dia-${seed}.wav`);
      return;
    }
    if (!isWhole) {
      this.alert.show(new Error(`The speech is not complete. What has come can be saved as wav, not as ${format}.`));
      return;
    }
    this.save.disabled = true;
    this.save.textContent = "Encoding …";
    try {
      const { word_timestamps: _, ...rest } = request;
      const json = { ...rest, seed, response_format: format, stream: false };
      const response = await call("audio/speech", { method: "POST", json });
      saveFile(await response.blob(), `dia-${seed}.${format}`);
    } catch (error) {
      this.alert.show(error);
    }
    this.save.textContent = "Download";
    this.update();
  }

  async downloadSubtitles(format) {
    const { words } = this.captions;
    try {
      if (!words.length) throw new Error("There are no times of words. Check Captions, and speak again.");
      saveFile(await subtitles(words, format), `dia-${this.made.seed}.${format}`);
    } catch (error) {
      this.alert.show(error);
    }
  }
}

bus.addEventListener("use", () => document.getElementById("dia-tab-speak-button")?.click());
