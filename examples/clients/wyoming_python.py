"""Text that streams in, over the Wyoming protocol of `dia-hf wyoming`; the events are those of Home Assistant.

    pip install wyoming sounddevice
    dia-hf wyoming                             # in another terminal; the embedded miniature, on port 10200
    python wyoming_python.py

`--output FILE` writes raw PCM instead of playing: 16-bit, mono, at the rate that is printed.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from wyoming.audio import AudioChunk, AudioStart
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.tts import SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped

PIECES = ("Hello", ", my name", " is Dia", ".", " The cat", " and the dog", " sleep", " in the garden", ".")


async def send_text(client: AsyncClient) -> None:
    """Send the pieces, at the pace of a language model."""
    await client.write_event(SynthesizeStart().event())
    for piece in PIECES:
        await asyncio.sleep(0.05)
        await client.write_event(SynthesizeChunk(piece).event())
    await client.write_event(SynthesizeStop().event())


async def speak(uri: str, open_player: Callable[[int], Callable[[bytes], object]]) -> None:
    """Speak the text; `open_player` takes the rate and returns the function that plays."""
    async with AsyncClient.from_uri(uri) as client:
        sending = asyncio.create_task(send_text(client))
        play: Callable[[bytes], object] | None = None
        while (event := await client.read_event()) is not None:
            if AudioStart.is_type(event.type):
                play = open_player(AudioStart.from_event(event).rate)
            elif AudioChunk.is_type(event.type) and play is not None:
                await asyncio.to_thread(play, AudioChunk.from_event(event).audio)
            elif Error.is_type(event.type):
                raise SystemExit(Error.from_event(event).text)
            elif SynthesizeStopped.is_type(event.type):
                break
        await sending


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uri", default="tcp://127.0.0.1:10200")
    parser.add_argument("--output", help="file for raw PCM, instead of playing")
    args = parser.parse_args()
    with ExitStack() as stack:

        def open_player(rate: int) -> Callable[[bytes], object]:
            print(f"{rate} Hz")
            if args.output:
                return stack.enter_context(open(args.output, "wb")).write
            import sounddevice

            stream = sounddevice.RawOutputStream(samplerate=rate, channels=1, dtype="int16")
            return stack.enter_context(stream).write

        asyncio.run(speak(args.uri, open_player))


if __name__ == "__main__":
    main()
