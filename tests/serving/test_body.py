"""Audio as a body: streamed, as events, whole; errors, disconnects and slow readers."""

import base64
import io
import json
import socket
import struct
import threading
import time
from contextlib import suppress

import httpx
import numpy as np
import pytest
import soundfile as sf

from dia_hf.engine import EngineError
from dia_hf.serving import body
from dia_hf.serving.settings import ServerSettings
from serving.fakes import FRAME, FULL, RATE, Script, tone
from waiting import wait_for

FORMATS = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
SECONDS = 4 * 10 * FRAME / RATE  # of the fake engine's default script


def events_of(lines):
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def audio_of(events):
    return b"".join(base64.b64decode(one["audio"]) for one in events if one["type"] == "speech.audio.delta")


def decode(content, name):
    """The samples of a body, and their rate."""
    if name == "pcm":
        return np.frombuffer(content, "<i2").astype(np.float32) / 32768, 24000
    if name in ("aac", "flac", "wav"):  # libsndfile reads no AAC, and nothing of unknown length from memory
        av = pytest.importorskip("av")
        with av.open(io.BytesIO(content)) as container:
            parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
            samples = np.concatenate(parts, axis=1)[0]
            is_integer = samples.dtype.kind == "i"
            return samples.astype(np.float32) / (32768 if is_integer else 1), container.streams.audio[0].rate
    return sf.read(io.BytesIO(content), dtype="float32")


@pytest.mark.parametrize("name", FORMATS)
def test_formats(fake, name):
    """A format had a wrong content type, could not be decoded, or had another length as a stream, events or a whole."""
    lengths = []
    streamed = fake.speak(response_format=name)
    assert streamed.headers["content-type"] == FORMATS[name]
    assert streamed.headers["transfer-encoding"] == "chunked"
    whole = fake.speak(response_format=name, stream=False)
    assert whole.headers["content-type"] == FORMATS[name]
    assert int(whole.headers["content-length"]) == len(whole.content)
    events = fake.speak(response_format=name, stream_format="sse")
    assert events.headers["content-type"] == "text/event-stream"
    for content in (streamed.content, whole.content, audio_of(events_of(events.text.splitlines()))):
        samples, rate = decode(content, name)
        lengths.append(len(samples) / rate)
        assert np.abs(samples).max() > 0.2
    assert lengths == pytest.approx([SECONDS] * 3, abs=0.15)  # mp3 and aac are padded
    assert not any(response.headers.get("content-encoding") for response in (streamed, whole, events))
    assert {response.headers["x-accel-buffering"] for response in (streamed, whole, events)} == {"no"}


def test_lossless_formats_have_the_samples(fake):
    """The samples depended on how the audio was sent, or a chunk was lost or doubled at a boundary."""
    expected = np.concatenate([tone(index, 10 * FRAME) for index in range(4)])
    for name in ("wav", "flac"):
        for fields in ({}, {"stream": False}):
            samples, rate = decode(fake.speak(response_format=name, **fields).content, name)
            assert rate == RATE and np.abs(samples - expected).max() <= 1 / 32768


def test_sizes_of_wav(fake):
    """A streamed WAV had sizes of 0, for which players play nothing, or a whole one had no sizes."""
    with fake.stream(response_format="wav") as response:
        first = next(response.iter_raw())
    assert first[:4] == b"RIFF" and first[8:16] == b"WAVEfmt " and b"data" in first[:64]
    place = first.index(b"data") + 4
    assert struct.unpack("<I", first[4:8]) == struct.unpack("<I", first[place : place + 4]) == (0xFFFFFFFF,)
    whole = fake.speak(response_format="wav", stream=False).content
    place = whole.index(b"data") + 4
    assert struct.unpack("<I", whole[4:8])[0] == len(whole) - 8
    assert struct.unpack("<I", whole[place : place + 4])[0] == len(whole) - place - 4
    assert sf.info(io.BytesIO(whole)).duration == SECONDS


def test_rate_of_pcm(fake):
    """Raw PCM came at the model's rate, and was played at another pitch."""
    response = fake.speak(response_format="pcm")
    assert response.headers["x-sample-rate"] == "24000" and len(response.content) == 2 * round(24000 * SECONDS)
    samples = np.frombuffer(response.content, "<i2")
    assert np.argmax(np.abs(np.fft.rfft(samples))) / SECONDS == pytest.approx(440, abs=1)
    native = fake.speak(response_format="pcm", sample_rate=RATE)
    assert native.headers["x-sample-rate"] == str(RATE) and len(native.content) == 2 * round(RATE * SECONDS)


@pytest.mark.parametrize("fields", [{}, {"stream": False}])
@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed(fake, fields, speed):
    """The speed had no effect on a stream, or changed the pitch."""
    samples, _ = decode(fake.speak(response_format="pcm", speed=speed, **fields).content, "pcm")
    assert len(samples) / 24000 == pytest.approx(SECONDS / speed, abs=0.01)
    peak = np.argmax(np.abs(np.fft.rfft(samples))) * 24000 / len(samples)
    assert peak == pytest.approx(440, abs=5)


@pytest.mark.parametrize("name", FORMATS)
def test_audio_comes_before_the_end(fake, name):
    """An encoder kept all it had until the end of the speech, so that streaming was none."""
    fake.engine.script = Script(num_chunks=30, hold_after=20)
    with fake.stream(response_format=name) as response:
        received, parts = b"", response.iter_raw()  # dropped, it would close the connection
        for part in parts:
            received += part
            try:
                samples, rate = decode(received, name)
            except Exception:  # not enough of it yet
                continue
            if len(samples) / rate > 10 * 10 * FRAME / RATE:  # half of the chunks that are there
                break
        assert not fake.engine.handles[0].is_done
        fake.engine.release()


def test_events(fake):
    """The events had other fields than those that the SDK reads, or counts of another request."""
    fake.engine.script = Script(finish_reason="length", doubt="cut at 1 s")
    with fake.stream(response_format="pcm", stream_format="sse", seed=7) as response:
        assert response.headers["x-seed"] == "7" and response.headers["cache-control"] == "no-cache"
        *deltas, done = events_of(response.iter_lines())
    assert {one["type"] for one in deltas} == {"speech.audio.delta"} and set(deltas[0]) == {"type", "audio"}
    num_ids = len("[S1] Hello, I am Dia.")
    usage = {"input_tokens": num_ids, "output_tokens": 40, "total_tokens": num_ids + 40}
    expected = {"type": "speech.audio.done", "usage": usage, "finish_reason": "length", "seed": 7}
    assert done == {**expected, "doubt": "cut at 1 s"}


def test_progress_is_told_on_request(fake):
    """A client could not tell how far a long text is; or one that knows OpenAI's events alone got another one."""
    lines = fake.speak(response_format="pcm", stream_format="sse").text
    assert "speech.audio.progress" not in lines
    lines = fake.speak(response_format="pcm", stream_format="sse", progress=True).text
    events = [json.loads(line.removeprefix("data: ")) for line in lines.splitlines() if line]
    told = [event for event in events if event["type"] == "speech.audio.progress"]
    assert events[0] == told[0] and {event["num_chunks"] for event in told} == {4}
    numbers = [event["chunk"] for event in told]
    assert numbers == sorted(set(numbers)) and set(numbers) <= {1, 2, 3, 4}
    assert fake.speak(response_format="pcm", progress=True).headers["content-type"] == "audio/pcm"  # has no events


def test_headers_of_a_whole(fake):
    """The reason of the end could be read from events only."""
    fake.engine.script = Script(finish_reason="implausible", doubt="silent", num_retries=2)
    headers = fake.speak(stream=False).headers
    assert headers["x-finish-reason"] == "implausible" and headers["x-seed"] == "1234"
    assert headers["x-output-tokens"] == "40" and headers["x-request-id"]


ERRORS = [
    (ValueError("the voice is of another codec; add it again."), 400, "another codec"),
    (FULL, 429, "queue is full"),
    (EngineError("the engine is closed; make another one."), 503, "shutting down"),
    (MemoryError(), 503, "not enough memory"),
    (RuntimeError("/secret/path: NaN"), 500, "RuntimeError"),
]


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream_format": "sse"}])
@pytest.mark.parametrize("place", ["submit", "first chunk"])
@pytest.mark.parametrize(("error", "status", "words"), ERRORS, ids=lambda value: str(value)[:8])
def test_errors_before_the_first_chunk(fake, error, status, words, place, fields):
    """A failed request had a status of 200 and an empty body, which a player plays as silence."""
    fake.engine.script = Script(refusal=error) if place == "submit" else Script(num_chunks=0, error=error)
    if place == "first chunk" and status == 400:  # the request has been checked: not the client's fault
        status, words = 500, "ValueError"
    response = fake.speak(**fields)
    assert response.status_code == status
    content = response.json()["error"]
    assert words in content["message"] and "secret" not in response.text
    assert set(content) == {"message", "type", "param", "code"}
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_an_error_in_a_raw_stream(fake):
    """A stream that failed midway ended as if it were complete, and the client kept half of a sentence."""
    fake.engine.script = Script(error=RuntimeError("NaN"))
    received = []
    with fake.stream(response_format="pcm") as response, pytest.raises(httpx.RemoteProtocolError):
        received.extend(response.iter_raw())
    assert len(b"".join(received)) > 2 * 24000 * SECONDS / 2  # what was there before the error
    fake.engine.script = Script()
    assert fake.speak().status_code == 200


def test_an_error_in_events(fake):
    """A stream of events that failed midway ended without an event that says so, or as if it were complete."""
    fake.engine.script = Script(error=RuntimeError("/secret/path"))
    lines = []
    stream = fake.stream(response_format="pcm", stream_format="sse")
    with stream as response, pytest.raises(httpx.RemoteProtocolError):
        lines.extend(response.iter_lines())
    *deltas, last = events_of(lines)
    assert len(audio_of(deltas)) > 0
    assert last["type"] == "error" and last["error"]["type"] == "server_error" and "secret" not in str(last)


def test_an_error_in_events_with_progress(fake):
    """Browsers lose the last event where the connection breaks off: the error of a request was not told."""
    fake.engine.script = Script(error=RuntimeError("of some kind"))
    lines = fake.speak(response_format="pcm", stream_format="sse", progress=True).text.strip().splitlines()
    assert "RuntimeError" in json.loads(lines[-1].removeprefix("data: "))["error"]["message"]


def test_an_error_of_a_whole(fake):
    """Half of a sentence was sent as a whole one."""
    fake.engine.script = Script(error=RuntimeError("NaN"))
    response = fake.speak(stream=False)
    assert response.status_code == 500 and response.json()["error"]["code"] == "internal_error"


def test_no_audio(fake):
    """Speech without a sample was sent as a success."""
    fake.engine.script = Script(num_chunks=0, finish_reason="implausible", doubt="the sound is empty")
    response = fake.speak()
    assert response.status_code == 500 and response.json()["error"]["code"] == "no_audio"
    assert "the sound is empty" in response.json()["error"]["message"]


@pytest.mark.parametrize("hold_after", [0, 2])
@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream_format": "sse"}])
def test_a_disconnect_frees_the_place(fake, fields, hold_after):
    """The engine went on for a client that had gone, streamed or not, before the first chunk or after it."""
    fake.engine.script = Script(hold_after=hold_after)
    body = json.dumps({"input": "Hello.", "response_format": "pcm", **fields}).encode()
    head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        assert fake.engine.wait_until(lambda: fake.engine.handles)
        if hold_after and fields.get("stream", True):
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    handle = fake.engine.handles[0]
    assert handle.ended.wait(30) and handle.finish_reason == "canceled"


def test_a_slow_reader(serve):
    """A client that reads nothing held its place, its audio and its connection for ever."""
    script = Script(num_chunks=400, chunk_samples=4 * RATE)
    server = serve(script, ServerSettings(io_timeout=0.3))
    body = b'{"input": "Hello.", "response_format": "wav", "sample_rate": 48000}'
    head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(30)
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        counted = 'dia_speech_requests_total{format="wav",reason="slow_reader"} 1.0'
        wait_for(lambda: counted in server.http.get("/metrics").text)
        wait_for(lambda: not server.server.server_state.connections - {*_of_client(server)})
        wait_for(lambda: server.engine.num_active == 0)


def _of_client(server):
    """Connections of the test's own client, which are kept alive."""
    return [one for one in server.server.server_state.connections if one.cycle.scope["path"] == "/metrics"]


def test_a_reader_that_is_slow_but_reads(serve):
    """A player that reads at the speed of the sound was taken for one that reads nothing."""
    server = serve(Script(num_chunks=40, chunk_samples=RATE), ServerSettings(io_timeout=5))
    with server.stream(response_format="pcm") as response:
        received = 0
        for part in response.iter_raw(2**18):
            received += len(part)
            time.sleep(0.02)
    assert received == 40 * 48000


def counted(running, name):
    lines = running.http.get("/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")}


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream_format": "sse"}])
@pytest.mark.parametrize(("is_canceled", "reason"), [(True, "canceled"), (False, "error")])
def test_the_reason_that_is_counted(serve, monkeypatch, fields, is_canceled, reason):
    """A failed encoder was counted as success, and a shutdown as `error` in streams and `canceled` elsewhere."""

    def fail(self):
        raise RuntimeError("the encoder failed")

    running = serve(Script(hold_after=2) if is_canceled else Script())
    if not is_canceled:
        monkeypatch.setattr(body.SpeechEncoding, "finish", fail)

    def cancel():
        assert running.engine.wait_until(lambda: running.engine.handles)
        running.engine.handles[0].cancel()

    if is_canceled and fields == {"stream": False}:
        threading.Thread(target=cancel, daemon=True).start()
    with suppress(httpx.RemoteProtocolError), running.stream(response_format="pcm", **fields) as response:
        if is_canceled and fields != {"stream": False}:
            cancel()
        response.read()
    assert counted(running, "dia_speech_requests_total") == {
        f'dia_speech_requests_total{{format="pcm",reason="{reason}"}}': 1.0
    }


def test_an_engine_that_closes(serve):
    """A request that the shutdown canceled was sent as complete."""
    server = serve(Script(hold_after=2))
    with server.stream(response_format="pcm") as response:
        server.engine.handles[0].cancel()
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    server.engine.script = Script(hold_after=0)
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(server.speak()))
    thread.start()
    assert server.engine.wait_until(lambda: len(server.engine.handles) == 2)
    server.engine.handles[1].cancel()
    thread.join(30)
    assert waiting[0].status_code == 503 and "retry-after" in waiting[0].headers
