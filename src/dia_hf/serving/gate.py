"""Middleware before the routes: request ids, keys, shutdown, unforeseen errors, counts.

Plain ASGI. Starlette's `BaseHTTPMiddleware` would put a queue between the routes and the socket, and with it the
backpressure of slow readers and the disconnects would be lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import uuid
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .errors import ApiError, error_of, log_error
from .metrics import Metrics
from .settings import ServerSettings, ServerStatus

__all__ = ["Gate"]

_PLAIN_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "WEBSOCKET")
_PROBES = ("/", "/health", "/ready")
_PAGE = re.compile(r"/ui(/.*)?|/favicon\.ico", re.DOTALL)  # files of the page, which asks for a key itself


class Gate:
    """Middleware of all requests.

    Args:
        app (`ASGIApp`): The routes.
        settings (`ServerSettings`): Settings, with the keys.
        status (`ServerStatus`): Read at each request.
        metrics (`Metrics`): Counts requests.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, status: ServerStatus, metrics: Metrics) -> None:
        self.app, self.settings, self.status, self.metrics = app, settings, status, metrics
        # Of equal length, so that the time of a comparison says nothing about a key.
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked_id = headers.get("x-request-id", "")
        request_id = asked_id if _PLAIN_ID.fullmatch(asked_id) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            elif message["type"] == "websocket.accept":
                status = HTTPStatus.SWITCHING_PROTOCOLS
                MutableHeaders(scope=message)["x-request-id"] = request_id
            elif message["type"] == "websocket.close" and status == 0:  # before it was accepted
                status = HTTPStatus.FORBIDDEN
            await send(message)

        try:
            refusal = self._refusal(scope["path"], headers)
            if refusal is None and scope["type"] == "websocket":
                refusal = self._refusal_of_origin(headers)
            if refusal is not None:
                await refusal.response()(scope, receive, send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        except (ClientDisconnect, asyncio.CancelledError):  # canceled at the end of a shutdown's time
            pass
        except Exception as error:
            log_error(error, request_id, self.settings.logs_texts)
            if status == 0 and not isinstance(error, WebSocketDisconnect):
                await error_of(error, request_id).response()(scope, receive, send_with_id)
        finally:
            self._count(scope, status)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        """Return the error of a request that may not pass."""
        if _PAGE.fullmatch(path):
            return None
        path = path.removeprefix("/v1") or "/"
        if path in _PROBES or (path == "/metrics" and self.settings.has_open_metrics):
            return None
        if self._keys:
            # ElevenLabs' clients have a header of their own.
            given = headers.get("authorization") or f"Bearer {headers.get('xi-api-key', '')}"
            scheme, _, key = given.partition(" ")
            digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
            fits = [hmac.compare_digest(digest, one) for one in self._keys]  # all of them, whichever fits
            if scheme.lower() != "bearer" or not any(fits):
                message = "the API key is missing or wrong; send `Authorization: Bearer KEY` with a key of this server."
                return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        return ApiError.draining() if self.status.is_draining and path != "/metrics" else None

    def _refusal_of_origin(self, headers: Headers) -> ApiError | None:
        """Return the error of a WebSocket that a page of another origin opens: browsers do so without asking."""
        origin = headers.get("origin")
        allowed = self.settings.cors_origins
        if origin is None or "*" in allowed or origin in allowed or urlsplit(origin).netloc == headers.get("host"):
            return None
        message = f"pages of {origin[:200]!r} may not use this server; start it with `--cors-origin` to allow them."
        return ApiError(403, message, code="origin_not_allowed")

    def _count(self, scope: Scope, status: int) -> None:
        route: Any = scope.get("route")
        method = scope.get("method", "WEBSOCKET")
        method = method if method in _METHODS else "other"
        path = getattr(route, "path", "other")  # not the client's path: one series for each would have no bound
        self.metrics.http_requests.labels(method, path, str(status)).inc()
