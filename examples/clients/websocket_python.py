"""Text that streams in, over the WebSocket of `dia-hf serve`; the `websockets` package is the client.

    pip install websockets sounddevice
    dia-hf serve                               # in another terminal; the embedded miniature, on port 8000
    python websocket_python.py                 # Control-C interrupts

`--output FILE` writes raw PCM instead of playing: 16-bit, mono, at 24 kHz.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect

PCM_RATE = 24000  # of `response_format="pcm"`, whatever the model's own rate


async def tokens() -> AsyncIterator[str]:
    """Stand for a language model: yield a text piece by piece."""
    for piece in ("Hello", ", my name", " is Dia", ".", " The cat", " and the dog", " sleep", " in the garden", "."):
        await asyncio.sleep(0.05)
        yield piece


async def send_text(socket: ClientConnection) -> None:
    """Send the pieces as they come."""
    async for piece in tokens():
        await socket.send(json.dumps({"type": "input.text", "text": piece}))
    await socket.send(json.dumps({"type": "input.done"}))


async def speak(url: str, play: Callable[[bytes], object]) -> None:
    """Speak the text; print each sentence when its sound begins."""
    async with connect(url) as socket:
        await socket.send(json.dumps({"type": "session.config", "response_format": "pcm", "stream_audio": True}))
        sending = asyncio.create_task(send_text(socket))
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    await asyncio.to_thread(play, message)
                    continue
                event = json.loads(message)
                if event["type"] == "audio.start":
                    print(event["sentence_text"])
                elif event["type"] == "error":
                    raise SystemExit(event["message"])
                elif event["type"] == "session.done":
                    return
        except asyncio.CancelledError:  # Control-C
            await socket.send(json.dumps({"type": "input.cancel"}))
            raise
        finally:
            sending.cancel()


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/audio/speech/stream")
    parser.add_argument("--output", help="file for raw PCM, instead of playing")
    args = parser.parse_args()
    with suppress(KeyboardInterrupt):
        if args.output:
            with open(args.output, "wb") as file:
                asyncio.run(speak(args.url, file.write))
        else:
            import sounddevice

            with sounddevice.RawOutputStream(samplerate=PCM_RATE, channels=1, dtype="int16") as player:
                asyncio.run(speak(args.url, player.write))


if __name__ == "__main__":
    main()
