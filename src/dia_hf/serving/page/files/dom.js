// Elements without a framework.

/**
 * Make an element.
 * @param {string} tag Name of the tag.
 * @param {Object} attributes Attributes; those that begin with "on" are listeners, `true` is an empty attribute, and
 *   `false` and `null` are left out.
 * @param {...(Node|string)} children Children; strings become text, never markup.
 * @returns {HTMLElement}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A button of the page. */
export function button(label, onclick, { kind = "plain", ...attributes } = {}) {
  return make("button", { type: "button", class: `dia-button dia-${kind}`, onclick, ...attributes }, label);
}

/** An element that builds itself once, when it is connected. */
export class Piece extends HTMLElement {
  connectedCallback() {
    if (this.isBuilt) return;
    this.isBuilt = true;
    this.build();
  }
}

/** A place for errors, which screen readers announce. */
export class Alert {
  constructor() {
    this.element = make("div", { class: "dia-alert", role: "alert", hidden: true });
  }

  show(error) {
    this.element.textContent = error === null ? "" : (error.message ?? String(error));
    this.element.hidden = error === null;
  }
}

let number = 0;

/** A control with its label and a hint below it. */
export function field(label, control, hint = "") {
  control.id ||= `dia-field-${++number}`;
  const parts = [make("label", { for: control.id }, label), control];
  if (hint) {
    const about = make("span", { class: "dia-hint", id: `${control.id}-hint` }, hint);
    control.setAttribute("aria-describedby", about.id);
    parts.push(about);
  }
  return make("div", { class: "dia-field" }, ...parts);
}

/** Ask before something that cannot be undone. Returns a promise of `true` or `false`. */
export function confirm(question, action) {
  return new Promise((resolve) => {
    const dialog = make(
      "dialog",
      { class: "dia-dialog", "aria-label": question },
      make("p", {}, question),
      make(
        "form",
        { method: "dialog", class: "dia-row" },
        make("button", { class: "dia-button dia-plain", value: "" }, "Keep"),
        make("button", { class: "dia-button dia-danger", value: "yes" }, action),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.querySelector(".gradio-container").append(dialog); // which has the colors
    dialog.showModal();
  });
}

/** Start an audio element. Where the browser does not, or another clip takes its place, its controls show that. */
export function startAudio(element) {
  element.play().catch(() => {});
}

/** Seconds as "0:07.3". */
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${String(Math.floor((tenths % 600) / 10)).padStart(2, "0")}.${tenths % 10}`;
}

/** Save a blob as a file of the user's. */
export function saveFile(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
