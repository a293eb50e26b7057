// Saved voices: record or upload, listen, save, delete.
import { call, savedVoices } from "./api.js";
import { Alert, Piece, button, confirm, field, make, startAudio } from "./dom.js";
import { bus, tell } from "./state.js";

const LONGEST = 30; // seconds of a recording
const SAMPLE = "[S1] Hello, I am here with you today. Nice to meet you.";
const CONSENT = "page:the-speaker-has-agreed";

export class Voices extends Piece {
  build() {
    this.alert = new Alert();
    this.append(make("div", { class: "dia-columns" }, this.makeForm(), this.makeList()));
    bus.addEventListener("voices", () => this.update());
    this.update();
  }

  makeForm() {
    this.file = make("input", { type: "file", accept: "audio/*,video/webm,video/mp4", id: "dia-file" });
    this.file.addEventListener("change", () => this.file.files[0] && this.take(this.file.files[0], this.file.files[0].name));
    this.record = button("Record", () => this.toggleRecording(), { id: "dia-record" });
    this.recorded = make("span", { class: "dia-status", role: "status" });
    this.listen = make("audio", { controls: true, hidden: true, "aria-label": "The recording" });
    this.transcript = make("textarea", { rows: 3, id: "dia-transcript" });
    this.name = make("input", { type: "text", maxlength: 50, autocomplete: "off", id: "dia-voice-name" });
    this.consent = make("input", { type: "checkbox", id: "dia-consent" });
    this.save = button("Save voice", () => this.add(), { kind: "primary", id: "dia-save-voice" });
    return make(
      "section",
      { class: "dia-card", "aria-label": "New voice" },
      make("h2", {}, "New voice"),
      make("p", { class: "dia-hint" }, `Five to ten seconds of one clean voice are best, ${LONGEST} s the most.`),
      field("Recording", this.file, "wav, flac, mp3, ogg, webm, mp4 or aac"),
      make("div", { class: "dia-row" }, this.record, this.recorded),
      this.listen,
      field("Transcript", this.transcript, "The exact words of the recording. Some servers can write them themselves."),
      field("Name", this.name, "Letters, digits, -, _ and ."),
      make("div", { class: "dia-row" }, this.consent, make("label", { for: "dia-consent" }, "The speaker has agreed to this.")),
      make("div", { class: "dia-row" }, this.save),
      this.alert.element,
    );
  }

  makeList() {
    this.list = make("ul", { class: "dia-list", "aria-label": "Saved voices" });
    this.listAlert = new Alert();
    this.sample = make("audio", { controls: true, hidden: true, "aria-label": "A sentence in this voice" });
    return make(
      "section",
      { class: "dia-card", "aria-label": "Saved voices" },
      make("h2", {}, "Saved voices"),
      this.list,
      this.sample,
      this.listAlert.element,
    );
  }

  /** Take a recording, from a file or the microphone. */
  take(content, name) {
    this.recording = { content, name };
    URL.revokeObjectURL(this.listen.src);
    this.listen.src = URL.createObjectURL(content);
    this.listen.hidden = false;
  }

  async toggleRecording() {
    if (this.recorder) {
      this.recorder.stop();
      return;
    }
    this.alert.show(null);
    try {
      if (!navigator.mediaDevices) {
        throw new Error("The browser allows recording at https:// or localhost addresses only. Upload a file instead.");
      }
      // Without processing: it takes away parts of the voice.
      const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      this.recordFrom(await navigator.mediaDevices.getUserMedia({ audio }));
    } catch (error) {
      const isDenied = error.name === "NotAllowedError";
      this.alert.show(isDenied ? new Error("The browser does not let this page use the microphone. Allow it, or upload a file.") : error);
    }
  }

  recordFrom(microphone) {
    const parts = [];
    const begin = performance.now();
    const recorder = (this.recorder = new MediaRecorder(microphone, { audioBitsPerSecond: 192_000 }));
    const timer = setInterval(() => {
      const seconds = (performance.now() - begin) / 1000;
      this.recorded.textContent = `Recording: ${seconds.toFixed(0)} s`;
      if (seconds >= LONGEST - 0.5) recorder.stop();
    }, 250);
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => {
      clearInterval(timer);
      microphone.getTracks().forEach((track) => track.stop());
      this.recorder = null;
      this.record.textContent = "Record";
      this.recorded.textContent = "Recorded. Listen to it below.";
      this.file.value = "";
      const kind = recorder.mimeType.split(";")[0];
      this.take(new Blob(parts, { type: kind }), `recording.${kind.split("/")[1]}`);
    };
    recorder.start();
    this.record.textContent = "Stop";
  }

  async add() {
    this.alert.show(null);
    try {
      if (!this.recording) throw new Error("There is no recording. Record one, or choose a file.");
      if (!this.name.value.trim()) throw new Error("The voice has no name. Give it one.");
      if (!this.consent.checked) throw new Error("Clone a voice only if its speaker has agreed, and say so above.");
      const form = new FormData();
      form.append("audio_sample", this.recording.content, this.recording.name);
      form.append("name", this.name.value.trim());
      form.append("transcript", this.transcript.value.trim());
      form.append("consent", CONSENT);
      this.save.disabled = true;
      await call("audio/voices", { method: "POST", body: form });
      this.clear();
      tell("voices");
    } catch (error) {
      this.alert.show(error);
    } finally {
      this.save.disabled = false;
    }
  }

  clear() {
    this.recording = null;
    this.file.value = this.name.value = this.transcript.value = this.recorded.textContent = "";
    this.consent.checked = false;
    this.listen.hidden = true;
  }

  async update() {
    this.listAlert.show(null);
    try {
      const names = await savedVoices();
      const rows = names.map((name) =>
        make(
          "li",
          {},
          make("span", { class: "dia-name" }, name),
          button("Listen", ({ target }) => this.play(name, target), { "aria-label": `Listen to ${name}` }),
          button("Delete", () => this.remove(name), { "aria-label": `Delete ${name}` }),
        ),
      );
      this.list.replaceChildren(...(rows.length ? rows : [make("li", { class: "dia-hint" }, "There are none yet.")]));
    } catch (error) {
      this.listAlert.show(error);
    }
  }

  /** Speak a sentence in a saved voice. */
  async play(name, pressed) {
    this.listAlert.show(null);
    pressed.disabled = true;
    try {
      const json = { input: SAMPLE, voice: name, seed: 1, response_format: "wav", stream: false };
      const response = await call("audio/speech", { method: "POST", json });
      URL.revokeObjectURL(this.sample.src);
      this.sample.src = URL.createObjectURL(await response.blob());
      this.sample.hidden = false;
      startAudio(this.sample);
    } catch (error) {
      this.listAlert.show(error);
    } finally {
      pressed.disabled = false;
    }
  }

  async remove(name) {
    if (!(await confirm(`Delete the voice "${name}"? It cannot be brought back.`, "Delete"))) return;
    try {
      await call(`audio/voices/${encodeURIComponent(name)}`, { method: "DELETE" });
    } catch (error) {
      this.listAlert.show(error);
    }
    tell("voices");
  }
}
