// The page's elements. Gradio puts their tags into its layout; each builds itself when that happens.
import { setSetting, settingsOf } from "./state.js";
import { Header } from "./header.js";
import { Cast } from "./cast.js";
import { Editor } from "./editor.js";
import { Speak } from "./speak.js";
import { Voices } from "./voices.js";
import { History } from "./history.js";

window.diaPage = { setSetting, settingsOf }; // called by Gradio's controls

for (const [name, element] of Object.entries({
  "dia-header": Header,
  "dia-cast": Cast,
  "dia-editor": Editor,
  "dia-speak": Speak,
  "dia-voices": Voices,
  "dia-history": History,
})) {
  customElements.define(name, element);
}
