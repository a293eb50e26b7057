"""Writing files whole or not at all.

Called by whatever writes a file of the user's: sound, voices, dialogues.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_whole"]


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
