"""openai for Python: `python openai_python.py URL FAILING_URL`, both without `/v1`."""

from __future__ import annotations

import array
import base64
import io
import math
import sys
import wave
from collections.abc import Callable

import openai
from expected import SECONDS, TEXT, report

NUM_ABORTED = 12  # more than the server's batch


def make_recording() -> bytes:
    """Return a WAV of 6 s for a voice: a tone that changes its loudness, so that it is not taken for silence."""
    rate = 16000
    samples = array.array(
        "h", (int(9000 * math.sin(t * 0.09) * (0.6 + 0.4 * math.sin(t * 0.001))) for t in range(6 * rate))
    )
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        recording.writeframes(samples.tobytes())
    return file.getvalue()


def speak(client: openai.OpenAI) -> None:
    speech = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format="wav")
    with wave.open(io.BytesIO(speech.content)) as file:
        report("create, wav", file.readframes(file.getnframes()), file.getframerate())
    for response_format, magic in {"mp3": (b"ID3", b"\xff"), "opus": b"OggS", "aac": b"\xff", "flac": b"fLaC"}.items():
        content = client.audio.speech.create(
            model="tts-1", voice={"id": "coral"}, input=TEXT, response_format=response_format
        ).content
        assert content.startswith(magic) and len(content) > 5000, (response_format, content[:16], len(content))
        print(f"create, {response_format}: {len(content)} bytes")


def stream(client: openai.OpenAI) -> None:
    request = client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="nova", input=TEXT, response_format="pcm", instructions="Speak calmly."
    )
    with request as response:
        chunks = list(response.iter_bytes())
    assert len(chunks) > 1, "the whole came at once"
    report("stream, pcm", b"".join(chunks), 24000)

    request = client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="nova", input=TEXT, response_format="pcm", speed=2.0
    )
    with request as response:
        report("stream, twice as fast", response.read(), 24000, seconds=SECONDS / 2)


def stream_events(client: openai.OpenAI) -> None:
    stream = client.post(
        "/audio/speech",
        body={"model": "gpt-4o-mini-tts", "voice": "sage", "input": TEXT, "response_format": "pcm",
              "stream_format": "sse"},
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[object],
    )  # fmt: skip
    events = list(stream)
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1), events[-1]
    assert events[-1]["type"] == "speech.audio.done", events[-1]
    usage = events[-1]["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"] > 0, usage
    report("sse, pcm", b"".join(base64.b64decode(event["audio"]) for event in events[:-1]), 24000)


def manage_voices(client: openai.OpenAI) -> None:
    voice = client.audio.voices.create(
        name="anna",
        consent="cons_1234",
        audio_sample=("anna.wav", make_recording(), "audio/wav"),
        extra_body={"transcript": "Hello, I am Dia."},
    )
    assert voice.object == "audio.voice" and voice.name == "anna", voice
    try:
        for name in ("anna", {"id": voice.id}):
            content = client.audio.speech.create(
                model="tts-1", voice=name, input="[S1] Hello.", response_format="pcm"
            ).content
            assert content, name
    finally:
        deleted = client.audio.voices.delete(voice.id)
    assert deleted.deleted and deleted.id == voice.id, deleted
    print("voices: created, used by name and by id, deleted")


def error_of(kind: type[openai.APIError], call: Callable, **arguments) -> openai.APIError:
    try:
        call(**arguments)
    except kind as error:
        return error
    raise AssertionError(f"no error for {arguments}")


def fail(client: openai.OpenAI) -> None:
    right = {"model": "tts-1", "voice": "alloy", "input": TEXT}
    for param, value in {"voice": "nobody", "input": " ", "speed": 9.0, "response_format": "ra"}.items():
        error = error_of(openai.BadRequestError, client.audio.speech.create, **{**right, param: value})
        assert error.param == param and error.body["message"] and error.type, (param, error.body)
    error = error_of(openai.NotFoundError, client.models.retrieve, model="no-such-model")
    assert error.body["message"], error
    assert client.models.list().data[0].id
    print("errors: 400 with message and param, 404; models are listed")


def abort(client: openai.OpenAI) -> None:
    for _ in range(NUM_ABORTED):
        request = client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=" ".join([TEXT] * 8), response_format="pcm"
        )
        with request as response:
            next(response.iter_bytes(1024))
    content = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format="pcm").content
    report(f"after {NUM_ABORTED} aborted streams", content, 24000)


def break_off(client: openai.OpenAI) -> None:
    stream = client.audio.speech.with_streaming_response
    asked = {"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": "pcm"}
    try:
        with stream.create(**asked) as response:
            response.read()
    except Exception as error:
        print(f"error midway: {type(error).__name__}")
    else:
        raise AssertionError("half of the audio passed for all of it")
    body = {**asked, "stream_format": "sse"}
    events = client.post("/audio/speech", body=body, cast_to=object, stream=True, stream_cls=openai.Stream[object])
    error = error_of(openai.APIError, lambda: list(events))
    print(f"error midway in events: {error}")


if __name__ == "__main__":
    print(f"openai {openai.__version__}")
    for base_url in (f"{sys.argv[1]}/v1", sys.argv[1]):
        speak(openai.OpenAI(base_url=base_url, api_key="none"))
    client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
    for check in (stream, stream_events, manage_voices, fail, abort):
        check(client)
    break_off(openai.OpenAI(base_url=f"{sys.argv[2]}/v1", api_key="none"))
