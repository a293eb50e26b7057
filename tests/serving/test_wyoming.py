"""The Wyoming protocol, by the client of the `wyoming` package; the events are Home Assistant's."""

import asyncio
import json
import socket
import threading
from contextlib import suppress

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("wyoming")

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from dia_hf import Dia
from dia_hf.serving.settings import ServerSettings
from dia_hf.serving.voices import ServedVoices
from dia_hf.serving.wyoming import WyomingServer
from dia_hf.speech import SpeechEngine, Voice
from waiting import wait_for

FIRST, SECOND = "Hello, I am Dia. ", "Welcome, Dia. "


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


@pytest.fixture
def serve(dia, tmp_path):
    """Start servers of the miniature: `serve(settings=…)` returns the server, its engine and its port."""
    started = []

    def serve(settings=None, engine=None, **options):
        engine = engine or SpeechEngine(dia, max_batch_size=2)
        opened, loop = threading.Event(), asyncio.new_event_loop()
        made = []

        async def run():
            server = WyomingServer(engine, ServedVoices(dia, tmp_path), settings or ServerSettings(), **options)
            server.loop = loop
            made.append(server)
            await server.run(f"tcp://127.0.0.1:{port}", 600.0, opened.set)

        port = free_port()
        thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
        thread.start()
        assert opened.wait(60)
        started.append((loop, made[0], thread))
        return made[0], engine, port

    yield serve
    for loop, server, thread in started:
        if thread.is_alive():
            loop.call_soon_threadsafe(server.stop)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def talk(port, script):
    """Run a coroutine function of a client."""

    async def run():
        async with AsyncTcpClient("127.0.0.1", port, connect_timeout=30, read_timeout=60) as client:
            return await script(client)

    return asyncio.run(run())


async def send(client, *messages):
    for message in messages:
        await client.write_event(message.event())


async def receive(client, last):
    """Return the events up to one of a type."""
    events = []
    while (event := await client.read_event()) is not None:
        events.append(event)
        if last.is_type(event.type):
            break
    return events


def kinds(events):
    """Types of events, each once in a row."""
    found = []
    for event in events:
        if found[-1:] != [event.type]:
            found.append(event.type)
    return found


def samples_of(events):
    chunks = [AudioChunk.from_event(event) for event in events if AudioChunk.is_type(event.type)]
    assert {(chunk.rate, chunk.width, chunk.channels) for chunk in chunks} <= {(16_000, 2, 1)}
    return np.frombuffer(b"".join(chunk.audio for chunk in chunks), "<i2")


def test_the_sequence_of_home_assistant(serve):
    """The legacy `synthesize` was spoken a second time, the end was missing, or the first sound waited for the end."""
    _, engine, port = serve()

    async def script(client):
        await send(client, SynthesizeStart(), SynthesizeChunk(FIRST[:9]), SynthesizeChunk(FIRST[9:]))
        first = []
        while not any(AudioChunk.is_type(event.type) for event in first):
            first.append(await client.read_event())  # before the second sentence is sent
        await send(client, SynthesizeChunk(SECOND), Synthesize(FIRST + SECOND), SynthesizeStop())
        return first + await receive(client, SynthesizeStopped)

    events = talk(port, script)
    assert kinds(events) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
    assert AudioStart.from_event(events[0]).rate == 16_000
    assert 1.5 < len(samples_of(events)) / 16_000 < 6  # each sentence once
    wait_for(lambda: engine.num_active == 0)


def test_a_whole_text(serve):
    """A client that knows no pieces got nothing, or `synthesize-stopped`, which it does not know."""

    async def script(client):
        await send(client, Synthesize("[S1] Hello, I am Dia. [S2] Welcome."))
        events = await receive(client, AudioStop)
        await send(client, Ping("still there"))
        return events, Pong.from_event(await client.read_event())

    events, pong = talk(serve()[2], script)
    assert kinds(events) == ["audio-start", "audio-chunk", "audio-stop"]
    assert np.abs(samples_of(events)).max() > 1000 and pong.text == "still there"


def test_texts_one_after_the_other(serve):
    """A second text on a connection was mixed with the first one, or lost."""

    async def script(client):
        await send(client, Synthesize(FIRST), SynthesizeStart(), SynthesizeChunk(SECOND), SynthesizeStop())
        return await receive(client, AudioStop), await receive(client, SynthesizeStopped)

    one, other = talk(serve()[2], script)
    assert kinds(one) == ["audio-start", "audio-chunk", "audio-stop"]
    assert kinds(other) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]


def test_a_text_without_words(serve):
    """Home Assistant waited for ever for the end of an empty answer."""

    async def script(client):
        await send(client, SynthesizeStart(), SynthesizeChunk(" … "), Synthesize(" … "), SynthesizeStop())
        return await receive(client, SynthesizeStopped)

    assert kinds(talk(serve()[2], script)) == ["audio-start", "audio-stop", "synthesize-stopped"]


def test_the_description(serve, dia, tmp_path):
    """Home Assistant did not offer the voices, or did not send text in pieces."""
    codes = dia.generate("[S1] Hello, I am Dia.", seed=1, return_codes=True)[1]
    codec = dia.processor.codec
    rest = (codec.fingerprint, codec.sampling_rate, codec.hop_length)
    Voice(codes, "[S1] Hello. [S2] I am Dia.", *rest).save(tmp_path / "both.safetensors")
    Voice(codes, "Hello, I am Dia.", *rest).save(tmp_path / "anna.safetensors")

    async def script(client):
        await send(client, Describe())
        return Info.from_event(await client.read_event())

    (program,) = talk(serve(language="de")[2], script).tts
    assert program.supports_synthesize_streaming and program.installed
    voices = {voice.name: voice for voice in program.voices}
    assert list(voices) == ["default", "anna", "both"]
    assert all(voice.languages == ["de"] and voice.installed for voice in voices.values())
    assert [one.name for one in voices["both"].speakers] == ["S1", "S2"] and voices["anna"].speakers is None


def test_voices(serve, dia, tmp_path, monkeypatch):
    """A voice or a speaker had no effect, or texts without a voice were each spoken by another one."""
    codes = dia.generate("[S1] Hello, I am Dia.", seed=1, return_codes=True)[1]
    codec = dia.processor.codec
    voice = Voice(codes, "Hello, I am Dia.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    voice.save(tmp_path / "anna.safetensors")
    asked, submit = [], SpeechEngine.submit
    monkeypatch.setattr(
        SpeechEngine, "submit", lambda self, request, *rest: asked.append(request) or submit(self, request, *rest)
    )

    def script(voice):
        async def script(client):
            await send(client, Synthesize(SECOND, voice))
            return await receive(client, AudioStop)

        return script

    port = serve()[2]
    for voice in (SynthesizeVoice("anna"), SynthesizeVoice("anna", speaker="S2"), None, None, SynthesizeVoice("alloy")):
        assert samples_of(talk(port, script(voice))).size
    assert [request.voices and list(request.voices) for request in asked] == [
        ["[S1]"],
        ["[S2]"],
        None,
        ["[S1]"],
        ["[S1]"],
    ]
    assert asked[0].voices["[S1]"].transcript == "Hello, I am Dia."
    assert asked[3].voices["[S1]"].transcript == "[S1] Welcome, Dia."
    asked.clear()
    assert samples_of(talk(serve(voice="anna")[2], script(None))).size
    assert asked[0].voices["[S1]"].transcript == "Hello, I am Dia."


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([Synthesize("Hello.", SynthesizeVoice("nobody"))], "there is no voice 'nobody'"),
        ([Synthesize("Hello.", SynthesizeVoice("alloy", speaker="S9"))], "`speaker` is 'S9'"),
        ([Synthesize("<speak>Hello.</speak>", text_format="ssml")], "send plain text"),
        ([Synthesize("Hello. " * 100)], "more than 100 characters"),
        ([Synthesize("Hello.\0")], "control character"),
        ([SynthesizeStart(), SynthesizeStart()], "synthesize-stop"),
        ([SynthesizeChunk("Hello.")], "synthesize-start"),
        ([Synthesize("Hello.")] * 20, "are waiting already"),
    ],
)
def test_errors(serve, messages, told):
    """A mistake was not told, or Home Assistant, which ignores errors, waited for ever."""

    async def script(client):
        await send(client, *messages)
        return await receive(client, SynthesizeStopped)  # until the connection is closed

    events = talk(serve(ServerSettings(max_input=100))[2], script)
    errors = [Error.from_event(event) for event in events if Error.is_type(event.type)]
    assert len(errors) == 1 and told in errors[0].text


def test_an_error_is_read_though_more_is_sent(serve):
    """Text that came behind a mistake was never read, and the reset that TCP answers with took the error away."""

    async def script(client):
        await send(client, SynthesizeChunk("Hello."))
        await asyncio.sleep(0.3)  # the server has told the error
        await send(client, *[SynthesizeChunk("Hello. " * 1000)] * 20)
        await asyncio.sleep(0.3)
        return await receive(client, SynthesizeStopped)

    events = talk(serve()[2], script)
    assert kinds(events) == ["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"no json\n",
        b"[1]\n",
        b'{"type": "synthesize"}\n',
        b'{"type": "synthesize", "data": {"text": 1}}\n',
        b'{"type": "synthesize", "data_length": 100000000000}\n',
        b'{"type": "synthesize", "data_length": "x"}\n',
        b"x" * 2**20,
    ],
)
def test_damaged_events(serve, content):
    """A damaged event took memory without a bound, or ended the server."""
    _, _, port = serve()

    async def script(client):
        client._writer.write(content)
        return await receive(client, AudioStop)

    with suppress(ConnectionResetError):  # of the bytes that were not read
        assert talk(port, script) == []

    async def after(client):
        await send(client, Ping())
        return await client.read_event()

    assert Pong.is_type(talk(port, after).type)


def test_unknown_events_are_ignored(serve):
    """A newer client was refused."""

    async def script(client):
        client._writer.write(json.dumps({"type": "select-program", "data": {"name": "dia-hf"}}).encode() + b"\n")
        await send(client, SynthesizeStop(), Ping())
        return await client.read_event()

    assert Pong.is_type(talk(serve()[2], script).type)


def test_a_disconnect_frees_the_place(serve):
    """An answer that was interrupted was generated to its end, or a shutdown waited for it until its time was over."""
    _, engine, port = serve()

    async def script(client):
        await send(client, SynthesizeStart(), SynthesizeChunk(FIRST * 40))
        return await client.read_event()

    talk(port, script)
    wait_for(lambda: not engine._handles)


def test_a_shutdown_finishes_what_is_spoken(serve):
    """SIGTERM broke off an answer."""
    server, _, port = serve()

    async def script(client):
        await send(client, Synthesize(FIRST * 3))
        first = await client.read_event()
        server.loop.call_soon_threadsafe(server.stop)
        return [first, *await receive(client, AudioStop)]

    assert kinds(talk(port, script)) == ["audio-start", "audio-chunk", "audio-stop"]
