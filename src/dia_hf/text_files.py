"""Text and JSON files: strict readers whose errors name the file, and excerpts of values for error messages.

Used wherever a file of the user's, or of a checkpoint, is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["decode_text", "first_line", "is_deep", "read_json", "read_text", "shortened"]

_MAX_JSON = 256 * 2**20  # bytes: in memory they are about ten times as many


def read_text(path: str | os.PathLike) -> str:
    r"""Read a text file in UTF-8, with or without a byte order mark; line ends of any kind become one.

    Args:
        path (`str` or `os.PathLike`): The file.

    Raises:
        ValueError: If it is in another encoding; the error names the file, the encoding that it looks like, and what
            would do.
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
    r"""Read a JSON file that holds one object, as all of those do that we and transformers write.

    Args:
        path (`str` or `os.PathLike`): The file, in UTF-8.

    Raises:
        ValueError: If it is no JSON, holds something else than an object, is nested too deeply or too large; in one
            line that names the file.
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
    """Whether what JSON held has more levels than anybody writes, and than some readers survive."""
    level = [content]
    for _ in range(most):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        if not (level := [child for children in inner for child in children]):
            return False
    return True


def first_line(said: object, longest: int = 200) -> str:
    """Return the first line of what somebody else says, such as an error of a library, and not more than so much."""
    line = next((line.strip() for line in str(said).splitlines() if line.strip()), type(said).__name__)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def shortened(value: object, longest: int = 100) -> str:
    """Return how a value is written in Python, for an error that names it, cut where it is long."""
    return first_line(repr(value), longest)


def decode_text(content: bytes, name: str) -> str:
    """Decode what a text file holds, as `read_text` does; `name` is what errors call it.

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
