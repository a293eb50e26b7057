"""Keys, request ids, refusals, unforeseen errors."""

import logging

import openai
import pytest

from dia_hf.serving.settings import ServerSettings
from serving.fakes import Script

CLOSED = ServerSettings(api_keys=("first-key", "second-key"))


def test_no_keys(fake):
    """A key that a client sends where none is needed was refused."""
    for headers in ({}, {"authorization": "Bearer anything"}, {"authorization": "Basic x"}):
        assert fake.http.get("/v1/models", headers=headers).status_code == 200


def test_keys(serve):
    """A wrong key passed, or one of several right ones did not."""
    server = serve(settings=CLOSED)
    for key in ("first-key", "second-key"):
        assert server.openai(api_key=key).models.list()
        assert server.http.get("/models", headers={"authorization": f"bearer  {key}"}).status_code == 200
    with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer"):
        server.openai(api_key="third-key").models.list()
    wrong = ["", "first-key", "Bearer", "Bearer first", "Bearer first-keyx", "Basic first-key", "Bearer \xe9"]
    for value in wrong:
        response = server.http.get("/v1/models", headers={"authorization": value.encode("latin-1")})
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert "first-key" not in response.text
    assert server.speak().status_code == 401 and not server.engine.handles


def test_open_routes(serve):
    """A probe without a key was refused, and the server was restarted for it; or the metrics were open to all."""
    server = serve(settings=CLOSED)
    for path in ("/", "/v1", "/v1/", "/health", "/ready", "/v1/health"):
        assert server.http.get(path).status_code == 200
    assert server.http.get("/metrics").status_code == server.http.get("/openapi.json").status_code == 401
    open_metrics = ServerSettings(api_keys=("key",), has_open_metrics=True)
    assert serve(settings=open_metrics).http.get("/metrics").status_code == 200


@pytest.mark.parametrize("key", ["", " ", "two words", "schlüssel", "tab\t"])
def test_unusable_keys(key):
    """A blank line of a file of keys opened the server to all, or an error repeated a key."""
    with pytest.raises(ValueError, match="API key 2 of 2 is blank") as caught:
        ServerSettings(api_keys=("fine", key))
    assert not key.strip() or key not in str(caught.value)


def test_request_ids(fake):
    """A response had no id, or a client's id could forge lines of the log."""
    assert fake.http.get("/health", headers={"x-request-id": "my.id-1"}).headers["x-request-id"] == "my.id-1"
    ids = [fake.http.get("/nope", headers={"x-request-id": "a b"}).headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2 and all(len(one) == 32 for one in ids)


def test_draining(fake):
    """A server that shuts down took new requests, or told the load balancer that it is ready."""
    fake.status.is_draining = True
    try:
        for response in (fake.speak(), fake.http.get("/ready"), fake.http.get("/v1/models")):
            assert response.status_code == 503 and response.headers["retry-after"]
            assert response.json()["error"]["code"] == "shutting_down"
        assert fake.http.get("/health").status_code == fake.http.get("/metrics").status_code == 200
    finally:
        fake.status.is_draining = False


def test_not_ready(fake):
    """A server told before the end of its warm-up that it is ready; its first requests then took seconds."""
    fake.status.is_ready = False
    try:
        assert fake.http.get("/ready").json()["error"]["code"] == "not_ready"
        assert fake.http.get("/health").status_code == fake.speak().status_code == 200
    finally:
        fake.status.is_ready = True


@pytest.mark.parametrize("logs_texts", [False, True])
def test_unforeseen_errors(serve, monkeypatch, caplog, logs_texts):
    """A client got a traceback or plain text; or the log had the text of a request without being asked for it."""
    server = serve(settings=ServerSettings(logs_texts=logs_texts))
    caplog.set_level(logging.INFO)

    words = "private words"  # not in the lines of the traceback

    def fail(voice):
        raise ZeroDivisionError(words)

    monkeypatch.setattr(server.voices, "resolve", fail)
    response = server.speak(input="Private words.")
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["type"] == "server_error" and response.headers["x-request-id"] in error["message"]
    assert "rivate" not in response.text and "Traceback" not in response.text
    assert "ZeroDivisionError" in caplog.text and "test_gate.py" in caplog.text
    monkeypatch.undo()
    assert server.speak(input="Private words.").status_code == 200
    server.engine.script = Script(error=RuntimeError(words))
    server.speak(input="Private words.", stream=False)
    assert ("rivate words" in caplog.text) == logs_texts
