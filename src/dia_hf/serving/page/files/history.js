// Clips of this session. Audio and texts are kept in the page's memory, and nowhere else.
import { Piece, button, confirm, make, saveFile, startAudio } from "./dom.js";
import { bus, restoreSettings, tell } from "./state.js";

const MOST = 50; // clips; the oldest are dropped
const MOST_SECONDS = 3600; // of all clips

const clips = [];

bus.addEventListener("clip", ({ detail }) => {
  clips.unshift({ ...detail, time: new Date() });
  const isTooMuch = () => clips.reduce((sum, { clip }) => sum + clip.seconds, 0) > MOST_SECONDS;
  while (clips.length > MOST || (clips.length > 1 && isTooMuch())) clips.pop();
  tell("history");
});

export class History extends Piece {
  build() {
    this.list = make("ul", { class: "dia-list dia-clips", "aria-label": "Clips" });
    this.clear = button("Clear", () => this.empty(), { "aria-label": "Clear the history" });
    this.audio = make("audio", { controls: true, hidden: true, "aria-label": "The clip" });
    this.append(
      make(
        "section",
        { class: "dia-card", "aria-label": "History" },
        make("div", { class: "dia-row dia-spread" }, make("h2", {}, "History"), this.clear),
        make("p", { class: "dia-hint" }, `The last ${MOST} clips, and at most an hour of audio, until this page is closed or loaded again.`),
        this.list,
        this.audio,
      ),
    );
    bus.addEventListener("history", () => this.update());
    this.update();
  }

  update() {
    const rows = clips.map((clip) => this.row(clip));
    this.list.replaceChildren(...(rows.length ? rows : [make("li", { class: "dia-hint" }, "Nothing has been spoken yet.")]));
    this.clear.disabled = clips.length === 0;
  }

  row(one) {
    const voices = Object.entries(one.cast).filter(([, voice]) => voice);
    const facts = [
      one.time.toLocaleTimeString(),
      `${one.clip.seconds.toFixed(1)} s${one.isWhole ? "" : ", not complete"}`,
      `seed ${one.seed}`,
      ...voices.map(([tag, voice]) => `${tag.slice(1, -1)}: ${voice}`),
    ];
    return make(
      "li",
      {},
      make(
        "div",
        { class: "dia-clip" },
        make("span", { class: "dia-name" }, one.script),
        make("span", { class: "dia-hint" }, facts.join(" · ")),
      ),
      button("Play", () => this.play(one)),
      button("Download", () => saveFile(one.clip.wav(), `dia-${one.seed}.wav`)),
      button("Use again", () => this.use(one)),
    );
  }

  play({ clip }) {
    URL.revokeObjectURL(this.audio.src);
    this.audio.src = URL.createObjectURL(clip.wav());
    this.audio.hidden = false;
    startAudio(this.audio);
  }

  /** Put script, voices, settings and seed back. */
  use({ script, cast, settings, seed }) {
    restoreSettings({ ...settings, seed: String(seed) });
    tell("use", { script, cast });
  }

  async empty() {
    if (!(await confirm("Remove all clips of this session?", "Remove"))) return;
    clips.length = 0;
    this.audio.hidden = true;
    this.update();
  }
}
