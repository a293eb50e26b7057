"""Writing files and folders whole or not at all, one process at a time, and never over what is being read.

What is written stands beside its place, under a hidden name that begins with ".dia-hf-", and takes the place at the
end. What a killed process leaves under such a name is removed, or put back, by the next one that writes there. Called
by whatever writes files of the user's: sound, voices, dialogues, checkpoints, prepared data.
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
_POLL_SECONDS = 0.05  # between two attempts to take a lock on Windows, which cannot wait for one for ever


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Write beside a file and then take its place, so that neither a full disk nor a crash leaves half of it.

    A file that is replaced keeps its mode, and a link stays a link: what it leads to is replaced.

    Args:
        path (`str` or `os.PathLike`): The file; missing folders are made, and a file that is there is replaced.

    Yields:
        `Path`: Where to write. It becomes `path` at the end of the block; where the block raises, it vanishes and the
        file that was there stays as it was.

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
            os.fsync(file)  # a disk may say only here that it is full
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
    """Make the hidden file to write into; its lock, held as long as the handle, says that its writer lives."""
    stem = f"{_HIDDEN}{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}"
    if fcntl is None:
        beside = path.with_name(f"{stem}-{uuid.uuid4().hex}{path.suffix}")
        beside.touch(exist_ok=False)
        return beside, None
    for number in count():  # more than one only where several write the same file
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
    """Remove a hidden file whose writer is dead."""
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
    """Do on Windows what `_lock` does elsewhere; there, too, the lock of a process that dies is free at once."""
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
    """Whether an open file is still the one under this name: whoever held it before has removed it."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


@contextmanager
def locked(lock: Path, taken: str | None = None) -> Iterator[None]:
    """Hold a lock file meanwhile, where the system has locks; that of a process that dies is free again.

    Args:
        lock (`Path`): The file, in a folder that there is; it is removed at the end.
        taken (`str`, *optional*): What to say if another process holds it; waits for it unless given.

    Raises:
        ValueError: With the words of `taken`, if another process holds the lock.
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
            if is_ours and fcntl is None:  # Windows removes no file that is open, be it here or in a process that waits
                with suppress(OSError):
                    lock.unlink()


def remove_stale_lock(lock: Path) -> None:
    """Remove the lock file of a process that was killed when its work was done; one that is held stays.

    For commands that refuse what is done already, before they would take the lock, and tidy it, themselves.
    """
    if lock.exists():
        with suppress(ValueError), locked(lock, taken="held"):
            pass


def is_leftover(path: Path) -> bool:
    """Whether a file is none of the user's, but what a process of ours writes into, or left when it was killed."""
    return path.name.startswith(_HIDDEN)


def find_held(folder: str | os.PathLike, paths: Iterable[str | os.PathLike | None]) -> str | None:
    """Find a path that would be lost if a folder or file were replaced: it is the same or lies within, links resolved.

    Args:
        folder (`str` or `os.PathLike`): What is to be replaced; it need not exist.
        paths (`Iterable` of paths or `None`): What is to be kept. What does not exist is passed over.

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
    """Give all files of a folder the mode of a new file; some libraries write files that nobody else may read."""
    probe = folder / f"{_HIDDEN}{uuid.uuid4().hex}"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


@contextmanager
def atomic_write_folder(path: str | os.PathLike, force: bool = False) -> Iterator[Path]:
    """Write a folder beside its place, and then take it; at no point is the folder that was there lost.

    The old folder is renamed, then the new one, then the old one is removed. A process that is killed in between leaves
    one or two hidden folders beside; the next one finds from them how far it came, and goes back or finishes.

    Args:
        path (`str` or `os.PathLike`): The folder; missing parents are made. A link stays a link.
        force (`bool`, defaults to `False`): Whether to replace a folder that is not empty.

    Yields:
        `Path`: Where to write. Where the block raises, it vanishes without a trace.

    Raises:
        ValueError: If `path` is a file, or not empty without `force`, or another process is writing it.
        OSError: If it cannot be written; the error says that what was there is left as it was.
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
                if error.errno is None:  # a library's own words
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
    """Finish what a killed process began, or go back. While `new` is there, it had not taken the place."""
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
