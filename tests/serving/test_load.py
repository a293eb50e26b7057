"""Many requests at once, and many malformed ones."""

import gc
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from dia_hf import Dia
from dia_hf.audio.io import read_audio
from dia_hf.serving.settings import ServerSettings
from dia_hf.serving.voices import ServedVoices
from dia_hf.speech import SpeechEngine, SpeechHandle, Voice, VoiceLibrary
from serving.conftest import start
from waiting import wait_for

TEXTS = ["Hello, I am Dia.", "[S1] Hello. [S2] Welcome, Dia.", "[S2] Welcome."]
LONG = " ".join(f"[S{1 + i % 2}] {text}" for i, text in enumerate(["Hello, I am Dia.", "Welcome, Dia."] * 3))
NUM_REQUESTS = 120
LOSSLESS = ["pcm", "wav", "flac"]


@pytest.fixture
def exact(tmp_path):
    """A server of the miniature in float64, whose rounding no batch changes audibly."""
    dia = Dia.from_pretrained()
    dia.model.double()
    dia.processor.codec.model.double()
    codec = dia.processor.codec
    codes = dia.generate("[S1] Hello, I am Dia.", seed=3, return_codes=True)[1]
    voice = Voice(codes, "[S1] Hello, I am Dia.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    VoiceLibrary(tmp_path).add("anna", voice)
    running = start(SpeechEngine(dia, max_batch_size=8), ServedVoices(dia, tmp_path))
    yield running
    running.stop()


def samples_of(content, name):
    if name == "pcm":
        return np.frombuffer(content, "<i2")
    waveform, _ = read_audio(content)
    return (waveform.reshape(-1) * 32768).round().astype(np.int16)


def make_request(number):
    choose = random.Random(number)
    return {
        "input": LONG if number % 40 == 7 else choose.choice(TEXTS),
        "voice": "anna" if number % 20 == 3 else "alloy",
        "seed": choose.randrange(4),
        "max_seconds": choose.choice([0.2, 0.4, 1.0]) if number % 40 != 7 else 6.0,
        "response_format": choose.choice([*LOSSLESS, "mp3", "opus", "aac"]),
        "stream": choose.random() < 0.6,
    }


def test_mixed_requests(exact):
    """Among many requests one had the audio of another, was lost, or left its place in the batch or memory taken."""
    requests = [make_request(number) for number in range(NUM_REQUESTS)]

    def send(number):
        fields = requests[number]
        if number % 10 == 9:  # one that disconnects midway
            with client.stream("POST", "/v1/audio/speech", json=fields) as response:
                next(response.iter_raw())
            return None
        response = client.post("/v1/audio/speech", json=fields)
        assert response.status_code == 200, response.text
        return response.content

    limits = httpx.Limits(max_connections=NUM_REQUESTS)
    with httpx.Client(base_url=exact.url, timeout=300, limits=limits) as client:
        with ThreadPoolExecutor(NUM_REQUESTS) as threads:
            bodies = list(threads.map(send, range(NUM_REQUESTS)))
        alone, num_compared = {}, 0
        for fields, body in zip(requests, bodies, strict=True):
            if body is None:
                continue
            assert body
            name = fields["response_format"]
            if name in LOSSLESS:
                fields = fields | {"response_format": "wav", "stream": False}
                fields |= {"sample_rate": 24000} if name == "pcm" else {}
                key = json.dumps(fields)
                if key not in alone:
                    alone[key] = samples_of(client.post("/v1/audio/speech", json=fields).content, "wav")
                np.testing.assert_array_equal(samples_of(body, name), alone[key])
                num_compared += 1
    assert num_compared > 36
    engine = exact.engine
    wait_for(lambda: engine.num_active == engine.num_queued == 0)
    wait_for(lambda: gc.collect() is not None and not any(type(one) is SpeechHandle for one in gc.get_objects()))


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
