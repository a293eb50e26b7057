"""Text in pieces over a WebSocket: messages, interruptions, limits, refusals; with the client of `websockets`."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("websockets")

from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from dia_hf.engine.scheduler import FrameScheduler
from dia_hf.serving import server as server_module
from dia_hf.serving import websocket
from dia_hf.serving.adapters import AdapterEngines
from dia_hf.serving.errors import ApiError
from dia_hf.serving.settings import ServerSettings
from dia_hf.serving.utterance import Utterance
from dia_hf.serving.websocket import SpeechSession
from serving.conftest import start
from serving.fakes import FRAME, FULL, RATE, FakeEngine, FakeHandle, FakeVoices, Script
from serving.test_body import decode
from waiting import wait_for

FIRST, SECOND = "Hello, I am Dia. ", "Welcome, Dia. "
SAMPLES = 4 * 10 * FRAME  # of a sentence of the fake engine


class Client:
    """One WebSocket."""

    def __init__(self, connection):
        self.connection = connection

    def send(self, kind, **fields):
        self.connection.send(json.dumps({"type": kind, **fields}))

    def configure(self, **fields):
        self.send("session.config", **fields)
        (told,) = self.receive("session.configured")
        return told

    def say(self, *pieces):
        for piece in pieces:
            self.send("input.text", text=piece)
        self.send("input.done")

    def receive(self, last="session.done"):
        """Return the messages up to one of a type; audio as bytes."""
        messages = []
        while True:
            raw = self.connection.recv(timeout=60)
            messages.append(raw if isinstance(raw, bytes) else json.loads(raw))
            if not isinstance(raw, bytes) and messages[-1]["type"] in (last, "error"):
                return messages

    def close_code(self):
        """Wait until the server closes the connection, and return the code."""
        try:
            while True:
                self.connection.recv(timeout=60)
        except ConnectionClosed as end:
            return end.rcvd.code


@contextmanager
def opened(running, path="/v1/audio/speech/stream", **options):
    with connect(f"ws://127.0.0.1:{running.port}{path}", open_timeout=60, proxy=None, **options) as connection:
        yield Client(connection)


def kinds(messages):
    """Types of messages, each once in a row."""
    found = []
    for message in messages:
        kind = "audio" if isinstance(message, bytes) else message["type"]
        if found[-1:] != [kind]:
            found.append(kind)
    return found


SENTENCE = ["audio.start", "audio", "audio.done"]


def test_the_first_sentence_sounds_before_the_second_is_sent(miniature):
    """The server waited for `input.done`, or for the next sentence, before it gave audio of the first one."""
    with opened(miniature) as client:
        client.configure(response_format="pcm", stream_audio=True, seed=3)
        client.send("input.text", text=FIRST)
        first = client.receive("audio.done")
        assert kinds(first) == SENTENCE
        client.say("Welcome,", " Dia.")
        assert kinds(client.receive()) == [*SENTENCE, "session.done"]


@pytest.mark.parametrize("path", ["/v1/audio/speech/stream", "/audio/speech/stream"])
def test_messages(fake, path):
    """A message or a field lacked that clients of vLLM-Omni or SGLang-Omni read."""
    with opened(fake, path) as client:
        told = client.configure(session={"response_format": "pcm", "stream_audio": True, "voice": "anna"})
        assert told["response_format"] == "pcm" and told["stream_audio"] and told["split_granularity"] == "sentence"
        client.say(FIRST + SECOND)
        messages = client.receive()
        assert kinds(messages) == [*SENTENCE, *SENTENCE, "session.done"]
        starts = [one for one in messages if not isinstance(one, bytes) and one["type"] == "audio.start"]
        assert [(one["sentence_index"], one["sentence_text"]) for one in starts] == [
            (0, FIRST.strip()),
            (1, SECOND.strip()),
        ]
        assert starts[0]["format"] == "pcm" and starts[0]["sample_rate"] == 24_000 and starts[0]["channels"] == 1
        num_bytes = sum(len(one) for one in messages if isinstance(one, bytes))
        ends = [one for one in messages if not isinstance(one, bytes) and one["type"] == "audio.done"]
        assert [one["error"] for one in ends] == [False, False] and sum(one["total_bytes"] for one in ends) == num_bytes
        assert num_bytes == pytest.approx(2 * 2 * SAMPLES * 24_000 / RATE, abs=8)
        assert messages[-1]["total_sentences"] == 2 and messages[-1]["utterance_index"] == 0
        assert messages[-1]["finish_reason"] == "stop" and messages[-1]["usage"]["output_tokens"] == 80
        client.say("Again.")
        assert client.receive()[-1]["utterance_index"] == 1
        client.say()
        (done,) = client.receive()
        assert (done["utterance_index"], done["total_sentences"]) == (2, 0)
        client.send("session.close")
        assert client.close_code() == 1000
    assert fake.voices.asked[-1] == "anna" and list(fake.engine.handles[0].request.voices) == ["[S1]"]


@pytest.mark.parametrize("name", ["wav", "pcm", "flac", "mp3", "opus", "aac"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_each_sentence_can_be_decoded(fake, name, is_streamed):
    """The audio of a sentence was no file of its format, or had the end of the one before."""
    with opened(fake) as client:
        client.configure(response_format=name, stream_audio=is_streamed)
        client.say(FIRST + SECOND)
        sentences = []
        for _ in range(2):
            parts = [one for one in client.receive("audio.done") if isinstance(one, bytes)]
            assert is_streamed or len(parts) == 1
            sentences.append(b"".join(parts))
    for content in sentences:
        samples, rate = decode(content, name)
        assert len(samples) / rate == pytest.approx(SAMPLES / RATE, abs=0.15) and np.abs(samples).max() > 0.2


def test_an_interruption_ends_within_8_frames(miniature, monkeypatch):
    """An assistant that was interrupted was generated for to the end of its answer, and heard."""
    steps, take, told = [], FrameScheduler._take_step, threading.Event()

    def counted(self, state):
        steps.append(self.num_active)
        if len(steps) == 40:
            assert told.wait(60)  # the frames before the interruption came
        return take(self, state)

    cancel = type(miniature.engine)._cancel

    def canceled(self, handle):
        cancel(self, handle)
        told.set()

    monkeypatch.setattr(FrameScheduler, "_take_step", counted)
    monkeypatch.setattr(type(miniature.engine), "_cancel", canceled)
    with opened(miniature) as client:
        client.configure(response_format="pcm", stream_audio=True, seed=3)
        client.send("input.text", text=FIRST * 10)
        wait_for(lambda: len(steps) == 40)
        client.send("input.cancel")
        messages = client.receive()
        wait_for(lambda: not miniature.engine.num_active)
        assert 40 <= len(steps) <= 48
        assert messages[-1]["finish_reason"] == "canceled"
        monkeypatch.undo()
        client.say(SECOND)
        assert client.receive()[-1]["finish_reason"] == "stop"


def test_a_disconnect_while_a_request_is_submitted(serve, monkeypatch):
    """The request of a client that went at that moment was spoken for nobody, and its text waited for ever."""
    running, is_there, has_gone = serve(), threading.Event(), threading.Event()
    submit, cancel = running.engine.submit, Utterance.cancel

    def slow(*args):
        is_there.set()
        assert has_gone.wait(60)
        return submit(*args)

    def canceled(self):
        cancel(self)
        has_gone.set()

    monkeypatch.setattr(running.engine, "submit", slow)
    monkeypatch.setattr(Utterance, "cancel", canceled)
    with opened(running) as client:
        client.configure()
        client.send("input.text", text=FIRST)
        assert is_there.wait(60)
    wait_for(lambda: running.engine.handles and running.engine.handles[0].ended.is_set())


def test_a_disconnect_frees_the_place(miniature):
    """A client that had gone, or closed its WebSocket, kept its place in the batch."""
    with opened(miniature) as client:
        client.configure()
        client.send("input.text", text=FIRST * 40)
        wait_for(lambda: miniature.engine.num_active)
    wait_for(lambda: not miniature.engine._handles)


def test_a_client_that_has_gone_is_sent_no_close():
    """After each session that the client ended, Ray Serve's proxy logged an error with a traceback."""
    sent = []
    messages = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message["type"])

    socket = WebSocket({"type": "websocket", "state": {"request_id": "a"}, "headers": []}, receive, send)
    asyncio.run(SpeechSession(socket, None, None, ServerSettings(), None).run())
    assert sent == ["websocket.accept"]


def test_the_voice_stays_from_utterance_to_utterance(miniature, monkeypatch):
    """Each answer of an assistant was spoken by another voice."""
    asked, submit = [], type(miniature.engine).submit
    monkeypatch.setattr(
        type(miniature.engine),
        "submit",
        lambda self, request, *rest: asked.append(request) or submit(self, request, *rest),
    )
    with opened(miniature) as client:
        client.configure(seed=3)
        for text in (FIRST, SECOND, SECOND * 4, SECOND, SECOND):
            client.say(text)
            client.receive()
        client.configure(seed=3)
        client.say(SECOND)
        client.receive()
    transcripts = [request.voices and request.voices["[S1]"].transcript for request in asked]
    first, second = FIRST.strip(), SECOND.strip()
    assert transcripts[:3] == [None, f"[S1] {first}", f"[S1] {first} {second}"] and transcripts[-1] is None
    assert asked[3].voices["[S1]"].seconds > 5 and transcripts[3] == transcripts[4]


def test_utterances_that_are_sent_ahead(fake):
    """The text of a second utterance was mixed with the first one, which was being spoken, or lost."""
    with opened(fake) as client:
        client.configure()
        client.say(FIRST)
        client.say(SECOND)
        one, other = client.receive(), client.receive()
    assert [one[0]["sentence_text"], other[0]["sentence_text"]] == [FIRST.strip(), SECOND.strip()]
    assert [one[-1]["utterance_index"], other[-1]["utterance_index"]] == [0, 1]


def test_splits(fake):
    """`split_granularity` had no effect."""
    text = "Well, if it rains tomorrow, we stay here. Yes."
    for how, number in (("none", 1), ("sentence", 2), ("clause", 3)):
        with opened(fake) as client:
            client.configure(split_granularity=how)
            client.say(text)
            assert client.receive()[-1]["total_sentences"] == number


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("x", "no JSON"),
        (b"x", "binary"),
        ("[1]", "the message is [1]"),
        ('{"type": "input.text", "text": "Hello."}', "`session.config` first"),
        ('{"type": "session.config", "voice": "nobody"}', "there is no voice 'nobody'"),
        ('{"type": "session.config", "speed": 9}', "`speed` is 9"),
        ('{"type": "session.config", "response_format": "ogg"}', "`response_format` is 'ogg'"),
        ('{"type": "session.config", "split_granularity": "word"}', "`split_granularity` is 'word'"),
        ('{"type": "session.config", "word_timestamps": "maybe"}', "`word_timestamps` is 'maybe'"),
        ('{"type": "session.config", "session": 1}', "the body is 1"),
        ('{"type": "session.config", "max_seconds": 99}', "at most 10 s"),
    ],
)
def test_a_beginning_that_is_wrong(serve, message, told):
    """A client whose first message is wrong waited for audio."""
    running = serve(settings=ServerSettings(max_seconds=10))
    with opened(running) as client:
        client.connection.send(message)
        (error,) = client.receive()
        assert error["type"] == "error" and error["error_type"] == "invalid_request_error"
        assert told in error["message"]
        assert client.close_code() == 1008


def test_mistakes_later(serve):
    """A mistake in a session ended it, or was not told."""
    running = serve(settings=ServerSettings(max_input=20))
    with opened(running) as client:
        client.configure()
        client.send("input.text", text="Hello.")
        for kind, fields, told in (
            ("input.text", {"text": 7}, "`text` is 7"),
            ("input.text", {"text": "Welcome. " * 3}, "more than 20 characters"),
            ("session.config", {}, "`input.done` before"),
            ("response.create", {}, "`type` is 'response.create'"),
        ):
            client.send(kind, **fields)
            error = client.receive("error")[-1]
            assert told in error["message"]
        client.send("input.done")
        assert client.receive()[-1]["total_sentences"] == 1


def test_a_full_queue(serve):
    """A full server closed the WebSocket without a reason, or spoke for ever later."""
    running = serve(Script(refusal=FULL))
    with opened(running) as client:
        client.configure()
        client.say(FIRST)
        error = client.receive()[-1]
        assert error["code"] == "queue_full" and error["error_type"] == "rate_limit_error"
        assert client.receive()[-1]["total_sentences"] == 0
        running.engine.script = Script()
        client.say(FIRST)
        assert client.receive()[-1]["total_sentences"] == 1


@pytest.mark.parametrize("fault", [ApiError(503, "the adapter is gone."), RuntimeError("damaged"), OSError("gone")])
def test_a_configuration_that_is_refused_changes_nothing(serve, monkeypatch, fault):
    """The voice of a refused configuration was that of the next utterance, or the session ended without a reason."""
    running = serve()

    async def find(engine, model):
        if model == "none":
            raise fault
        return engine

    monkeypatch.setattr(websocket, "find_engine", find)
    with opened(running) as client:
        client.configure()
        client.send("session.config", model="none", voice="anna")
        assert client.receive("error")[-1]["error_type"] == "server_error"
        client.say(FIRST)
        assert client.receive()[-1]["finish_reason"] == "stop"
    assert running.engine.handles[-1].request.voices is None


def test_a_configuration_is_for_later_utterances(serve, monkeypatch):
    """Voices of an utterance that was sent before another configuration were used after it."""
    running = serve(Script(hold_after=2))
    monkeypatch.setattr(FakeHandle, "kept_voices", lambda self: {"[S1]": running.voices.anna})
    with opened(running) as client:
        for text in (FIRST, SECOND):
            client.send("session.config")
            assert client.receive("session.configured")[-1]["type"] == "session.configured"  # after audio of the first
            client.say(text)
        running.engine.release()
        client.receive(), client.receive()
    assert [handle.request.voices for handle in running.engine.handles] == [None, None]


def test_the_engine_of_an_adapter_is_found_for_each_utterance():
    """A session ended when the engine of its adapter had made place for another one, and kept that in memory."""
    engines = [FakeEngine(), FakeEngine()]

    async def load(name):
        return next(engine for engine in engines if not engine.is_closed)

    running = start(AdapterEngines(FakeEngine(), load, ["one"]), FakeVoices())
    try:
        with opened(running) as client:
            client.configure(model="one")
            client.say(FIRST)
            assert client.receive()[-1]["finish_reason"] == "stop"
            engines[0].close()
            client.say(SECOND)
            assert client.receive()[-1]["finish_reason"] == "stop"
    finally:
        running.stop()
    assert [len(engine.handles) for engine in engines] == [1, 1]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_bytes_of_a_sentence_that_is_not_complete(serve, is_streamed):
    """`total_bytes` counted audio that was withheld, and dropped."""
    running = serve(Script(hold_after=2))
    with opened(running) as client:
        client.configure(response_format="pcm", stream_audio=is_streamed)
        client.send("input.text", text=FIRST)
        wait_for(lambda: running.engine.handles and running.engine.handles[0].num_frames)
        wait_for(lambda: not running.engine.handles[0]._chunks)
        client.send("input.cancel")
        messages = client.receive()
    num_bytes = sum(len(one) for one in messages if isinstance(one, bytes))
    ends = [one for one in messages if not isinstance(one, bytes) and one["type"] == "audio.done"]
    assert sum(one["total_bytes"] for one in ends) == num_bytes


def test_too_many_utterances_ahead(serve):
    """A client could queue utterances until the memory was full."""
    with opened(serve(Script(hold_after=2))) as client:
        client.configure()
        for _ in range(10):
            client.say(FIRST)
        assert "are waiting already" in client.receive("error")[-1]["message"]


def test_an_error_midway(serve, caplog):
    """Audio that was not complete looked like a whole sentence, or the error told internals."""
    running = serve(Script(error=RuntimeError("private words")))
    with opened(running) as client:
        client.configure(stream_audio=True, response_format="pcm")
        client.say(FIRST)
        error = client.receive("error")[-1]
        assert "RuntimeError" in error["message"] and "private" not in error["message"]
        assert client.receive()[-1]["finish_reason"] == "error"
    assert "private words" not in caplog.text


def test_keys(serve):
    """A WebSocket needed no key."""
    running = serve(settings=ServerSettings(api_keys=("right",)))
    for headers in ({}, {"authorization": "Bearer wrong"}):
        with pytest.raises(InvalidStatus) as caught, opened(running, additional_headers=headers):
            pass
        response = caught.value.response
        assert response.status_code == 401 and json.loads(response.body)["error"]["code"] == "invalid_api_key"
    with opened(running, additional_headers={"authorization": "Bearer right"}) as client:
        client.configure()
    opening, key = b'route="/v1/audio/speech/stream",status="101"', {"authorization": "Bearer right"}
    wait_for(lambda: opening in running.http.get("/metrics", headers=key).content)


@pytest.mark.parametrize(
    ("origin", "allowed", "passes"),
    [
        (None, (), True),
        ("https://evil.example", (), False),
        ("null", (), False),
        ("https://good.example", ("https://good.example",), True),
        ("https://evil.example", ("https://good.example",), False),
        ("https://any.example", ("*",), True),
        ("own", (), True),
    ],
)
def test_origins(serve, origin, allowed, passes):
    """Any page that a browser showed could use a server on localhost."""
    running = serve(settings=ServerSettings(cors_origins=allowed))
    origin = f"http://127.0.0.1:{running.port}" if origin == "own" else origin
    if passes:
        with opened(running, origin=origin) as client:
            client.configure()
        return
    with pytest.raises(InvalidStatus) as caught, opened(running, origin=origin):
        pass
    assert caught.value.response.status_code == 403


def test_shutdown(serve):
    """A shutdown broke off an utterance, took new ones, or waited for a client that sent nothing."""
    running = serve(Script(hold_after=2), shutdown_timeout=60)
    with opened(running) as client, opened(running) as idle:
        client.configure()
        idle.configure()
        client.say(FIRST)
        running.engine.wait_until(lambda: running.engine.handles)
        running.server.stop()
        with pytest.raises(InvalidStatus) as caught, opened(running):
            pass
        assert caught.value.response.status_code == 503
        running.engine.wait_until(lambda: running.engine.is_closed)
        running.engine.release()
        assert client.receive()[-1]["total_sentences"] == 1
        assert client.close_code() == idle.close_code() == 1012
    running.thread.join(30)
    assert not running.thread.is_alive()


@pytest.mark.parametrize("timeout", [60, 1])
def test_a_shutdown_while_audio_is_sent(serve, monkeypatch, timeout):
    """Audio that was generated but not sent was lost at a shutdown; or a client that takes nothing held it up."""
    encode = websocket.SpeechEncoding.encode

    async def encode_slowly(self, chunk):
        await asyncio.sleep(0.5 if timeout > 1 else 60)
        return await encode(self, chunk)

    monkeypatch.setattr(websocket.SpeechEncoding, "encode", encode_slowly)
    running = serve(Script(num_chunks=3), shutdown_timeout=timeout)
    with opened(running) as client:
        client.configure()
        client.say(FIRST)
        assert client.receive("audio.start")
        running.server.stop()
        if timeout > 1:
            assert client.receive()[-1]["total_sentences"] == 1
        assert client.close_code() == 1012
    running.thread.join(30)
    assert not running.thread.is_alive()


def test_a_client_that_sends_nothing(serve, monkeypatch):
    """WebSockets without a message stayed open for ever; or one was closed while it was spoken to."""
    running = serve(Script(hold_after=2), settings=ServerSettings(idle_timeout=0.3, io_timeout=0.3))
    with opened(running) as client:
        assert client.receive()[-1]["code"] == "timeout" and client.close_code() == 1008
    with opened(running) as client:
        client.configure()
        client.say(FIRST)
        time.sleep(1)
        running.engine.release()
        assert client.receive()[-1]["total_sentences"] == 1
        assert client.receive()[-1]["code"] == "timeout"


def test_a_client_that_takes_nothing(serve):
    """A client that stopped reading kept its place in the batch."""
    running = serve(Script(num_chunks=2000, chunk_samples=50_000), settings=ServerSettings(io_timeout=0.5))
    with socket.create_connection(("127.0.0.1", running.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = "GET /v1/audio/speech/stream HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        raw.sendall(f"{head}sec-websocket-version: 13\r\nsec-websocket-key: {'A' * 22}==\r\n\r\n".encode())
        assert raw.recv(4096).endswith(b"\r\n\r\n")  # data may follow only then
        for message in (
            {"type": "session.config", "response_format": "pcm", "stream_audio": True},
            {"type": "input.text", "text": FIRST},
        ):
            content = json.dumps(message).encode()
            raw.sendall(bytes([0x81, 0x80 | len(content), 0, 0, 0, 0]) + content)
        wait_for(lambda: running.engine.handles and running.engine.handles[0].is_done)
    assert running.engine.handles[0].finish_reason == "canceled"
    wait_for(lambda: b'reason="slow_reader"' in running.http.get("/metrics").content)


def test_a_long_session_outlasts_the_timer_of_a_head(serve, monkeypatch):
    """A WebSocket was closed by the timer of the request that opened it."""
    monkeypatch.setattr(server_module, "_HEAD_TIMEOUT", 0.2)
    with opened(serve()) as client:
        client.configure()
        time.sleep(0.5)
        client.say(FIRST)
        assert client.receive()[-1]["total_sentences"] == 1


def send_and_receive(client, message):
    client.connection.send(message)
    return client.receive()


def test_a_message_that_is_too_large(fake):
    """One message took memory without a bound."""
    with opened(fake, max_size=None) as client:
        client.configure()
        with pytest.raises(ConnectionClosed):  # by code 1009, or a reset, as bytes were not read
            send_and_receive(client, "x" * (2**24 + 1))
    with opened(fake) as client:
        client.configure()


def test_control_characters(miniature):
    """A sentence with a control character ended the utterance midway."""
    with opened(miniature) as client:
        client.configure()
        client.send("input.text", text="Hello\1 Dia. ")
        assert "control character" in client.receive("error")[-1]["message"]
        client.say(FIRST)
        assert client.receive()[-1]["total_sentences"] == 1


def test_texts_are_logged_on_request_only(serve, caplog):
    """The log had the text of an utterance without being asked for it."""
    caplog.set_level("INFO")
    for is_logged in (False, True):
        with opened(serve(settings=ServerSettings(logs_texts=is_logged))) as client:
            client.configure()
            client.say("Private words.")
            client.receive()
        wait_for(lambda: "characters in pieces" in caplog.text)
        assert ("Private words." in caplog.text) == is_logged
        caplog.clear()
