"""Requests of common clients, replayed over a socket, with asserts on what these clients rely on.

Each class is a client: its requests and its way of reading, as of the release that it names, or of November 2026.
`make test-clients` runs the clients themselves.
"""

import asyncio
import base64
import functools
import io
import json
import runpy
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import av
import httpx
import numpy as np
import pytest
from openai import APIError, APIStatusError, AsyncOpenAI, BadRequestError, Stream
from openai.helpers import LocalAudioPlayer

from dia_hf import Dia
from dia_hf.audio.io import write_audio
from dia_hf.serving.voices import ServedVoices
from dia_hf.speech.engine import SpeechEngine
from serving.conftest import start
from serving.fakes import Script

TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia."
RATE = 16_000  # of the miniature
LOW_LATENCY = {"probesize": "32", "analyzeduration": "0", "fflags": "nobuffer+flush_packets", "flags": "low_delay"}
"""How LiveKit opens a stream with libav."""
FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]


def decode(content: bytes, form: str | None = None, **options: str) -> tuple[float, np.ndarray]:
    """Return duration in seconds and samples of encoded audio."""
    with av.open(io.BytesIO(content), format=form, options=options) as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler(format="fltp", layout="mono")
    parts = [part.to_ndarray()[0] for frame in [*frames, None] for part in resampler.resample(frame)]
    samples = np.concatenate(parts)
    return len(samples) / frames[0].sample_rate, samples


@functools.cache
def load_greedy() -> Dia:
    """Load a miniature that needs the same time for a text whatever the seed."""
    dia = Dia.from_pretrained()
    dia.model.generation_config.do_sample = False
    return dia


@functools.cache
def num_samples(rate: int = 24_000) -> int:
    """Return how many samples the text has, at a rate."""
    return len(load_greedy().generate(TEXT)) * rate // RATE


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A server of that miniature."""
    dia = load_greedy()
    running = start(SpeechEngine(dia, max_batch_size=4), ServedVoices(dia, tmp_path_factory.mktemp("voices")))
    yield running
    running.stop()


def check_speech(content: bytes, form: str | None = None, **options: str) -> None:
    """Check that encoded audio has the duration of the text, but for the padding of mp3 and aac, and is no silence."""
    duration, samples = decode(content, form, **options)
    assert duration == pytest.approx(num_samples(RATE) / RATE, abs=0.25)
    assert np.abs(samples).max() > 0.1


class TestOpenAIPython:
    """openai 3.57 for Python."""

    def test_the_player_hears_24_khz(self, miniature):
        """Raw PCM had the model's rate: `LocalAudioPlayer` plays 24 kHz, so speech was too fast or too slow."""
        request = miniature.openai().audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="coral", input=TEXT, response_format="pcm"
        )
        with request as response:
            samples = asyncio.run(LocalAudioPlayer()._tts_response_to_buffer(response))
        assert samples.shape == (num_samples(), 1)
        assert 0.1 < np.abs(samples).max() <= 1

    @pytest.mark.parametrize("form", FORMATS[:-1])
    def test_each_format_is_a_file(self, miniature, tmp_path, form):
        """A format had no header, or another one than the content type says."""
        path = tmp_path / f"speech.{form}"
        request = miniature.openai().audio.speech.with_streaming_response.create(
            model="tts-1", voice={"id": "alloy"}, input=TEXT, response_format=form
        )
        with request as response:
            response.stream_to_file(path)
        check_speech(path.read_bytes())

    def test_an_error_event_is_raised(self, serve):
        """The package did not raise the error of an event, but one about the broken connection, or none."""
        client = serve(Script(error=RuntimeError("the device is lost"))).openai()
        body = {"input": TEXT, "stream_format": "sse"}
        events = client.post("/audio/speech", body=body, cast_to=object, stream=True, stream_cls=Stream[object])
        assert next(events)["type"] == "speech.audio.delta"
        with pytest.raises(APIError, match="the request failed"):
            list(events)


class TestOpenAIJavaScript:
    """openai 7.59 for JavaScript."""

    def test_the_default_is_mp3(self, miniature):
        """A request without a format, which is how the package's examples ask, got something else than mp3."""
        headers = {"accept": "application/octet-stream", "authorization": "Bearer none", "x-stainless-lang": "js"}
        body = {"model": "tts-1", "voice": "alloy", "input": TEXT}
        response = miniature.http.post("/v1/audio/speech", json=body, headers=headers)
        assert response.headers["content-type"] == "audio/mpeg"
        check_speech(response.content, "mp3")

    def test_errors_have_their_four_fields(self, miniature):
        """`error.param`, `error.code` or `error.type` was undefined, because the envelope lacked a key."""
        response = miniature.http.post("/v1/audio/speech", json={"model": "tts-1", "voice": "nobody", "input": TEXT})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["param"] == "voice"
        assert "nobody" in error["message"]


class TestPipecat:
    """`OpenAITTSService` of pipecat-ai 1.14: raw PCM in pieces of half a second, one request a sentence."""

    async def run_tts(self, url: str, **settings) -> list[bytes]:
        client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1")
        asked = {"input": TEXT, "model": "gpt-4o-mini-tts", "voice": "alloy", "response_format": "pcm"}
        async with client.audio.speech.with_streaming_response.create(**asked | settings) as response:
            assert response.status_code == 200
            return [chunk async for chunk in response.iter_bytes(24_000)]

    def test_frames_are_whole_samples(self, miniature):
        """A frame ended within a sample: all frames after it were noise."""
        chunks = asyncio.run(self.run_tts(miniature.url, instructions="Speak calmly."))
        assert all(len(chunk) % 2 == 0 for chunk in chunks)
        assert len(b"".join(chunks)) == 2 * num_samples()

    def test_speed_works_with_streaming(self, miniature):
        """`speed` was ignored, or refused, in a stream."""
        chunks = asyncio.run(self.run_tts(miniature.url, speed=2.0))
        assert len(b"".join(chunks)) / 2 == pytest.approx(num_samples() / 2, rel=0.02)

    def test_a_wrong_field_is_a_bad_request(self, miniature):
        """A wrong field had status 422: Pipecat handles only `BadRequestError`, and its pipeline broke."""
        with pytest.raises(BadRequestError, match="speed"):
            asyncio.run(self.run_tts(miniature.url, speed=9.0))


class TestLiveKit:
    """`openai.TTS` of livekit-plugins-openai 1.8.9: server-sent events by default; reads by Content-Type."""

    async def synthesize(self, url: str, model: str = "gpt-4o-mini-tts", voice: str = "ash", form: str = "mp3"):
        """Return audio and usage, as its stream does."""
        client = AsyncOpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0)
        audio, usage = b"", {}
        async with client.audio.speech.with_streaming_response.create(
            input=TEXT,
            model=model,
            voice=voice,
            response_format=form,
            speed=1.0,
            stream_format="audio" if model == "tts-1" else "sse",
        ) as stream:
            assert stream.request_id
            media_type = stream.headers["content-type"].split(";")[0].strip().lower()
            if media_type != "text/event-stream":
                return b"".join([chunk async for chunk in stream.iter_bytes()]), media_type
            async for line in stream.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if event.get("type") == "speech.audio.delta":
                        audio += base64.b64decode(event["audio"])
                    elif event.get("type") == "speech.audio.done":
                        usage = event["usage"]
        return audio, usage

    def check(self, audio: bytes, form: str) -> None:
        if form == "pcm":
            assert len(audio) == 2 * num_samples()
        elif form == "wav":  # its own reader takes everything after the header
            assert audio[:4] + audio[8:16] == b"RIFFWAVEfmt "
            assert (
                audio[20:36]
                == b"\x01\0\x01\0" + RATE.to_bytes(4, "little") + (2 * RATE).to_bytes(4, "little") + b"\2\0\x10\0"
            )
            assert audio[36:40] == b"data"
            assert len(audio) - 44 == 2 * num_samples(RATE)
        else:
            check_speech(audio, "ogg" if form == "opus" else form, **LOW_LATENCY)

    @pytest.mark.parametrize("form", FORMATS)
    def test_events_carry_audio_and_usage(self, miniature, form):
        """Events had another field than `audio`, or a format could not be decoded by probing 32 bytes."""
        audio, usage = asyncio.run(self.synthesize(miniature.url, form=form))
        self.check(audio, form)
        assert usage["input_tokens"] > 0 < usage["output_tokens"]

    @pytest.mark.parametrize("form", FORMATS)
    def test_tts_1_is_asked_for_audio(self, miniature, form):
        """The content type of a raw stream was not one that LiveKit can decode."""
        audio, media_type = asyncio.run(self.synthesize(miniature.url, model="tts-1", form=form))
        self.check(audio, form)
        assert media_type == {"mp3": "audio/mpeg", "opus": "audio/ogg"}.get(form, f"audio/{form}")

    def test_errors_are_statuses(self, miniature):
        """An error before the audio was an event of a successful response, and LiveKit said nothing."""
        with pytest.raises(APIStatusError, match="nobody") as caught:
            asyncio.run(self.synthesize(miniature.url, voice="nobody"))
        assert caught.value.status_code == 400

    def test_a_failed_stream_breaks_off(self, serve):
        """LiveKit ignores `error` events. Half of a sentence passed for all of it, because the response ended well."""
        running = serve(Script(error=RuntimeError("the device is lost")))
        lines = []
        with running.stream(stream_format="sse") as response, pytest.raises(httpx.RemoteProtocolError):
            lines.extend(response.iter_lines())
        assert json.loads(lines[-2].removeprefix("data: "))["type"] == "error"

    def test_the_warm_up_is_answered(self, miniature):
        """`GET /v1/`, with which it opens a connection ahead of time, was an error."""
        assert miniature.http.get("/v1/", headers={"authorization": "Bearer none"}).status_code == 200


class TestWyomingOpenAI:
    """wyoming_openai 0.8.0, the proxy between Home Assistant's Wyoming protocol and OpenAI's API."""

    def test_the_probes_find_openai(self, miniature):
        """A probe took the server for LocalAI, Speaches or Kokoro-FastAPI, whose lists of voices are elsewhere."""
        assert miniature.http.get("/v1/readyz").status_code == 404  # LocalAI
        assert miniature.http.get("/health").text != "OK"  # Speaches
        assert miniature.http.get("/v1/test").status_code == 404  # Kokoro-FastAPI

    def speak(self, miniature, text: str = TEXT) -> tuple[wave._wave_params, bytes]:
        """Return parameters and audio, read in pieces of 2,048 bytes, the first of which has the whole header."""
        request = miniature.openai().audio.speech.with_streaming_response.create(
            model="tts-1", voice="shimmer", input=text, response_format="wav"
        )
        with request as response:
            pieces = list(response.iter_bytes(chunk_size=2048))
        with wave.open(io.BytesIO(pieces[0])) as file:
            parameters, offset = file.getparams(), file._file.file.tell()
        assert pieces[0][offset - 4 : offset] == b"\xff\xff\xff\xff"  # else it stops reading after so many bytes
        return parameters, b"".join(pieces)[offset:]

    def test_the_header_is_in_the_first_piece(self, miniature):
        """The header came late, or had a size that ended the audio before its end."""
        parameters, audio = self.speak(miniature)
        assert (parameters.nchannels, parameters.sampwidth, parameters.framerate) == (1, 2, RATE)
        assert len(audio) == 2 * num_samples(RATE)

    def test_three_sentences_in_parallel(self, miniature):
        """Sentences of one answer, which it requests at once, waited for each other or were refused."""
        with ThreadPoolExecutor(3) as pool:
            spoken = list(pool.map(lambda _: self.speak(miniature)[1], range(3)))
        assert {len(audio) for audio in spoken} == {2 * num_samples(RATE)}

    def test_voices_are_found(self, miniature):
        """With the backend KOKORO_FASTAPI, the list of voices was not understood."""
        voices = miniature.http.get("/v1/audio/voices").json()["voices"]
        assert "shimmer" in {voice["id"] for voice in voices}


class TestHomeAssistant:
    """`tts` of Home Assistant's integration openai_conversation."""

    @pytest.mark.parametrize("form", ["mp3", "opus", "pcm"])
    def test_speech(self, miniature, form):
        """Its fixed `instructions` and `speed`, or one of its formats, were refused."""

        async def get_audio() -> bytes:
            client = AsyncOpenAI(api_key="none", base_url=f"{miniature.url}/v1")
            async with client.audio.speech.with_streaming_response.create(
                model="gpt-4o-mini-tts",
                voice="marin",
                input=TEXT,
                instructions="None",
                speed=1.0,
                response_format=form,
            ) as response:
                return b"".join([chunk async for chunk in response.iter_bytes()])

        audio = asyncio.run(get_audio())
        if form == "pcm":
            assert len(audio) == 2 * num_samples()
        else:
            check_speech(audio)


OPEN_WEBUI = {"authorization": "Bearer", "x-openwebui-user-name": "Anna%20B", "x-openwebui-user-role": "user"}
"""Headers of Open WebUI without a key, where it names its users."""


class TestOpenWebUI:
    """Open WebUI: forwards what the browser sends, with its own additions, and stores the answer as .mp3."""

    def test_unknown_fields_are_accepted(self, miniature):
        """A field that is not OpenAI's was refused: administrators add some by TTS_OPENAI_PARAMS."""
        body = {"input": TEXT, "voice": "alloy", "model": "tts-1", "lang_code": "e", "normalization": {"url": True}}
        response = miniature.http.post("/v1/audio/speech", json=body, headers=OPEN_WEBUI)
        assert response.status_code == 200
        check_speech(response.content, "mp3")

    def test_errors_can_be_shown(self, miniature):
        """The message of an error was not where Open WebUI looks for it, so users read "Server Connection Error"."""
        body = {"input": "", "voice": "alloy", "model": "tts-1"}
        response = miniature.http.post("/v1/audio/speech", json=body, headers=OPEN_WEBUI)
        assert response.status_code == 400
        assert isinstance(response.json()["error"]["message"], str)

    def test_the_settings_list_voices_and_models(self, miniature):
        """The admin page was empty or broke, because one of the two lists is not part of OpenAI's API."""
        voices = {voice["id"]: voice["name"] for voice in miniature.http.get("/v1/audio/voices").json()["voices"]}
        models = [model["id"] for model in miniature.http.get("/v1/audio/models").json()["models"]]
        assert voices["alloy"] == "alloy"
        assert "tts-1" in models


class TestSillyTavern:
    """The "OpenAI Compatible" provider of SillyTavern: its server posts to a URL that the user enters."""

    @pytest.mark.parametrize("path", ["/v1/audio/speech", "/audio/speech"])
    def test_speech(self, miniature, path):
        """A speed that is an integer, or a URL without /v1, was refused."""
        body = {"input": TEXT, "response_format": "mp3", "voice": "onyx", "speed": 1, "model": "tts-1"}
        response = miniature.http.post(path, json=body, headers={"authorization": "Bearer"})  # without a key
        assert response.headers["content-type"] == "audio/mpeg"
        check_speech(response.content, "mp3")


class TestExamples:
    """examples/clients/openai_python.py."""

    @pytest.fixture
    def run(self, miniature, tmp_path, monkeypatch):
        """Run an example in an empty folder."""
        monkeypatch.chdir(tmp_path)
        example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "clients" / "openai_python.py"))
        return lambda *arguments: example["main"]([*arguments, "--url", f"{miniature.url}/v1"])

    def test_file(self, run):
        """The example wrote no file, or one of another format."""
        run("file")
        check_speech(Path("speech.mp3").read_bytes(), "mp3")

    def test_play(self, run, monkeypatch):
        """The example played at another rate than the audio's, or parts of samples."""
        played = []

        class Player:
            def __init__(self, samplerate, channels, dtype):
                played.append((samplerate, channels, dtype))

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

            def write(self, chunk):
                played.append(np.frombuffer(chunk, dtype="<i2"))

        sounddevice = ModuleType("sounddevice")
        sounddevice.RawOutputStream = Player
        monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)
        run("play")
        assert played[0] == (24_000, 1, "int16")
        assert sum(map(len, played[1:])) == num_samples()

    def test_events(self, run, capsys):
        """The example did not understand an event."""
        run("events")
        assert f"{num_samples() / 24_000:.2f} s of audio" in capsys.readouterr().out

    def test_voice(self, run, tone):
        """The example's voice was refused, or it stayed on the server."""
        write_audio("anna.wav", tone(5.0, 24_000), 24_000)
        run("voice", "anna.wav", "This is what I said in the recording, word for word.")
        assert decode(Path("cloned.mp3").read_bytes(), "mp3")[0] > 0.3
        run("voice", "anna.wav", "This is what I said in the recording, word for word.")

    def test_errors(self, run, capsys):
        """The example's error had no message."""
        run("errors")
        assert capsys.readouterr().out.startswith("status 400, field voice: there is no voice 'nobody'")
