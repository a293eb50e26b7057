"""Bodies of requests, parsed and bounded."""

import base64
import json
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.serving.errors import ApiError
from dia_hf.serving.requests import SpeechBody, parse_json, parse_speech
from dia_hf.serving.settings import ServerSettings

SETTINGS = ServerSettings(max_input=50, max_seconds=10.0)


def parse(**fields):
    return parse_speech(json.dumps({"input": "Hello.", **fields}).encode(), SETTINGS)


def test_defaults():
    """A client that sends the text alone was refused, or got another format than mp3."""
    body = parse()
    assert (body.response_format, body.speed, body.stream_format, body.stream) == ("mp3", 1.0, "audio", True)
    assert body.voice_name is None and body.seed is None and body.max_seconds == 10


def test_unknown_fields_and_nulls():
    """Open WebUI's fields, or a null for an absent field, ended in an error."""
    body = parse(user="x", background_audio=None, speed=None, voice=None, lang_code="en", response_format=None)
    assert body.speed == 1 and body.response_format == "mp3"


@pytest.mark.parametrize("voice", ["anna", {"id": "anna"}, {"id": "anna", "more": 1}])
def test_voices(voice):
    """A voice object of newer SDKs was refused."""
    assert parse(voice=voice).voice_name == "anna"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", ""),
        ("input", " \n\t"),
        ("input", "[S1] [S2]"),
        ("input", 7),
        ("input", None),
        ("input", "x" * 51),
        ("voice", 7),
        ("voice", {"name": "anna"}),
        ("voice", ["anna"]),
        ("response_format", "exe"),
        ("response_format", 7),
        ("speed", 0.2),
        ("speed", 4.1),
        ("speed", "fast"),
        ("stream_format", "ws"),
        ("stream", "perhaps"),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 10**400),
        ("seed", 0.5),
        ("cfg_scale", 0),
        ("cfg_scale", 1e300),
        ("temperature", -0.1),
        ("temperature", 1e-40),
        ("top_p", 0),
        ("top_p", 1.1),
        ("cfg_filter_top_k", 0),
        ("cfg_filter_top_k", 2**40),
        ("max_seconds", 0),
        ("max_seconds", 11),
        ("sample_rate", 7999),
        ("sample_rate", 48001),
        ("sample_rate", 44100.5),
        ("voices", ["anna"]),
        ("voices", {"S1": 7}),
    ],
)
def test_known_fields_are_checked(field, value):
    """A wrong value reached the engine, or the error did not name its field."""
    with pytest.raises(ApiError) as caught:
        parse(**{field: value})
    assert (caught.value.status, caught.value.param) == (400, field)
    assert "alue error" not in caught.value.message and field in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b"\xff\xfe{\x00}\x00",
        b'{"input": "\xe4"}',
        b'{"input": "\\ud83d"}',
        b'{"input": "x", "more": NaN}',
        b'{"input": "x", "speed": Infinity}',
        b'{"input": "x", "speed": 1e999}',
        b"[" * 100_000,
        b'{"input": "x", "more": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"input": "x", "seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_bad_json(content):
    """A body that is no JSON, or more than the standard's, ended in a status of 500."""
    with pytest.raises(ApiError) as caught:
        parse_speech(content, SETTINGS)
    assert caught.value.status == 400 and len(caught.value.message) < 500


def test_byte_order_mark():
    """A body that an editor saved with a byte order mark was refused."""
    assert parse_json(b'\xef\xbb\xbf{"input": "\\ud83d\\ude00"}') == {"input": "😀"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(SpeechBody.model_fields)) | st.text(), anything))
def test_any_object(fields):
    """A combination of values raised another error than those that are sent to the client."""
    try:
        body = parse_speech(json.dumps({"input": "Hello.", **fields}).encode(), SETTINGS)
    except ApiError as error:
        json.dumps(error.content, ensure_ascii=False).encode()
    else:
        assert body.input and 0.25 <= body.speed <= 4


@given(st.binary(max_size=40))
def test_any_bytes(content):
    """Some bytes raised another error than those that are sent to the client."""
    with suppress(ApiError):
        parse_json(content)


def test_rates():
    """Raw PCM came at the model's rate; clients play it at 24 kHz."""
    assert parse(response_format="pcm").rate(44100) == 24000
    assert parse(response_format="pcm", sample_rate=44100).rate(44100) == 44100
    assert parse(response_format="wav").rate(44100) == 44100
    assert parse(response_format="mp3", sample_rate=16000).rate(44100) == 16000


def test_prompt():
    """A data URL was refused, or a damaged recording raised an error of the base64 module."""
    encoded = base64.b64encode(b"RIFF").decode()
    assert parse().prompt(10) is None
    assert parse(audio_prompt=encoded).prompt(10) == b"RIFF"
    assert parse(audio_prompt=f"data:audio/wav;base64,{encoded}").prompt(10) == b"RIFF"
    for damaged in ("%%%", "abc", "ä"):
        with pytest.raises(ApiError) as caught:
            parse(audio_prompt=damaged).prompt(10)
        assert (caught.value.status, caught.value.param) == (400, "audio_prompt")
    with pytest.raises(ApiError) as caught:
        parse(audio_prompt=encoded).prompt(3)
    assert caught.value.status == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "é"])
def test_other_content_types(fake, kind):
    """A page of another origin could send a request without the browser's preflight."""
    headers = {"content-type": kind.encode("latin-1")}
    response = fake.http.post("/v1/audio/speech", content=b'{"input": "Hello."}', headers=headers)
    assert response.status_code == 415 and response.json()["error"]["message"]
    assert not fake.engine.handles


@pytest.mark.parametrize("kind", [None, "application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_content_types(fake, kind):
    """A client that names the encoding, or nothing at all, was refused."""
    headers = {} if kind is None else {"content-type": kind}
    assert fake.http.post("/audio/speech", content=b'{"input": "Hello."}', headers=headers).status_code == 200


def test_large_bodies(serve):
    """A body without a length was read to its end, or the connection was reset before the error could be read."""
    server = serve(settings=ServerSettings(max_upload=1000))
    headers = {"content-type": "application/json"}
    for content in (b" " * 2**22, iter([b" " * 2**16] * 64)):
        response = server.http.post("/v1/audio/speech", content=content, headers=headers)
        assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"
    head = b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + 17 * (b"10000\r\n" + b" " * 2**16 + b"\r\n"))
        assert connection.recv(12) == b"HTTP/1.1 413"  # before the end of the body
    assert server.speak().status_code == 200


def exchange(port, *parts):
    """Send bytes, and return all that comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while part := connection.recv(2**16):
            received += part
    return received


def test_a_claimed_length(fake):
    """A length beyond the limit was believed, and the server waited for the body."""
    head = b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    received = exchange(fake.port, head + b"content-length: 99999999999\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 413") and b"body_too_large" in received


def test_a_body_that_does_not_come(serve):
    """A client that sends half of a body held a connection for ever."""
    server = serve(settings=ServerSettings(io_timeout=0.2))
    head = b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
    received = exchange(server.port, head + b"content-length: 10\r\n\r\n", b'{"in')
    assert received.startswith(b"HTTP/1.1 408") and b'"code":"timeout"' in received
