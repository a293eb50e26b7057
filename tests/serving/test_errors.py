"""Errors as JSON for clients of OpenAI's API."""

import pytest
import torch
from starlette.exceptions import HTTPException

from dia_hf.engine import EngineError, QueueFullError
from dia_hf.serving.errors import ApiError, error_of


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ApiError(404, "no voice", code="x"), 404, "invalid_request_error", "x"),
        (HTTPException(404), 404, "invalid_request_error", None),
        (HTTPException(405, headers={"Allow": "GET"}), 405, "invalid_request_error", None),
        (ValueError("the text is empty; give one."), 400, "invalid_request_error", "invalid_value"),
        (QueueFullError("full"), 429, "rate_limit_error", "queue_full"),
        (EngineError("closed"), 503, "server_error", "shutting_down"),
        (MemoryError(), 503, "server_error", "out_of_memory"),
        (torch.OutOfMemoryError("CUDA"), 503, "server_error", "out_of_memory"),
        (RuntimeError("/secret"), 500, "server_error", "internal_error"),
        (OSError(28, "No space left", "/secret"), 500, "server_error", "internal_error"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_statuses(error, status, kind, code):
    """An error had a status that makes the SDK repeat what cannot succeed, or give up what would."""
    translated = error_of(error, "id-1")
    content = translated.content["error"]
    assert (translated.status, content["type"], content["code"]) == (status, kind, code)
    assert content["message"] and "secret" not in content["message"]
    assert (status in (429, 503)) == ("retry-after" in translated.response().headers)


def test_long_messages():
    """An error repeated a text of any length, or several lines."""
    message = error_of(ValueError("x" * 10_000 + "\nmore"), "id-1").message
    assert len(message) <= 1000 and "\n" not in message
