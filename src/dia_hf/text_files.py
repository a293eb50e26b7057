"""Readers of text and JSON files, with errors that name the file, and excerpts of values for error messages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["decode_text", "first_line", "is_deep", "read_json", "read_text", "shortened"]

_MAX_JSON = 256 * 2**20  # bytes: in memory it takes about ten times as many


def read_text(path: str | os.PathLike) -> str:
    r"""Read a text file in UTF-8, with or without a byte order mark; line ends become `"\n"`.

    Args:
        path (`str` or `os.PathLike`): The file.

    Raises:
        ValueError: If it is in another encoding; the error names the file, the probable encoding and a remedy.
        OSError: If it cannot be read.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf.text_files import read_text
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "script.txt")
    ...     _ = file.write_bytes(b"\xef\xbb\xbf[S1] Hello.\r\n")
    ...     read_text(file)
    '[S1] Hello.\n'

    ```
    """
    return decode_text(Path(path).read_bytes(), repr(str(path)))


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    r"""Read a JSON file that holds one object, as those of this package and of transformers do.

    Args:
        path (`str` or `os.PathLike`): The file, in UTF-8.

    Raises:
        ValueError: If it is no JSON, holds something else than an object, is nested too deeply or too large; the error
            names the file in one line.
        OSError: If it cannot be read.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf.text_files import read_json
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "state.json")
    ...     _ = file.write_text('{"step": 4}\n')
    ...     read_json(file)
    {'step': 4}

    ```
    """
    num_bytes = os.stat(path).st_size
    if num_bytes > _MAX_JSON:
        raise ValueError(f"{str(path)!r} has {num_bytes:,} bytes; at most {_MAX_JSON:,} are read.")
    text = read_text(path)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{str(path)!r} is nested too deeply to be read.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: it is no JSON ({first_line(error)}).") from error
    if is_deep(content):
        raise ValueError(f"{str(path)!r} is nested too deeply to be read.")
    if not isinstance(content, dict):
        kind, told = type(content).__name__, first_line(json.dumps(content), 60)
        raise ValueError(f"{str(path)!r} is damaged: it holds a {kind}, {told}; expected an object, fields by name.")
    return content


def is_deep(content: object, most: int = 60) -> bool:
    """Return whether parsed JSON has more levels than `most`, at which some readers fail."""
    level = [content]
    for _ in range(most):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        if not (level := [child for children in inner for child in children]):
            return False
    return True


def first_line(said: object, longest: int = 200) -> str:
    """Return the first line of a text or an error, cut to `longest` characters."""
    line = next((line.strip() for line in str(said).splitlines() if line.strip()), type(said).__name__)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def shortened(value: object, longest: int = 100) -> str:
    """Return the `repr` of a value for an error message, cut to `longest` characters."""
    return first_line(repr(value), longest)


def decode_text(content: bytes, name: str) -> str:
    """Decode the content of a text file, as `read_text` does; errors refer to it by `name`.

    Raises:
        ValueError: If it is in another encoding.
    """
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff")) or 4 * content.count(b"\0") > len(content)
    try:
        if is_utf16:
            raise ValueError("it looks like UTF-16")
        text = content.decode("utf-8-sig")
    except ValueError as error:
        why = str(error)
        if isinstance(error, UnicodeDecodeError):
            line = content.count(b"\n", 0, error.start) + 1
            why = f"byte 0x{content[error.start]:02x} in line {line}; it looks like cp1252 or another 8-bit encoding"
        raise ValueError(f"{name} is not in UTF-8 ({why}); save it as UTF-8, with or without a BOM.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
