"""Middleware of Ray Serve's HTTP proxies: their own errors as the JSON objects of the speech API.

A proxy answers by itself where it has no replica for a request, or where the replica dies: with plain text, or not at
all. `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=dia_hf_command.ray_proxy:middlewares` in the environment of a Ray node
gives its proxy this middleware. It is here, and not in `dia_hf.serving`, because a proxy needs no PyTorch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

__all__ = ["ProxyErrors", "middlewares"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger("ray.serve")

_OWN_ROUTES = "/-/"  # Serve's: /-/healthz, /-/routes
_LOST = (503, "replica_lost", 1, "the replica that had the request has ended; send the request again.")
# Status of the proxy → status, code, seconds of `retry-after`, and message that are sent.
_ERRORS = {
    404: (503, "not_deployed", 5, "no speech application runs here now; send the request again later."),
    408: (408, "timeout", 1, "the request took longer than `request_timeout_s` allows; send a shorter text."),
    429: (429, "queue_full", 1, "the queue is full; send the request again later."),
    500: _LOST,
    503: (503, "unavailable", 5, "no replica can take the request now; send it again later."),
}


def middlewares() -> list[Any]:
    """Return what Serve asks for: a list of Starlette's `Middleware`."""
    return [import_module("starlette.middleware").Middleware(ProxyErrors)]


class ProxyErrors:
    """Middleware around a proxy.

    Errors of the speech application are JSON already and pass unchanged. A response that breaks off midway stays broken
    off, so that nobody takes it for a complete one; a stream of events gets a last event `error` before.

    Args:
        app: The proxy.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"].startswith(_OWN_ROUTES):
            await self.app(scope, receive, send)
            return
        response = _Response(send)
        try:
            await self.app(scope, receive, response.send)
        except Exception:
            if response.status:
                raise
            logger.exception("the proxy failed")
        await response.finish()


class _Response:
    """Messages of a response on their way to the client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_replaced = self._is_complete = False

    async def send(self, message: Message) -> None:
        """Pass a message on, or hold it back if it belongs to an error of the proxy."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._headers = _without_repeated_id(message.get("headers", ()))
            self._is_replaced = self.status >= 400 and not self._is("application/json")
        elif message["type"] == "http.response.body":
            self._is_complete = not message.get("more_body", False)
        if not self._is_replaced:
            await self._send(message)

    async def finish(self) -> None:
        """Send the error in place of what was held back or never came."""
        if self._is_replaced or self.status == 0:
            await self._send_error()
        elif not self._is_complete and self._is("text/event-stream"):
            event = b'data: {"type":"error",%s\n\n' % _content(*_LOST)[1:]
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    def _is(self, content_type: str) -> bool:
        return any(name == b"content-type" and value.startswith(content_type.encode()) for name, value in self._headers)

    async def _send_error(self) -> None:
        error = _ERRORS.get(self.status, _LOST)
        content, seconds = _content(*error), str(error[2]).encode()
        kept = [pair for pair in self._headers if pair[0] in (b"retry-after", b"x-request-id")]
        if not any(name == b"retry-after" for name, _ in kept):
            kept.append((b"retry-after", seconds))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), *kept]
        await self._send({"type": "http.response.start", "status": error[0], "headers": headers})
        await self._send({"type": "http.response.body", "body": content})


def _content(status: int, code: str, _: int, message: str) -> bytes:
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return json.dumps({"error": error}, separators=(",", ":")).encode()


def _without_repeated_id(headers: Any) -> list[tuple[bytes, bytes]]:
    """Return the headers in lower case; the proxy adds a second `x-request-id` to that of the application."""
    kept: dict[bytes, bytes] = {}
    others = []
    for name, value in headers:
        if name.lower() == b"x-request-id":
            kept.setdefault(b"x-request-id", value)
        else:
            others.append((name.lower(), value))
    return [*others, *kept.items()]
