#!/usr/bin/env bash
# LiveKit's OpenAI TTS returns the audio before an error event, or before a stream that stops early, as the whole speech.
#
# Versions: livekit-agents 1.8.9, livekit-plugins-openai 1.8.9, openai 3.57.0; Python 3.11.
# Input: a server of the speech API that streams half a second of audio as `speech.audio.delta` events. Then it sends an
#   `error` event, in the form that OpenAI's own packages raise as an APIError; or it ends without `speech.audio.done`.
# Expected: an APIError, so that the agent retries or says that something went wrong, as where the connection breaks.
# Seen: `synthesize()` ends without an error, with half a second of audio. The plugin reads delta and done events only,
#   and does not check that a done event came. OpenAI's package for Python raises an APIError for the same error event.
# Why it matters: an agent stops in the middle of a sentence, and neither log nor metrics say so. Servers should break the
#   connection after an error event: then the plugin raises an APIConnectionError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet livekit-agents==1.8.9 livekit-plugins-openai==1.8.9 openai==3.57.0
cat >try.py <<'PYTHON'
import asyncio
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai as package
from livekit.agents import APIConnectOptions
from livekit.plugins import openai

DELTA = {"type": "speech.audio.delta", "audio": base64.b64encode(bytes(24000)).decode()}
ERROR = {"type": "error", "error": {"message": "out of memory", "type": "server_error", "param": None, "code": None}}
CASES = {"error event": [DELTA, ERROR], "no done event": [DELTA]}


class Speech(BaseHTTPRequestHandler):
    def do_POST(self):
        name = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        content = "".join(f"data: {json.dumps(event)}\n\n" for event in CASES[name]).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Speech)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"


async def synthesize(text):
    tts = openai.TTS(base_url=url, api_key="none", response_format="pcm")
    try:
        events = [event async for event in tts.synthesize(text, conn_options=APIConnectOptions(max_retry=0))]
        return f"{sum(event.frame.duration for event in events):.1f} s of audio, no error"
    except Exception as error:
        return type(error).__name__
    finally:
        await tts.aclose()


for name in CASES:
    print(f"LiveKit, {name}: {asyncio.run(synthesize(name))}")
client = package.OpenAI(base_url=url, api_key="none")
events = client.post("/audio/speech", body={"input": "error event"}, cast_to=object, stream=True,
                     stream_cls=package.Stream[object])
try:
    print(f"OpenAI, error event: {len(list(events))} events, no error")
except package.APIError as error:
    print(f"OpenAI, error event: {type(error).__name__}({error})")
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
LiveKit, error event: 0.5 s of audio, no error
LiveKit, no done event: 0.5 s of audio, no error
OpenAI, error event: APIError(out of memory)
SEEN
