"""Writing files whole or not at all; reading texts as people's editors write them.

Called by whatever writes a file of the user's, sound, voices, dialogues, or reads a text of theirs.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["decode_text", "read_text", "written_whole"]


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
    >>> from dia_hf.files import read_text
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "script.txt")
    ...     _ = file.write_bytes(b"\xef\xbb\xbf[S1] Hello.\r\n")
    ...     read_text(file)
    '[S1] Hello.\n'

    ```
    """
    return decode_text(Path(path).read_bytes(), repr(str(path)))


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


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside a file and then take its place, so that neither a full disk nor a crash leaves half of it.

    Args:
        path (`str` or `os.PathLike`): The file; missing folders are made, and a file that is there is replaced.

    Yields:
        `Path`: Where to write. It becomes `path` at the end of the block; where the block raises, it vanishes and the
        file that was there stays as it was.

    Raises:
        OSError: If it cannot be written; the error names `path`.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf.files import written_whole
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_whole(f"{folder}/new/file.txt") as beside:
    ...         _ = beside.write_text("all of it")
    ...     [file.name for file in Path(folder, "new").iterdir()]
    ['file.txt']

    ```
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield beside
        with open(beside, "r+b") as file:
            os.fsync(file)  # a disk may say only here that it is full
        beside.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; nothing was written", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)
