// The script's editor: tags in color, and issues at their place.
import { checkScript } from "./api.js";
import { Piece, button, make } from "./dom.js";
import { about, bus } from "./state.js";

const EXAMPLE = "[S1] Hello, I am Dia. [S2] Welcome, Dia. What can you do?\n[S1] I can read and I can sing.";
const DRAFT = "dia-script"; // in sessionStorage: the text survives a reload
const PAUSE = 300; // milliseconds without a key before the script is checked

const sounds = about.sounds.map((sound) => `\\(${sound}\\)`).join("|");
const TOKENS = new RegExp(`\\[S\\d+\\]|${sounds}`, "g");

/** Position in a text, in UTF-16 units, of a line and a column, which counts characters. */
function positionOf(text, line, column) {
  const lines = text.split("\n");
  const before = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  return before + [...(lines[line - 1] ?? "")].slice(0, column - 1).join("").length;
}

/** End of what an issue is about: the brackets that begin there, or the word. */
function endOf(text, begin) {
  const found = /^(\[[^[\]]*\]|\([^()]*\)|\S+|[^])/.exec(text.slice(begin));
  return begin + (found?.[0].length ?? 0);
}

export class Editor extends Piece {
  build() {
    this.issues = [];
    this.heard = null;
    this.colors = make("div", { class: "dia-colors", "aria-hidden": "true" });
    this.area = make("textarea", {
      id: "dia-script",
      spellcheck: "false",
      rows: 6,
      "aria-describedby": "dia-script-hint dia-issues",
      oninput: () => this.changed(),
      onscroll: () => this.alignColors(),
    });
    this.area.value = sessionStorage.getItem(DRAFT) ?? EXAMPLE;
    this.summary = make("span", { class: "dia-hint" });
    this.list = make("ul", { class: "dia-issues", id: "dia-issues", "aria-label": "Issues of the script" });
    this.append(
      make(
        "div",
        { class: "dia-row dia-spread" },
        make("label", { for: "dia-script", class: "dia-title" }, "Script"),
        this.makeToolbar(),
      ),
      make("div", { class: "dia-editor" }, this.colors, this.area),
      make(
        "div",
        { class: "dia-row dia-spread" },
        this.summary,
        make("span", { class: "dia-hint", id: "dia-script-hint" }, "Ctrl+Enter speaks, Esc cancels"),
      ),
      this.list,
    );
    new ResizeObserver(() => this.alignColors()).observe(this.area);
    bus.addEventListener("use", ({ detail }) => this.replace(detail.script));
    bus.addEventListener("script", () => this.check());
    this.color();
    this.check();
  }

  makeToolbar() {
    const tags = about.speakers.slice(0, 2).map((tag) =>
      button(tag, () => this.insert(`${tag} `), {
        kind: `tag dia-${tag.slice(1, -1).toLowerCase()}`,
        "aria-label": `Insert speaker ${tag.slice(1, -1)}`,
      }),
    );
    const sound = make("select", { class: "dia-sound", "aria-label": "Sound" });
    sound.append(...about.sounds.map((name) => make("option", { value: name }, `(${name})`)));
    const insert = button("Insert", () => this.insert(`(${sound.value}) `), { "aria-label": "Insert the sound" });
    return make("div", { class: "dia-row", role: "group", "aria-label": "Insert" }, ...tags, sound, insert);
  }

  get value() {
    return this.area.value;
  }

  replace(text) {
    this.area.value = text;
    this.changed();
  }

  /** Insert at the cursor, with white space before it. */
  insert(text) {
    const { selectionStart, selectionEnd, value } = this.area;
    const space = selectionStart > 0 && !/\s/.test(value[selectionStart - 1]) ? " " : "";
    this.area.focus();
    this.area.setRangeText(space + text, selectionStart, selectionEnd, "end");
    this.changed();
  }

  changed() {
    this.issues = [];
    this.heard = null;
    this.color();
    sessionStorage.setItem(DRAFT, this.value);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.check(), PAUSE);
  }

  async check() {
    this.checking?.abort();
    this.checking = new AbortController();
    const text = this.value;
    try {
      const found = await checkScript(text, this.checking.signal);
      this.issues = found.issues.map(({ line, column, message }) => {
        const begin = positionOf(text, line, column);
        return { line, column, message, begin, end: endOf(text, begin) };
      });
      const counts = [[found.turns.length, "turn"], [found.chunks.length, "part"]];
      const told = counts.map(([number, name]) => `${number} ${name}${number === 1 ? "" : "s"}`);
      this.summary.textContent = `${told[0]}, about ${Math.round(found.seconds)} s` + (counts[1][0] > 1 ? `, ${told[1]}` : "");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.issues = [];
      this.summary.textContent = error.message;
    }
    this.color();
    this.listIssues();
  }

  listIssues() {
    this.list.replaceChildren(
      ...this.issues.map((issue) =>
        make(
          "li",
          {},
          button(`${issue.line}:${issue.column}`, () => this.select(issue), {
            kind: "link",
            "aria-label": `Go to line ${issue.line}, column ${issue.column}`,
          }),
          ` ${issue.message}`,
        ),
      ),
    );
  }

  select({ begin, end }) {
    this.area.focus();
    this.area.setSelectionRange(begin, end);
  }

  /** Mark the word that is heard, by its place in UTF-16 units; `null` for none. */
  mark(place) {
    if (place?.begin === this.heard?.begin) return;
    this.heard = place;
    this.color();
  }

  /** Show the text again under the transparent one of the text area, in color. */
  color() {
    const text = this.value;
    const marks = [...text.matchAll(TOKENS)].map((found) => ({
      begin: found.index,
      end: found.index + found[0].length,
      kind: found[0][0] === "[" ? `dia-${found[0].slice(1, -1).toLowerCase()}` : "dia-sound",
    }));
    const heard = this.heard ? [this.heard] : [];
    const edges = [0, text.length, ...[...marks, ...this.issues, ...heard].flatMap(({ begin, end }) => [begin, end])];
    const sorted = [...new Set(edges)].sort((a, b) => a - b);
    const parts = [];
    for (let i = 0; i + 1 < sorted.length; i++) {
      const holds = ({ begin, end }) => begin <= sorted[i] && sorted[i + 1] <= end;
      const kinds = [marks.find(holds)?.kind, this.issues.some(holds) && "dia-wrong", heard.some(holds) && "dia-heard"].filter(Boolean);
      const part = text.slice(sorted[i], sorted[i + 1]);
      parts.push(kinds.length ? make("mark", { class: kinds.join(" ") }, part) : part);
    }
    this.colors.replaceChildren(...parts, "\n");
    this.alignColors();
  }

  alignColors() {
    this.colors.style.width = `${this.area.clientWidth}px`; // without the scroll bar
    this.colors.scrollTop = this.area.scrollTop;
  }
}
