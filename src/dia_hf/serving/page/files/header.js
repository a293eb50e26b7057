// Name of the model, state of the server, and the API key.
import { call, storeKey, storedKey } from "./api.js";
import { Piece, field, make } from "./dom.js";
import { about, bus, tell } from "./state.js";

const PAUSE = 1000; // milliseconds between questions whether the server is ready

export class Header extends Piece {
  build() {
    this.dot = make("span", { class: "dia-dot", "data-state": "waiting" });
    this.state = make("span", { role: "status" }, "…");
    this.append(
      make(
        "header",
        { class: "dia-header" },
        make("h1", {}, "Dia"),
        make("span", { class: "dia-model" }, about.model),
        make("span", { class: "dia-state" }, this.dot, this.state),
        this.makeKeyField(),
      ),
    );
    bus.addEventListener("key-needed", () => (this.keyField.hidden = false));
    bus.addEventListener("no-answer", () => this.watch());
    this.watch();
  }

  makeKeyField() {
    this.key = make("input", { type: "password", autocomplete: "off", spellcheck: "false" });
    this.key.value = storedKey();
    this.key.addEventListener("change", () => {
      storeKey(this.key.value.trim());
      tell("voices");
      tell("script");
    });
    this.keyField = field("API key", this.key, "Kept until this tab is closed.");
    this.keyField.hidden = !about.needsKey;
    return make("form", { class: "dia-key", onsubmit: (event) => event.preventDefault() }, this.keyField);
  }

  /** Show the server's state until it is ready. */
  async watch() {
    if (this.isWatching) return;
    this.isWatching = true;
    while (this.isWatching) {
      let state = "ready";
      try {
        await call("ready");
      } catch (error) {
        state = error.message.includes("warming up") ? "warming up" : "not there";
      }
      this.state.textContent = { ready: "ready", "warming up": "warming up …", "not there": "no answer" }[state];
      this.dot.dataset.state = state;
      if (state === "ready") this.isWatching = false;
      else await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}
