"""Atomic writing of files and folders, locks between processes, and protection of inputs from being overwritten.

Content is written beside its place, under a hidden name that begins with ".dia-hf-", and renamed at the end. Leftovers
of a killed process are removed, or put back, by the next process that writes there. Used for all files of users: sound,
voices, dialogues, checkpoints, prepared data.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None

__all__ = [
    "LOCK",
    "atomic_write",
    "atomic_write_folder",
    "find_held",
    "follow_umask",
    "is_leftover",
    "locked",
    "remove_stale_lock",
]

_HIDDEN = ".dia-hf-"
LOCK = f"{_HIDDEN}lock"
_POLL_SECONDS = 0.05  # between two attempts to take a lock on Windows, which has no unlimited wait


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside a file and rename at the end, so that neither a full disk nor a crash leaves an incomplete file.

    A replaced file keeps its mode. A link stays a link: its target is replaced.

    Args:
        path (`str` or `os.PathLike`): The file; missing folders are created, an existing file is replaced.

    Yields:
        `Path`: Path to write to; renamed to `path` at the end of the block. If the block raises, it is removed, and an
        existing file stays unchanged.

    Raises:
        OSError: If it cannot be written, or is a folder, a device or a pipe; the error names `path`.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf.atomic_write import atomic_write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(f"{folder}/new/file.txt") as beside:
    ...         _ = beside.write_text("all of it")
    ...     [file.name for file in Path(folder, "new").iterdir()]
    ['file.txt']

    ```
    """
    beside, handle = None, None
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():
            raise OSError(None, "it is a folder, a device or a pipe; give a file")
        beside, handle = _open_beside(target)
        yield beside
        with open(beside, "r+b") as file:
            os.fsync(file)  # a full disk may be reported only here
        if target.exists():
            beside.chmod(stat.S_IMODE(target.stat().st_mode))
        beside.replace(target)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; nothing was written", str(path)) from error
    finally:
        try:
            if beside is not None:
                beside.unlink(missing_ok=True)
        finally:
            if handle is not None:
                os.close(handle)


def _open_beside(path: Path) -> tuple[Path, int | None]:
    """Create the hidden file to write into; its lock, held by the handle, marks it as in use."""
    stem = f"{_HIDDEN}{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}"
    if fcntl is None:
        beside = path.with_name(f"{stem}-{uuid.uuid4().hex}{path.suffix}")
        beside.touch(exist_ok=False)
        return beside, None
    for number in count():  # more than one only with concurrent writers of the same file
        beside = path.with_name(f"{stem}-{number}{path.suffix}")
        for left in (beside, path.with_name(f"{stem}-{number + 1}{path.suffix}")):
            _remove_abandoned(left)
        try:
            handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        is_ours = False
        try:
            is_ours = _lock(handle) is not False and _is_at(handle, beside)
        finally:
            if not is_ours:
                os.close(handle)
        if is_ours:
            return beside, handle
    raise AssertionError  # `count` does not end


def _remove_abandoned(beside: Path) -> None:
    """Remove a hidden file whose process has died."""
    try:
        handle = os.open(beside, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if _lock(handle) and _is_at(handle, beside):
            beside.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool = False) -> bool | None:
    """Lock an open file; return `False` if another process holds it, and `None` if the file system has no locks."""
    if fcntl is None:
        return _lock_first_byte(handle, wait)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lock_first_byte(handle: int, wait: bool) -> bool | None:
    """Lock an open file on Windows, where the lock of a process that dies is released, too."""
    while True:
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EDEADLK):
                return None
            if not wait:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file still has this name; its former holder may have removed it."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


@contextmanager
def locked(lock: Path, taken: str | None = None) -> Iterator[None]:
    """Hold a lock file during the block, where the system has locks; that of a process that dies is released.

    Args:
        lock (`Path`): The file, in an existing folder; it is removed at the end.
        taken (`str`, *optional*): Error message if another process holds the lock; waits for it unless given.

    Raises:
        ValueError: With the message `taken`, if another process holds the lock.
    """
    if fcntl is None and msvcrt is None:
        yield
        return
    is_ours = False
    while not is_ours:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(handle, wait=taken is None) is False:
                raise ValueError(taken)
            if is_ours := _is_at(handle, lock):
                try:
                    yield
                finally:
                    if fcntl is not None:
                        lock.unlink(missing_ok=True)
        finally:
            os.close(handle)
            if is_ours and fcntl is None:  # Windows removes no file that is open, here or in a waiting process
                with suppress(OSError):
                    lock.unlink()


def remove_stale_lock(lock: Path) -> None:
    """Remove the lock file of a process that was killed after its work; a held one stays.

    For commands that refuse finished work before they would take, and remove, the lock themselves.
    """
    if lock.exists():
        with suppress(ValueError), locked(lock, taken="held"):
            pass


def is_leftover(path: Path) -> bool:
    """Return whether a file is a temporary one of this package, in use or left by a killed process."""
    return path.name.startswith(_HIDDEN)


def find_held(folder: str | os.PathLike, paths: Iterable[str | os.PathLike | None]) -> str | None:
    """Find a path that would be lost if a folder or file were replaced: the same or inside it, links resolved.

    Args:
        folder (`str` or `os.PathLike`): Folder or file to be replaced; it need not exist.
        paths (`Iterable` of paths or `None`): Paths to keep; those that do not exist are ignored.

    Returns:
        `str`, *optional*: The first such path, as it was given.

    Example:
    ```python
    >>> import tempfile
    >>> from dia_hf.atomic_write import find_held
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     find_held(f"{folder}/..", [folder]) == folder, find_held(folder, [f"{folder}/.."])
    (True, None)

    ```
    """
    if not os.path.exists(folder):
        return None
    for path in paths:
        if path is not None and os.path.exists(path):
            real = Path(os.path.realpath(path))
            if any(os.path.samefile(folder, place) for place in (real, *real.parents)):
                return os.fspath(path)
    return None


def follow_umask(folder: Path) -> None:
    """Give all files of a folder the mode of a new file; some libraries create files readable by their owner alone."""
    probe = folder / f"{_HIDDEN}{uuid.uuid4().hex}"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


@contextmanager
def atomic_write_folder(path: str | os.PathLike, force: bool = False) -> Iterator[Path]:
    """Write a folder beside its place and rename it at the end; an existing folder is never lost.

    The old folder is renamed, then the new one, then the old one is removed. A process that is killed in between leaves
    one or two hidden folders; the next process derives its progress from them, and reverts or finishes it.

    Args:
        path (`str` or `os.PathLike`): The folder; missing parents are created. A link stays a link.
        force (`bool`, defaults to `False`): Whether to replace a folder that is not empty.

    Yields:
        `Path`: Path to write to; removed if the block raises.

    Raises:
        ValueError: If `path` is a file, or not empty without `force`, or another process is writing it.
        OSError: If it cannot be written; an existing folder is left unchanged.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder.")
    made = [parent for parent in path.parents if not parent.exists()]
    new, old = (path.with_name(f"{_HIDDEN}{age}-{path.name}") for age in ("new", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = f"another process is writing {path}; wait for it, or give another folder."
        with locked(path.with_name(f"{LOCK}-{path.name}"), taken):
            _tidy(path, new, old)
            if path.is_dir() and any(path.iterdir()) and not force:
                raise ValueError(f"{path} is not empty; give another folder, or `--force` to replace it.")
            try:
                new.mkdir()
                yield new
                follow_umask(new)
                if path.is_dir():
                    new.chmod(stat.S_IMODE(path.stat().st_mode))
            except OSError as error:
                if error.errno is None:  # raised by a library with a message
                    raise
                name = os.fsdecode(error.filename if isinstance(error.filename, (str, bytes)) else path)
                words = f"{error.strerror}; {path} was left as it was"
                raise OSError(error.errno, words, name.replace(str(new), str(path))) from error
            else:
                _exchange(path, new, old)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except BaseException:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _tidy(path: Path, new: Path, old: Path) -> None:
    """Finish or revert the work of a killed process. While `new` exists, it has not been renamed."""
    if old.exists():
        if not path.exists():
            os.rename(old, path)
        elif new.exists():
            raise ValueError(
                f"{path} was being replaced when the process was killed, and has been made anew since; what it held "
                f"before is in {old}: move one of the two elsewhere."
            )
        else:
            shutil.rmtree(old)
    if new.exists():
        shutil.rmtree(new)


def _exchange(path: Path, new: Path, old: Path) -> None:
    try:
        if path.is_dir():
            os.rename(path, old)
        os.rename(new, path)
        if old.exists():
            shutil.rmtree(old)
    except BaseException as error:
        if new.exists():
            if old.exists():
                os.rename(old, path)
            raise
        what = f"{path} was written, but what it held before is still in {old}, until the next run"
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{error.strerror}; {what}", error.filename) from error
        raise KeyboardInterrupt(f"{what}.") from error
