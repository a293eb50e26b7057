"""Times of words and characters from the server, in the shapes of OpenAI, Kokoro-FastAPI and ElevenLabs."""

import asyncio
import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")

from dia_hf.audio.encoders import FORMATS, StreamEncoder
from dia_hf.serving.captions import CharacterAlignment, split_output_format
from dia_hf.serving.errors import ApiError
from dia_hf.serving.settings import ServerSettings
from dia_hf.speech.subtitles import format_subtitles
from dia_hf.speech.timestamps import TimedText
from same_audio import assert_same_audio
from serving.fakes import FRAME, RATE, FakeDia, Script
from serving.test_body import audio_of, decode, events_of
from serving.test_websocket import opened

TEXT = "  Hello,\n I am Dia. [S2] Good morning, father. "
WORDS = ["Hello,", "I", "am", "Dia.", "Good", "morning,", "father."]
CHUNK = 10 * FRAME / RATE  # seconds of a chunk, and of a word, of the fake engine


def as_sent(words, text):
    assert all(text[word["start_char"] : word["end_char"]] == word["word"] for word in words)
    return [word["word"] for word in words]


def words_of(events):
    return [word for event in events if event["type"] == "speech.audio.words" for word in event["words"]]


def lines_of(response):
    return [json.loads(line) for line in response.text.splitlines()]


def aligned(parts):
    """The characters of ElevenLabs' shape, with times, joined over the lines of a stream."""
    found = [part["alignment"] for part in parts if part["alignment"] is not None]
    assert all(part["normalized_alignment"] == part["alignment"] for part in parts)
    names = ("characters", "character_start_times_seconds", "character_end_times_seconds")
    return [[one for alignment in found for one in alignment[name]] for name in names]


# --- server-sent events ---


def test_events_tell_the_words(miniature):
    """Words had places in another text than the one that was sent, came after their audio, or changed the audio."""
    fields = {"input": TEXT, "response_format": "pcm", "stream_format": "sse", "seed": 7, "sample_rate": 16000}
    plain = events_of(miniature.speak(**fields).text.splitlines())
    events = events_of(miniature.speak(**fields, word_timestamps=True).text.splitlines())
    assert_same_audio(audio_of(events), audio_of(plain))
    words = words_of(events)
    assert as_sent(words, TEXT) == WORDS
    assert [word["speaker"] for word in words] == ["[S1]"] * 4 + ["[S2]"] * 3
    num_bytes, num_told = 0, 0
    for event in events:
        if event["type"] == "speech.audio.words":
            num_told += len(event["words"])
        elif event["type"] == "speech.audio.delta":  # after the words that end in it
            num_bytes += len(base64.b64decode(event["audio"]))
            assert num_told == sum(word["end"] * 2 * 16000 <= num_bytes + 32 for word in words)
    assert words[-1]["end"] <= num_bytes / 2 / 16000


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["pcm", "mp3", "aac", "opus"])
def test_times_are_those_of_the_audio(fake, name, speed):
    """Times ignored the speed, or the silence that a decoder returns before the audio."""
    events = events_of(
        fake.speak(response_format=name, stream_format="sse", speed=speed, word_timestamps=True).text.splitlines()
    )
    rate = {"pcm": 24000}.get(name, RATE)
    delay = FORMATS[name].delay / rate
    times = [(word["start"], word["end"]) for word in words_of(events)]
    expected = [(number * CHUNK / speed + delay, (number + 1) * CHUNK / speed + delay) for number in range(4)]
    assert np.allclose(times, expected, atol=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_delay_of_formats(name, rate):
    """A decoder returned more silence before the audio than the times have, or less."""
    audio = np.zeros(rate, np.float32)
    begin, end = int(0.4 * rate), int(0.5 * rate)
    audio[begin:end] = 0.5 * np.sin(2 * np.pi * 600 * np.arange(end - begin) / rate)
    encoder = StreamEncoder(name, rate)
    content = encoder.encode(audio) + encoder.finish()
    if name == "pcm":
        samples, decoded_rate = np.frombuffer(content, "<i2") / 32768, rate
    else:
        av = pytest.importorskip("av")
        with av.open(io.BytesIO(content)) as container:
            frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            samples, decoded_rate = np.concatenate(frames, axis=1)[0], container.streams.audio[0].rate
        samples = samples / 32768 if samples.dtype.kind == "i" else samples
    energy = np.cumsum(samples.astype(float) ** 2)
    middle = np.searchsorted(energy, energy[-1] / 2) / decoded_rate  # of the tone
    assert middle == pytest.approx(0.45 + FORMATS[name].delay / encoder.sampling_rate, abs=0.004)


def test_raw_audio_has_no_room_for_times(fake):
    """A request for words got audio without any, and no hint."""
    response = fake.speak(word_timestamps=True)
    assert response.status_code == 400 and response.json()["error"]["param"] == "word_timestamps"
    assert "`stream_format`" in response.json()["error"]["message"]


# --- Kokoro-FastAPI ---


@pytest.mark.parametrize("stream", [True, False])
def test_captioned_speech(miniature, stream):
    """A client of Kokoro-FastAPI found no audio or no words, or the words of a stream were not all of them."""
    body = {"input": TEXT, "response_format": "wav", "seed": 7, "stream": stream, "model": "kokoro"}
    response = miniature.http.post("/dev/captioned_speech", json=body)
    assert response.status_code == 200
    kind = "application/x-ndjson" if stream else "application/json"
    assert response.headers["content-type"] == kind
    parts = lines_of(response)
    assert len(parts) > 1 if stream else len(parts) == 1
    assert all(part["audio"] or part["timestamps"] for part in parts)
    assert {part["audio_format"] for part in parts} == {"audio/wav"}
    words = [word for part in parts for word in part["timestamps"]]
    assert [word["word"] for word in words] == WORDS
    assert all(set(word) == {"word", "start_time", "end_time"} for word in words)
    audio = b"".join(base64.b64decode(part["audio"]) for part in parts)
    plain = miniature.speak(input=TEXT, response_format="wav", seed=7, stream=stream).content
    assert audio == plain
    samples, rate = decode(audio, "wav")
    assert 0 <= words[0]["start_time"] < words[-1]["end_time"] <= len(samples) / rate
    without = miniature.http.post("/v1/dev/captioned_speech", json={**body, "return_timestamps": False})
    assert all(part["timestamps"] == [] for part in lines_of(without))


# --- ElevenLabs ---


@pytest.mark.parametrize("path", ["with-timestamps", "stream/with-timestamps"])
def test_characters_of_elevenlabs(miniature, path):
    """A client of ElevenLabs found other characters than it had sent, times that go back, or other audio."""
    body = {"text": TEXT, "model_id": "eleven_multilingual_v2", "seed": 7, "voice_settings": {"stability": 0.5}}
    route = f"/v1/text-to-speech/alloy/{path}?output_format=pcm_16000"
    parts = lines_of(miniature.http.post(route, json=body))
    characters, starts, ends = aligned(parts)
    assert "".join(characters) == TEXT
    assert starts == sorted(starts) and ends == sorted(ends)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))
    words = events_of(
        miniature.speak(
            input=TEXT, seed=7, response_format="pcm", stream_format="sse", word_timestamps=True
        ).text.splitlines()
    )
    for word in words_of(words):
        assert starts[word["start_char"]] == pytest.approx(word["start"], abs=0.002)
    audio = b"".join(base64.b64decode(part["audio_base64"]) for part in parts)
    plain = miniature.http.post(
        f"/v1/text-to-speech/alloy/{path.removesuffix('with-timestamps')}".rstrip("/"),
        params={"output_format": "pcm_16000"},
        json=body,
    )
    assert plain.headers["content-type"] == "audio/pcm" and plain.content == audio


def test_fields_of_elevenlabs(fake):
    """The voice, speed, seed, format or rate of a client of ElevenLabs was ignored, or an error named another field."""
    body = {"text": "Hello.", "seed": 5, "voice_settings": {"speed": 2.0}}
    response = fake.http.post("/v1/text-to-speech/anna", params={"output_format": "wav_24000"}, json=body)
    assert fake.voices.asked == ["anna"] and fake.engine.handles[-1].request.seed == 5
    samples, rate = decode(response.content, "wav")
    assert rate == 24000 and len(samples) / rate == pytest.approx(2 * CHUNK, abs=0.01)
    default = fake.http.post("/v1/text-to-speech/anna/stream", json={"text": "Hello."})
    assert default.headers["content-type"] == "audio/mpeg" and default.headers["x-sample-rate"] == "44100"
    for query, told in (("ulaw_8000", "`output_format` is 'ulaw_8000'"), ("pcm_96000", "48,000")):
        response = fake.http.post("/v1/text-to-speech/anna", params={"output_format": query}, json={"text": "Hello."})
        assert response.status_code == 400 and told in response.json()["error"]["message"]
    missing = fake.http.post("/v1/text-to-speech/anna", json={"input": "Hello."})
    assert missing.status_code == 400 and missing.json()["error"]["param"] == "text"
    for path, name in (("text-to-speech/anna", "text"), ("audio/speech", "input")):
        long = fake.http.post(f"/v1/{path}", json={name: "Hello. " * 1000}).json()["error"]
        assert long["param"] == name and f"`{name}` has 7,000 characters" in long["message"]


def test_key_of_elevenlabs(serve):
    """A client of ElevenLabs, which sends `xi-api-key`, was refused."""
    running = serve(settings=ServerSettings(api_keys=("secret",)))
    for headers, status in (({"xi-api-key": "secret"}, 200), ({"xi-api-key": "other"}, 401), ({}, 401)):
        response = running.http.post("/v1/text-to-speech/anna", json={"text": "Hello."}, headers=headers)
        assert response.status_code == status


@pytest.mark.parametrize("path", ["/v1/text-to-speech/anna/stream/with-timestamps", "/dev/captioned_speech"])
def test_an_error_in_a_stream_of_lines(fake, path):
    """A stream whose request failed ended as if it were complete."""
    import httpx

    fake.engine.script = Script(error=RuntimeError("broken"))
    with pytest.raises(httpx.RemoteProtocolError):
        fake.http.post(path, json={"text": "Hello.", "input": "Hello."})
    fake.engine.script = Script(num_chunks=0, error=RuntimeError("broken"))
    assert fake.http.post(path, json={"text": "Hello.", "input": "Hello."}).status_code == 500


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(text=texts, data=st.data())
@settings(max_examples=200, deadline=None)
def test_alignment_is_exact_in_any_text(text, data):
    """A character was left out or told twice, or a time went back."""
    shape, time, parts = CharacterAlignment(text), 0.0, []
    spoken = [place for place in range(len(text)) if data.draw(st.booleans())]
    cut = data.draw(st.integers(0, len(spoken)))
    for places in (spoken[:cut], spoken[cut:]):
        times = []
        for place in places:
            start = time + data.draw(st.floats(0, 1))
            time = start + data.draw(st.floats(0, 1))
            times.append(TimedText(text[place], start, time, place, place + 1, None))
        parts.append(shape.add(b"", times, is_last=False))
    parts.append(shape.add(b"", [], is_last=True))
    characters, starts, ends = aligned([part for part in parts if part is not None])
    assert "".join(characters) == text
    assert starts == sorted(starts) and ends == sorted(ends)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))


def test_output_formats():
    """A format of ElevenLabs was taken for another one."""
    assert split_output_format("mp3_22050_32") == ("mp3", 22050)
    assert split_output_format("pcm_44100") == ("pcm", 44100)
    for name in ("", "mp3", "mp3_44100_128_1", "pcm_١٦٠٠٠", "flac_44100"):
        with pytest.raises(ApiError, match="`output_format`"):
            split_output_format(name)


# --- WebSocket ---


@pytest.mark.parametrize("stream_audio", [True, False])
def test_words_of_a_websocket(miniature, stream_audio):
    """Words of a later sentence counted from the first one, had no place in the utterance, or changed the audio."""
    pieces, found = ["  Hello,\n I am Dia. Wel", "come, ", "Dia."], []
    for wanted in (False, True):
        with opened(miniature) as client:
            fields = {"response_format": "pcm", "stream_audio": stream_audio, "seed": 3, "sample_rate": 16000}
            told = client.configure(**fields, word_timestamps=wanted)
            assert told["word_timestamps"] is wanted
            client.say(*pieces)
            found.append(client.receive())
    plain, timed = found
    assert_same_audio(*(b"".join(one for one in events if isinstance(one, bytes)) for events in (timed, plain)))
    assert not any(not isinstance(one, bytes) and one["type"] == "audio.words" for one in plain)
    text, num_bytes, words = "".join(pieces), 0, {0: [], 1: []}
    for one in timed:
        if isinstance(one, bytes):
            num_bytes += len(one)
        elif one["type"] == "audio.words":
            words[one["sentence_index"]] += one["words"]
        elif one["type"] == "audio.done":
            own = words[one["sentence_index"]]
            assert 0 <= own[0]["start"] < 0.5 and own[-1]["end"] <= num_bytes / 2 / 16000
            num_bytes = 0
    assert as_sent(words[0] + words[1], text) == ["Hello,", "I", "am", "Dia.", "Welcome,", "Dia."]


# --- models without alignment heads ---


def test_heads_are_found_once(serve):
    """Each request for times waited for the heads anew, or a model without any was asked for them at every request."""
    running = serve()
    fields = {"stream_format": "sse", "word_timestamps": True, "response_format": "pcm"}
    for _ in range(3):
        assert words_of(events_of(running.speak(**fields).text.splitlines()))
    assert running.engine.dia.num_asked == 1
    running.engine.dia = FakeDia(RATE, running.engine.dia.processor, ValueError("no head follows the text."))
    for _ in range(2):
        response = running.speak(**fields)
        assert response.status_code == 400 and response.json()["error"]["code"] == "no_timestamps"
    assert running.engine.dia.num_asked == 1
    assert running.speak(stream_format="sse").status_code == 200
    with opened(running) as client:
        client.send("session.config", word_timestamps=True)
        (error,) = client.receive()
        assert error["code"] == "no_timestamps"


def test_others_go_on_while_heads_are_found(serve):
    """While heads were found, all threads of the server waited for them, and with them other requests."""
    import threading

    running, finding, release = serve(), threading.Event(), threading.Event()

    def find():
        finding.set()
        assert release.wait(30)
        return [[0, 0]]

    running.engine.dia.alignment_heads = find
    fields = {"stream_format": "sse", "word_timestamps": True, "response_format": "pcm"}
    answers = []
    waiting = [threading.Thread(target=lambda: answers.append(running.speak(**fields))) for _ in range(40)]
    for thread in waiting:
        thread.start()
    assert finding.wait(30)
    assert running.speak().status_code == 200
    release.set()
    for thread in waiting:
        thread.join(60)
    assert len(answers) == 40 and all(answer.status_code == 200 for answer in answers)


def test_a_client_that_leaves_does_not_end_the_search(serve):
    """The first client left, and the search for heads was canceled for those that waited with it."""
    from dia_hf.serving.captions import TimestampModels

    async def run():
        models, dia = TimestampModels(), FakeDia(RATE, None)
        first = asyncio.ensure_future(models.prepare(dia))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await models.prepare(dia)
        return dia.num_asked

    assert asyncio.run(run()) == 1


# --- subtitles ---

WORD = {"word": "Hello.", "start": 0.1, "end": 0.5, "start_char": 5, "end_char": 11, "speaker": "[S1]"}


def test_subtitles_of_words(fake):
    """Words of a stream made other subtitles than those of the library."""
    words = [WORD, {**WORD, "word": "<b>&", "start": 0.6, "end": 1.0, "start_char": 12, "end_char": 16}]
    expected = format_subtitles([TimedText(*list(word.values())[:5], "[S1]") for word in words], ".vtt")
    made = fake.http.post("/v1/audio/subtitles", json={"words": words, "response_format": "vtt"})
    assert made.text == expected and "<v S1>" in made.text and "&lt;b&gt;&amp;" in made.text
    assert made.headers["content-type"] == "text/vtt; charset=utf-8"
    made = fake.http.post("/audio/subtitles", json={"words": words})
    assert made.text.startswith("1\n00:00:00,100 --> 00:00:00,500\nHello.\n")
    assert fake.http.post("/audio/subtitles", json={"words": []}).text == ""


@pytest.mark.parametrize(
    "words",
    [
        None,
        {},
        ["Hello."],
        [{**WORD, "word": "a\n\n00:00:00,000 --> 00:00:01,000"}],
        [{**WORD, "word": ""}],
        [{**WORD, "start": -1}],
        [{**WORD, "end": 1e300}],
        [{**WORD, "end": 0.0}],
        [WORD, WORD],
        [{**WORD, "speaker": "S1>--> "}],
        [{**WORD, "start_char": "first"}],
    ],
)
def test_words_that_make_no_subtitles(fake, words):
    """A word with lines of its own made cues, or words in a wrong order made subtitles that no player shows."""
    response = fake.http.post("/v1/audio/subtitles", json={"words": words})
    assert response.status_code == 400 and response.json()["error"]["param"] == "words"


def test_the_word_that_is_wrong_is_named(fake):
    """For a word without a time the error was that `words` is missing."""
    bare = {name: value for name, value in WORD.items() if name != "start"}
    error = fake.http.post("/v1/audio/subtitles", json={"words": [WORD, bare]}).json()["error"]
    assert error["message"] == "`words[1].start` is missing; give it." and error["param"] == "words"
