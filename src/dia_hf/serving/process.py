"""Start of a process that serves, alike for `dia-hf serve` and for a replica: keys, id of the model, log."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..assets import MINIATURE
from ..text_files import read_text

__all__ = ["log_to_stderr", "model_id", "read_api_keys"]

_KEY_VARIABLE = "DIA_HF_API_KEY"


def model_id(model: str) -> str:
    """Return the id of a model in `/models`: its name on the Hub, or that of its folder or file.

    Args:
        model (`str`): Folder, file or Hub id.
    """
    if model == MINIATURE:
        return "miniature"
    return Path(model).resolve().name if os.path.exists(model) else model


def read_api_keys(given: Iterable[str], file: str | os.PathLike | None) -> list[str]:
    """Return the keys that were given, those of a file, and that of the environment variable `DIA_HF_API_KEY`.

    Args:
        given (`Iterable[str]`): Keys.
        file (`str` or `os.PathLike`, *optional*): Keys, one a line.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it has no key.
    """
    keys = [*given]
    if file is not None:
        name = f"--api-key-file {os.fspath(file)!r}"
        try:
            text = read_text(file)
        except OSError as error:
            raise OSError(f"{name} cannot be read: {error.strerror}.") from error
        in_file = [line.strip() for line in text.splitlines() if line.strip()]
        if not in_file:
            raise ValueError(f"{name} has no key; write one a line.")
        keys += in_file
    if key := os.environ.get(_KEY_VARIABLE, "").strip():
        keys.append(key)
    return keys


def log_to_stderr() -> None:
    """Write log lines of the server and of uvicorn to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("dia_hf", logging.INFO), ("uvicorn", logging.WARNING)):
        known = logging.getLogger(name)
        known.handlers, known.propagate = [handler], False
        known.setLevel(level)
