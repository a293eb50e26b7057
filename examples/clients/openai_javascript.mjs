// OpenAI's JavaScript package with a server of `dia-hf serve`.
//
//     npm install
//     dia-hf serve                                  # in another terminal; the embedded miniature, on port 8000
//     node openai_javascript.mjs file               # or: play, events, errors, voice RECORDING TRANSCRIPT
//
// The text is of words that the miniature knows. OPENAI_BASE_URL=http://HOST:PORT/v1 names another server.
import { spawn } from "node:child_process";
import { createReadStream, createWriteStream } from "node:fs";
import { basename, extname } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import OpenAI from "openai";

const TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia.";
const PCM_RATE = 24000; // `response_format: "pcm"` is 16-bit mono at this rate, whatever the model's own

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none", // if the server asks for one
});

const examples = {
  // Write a file while the speech is generated.
  async file() {
    const response = await client.audio.speech.create({
      model: "dia", // any name is accepted: the server has one model
      voice: "alloy",
      input: TEXT,
      seed: 7, // a field beyond OpenAI's; the same seed gives the same speech
    });
    await pipeline(Readable.fromWeb(response.body), createWriteStream("speech.mp3"));
    console.log("wrote speech.mp3");
  },

  // Play each chunk as soon as it arrives, with ffplay.
  async play() {
    const response = await client.audio.speech.create({
      model: "dia",
      voice: "alloy",
      input: TEXT,
      response_format: "pcm",
    });
    const options = ["-loglevel", "error", "-nodisp", "-autoexit", "-f", "s16le", "-ar", PCM_RATE, "-"];
    const player = spawn("ffplay", options.map(String), { stdio: ["pipe", "inherit", "inherit"] });
    await pipeline(Readable.fromWeb(response.body), player.stdin);
  },

  // Read server-sent events: audio as base64, then how much was generated.
  async events() {
    const stream = await client.post("/audio/speech", {
      body: { model: "dia", voice: "alloy", input: TEXT, response_format: "pcm", stream_format: "sse" },
      stream: true, // an `error` event is thrown as an APIError
    });
    let numBytes = 0;
    for await (const event of stream) {
      if (event.type === "speech.audio.delta") {
        numBytes += Buffer.from(event.audio, "base64").length;
      } else if (event.type === "speech.audio.done") {
        console.log(`${(numBytes / 2 / PCM_RATE).toFixed(2)} s of audio, usage: ${JSON.stringify(event.usage)}`);
      }
    }
  },

  // Add the voice of a recording to the server, speak with it, and delete it.
  async voice(recording, transcript) {
    const voice = await client.audio.voices.create({
      name: basename(recording, extname(recording)),
      audio_sample: createReadStream(recording),
      consent: "cons_1234", // required by OpenAI's package
      transcript, // unless the server runs with `--transcribe`
    });
    console.log(`added ${voice.name} as ${voice.id}`);
    const response = await client.audio.speech.create({ model: "dia", voice: { id: voice.id }, input: TEXT });
    await pipeline(Readable.fromWeb(response.body), createWriteStream("cloned.mp3"));
    await client.audio.voices.delete(voice.id);
    console.log("wrote cloned.mp3");
  },

  // Ask for a voice that the server does not have. The package retries 408, 409, 429 and 5xx, but not this.
  async errors() {
    try {
      await client.audio.speech.create({ model: "dia", voice: "nobody", input: TEXT });
    } catch (error) {
      if (!(error instanceof OpenAI.APIError)) throw error;
      console.log(`status ${error.status}, field ${error.param}: ${error.message}`);
    }
  },
};

const [name, ...values] = process.argv.slice(2);
if (!(name in examples) || values.length < examples[name].length) {
  console.error(`usage: node openai_javascript.mjs ${Object.keys(examples).join("|")} [RECORDING TRANSCRIPT]`);
  process.exit(2);
}
await examples[name](...values);
