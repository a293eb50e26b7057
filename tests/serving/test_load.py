"""Many requests at once, and many malformed ones."""

import io
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import soundfile as sf

from dia_hf.serving.settings import ServerSettings

TEXTS = ["Hello, I am Dia.", "[S1] Hello. [S2] Welcome, Dia.", "[S2] Welcome."]


def samples_of(content, name):
    if name == "pcm":
        return np.frombuffer(content, "<i2")
    if name == "wav":  # streamed, it has no length
        return np.frombuffer(content[44:], "<i2")
    return sf.read(io.BytesIO(content), dtype="int16")[0]


def test_mixed_requests(miniature):
    """Among many requests one had the audio of another, was lost, or left its place in the batch taken."""
    choose = random.Random(0)
    requests = []
    for number in range(200):
        fields = {"input": choose.choice(TEXTS), "seed": number % 4, "max_seconds": choose.choice([0.2, 0.4])}
        name = choose.choice(["pcm", "wav", "mp3", "opus", "aac", "flac"])
        is_streamed = choose.random() < 0.5
        requests.append({**fields, "response_format": name, "stream": is_streamed})
    engine = miniature.engine
    engine.max_queue, before = None, engine.max_queue

    def send(number):
        fields = requests[number]
        if number % 10 == 9:  # one that disconnects midway
            with client.stream("POST", "/v1/audio/speech", json=fields) as response:
                next(response.iter_raw())
            return None
        response = client.post("/v1/audio/speech", json=fields)
        assert response.status_code == 200, response.text
        return response.content

    limits = httpx.Limits(max_connections=200)
    with httpx.Client(base_url=miniature.url, timeout=300, limits=limits) as client:
        with ThreadPoolExecutor(200) as threads:
            bodies = list(threads.map(send, range(200)))
        engine.max_queue = before
        alone = {}
        for fields, body in zip(requests, bodies, strict=True):
            if body is None:
                continue
            assert body
            name = fields["response_format"]
            if name in ("mp3", "opus", "aac") or (name == "flac" and fields["stream"]):
                continue
            rate = 24000 if name == "pcm" else 16000
            key = (fields["input"], fields["seed"], fields["max_seconds"], rate)
            if key not in alone:
                quiet = {**fields, "response_format": "wav", "sample_rate": rate, "stream": False}
                alone[key] = samples_of(client.post("/v1/audio/speech", json=quiet).content, "wav").astype(int)
            difference = samples_of(body, name) - alone[key]
            assert np.abs(difference).max() <= 1  # the codec rounds by the lengths of its batches
    assert engine.num_active == engine.num_queued == 0


SEED = json.dumps({"model": "tts-1", "input": "Hello.", "voice": "alloy", "speed": 1.5, "seed": 7}).encode()
FORM = (
    b'--x\r\ncontent-disposition: form-data; name="name"\r\n\r\nben\r\n--x\r\ncontent-disposition: form-data; '
    b'name="audio_sample"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\nRIFF\r\n--x--\r\n'
)
VALUES = [
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b"NaN",
    b'""',
    b'"\\ud800"',
    b"9" * 400,
    b"[" * 2000,
    b"true",
    b"\xff",
]
KINDS = [b"application/json", b"multipart/form-data; boundary=x", b"text/plain", b"", b"multipart/form-data", b"\xff"]
PATHS = [b"/v1/audio/voices", b"/v1/audio/voices/%00", b"/v1/models/%ff", b"/x?%", b"/"]
METHODS = [b"PUT", b"DELETE", b"PATCH", b"TRACE", b"OPTIONS", b"X"]


def malformed(choose):
    """A request with random faults."""
    content, path, kind = choose.choice([(SEED, b"/v1/audio/speech", KINDS[0]), (FORM, b"/audio/voices", KINDS[1])])
    for _ in range(choose.randint(0, 3)):
        begin = choose.randrange(len(content) + 1)
        end = min(len(content), begin + choose.choice([0, 0, 1, 5, 50]))
        content = content[:begin] + choose.choice([*VALUES, b"", bytes([choose.randrange(256)])]) + content[end:]
    method = choose.choice(METHODS) if choose.random() < 0.1 else b"POST"
    path = choose.choice(PATHS) if choose.random() < 0.1 else path
    kind = choose.choice(KINDS) if choose.random() < 0.1 else kind
    head = method + b" " + path + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: " + kind + b"\r\n"
    if choose.random() < 0.05:
        head += bytes(choose.randrange(256) for _ in range(20)) + b"\r\n"
    length = len(content) if choose.random() < 0.95 else choose.choice([-1, 10**30, 99_999_999, len(content) + 7, 7])
    return head + b"content-length: %d\r\n\r\n" % length + content


def test_malformed_requests(serve, caplog):
    """A malformed request ended in a traceback, a status of 500, an answer that is no JSON, or none at all."""
    server = serve(settings=ServerSettings(io_timeout=0.2))
    choose = random.Random(1)
    statuses = {}
    for _ in range(1000):
        request = malformed(choose)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(request)
            received = b""
            try:
                while part := connection.recv(2**16):
                    received += part
            except ConnectionResetError:  # more was sent than the length that was given
                continue
        status = int(received[9:12])
        statuses[status] = statuses.get(status, 0) + 1
        assert status < 500, request
        if status >= 400 and not request.startswith(b"HEAD"):
            body = received.partition(b"\r\n\r\n")[2]
            assert json.loads(body)["error"]["message"], request
    assert statuses.keys() > {200, 400, 404, 405, 413, 415}, statuses
    assert "Traceback" not in caplog.text
    assert server.speak().status_code == 200
