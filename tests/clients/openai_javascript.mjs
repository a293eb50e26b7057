// openai for JavaScript: `node openai_javascript.mjs URL FAILING_URL`, both without `/v1`.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { VERSION } from "openai/version";

const TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia."; // as in expected.py
const SECONDS = 2.95; // more or less, by the seed
const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });

function report(name, pcm, seconds = SECONDS) {
  const duration = pcm.length / 2 / 24000;
  assert.ok(Math.abs(duration - seconds) <= 0.4, `${name}: ${duration} s of audio, expected ${seconds} s`);
  console.log(`${name}: ${duration.toFixed(2)} s`);
}

function makeRecording(rate = 16000, seconds = 6) {
  const file = Buffer.alloc(44 + 2 * rate * seconds);
  file.write("RIFF", 0);
  file.writeUInt32LE(file.length - 8, 4);
  file.write("WAVEfmt ", 8);
  file.writeUInt32LE(16, 16);
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(1, 22);
  file.writeUInt32LE(rate, 24);
  file.writeUInt32LE(2 * rate, 28);
  file.writeUInt16LE(2, 32);
  file.writeUInt16LE(16, 34);
  file.write("data", 36);
  file.writeUInt32LE(file.length - 44, 40);
  for (let t = 0; t < rate * seconds; t++) {
    file.writeInt16LE(Math.trunc(9000 * Math.sin(t * 0.09) * (0.6 + 0.4 * Math.sin(t * 0.001))), 44 + 2 * t);
  }
  return file;
}

async function speak() {
  const mp3 = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: TEXT });
  assert.equal(mp3.headers.get("content-type"), "audio/mpeg");
  const { size } = await mp3.blob();
  assert.ok(size > 5000);
  console.log(`create, mp3: ${size} bytes`);
}

async function stream() {
  const response = await client.audio.speech.create({
    model: "tts-1", voice: { id: "nova" }, input: TEXT, response_format: "pcm",
  });
  const chunks = [];
  for await (const chunk of response.body) chunks.push(chunk);
  assert.ok(chunks.length > 1, "the whole came at once");
  report("stream, pcm", Buffer.concat(chunks));
}

async function streamEvents() {
  const events = await client.post("/audio/speech", {
    body: { model: "gpt-4o-mini-tts", voice: "sage", input: TEXT, response_format: "pcm", stream_format: "sse" },
    stream: true,
  });
  const chunks = [];
  let usage;
  for await (const event of events) {
    if (event.type === "speech.audio.delta") chunks.push(Buffer.from(event.audio, "base64"));
    else if (event.type === "speech.audio.done") usage = event.usage;
    else assert.fail(JSON.stringify(event));
  }
  assert.ok(usage.total_tokens > 0);
  report("sse, pcm", Buffer.concat(chunks));
}

async function manageVoices() {
  const voice = await client.audio.voices.create(
    { name: "otto", consent: "cons_1234", audio_sample: await toFile(makeRecording(), "otto.wav", { type: "audio/wav" }),
      transcript: "Hello, I am Dia." },
  );
  assert.equal(voice.object, "audio.voice");
  try {
    const speech = await client.audio.speech.create({
      model: "tts-1", voice: { id: voice.id }, input: "[S1] Hello.", response_format: "pcm",
    });
    assert.ok((await speech.arrayBuffer()).byteLength > 0);
  } finally {
    assert.ok((await client.audio.voices.delete(voice.id)).deleted);
  }
  console.log("voices: created, used by id, deleted");
}

async function fail() {
  const request = client.audio.speech.create({ model: "tts-1", voice: "nobody", input: TEXT });
  await assert.rejects(request, (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError, String(error));
    assert.equal(error.param, "voice");
    assert.match(error.message, /nobody/);
    return true;
  });
  console.log("errors: 400 with message and param");
}

async function abort() {
  const count = 12;
  for (let i = 0; i < count; i++) {
    const controller = new AbortController();
    const response = await client.audio.speech.create(
      { model: "tts-1", voice: "alloy", input: Array(8).fill(TEXT).join(" "), response_format: "pcm" },
      { signal: controller.signal },
    );
    await response.body.getReader().read();
    controller.abort();
  }
  const speech = await client.audio.speech.create({ model: "tts-1", voice: "alloy", input: TEXT, response_format: "pcm" });
  report(`after ${count} aborted streams`, Buffer.from(await speech.arrayBuffer()));
}

async function breakOff() {
  const failing = new OpenAI({ baseURL: `${process.argv[3]}/v1`, apiKey: "none" });
  const body = { model: "tts-1", voice: "alloy", input: TEXT, response_format: "pcm" };
  const speech = await failing.audio.speech.create(body);
  await assert.rejects(speech.arrayBuffer());
  const events = await failing.post("/audio/speech", { body: { ...body, stream_format: "sse" }, stream: true });
  await assert.rejects(async () => {
    for await (const event of events) assert.equal(event.type, "speech.audio.delta");
  }, OpenAI.APIError);
  console.log("errors midway: raised, also in events");
}

console.log(`openai ${VERSION}`);
for (const check of [speak, stream, streamEvents, manageVoices, fail, abort, breakOff]) await check();
