"""OpenAI's Python package with a server of `dia-hf serve`.

    pip install openai sounddevice
    dia-hf serve                               # in another terminal; the embedded miniature, on port 8000
    python openai_python.py file               # or: play, events, errors, voice RECORDING TRANSCRIPT

The text is of words that the miniature knows. With `--url http://HOST:PORT/v1` the server may be anywhere.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

from openai import APIStatusError, OpenAI

TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia."
PCM_RATE = 24000  # `response_format="pcm"` is 16-bit mono at this rate, whatever the model's own


def speak_to_file(client: OpenAI, path: Path) -> None:
    """Write a file while the speech is generated. The format is named by the suffix: mp3, opus, aac, flac or wav."""
    request = client.audio.speech.with_streaming_response.create(
        model="dia",  # any name is accepted: the server has one model
        voice="alloy",
        input=TEXT,
        response_format=path.suffix.lstrip("."),  # type: ignore[arg-type]  # an unknown one is the server's error
        extra_body={"seed": 7},  # fields beyond OpenAI's go here; the same seed gives the same speech
    )
    with request as response:
        response.stream_to_file(path)
    print(f"wrote {path}")


def play(client: OpenAI) -> None:
    """Play each chunk as soon as it arrives."""
    import sounddevice

    request = client.audio.speech.with_streaming_response.create(
        model="dia", voice="alloy", input=TEXT, response_format="pcm"
    )
    with request as response, sounddevice.RawOutputStream(samplerate=PCM_RATE, channels=1, dtype="int16") as player:
        for chunk in response.iter_bytes(chunk_size=4096):  # an even number: chunks are whole samples
            player.write(chunk)


def read_events(client: OpenAI) -> bytes:
    """Read server-sent events: audio as base64, then how much was generated."""
    request = client.audio.speech.with_streaming_response.create(
        model="dia", voice="alloy", input=TEXT, response_format="pcm", stream_format="sse"
    )
    audio = b""
    with request as response:
        for line in response.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            if event["type"] == "speech.audio.delta":
                audio += base64.b64decode(event["audio"])
            elif event["type"] == "speech.audio.done":
                print(f"{len(audio) / 2 / PCM_RATE:.2f} s of audio, usage: {event['usage']}")
            else:  # the generation failed after its first chunk
                raise RuntimeError(event["error"]["message"])
    return audio


def use_voice(client: OpenAI, recording: Path, transcript: str) -> None:
    """Add the voice of a recording to the server, speak with it, and delete it."""
    voice = client.audio.voices.create(
        name=recording.stem,
        audio_sample=recording,
        consent="cons_1234",  # required by OpenAI's package
        extra_body={"transcript": transcript},  # unless the server runs with `--transcribe`
    )
    print(f"added {voice.name} as {voice.id}")
    client.audio.speech.create(model="dia", voice={"id": voice.id}, input=TEXT).write_to_file("cloned.mp3")
    client.audio.voices.delete(voice.id)
    print("wrote cloned.mp3")


def show_errors(client: OpenAI) -> None:
    """Ask for a voice that the server does not have. The package retries 408, 409, 429 and 5xx, but not this."""
    try:
        client.audio.speech.create(model="dia", voice="nobody", input=TEXT)
    except APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        print(f"status {error.status_code}, field {body.get('param')}: {body.get('message')}")


def main(arguments: list[str]) -> None:
    """Run one of the examples."""
    parser = argparse.ArgumentParser(description="OpenAI's Python package with a server of `dia-hf serve`.")
    parser.add_argument("example", choices=["file", "play", "events", "voice", "errors"])
    parser.add_argument("values", nargs="*", metavar="RECORDING TRANSCRIPT", help="of `voice`")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="of the server; default: %(default)s")
    parser.add_argument("--api-key", default="none", help="if the server asks for one")
    options = parser.parse_args(arguments)
    client = OpenAI(base_url=options.url, api_key=options.api_key)
    if options.example == "file":
        speak_to_file(client, Path("speech.mp3"))
    elif options.example == "play":
        play(client)
    elif options.example == "events":
        read_events(client)
    elif options.example == "errors":
        show_errors(client)
    elif len(options.values) == 2:
        use_voice(client, Path(options.values[0]), options.values[1])
    else:
        parser.error("voice: give a recording and its transcript")


if __name__ == "__main__":
    main(sys.argv[1:])
