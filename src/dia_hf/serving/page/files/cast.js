// The voice of each speaker.
import { savedVoices } from "./api.js";
import { Piece, field, make } from "./dom.js";
import { about, bus, cast } from "./state.js";

export class Cast extends Piece {
  build() {
    this.selects = new Map(about.speakers.slice(0, 2).map((tag) => [tag, make("select")]));
    const fields = [...this.selects].map(([tag, select]) => {
      select.addEventListener("change", () => (cast[tag] = select.value));
      const name = tag.slice(1, -1);
      const one = field(`Voice of ${name}`, select);
      one.classList.add(`dia-${name.toLowerCase()}`);
      return one;
    });
    this.append(make("div", { class: "dia-card dia-cast" }, ...fields));
    this.list([]);
    this.update();
    bus.addEventListener("voices", () => this.update());
    bus.addEventListener("use", ({ detail }) => this.choose(detail.cast));
  }

  async update() {
    try {
      this.list(await savedVoices());
    } catch {
      // the header says that the server does not answer, or asks for the key
    }
  }

  list(names) {
    for (const [tag, select] of this.selects) {
      const chosen = cast[tag] ?? "";
      const options = names.map((name) => make("option", { value: name }, name));
      select.replaceChildren(make("option", { value: "" }, "the model's own"), ...options);
      select.value = names.includes(chosen) ? chosen : "";
      cast[tag] = select.value;
    }
  }

  choose(voices) {
    for (const [tag, select] of this.selects) {
      select.value = voices[tag] ?? "";
      cast[tag] = select.value = select.selectedIndex < 0 ? "" : select.value;
    }
  }
}
