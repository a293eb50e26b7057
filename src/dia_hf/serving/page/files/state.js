// What the elements share: facts of the server, settings, voices of the speakers, and messages between them.

/** Facts of the server: model, speakers, sounds, formats, defaults of the settings. */
export const about = JSON.parse(document.querySelector('meta[name="dia-page"]').content);

/**
 * Messages: "script" (check it again), "use" (a clip's script and voices), "voices", "clip", "history",
 * "key-needed", "no-answer". */
export const bus = new EventTarget();

export function tell(name, detail = null) {
  bus.dispatchEvent(new CustomEvent(name, { detail }));
}

const settings = { seed: "", max_seconds: "", ...about.defaults };
let restored = settings;

/** Note a value of one of Gradio's controls. */
export function setSetting(name, value) {
  settings[name] = value;
}

/** Return the values that Gradio's controls are set to. */
export function settingsOf(names) {
  return names.map((name) => restored[name]);
}

/** Show settings in Gradio's controls. */
export function restoreSettings(values) {
  restored = { ...settings, ...values };
  Object.assign(settings, values);
  document.getElementById("dia-restore")?.click();
}

export function currentSettings() {
  return { ...settings };
}

/** Saved voice of each speaker's tag; those without one have the model's own. */
export const cast = {};

/**
 * Make the body of a request.
 * @param {string} input The script.
 * @throws {Error} If a setting is unusable; its message names it.
 */
export function requestOf(input) {
  if (!input.trim()) throw new Error("The script is empty. Write what should be spoken.");
  const request = { model: about.model, input };
  const seed = String(settings.seed ?? "").trim();
  if (seed) {
    if (!/^\d+$/.test(seed) || !Number.isSafeInteger(Number(seed))) {
      throw new Error(`The seed is "${seed}". Give a whole number from 0 to ${Number.MAX_SAFE_INTEGER}, or none.`);
    }
    request.seed = Number(seed);
  }
  const longest = String(settings.max_seconds ?? "").trim();
  if (longest) {
    if (!(Number(longest) > 0 && Number.isFinite(Number(longest)))) {
      throw new Error(`The longest audio is "${longest}". Give a number of seconds above 0, or none.`);
    }
    request.max_seconds = Number(longest);
  }
  for (const [name, value] of Object.entries(about.defaults)) {
    if (settings[name] !== value) request[name] = settings[name];
  }
  const voices = Object.entries(cast).filter(([, voice]) => voice);
  if (voices.length) request.voices = Object.fromEntries(voices.map(([tag, voice]) => [tag.slice(1, -1), voice]));
  return request;
}
