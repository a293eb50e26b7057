"""The middleware of Ray Serve's proxies, around proxies that answer as Serve's do."""

import asyncio
import json

import pytest

from dia_hf_command.ray_proxy import ProxyErrors, middlewares


def start(status, content_type="text/plain", *headers):
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", content_type.encode()), *headers],
    }


def part(content, more=False):
    return {"type": "http.response.body", "body": content, "more_body": more}


def answer(*messages, error=None, path="/v1/audio/speech"):
    """Return what a client gets: status, headers, body, and whether it is complete."""
    sent = []

    async def proxy(scope, receive, send):
        for message in messages:
            await send(dict(message))
        if error is not None:
            raise error

    async def send(message):
        sent.append(message)

    asyncio.run(ProxyErrors(proxy)({"type": "http", "path": path}, None, send))
    head = sent[0]
    body = b"".join(message["body"] for message in sent[1:])
    return head["status"], dict(head["headers"]), body, not sent[-1].get("more_body", False) and len(sent) > 1


@pytest.mark.parametrize(
    ("status", "sent", "code", "kind"),
    [
        (404, 503, "not_deployed", "server_error"),
        (408, 408, "timeout", "invalid_request_error"),
        (429, 429, "queue_full", "rate_limit_error"),
        (500, 503, "replica_lost", "server_error"),
        (503, 503, "unavailable", "server_error"),
    ],
)
def test_errors_of_the_proxy(status, sent, code, kind):
    """A client read plain text where it expected JSON, and was not told when to try again."""
    got, headers, body, is_complete = answer(start(status), part(b"Request dropped."))
    error = json.loads(body)["error"]
    assert (got, error["code"], error["type"]) == (sent, code, kind) and is_complete
    assert headers[b"content-type"] == b"application/json" and int(headers[b"content-length"]) == len(body)
    assert int(headers[b"retry-after"]) > 0


def test_retry_after_of_serve_is_kept():
    """The seconds of `backpressure_config` were replaced by others."""
    assert answer(start(429, "text/plain", (b"retry-after", b"7")), part(b""))[1][b"retry-after"] == b"7"


@pytest.mark.parametrize("error", [None, RuntimeError("the actor died")])
def test_a_replica_that_dies_before_its_answer(error):
    """The connection was closed, or plain text sent, where the replica died before its first byte."""
    status, headers, body, is_complete = answer(error=error)
    assert status == 503 and json.loads(body)["error"]["code"] == "replica_lost" and is_complete
    assert headers[b"retry-after"] == b"1"


def test_errors_of_the_application_pass():
    """An error of the routes was replaced by one of the proxy."""
    messages = start(404, "application/json", (b"x-request-id", b"1")), part(b'{"error":{}}')
    assert answer(*messages) == (404, dict(messages[0]["headers"]), b'{"error":{}}', True)


def test_a_stream_that_breaks_off():
    """A stream whose replica had died ended as if it were complete."""
    assert answer(start(200, "audio/pcm"), part(b"ab", more=True))[2:] == (b"ab", False)
    _, _, body, is_complete = answer(start(200, "text/event-stream"), part(b"data: {}\n\n", more=True))
    event = json.loads(body.removeprefix(b"data: {}\n\ndata: "))
    assert event["type"] == "error" and event["error"]["code"] == "replica_lost" and not is_complete


def test_a_request_id_is_sent_once():
    """The proxy added its own header to that of the application."""
    ids = [(b"x-request-id", b"one"), (b"X-Request-ID", b"one")]
    sent = []

    async def proxy(scope, receive, send):
        await send(start(200, "audio/pcm", *ids))
        await send(part(b""))

    async def send(message):
        sent.append(message)

    asyncio.run(ProxyErrors(proxy)({"type": "http", "path": "/"}, None, send))
    assert [name for name, _ in sent[0]["headers"]] == [b"content-type", b"x-request-id"]


def test_serves_own_routes_pass():
    """A probe of a proxy that drains was told that a replica had ended."""
    assert answer(start(503), part(b"DRAINING"), path="/-/healthz")[2] == b"DRAINING"


def test_the_list_of_middlewares():
    """Serve refuses a list of other classes than Starlette's."""
    starlette = pytest.importorskip("starlette.middleware")
    (one,) = middlewares()
    assert isinstance(one, starlette.Middleware) and one.cls is ProxyErrors
