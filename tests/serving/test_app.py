"""Routes over a socket, with the fake engine, and with the openai package on the miniature."""

import base64
import io
import json

import numpy as np
import openai
import pytest
import soundfile as sf

from dia_hf import Dia
from dia_hf.serving.settings import ServerSettings
from dia_hf.serving.voices import OPENAI_VOICES
from serving.fakes import FULL, Script


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/", "name"),
        ("/health", "status"),
        ("/ready", "status"),
        ("/models", "data"),
        ("/models/dia", "id"),
        ("/audio/models", "models"),
        ("/audio/voices", "voices"),
    ],
)
def test_routes_with_and_without_a_prefix(fake, prefix, path, field):
    """A base URL without `/v1`, or a HEAD request of a client that warms up, ended in 404 or 405."""
    assert fake.http.get(prefix + path).json()[field]
    head = fake.http.head(prefix + path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_speech_with_and_without_a_prefix(fake, prefix):
    """A base URL without `/v1` ended in 404; mp3 was not the default."""
    response = fake.http.post(f"{prefix}/audio/speech", json={"model": "tts-1", "input": "Hello.", "voice": "alloy"})
    assert (response.status_code, response.headers["content-type"]) == (200, "audio/mpeg")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v1/", 200),
        ("GET", "/v1/audio/speech", 405),
        ("PUT", "/v1/audio/speech", 405),
        ("BREW", "/health", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/audio/voices/x", 405),
        ("GET", "/v1/models/nope", 404),
        ("DELETE", "/v1/audio/voices/nobody", 404),
        ("GET", "/v1/models/%ff%fe", 404),
        ("GET", "/" + "x" * 5000, 404),
    ],
)
def test_wrong_routes_and_methods(fake, method, path, status):
    """A wrong path or method was answered with FastAPI's JSON, which no client of OpenAI's API can read."""
    response = fake.http.request(method, path)
    assert response.status_code == status
    if status != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert ("allow" in response.headers) == (status == 405)


def test_allowed_methods(fake):
    """The answer to a wrong method hid that voices can be added."""
    response = fake.http.put("/v1/audio/voices")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert "POST" in response.json()["error"]["message"]


def test_lists(fake):
    """A list had one client's form only; Open WebUI reads `voices` and `models`, the SDK `data`."""
    voices = fake.http.get("/v1/audio/voices").json()
    assert voices["object"] == "list" and voices["voices"] == [{"id": "voice_1", "name": "anna"}]
    described = {"id": "voice_1", "object": "audio.voice", "created_at": 1_700_000_000, "name": "anna"}
    assert voices["data"] == [{**described, "type": "audio_sample"}]
    assert fake.http.get("/v1/audio/models").json()["models"][0] == {"id": "dia"}
    client = fake.openai()
    assert "tts-1" in [model.id for model in client.models.list()]
    model = client.models.retrieve("dia")
    assert (model.object, model.owned_by) == ("model", "dia-hf") and model.created > 0


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello.", "[S1] Hello."),
        ("  Hello.\n", "[S1] Hello."),
        ("[S2] Hello.", "[S2] Hello."),
        ("Hello. [S2] Hi!", "[S1] Hello. [S2] Hi!"),
    ],
)
def test_speaker_tags(fake, text, spoken):
    """A text without tags, as all clients of OpenAI's API send it, was refused or spoken by nobody."""
    assert fake.speak(input=text).status_code == 200
    assert fake.engine.handles[0].request.text == spoken


def test_a_language_stays_before_the_speaker(fake, monkeypatch):
    """`[nl] Dag.` became `[S1] [nl] Dag.`, which a fine-tune has never read."""
    monkeypatch.setattr(fake.engine.dia.processor.tokenizer, "language_tokens", ["[nl]"])
    for text in ("[nl] Dag.", "[nl] [S2] Dag."):
        assert fake.speak(input=text).status_code == 200
    assert [handle.request.text for handle in fake.engine.handles] == ["[nl] [S1] Dag.", "[nl] [S2] Dag."]


def test_options_reach_the_engine(fake):
    """A field was checked and then forgotten."""
    options = {"seed": 7, "cfg_scale": 2.5, "temperature": 1.1, "top_p": 0.8, "cfg_filter_top_k": 30, "max_seconds": 5}
    assert fake.speak(stream=False, **options).status_code == 200
    request = fake.engine.handles[0].request
    assert {name: getattr(request, name) for name in options} == options and not request.is_streamed
    assert fake.speak().headers["x-seed"] == "1234" and fake.engine.handles[1].request.is_streamed


@pytest.mark.parametrize("voice", [*OPENAI_VOICES, None, "anna", {"id": "voice_1"}])
def test_voices(fake, voice):
    """One of the 13 names of OpenAI's clients, or a voice object, was unknown."""
    assert fake.speak(voice=voice, input="[S2] Hello.").status_code == 200
    assert fake.voices.asked == [voice["id"] if isinstance(voice, dict) else voice]
    expected = {"[S2]": fake.voices.anna} if voice in ("anna", {"id": "voice_1"}) else None
    assert fake.engine.handles[0].request.voices == expected  # under the tag of the text


def test_a_voice_for_each_speaker(fake):
    """The second speaker of a dialogue had the voice of the first."""
    assert fake.speak(voices={"S1": "alloy", "[S2]": "anna"}, voice="nobody").status_code == 200
    assert fake.engine.handles[0].request.voices == {"[S2]": fake.voices.anna}


@pytest.mark.parametrize("speaker", ["anna", "S3", "s1", "S٢", "", "S" + "1" * 5000])
def test_an_unknown_speaker(fake, speaker):
    """A speaker that the model has not was the engine's to find, whose error named no field, and repeated it whole."""
    response = fake.speak(voices={speaker: "anna"})
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == "voices"
    assert "S1, S2" in error["message"] and len(error["message"]) < 300


def test_an_unknown_voice(fake):
    """A misspelled voice was replaced by another one, or ended in a status of 500."""
    response = fake.speak(voice="nobody")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "voice" and "there are anna" in response.json()["error"]["message"]


def test_a_prompt(fake):
    """The recording of a request was ignored where the client sends a voice as well, which the SDK demands."""
    encoded = base64.b64encode(b"RIFF").decode()
    fields = {"voice": "alloy", "audio_prompt": encoded}
    assert fake.speak(**fields, audio_prompt_transcript="Hi.").status_code == 200
    assert fake.engine.handles[0].request.voices["[S1]"].name == "4 bytes, Hi."
    error = fake.speak(**fields).json()["error"]
    assert error["param"] == "audio_prompt" and "transcript" in error["message"]


def test_uploads(fake):
    """A field of an upload was lost on its way, or a wrong one ended in a status of 500."""
    client = fake.openai()
    voice = client.audio.voices.create(
        name="ben", audio_sample=("b.wav", b"RIFF"), consent="cons_1", extra_body={"transcript": "Hello."}
    )
    assert fake.voices.added == ("ben", b"RIFF", "b.wav", "Hello.", "cons_1")
    assert (voice.id, voice.name, voice.object, voice.created_at) == ("voice_2", "ben", "audio.voice", 1_700_000_001)
    gone = client.audio.voices.delete("voice_1")
    assert (gone.id, gone.deleted, gone.object) == ("voice_1", True, "audio.voice.deleted")
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.audio.voices.delete("nobody")
    with pytest.raises(openai.BadRequestError, match="already a voice 'anna'"):
        client.audio.voices.create(name="anna", audio_sample=b"RIFF", consent="cons_1")
    with pytest.raises(openai.BadRequestError, match="made of recordings"):
        client.audio.voices.create(name="ben", type="prompt", prompt="A low voice.")


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({}, {"name": "ben"}, "audio_sample"),
        ({"audio_sample": b"x"}, {}, "name"),
        ({"audio_sample": b"x", "name": b"ben"}, {}, None),
        ({"audio_sample": b"x"}, {"name": "ben", "type": "prompt"}, "type"),
        ({"audio_sample": b"x"}, {"name": "ben", "transcript": "x" * 2**17}, None),
    ],
)
def test_wrong_uploads(fake, files, data, param):
    """A form without a field, with two files or an endless text ended in a status of 500."""
    files = {name: (name, content) for name, content in files.items()} or {"other": ("x", b"x")}
    response = fake.http.post("/v1/audio/voices", files=files, data=data)
    assert response.status_code == 400 and response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary in it"),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\n--x--"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\ncontent-disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x; charset=nope",
            b"--x\r\ncontent-disposition: form-data; name=a\r\n\r\nb\r\n--x--",
        ),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data\r\n\r\nb\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 300, b""),
        ("text/plain", b"x"),
        ("application/json", b"{"),
        ("", b""),
    ],
)
def test_damaged_forms(fake, kind, content):
    """An error of the form's parser ended in a status of 500."""
    response = fake.http.post("/v1/audio/voices", content=content, headers={"content-type": kind})
    assert response.status_code in (400, 415) and response.json()["error"]["message"]


def test_a_large_upload(serve):
    """A recording of any size was read into memory."""
    server = serve(settings=ServerSettings(max_upload=1000))
    for size in (1001, 2**21):
        response = server.http.post(
            "/v1/audio/voices", files={"audio_sample": ("a.wav", b"x" * size)}, data={"name": "ben"}
        )
        assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"


def test_cors(serve):
    """A page could use a server that no origin was allowed for, or the preflight of an allowed one needed the key."""
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    closed = serve()
    assert "access-control-allow-origin" not in closed.http.get("/health", headers=preflight).headers
    settings = ServerSettings(cors_origins=("https://a.example",), api_keys=("key",))
    allowed = serve(settings=settings)
    asked = {**preflight, "access-control-request-headers": "authorization,content-type"}
    response = allowed.http.options("/v1/audio/speech", headers=asked)
    assert response.status_code == 200 and response.headers["access-control-allow-origin"] == "https://a.example"
    refused = allowed.http.post("/v1/audio/speech", headers={"origin": "https://a.example"})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://a.example"
    other = allowed.http.get("/health", headers={"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_the_sdk_retries(serve):
    """A full queue had no `retry-after`, or a status that the SDK does not try again."""
    server = serve(Script(refusal=FULL))
    told = []

    class Told(openai.OpenAI):
        def _calculate_retry_timeout(self, remaining_retries, options, response_headers=None):
            told.append(response_headers["retry-after"])
            server.engine.script = Script()
            return 0.0

    client = Told(base_url=f"{server.url}/v1", api_key="none", max_retries=1)
    assert client.audio.speech.create(model="tts-1", input="Hello.", voice="alloy").content
    assert told == ["1"]
    server.engine.script = Script(refusal=FULL)
    with pytest.raises(openai.RateLimitError, match="queue is full"):
        server.openai().audio.speech.create(model="tts-1", input="Hello.", voice="alloy")


def test_the_sdk_times_out(serve):
    """A request that the SDK gave up went on in the engine."""
    server = serve(Script(hold_after=0))
    with pytest.raises(openai.APITimeoutError):
        server.openai(timeout=0.2).audio.speech.create(model="tts-1", input="Hello.", voice="alloy")
    assert server.engine.handles[0].ended.wait(30) and server.engine.handles[0].finish_reason == "canceled"


# --- the miniature ---

TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia."


def is_same(content, expected):
    """Compare raw PCM; the codec rounds by the lengths of its batches, which depend on timing."""
    samples, others = (np.frombuffer(one, "<i2").astype(int) for one in (content, expected))
    return len(samples) == len(others) and np.abs(samples - others).max() <= 1


def test_the_sdk_speaks(miniature, tmp_path):
    """A way of the SDK to read speech failed, or the audio depended on it."""
    speech = miniature.openai().audio.speech
    options = {"model": "tts-1", "input": TEXT, "voice": "alloy", "extra_body": {"seed": 7}}
    whole = speech.create(**options, response_format="pcm").content
    with speech.with_streaming_response.create(**options, response_format="pcm") as response:
        assert response.request_id and response.headers["x-seed"] == "7"
        streamed = b"".join(response.iter_bytes())
    assert is_same(streamed, whole) and len(whole) > 24000
    with speech.with_streaming_response.create(**options, response_format="wav") as response:
        response.stream_to_file(tmp_path / "speech.wav")
    assert (tmp_path / "speech.wav").stat().st_size > 32000
    with speech.with_streaming_response.create(**options, response_format="pcm", stream_format="sse") as response:
        events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert is_same(b"".join(base64.b64decode(one["audio"]) for one in events[:-1]), whole)
    done = events[-1]
    num_frames = done["usage"]["output_tokens"]
    assert done["finish_reason"] == "stop" and done["seed"] == 7
    codec = Dia.from_pretrained().processor.codec
    assert len(whole) // 2 == num_frames * 24000 * codec.hop_length // codec.sampling_rate
    flac = speech.create(**{**options, "extra_body": {"seed": 7, "stream": False}}, response_format="flac").content
    assert sf.info(io.BytesIO(flac)).duration == num_frames / codec.frame_rate


def test_the_sdk_creates_a_voice(miniature):
    """A voice of the SDK could not be used in a request, or stayed after its deletion."""
    client = miniature.openai()
    options = {"model": "tts-1", "response_format": "flac", "input": "[S1] Welcome, Dia."}
    seeded = {"extra_body": {"seed": 3, "stream": False}}
    recording = client.audio.speech.create(**options, **seeded, voice="alloy").content
    extra = {"extra_body": {"transcript": "Welcome, Dia."}}
    voice = client.audio.voices.create(name="ben", audio_sample=("b.flac", recording), consent="cons_1", **extra)
    assert voice.name == "ben" and voice.object == "audio.voice"
    assert "ben" in [one["name"] for one in miniature.http.get("/v1/audio/voices").json()["voices"]]
    by_name = client.audio.speech.create(**options, **seeded, voice="ben").content
    assert by_name == client.audio.speech.create(**options, **seeded, voice={"id": voice.id}).content != recording
    encoded = base64.b64encode(recording).decode()
    prompt = {"audio_prompt": encoded, "audio_prompt_transcript": "Welcome, Dia."}
    given = {"extra_body": {**seeded["extra_body"], **prompt}}
    assert by_name == client.audio.speech.create(**options, **given, voice="alloy").content
    client.audio.voices.delete(voice.id)
    with pytest.raises(openai.BadRequestError, match="there is no voice"):
        client.audio.speech.create(**options, voice="ben")


def test_long_texts(miniature):
    """A text of more than one chunk was cut, or refused."""
    text = "[S1] Hello, I am Dia. [S2] Welcome, Dia. " * 12
    response = miniature.speak(input=text, response_format="pcm", stream=False, seed=1)
    one = miniature.speak(input=TEXT, response_format="pcm", stream=False, seed=1)
    assert len(response.content) > 6 * len(one.content)
    assert np.abs(np.frombuffer(response.content, "<i2")).max() > 1000
