"""wyoming_openai: `python wyoming_proxy.py URL FAILING_URL`, both without `/v1`.

Starts the proxy in front of the server and sends it the events of Home Assistant's Wyoming integration.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version

from expected import TEXT, report
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

VOICE = SynthesizeVoice(name="shimmer")


@contextlib.asynccontextmanager
async def open_proxy(url: str, *arguments: str) -> AsyncIterator[int]:
    """Start wyoming_openai and give its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wyoming_openai", "--uri", f"tcp://127.0.0.1:{port}", "--tts-openai-url", f"{url}/v1",
        "--log-level", "WARNING", *arguments,
    )  # fmt: skip
    try:
        for _ in range(300):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None, "wyoming_openai has ended"
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def read(client: AsyncTcpClient, end: type) -> list[Event]:
    """Read events until one of type `end` came."""
    events = []
    while not events or not end.is_type(events[-1].type):
        event = await asyncio.wait_for(client.read_event(), 60)
        assert event is not None, f"the connection ended after {[event.type for event in events]}"
        events.append(event)
    return events


def check(name: str, events: list[Event]) -> None:
    """Check the order of the events and their audio."""
    assert AudioStart.is_type(events[0].type), [event.type for event in events]
    chunks = [AudioChunk.from_event(event) for event in events if AudioChunk.is_type(event.type)]
    assert len(chunks) > 1, "the whole came at once"
    assert {(chunk.width, chunk.channels) for chunk in chunks} == {(2, 1)}
    report(name, b"".join(chunk.audio for chunk in chunks), chunks[0].rate, tolerance=0.6)  # sentences end in pauses


async def speak(port: int) -> None:
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Describe().event())
        info = Info.from_event((await read(client, Info))[-1])
        assert "shimmer" in {voice.name for voice in info.tts[0].voices}, info
        await client.write_event(Synthesize(text=TEXT, voice=VOICE).event())
        check("synthesize", await read(client, AudioStop))


async def speak_streaming(port: int) -> None:
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(SynthesizeStart(voice=VOICE).event())
        for word in TEXT.split(" "):
            await client.write_event(SynthesizeChunk(text=f"{word} ").event())
        await client.write_event(Synthesize(text=TEXT, voice=VOICE).event())  # for servers that know no streaming
        await client.write_event(SynthesizeStop().event())
        check("synthesize-start, -chunk, -stop", await read(client, SynthesizeStopped))


async def break_off(port: int) -> None:
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Synthesize(text=TEXT, voice=VOICE).event())
        events = []
        while (event := await asyncio.wait_for(client.read_event(), 60)) is not None:
            events.append(event)
    assert AudioChunk.is_type(events[-2].type) and Error.is_type(events[-1].type), [event.type for event in events]
    print(f"error midway: {Error.from_event(events[-1]).text}")


async def main(url: str, failing: str) -> None:
    print(f"wyoming_openai {version('wyoming-openai')}, wyoming {version('wyoming')}")
    async with open_proxy(url, "--tts-models", "tts-1") as port:  # lists the voices by itself
        await speak(port)
    async with open_proxy(url, "--tts-streaming-models", "dia", "--tts-voices", "shimmer") as port:
        await speak_streaming(port)
    async with open_proxy(failing, "--tts-models", "tts-1") as port:
        await break_off(port)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
