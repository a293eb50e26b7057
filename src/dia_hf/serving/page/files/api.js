// The server's API, with errors in words.
import { about, tell } from "./state.js";

const BASE = new URL("../v1/", document.baseURI);
const KEY = "dia-key"; // in sessionStorage: it is forgotten with the tab

export const storedKey = () => sessionStorage.getItem(KEY) ?? "";
export const storeKey = (key) => sessionStorage.setItem(KEY, key);

const CUT = "The connection broke off before the end of the speech. What has come can be played and saved.";

function sentence(text) {
  const trimmed = text.trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

async function errorOf(response) {
  let message = `the server answers with status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // no JSON: an answer of a proxy
  }
  if (response.status === 401) {
    tell("key-needed");
    const key = storedKey() ? "The API key is not one of this server's" : "This server asks for an API key";
    return new Error(`${key}. Enter it at the top of the page.`);
  }
  const seconds = response.headers.get("retry-after");
  return new Error(sentence(message) + (seconds ? ` Try again in ${seconds} s.` : ""));
}

/**
 * Send a request.
 * @param {string} path Path below `/v1/`.
 * @param {Object} options Of `fetch`; `json` is a body to be sent as JSON.
 * @throws {Error} With a message for the user; an `AbortError` where the signal says so.
 */
export async function call(path, { json, headers = {}, ...options } = {}) {
  const key = storedKey();
  const sent = { ...headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  if (json !== undefined) {
    sent["content-type"] = "application/json";
    options.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers: sent });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell("no-answer");
    throw new Error("The server does not answer. Check that it runs and that you are connected, and try again.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** Yield the events of a stream of server-sent events. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let isFirst = true; ; isFirst = false) {
    const { done, value } = await reader.read();
    if (done) return;
    if (isFirst) performance.mark("dia-first-bytes");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith("data: ")) yield JSON.parse(block.slice("data: ".length));
    }
  }
}

/** Makes 16-bit samples of base64; half a sample waits for the rest of it. */
class SampleReader {
  rest = new Uint8Array(0);

  read(encoded) {
    const text = atob(encoded);
    const bytes = new Uint8Array(this.rest.length + text.length);
    bytes.set(this.rest);
    for (let i = 0; i < text.length; i++) bytes[this.rest.length + i] = text.charCodeAt(i);
    const whole = bytes.length & ~1;
    this.rest = bytes.slice(whole);
    return new Int16Array(bytes.buffer, 0, whole / 2); // browsers run on little-endian machines
  }
}

/**
 * Generate speech, and hand it on as it comes.
 * @param {Object} request Body of `POST /v1/audio/speech`, without the format.
 * @param {Object} on `signal`; and listeners: `seed(text)`, `samples(Int16Array)`, `words(list)` of those that end in the
 *   samples that follow, `progress({chunk, num_chunks})`.
 * @returns The last event: `finish_reason`, `doubt`, `seed`.
 * @throws {Error} With a message for the user; an `AbortError` where the signal says so.
 */
export async function stream(request, on) {
  const json = {
    ...request,
    response_format: "pcm",
    sample_rate: about.sampleRate,
    stream_format: "sse",
    progress: true,
  };
  const response = await call("audio/speech", { method: "POST", json, signal: on.signal });
  on.seed(response.headers.get("x-seed"));
  const samples = new SampleReader();
  try {
    for await (const event of eventsOf(response)) {
      if (event.type === "speech.audio.delta") on.samples(samples.read(event.audio));
      if (event.type === "speech.audio.words") on.words(event.words);
      if (event.type === "speech.audio.progress") on.progress(event);
      if (event.type === "speech.audio.done") return event;
      if (event.type === "error") throw Object.assign(new Error(sentence(event.error.message)), { isTold: true });
    }
  } catch (error) {
    if (error.name === "AbortError" || error.isTold) throw error;
  }
  throw new Error(CUT);
}

/** Make subtitles of words. */
export async function subtitles(words, format) {
  return (await call("audio/subtitles", { method: "POST", json: { words, response_format: format } })).blob();
}

/** Check a script: its turns, issues with their places, chunks with estimated seconds. */
export async function checkScript(input, signal) {
  return (await call("audio/script", { method: "POST", json: { input }, signal })).json();
}

/** The names of the saved voices. */
export async function savedVoices() {
  const { data } = await (await call("audio/voices")).json();
  return data.filter((voice) => voice.type === "audio_sample").map((voice) => voice.name);
}
