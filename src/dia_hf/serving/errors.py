"""Errors as clients of OpenAI's API read them: `{"error": {"message", "type", "param", "code"}}` with a status.

`ApiError` is raised by the routes; `error_of` translates the errors of the engine and of libraries.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import torch
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ..engine import EngineError, QueueFullError
from ..text_files import first_line, shortened

__all__ = ["ApiError", "error_of", "field_error", "log_error"]

logger = logging.getLogger(__name__)

_FIELD = re.compile(r"`(\w+)` is ")  # the beginning of a message about a field
_RETRY_SOON = {"retry-after": "1"}
_RETRY_LATER = {"retry-after": "5"}


class ApiError(Exception):
    """Error that is sent to the client.

    Args:
        status (`int`): Status code.
        message (`str`): Description, with the value that is wrong and a remedy.
        param (`str`, *optional*): Field of the request.
        code (`str`, *optional*): Short name of the error for programs.
        headers (`Mapping[str, str]`, *optional*): Additional headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, Any]:
        """The JSON object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the response."""
        return JSONResponse(self.content, self.status, self.headers)

    @classmethod
    def draining(cls) -> ApiError:
        """Return the error of a server that shuts down."""
        message = "the server is shutting down; send the request again, to another server or after its restart."
        return cls(503, message, code="shutting_down", headers=_RETRY_LATER)

    @classmethod
    def not_ready(cls) -> ApiError:
        """Return the error of a server before the end of its warm-up."""
        return cls(503, "the server is warming up; try again later.", code="not_ready", headers=_RETRY_LATER)


def field_error(error: ValidationError) -> ApiError:
    """Return the error of the first field that is wrong.

    Args:
        error (`ValidationError`): Of a body.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    if param is None:
        return ApiError(400, f"the body is {shortened(first['input'])}; give a JSON object.")
    place = first["loc"][1:] if len(first["loc"]) > 1 and isinstance(first["loc"][1], int) else ()
    name = param + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    if first["type"] == "missing":
        return ApiError(400, f"`{name}` is missing; give it.", param=param, code="missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return ApiError(400, f"`{name}` is {shortened(first['input'])}: {message}.", param=param, code="invalid_value")


def error_of(error: BaseException, request_id: str, is_checked: bool = False) -> ApiError:
    """Translate an error.

    Args:
        error (`BaseException`): Any error.
        request_id (`str`): Id of the request in the log, which is named where the client is told no details.
        is_checked (`bool`, defaults to `False`): Whether the request has been accepted, so that a `ValueError` is no
            fault of the client.

    Returns:
        `ApiError`: 400 for a `ValueError`, 429 for a full queue, 503 where memory is missing or the engine is closed,
            500 for anything else.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        message = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND:
            message = "there is no such route; speech is at POST /v1/audio/speech, and with --ui a page at /ui/."
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = (error.headers or {}).get("Allow", "others")
            message = f"the route does not take this method; use {allowed}."
        return ApiError(error.status_code, message, headers=error.headers)
    if isinstance(error, QueueFullError):
        message = "the queue is full; send the request again later."
        return ApiError(429, message, code="queue_full", headers=_RETRY_SOON)
    if isinstance(error, EngineError):
        return ApiError.draining()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        message = "there is not enough memory for the request now; send it again later, or a shorter one."
        return ApiError(503, message, code="out_of_memory", headers=_RETRY_LATER)
    if isinstance(error, ValueError) and not is_checked:
        message = first_line(error, 1000)
        field = _FIELD.match(message)
        return ApiError(400, message, param=field[1] if field else None, code="invalid_value")
    message = f"the request failed ({type(error).__name__}); the server's log has the details of request {request_id}."
    return ApiError(500, message, code="internal_error")


def log_error(error: BaseException, request_id: str, has_message: bool) -> None:
    """Log an error with its place.

    Args:
        error (`BaseException`): The error.
        request_id (`str`): Id of the request.
        has_message (`bool`): Whether to log its message, which may repeat the text of a request.
    """
    place = "".join(traceback.format_tb(error.__traceback__))
    message = f": {error}" if has_message else ""
    logger.error("%s failed: %s%s\n%s", request_id, type(error).__name__, message, place)
