#!/usr/bin/env bash
# Python's urlopen takes audio that broke off for the whole, if it is read in parts and the server had told the length.
#
# Versions: Python 3.11.7 (http.client, shutil, wave), against requests 2.34.0 and httpx 0.28.1.
# Input: a server that tells the length of a wav of one second, sends half of it and closes the connection; and one that
#   sends the same half in chunks, without the chunk that is the end.
# Expected: an error each time, as read() without an argument raises it, and as requests and httpx raise it.
# Seen: with a known length, shutil.copyfileobj, read(n), readinto and read1 end as if all had come: no error, and a wav
#   that `wave` opens as one of a second and reads to its end. In chunks, all of these raise IncompleteRead.
# Why it matters: copyfileobj is how standard Python saves a response; speech that is cut in the middle of a word gets
#   into caches and data sets without a sign. Servers should send audio in chunks, even where they know its length;
#   clients should compare what came with the header `content-length`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet requests==2.34.0 httpx==0.28.1
cat >try.py <<'PYTHON'
import io
import shutil
import threading
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import httpx
import requests

file = io.BytesIO()
with wave.open(file, "wb") as sound:
    sound.setparams((1, 2, 24000, 0, "NONE", ""))
    sound.writeframes(bytes(48000))
speech, half = file.getvalue(), file.getvalue()[: 44 + 24000]


class Speech(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        is_chunked = self.path == "/chunks"
        self.send_response(200)
        self.send_header(*(("transfer-encoding", "chunked") if is_chunked else ("content-length", str(len(speech)))))
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half) if is_chunked else half)
        self.close_connection = True

    def log_message(self, *args):
        pass


def read(url):
    return urlopen(url).read()


def copyfileobj(url):
    with open("speech.wav", "wb") as file:
        shutil.copyfileobj(urlopen(url), file)
    with open("speech.wav", "rb") as file:
        return file.read()


def read_parts(url):
    return b"".join(iter(lambda response=urlopen(url): response.read(1000), b""))


def read1(url):
    return b"".join(iter(lambda response=urlopen(url): response.read1(1000), b""))


def readinto(url):
    content = bytearray(len(speech))
    return content[: urlopen(url).readinto(content)]


def requests_parts(url):
    return b"".join(requests.get(url, stream=True).iter_content(1000))


def httpx_parts(url):
    with httpx.stream("GET", url) as response:
        return b"".join(response.iter_bytes(1000))


server = ThreadingHTTPServer(("127.0.0.1", 0), Speech)
threading.Thread(target=server.serve_forever, daemon=True).start()
for get in (read, copyfileobj, read_parts, read1, readinto, requests_parts, httpx_parts):
    outcomes = []
    for path in ("length", "chunks"):
        try:
            content = get(f"http://127.0.0.1:{server.server_port}/{path}")
            outcomes.append(f"{len(content)} bytes of {len(speech)}")
        except Exception as error:
            outcomes.append(type(error).__name__)
    print(f"{get.__name__}: length: {outcomes[0]}; chunks: {outcomes[1]}")
copyfileobj(f"http://127.0.0.1:{server.server_port}/length")
with wave.open("speech.wav") as sound:
    print(f"wave: {sound.getnframes()} samples told, {len(sound.readframes(sound.getnframes())) // 2} there")
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
read: length: IncompleteRead; chunks: IncompleteRead
copyfileobj: length: 24044 bytes of 48044; chunks: IncompleteRead
read_parts: length: 24044 bytes of 48044; chunks: IncompleteRead
read1: length: 24044 bytes of 48044; chunks: IncompleteRead
readinto: length: 24044 bytes of 48044; chunks: IncompleteRead
requests_parts: length: ChunkedEncodingError; chunks: ChunkedEncodingError
httpx_parts: length: RemoteProtocolError; chunks: RemoteProtocolError
wave: 24000 samples told, 12000 there
SEEN
