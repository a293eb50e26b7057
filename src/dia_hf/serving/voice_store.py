"""Voices in an object store, or at any other address that fsspec opens: a library with a mirror on this machine.

Each process has a mirror of its own. It is brought up to date when it is read, at most every `max_age` seconds, and
when a voice is not found in it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from .._extras import import_extra
from ..atomic_write import atomic_write
from ..speech.voices import Voice, VoiceLibrary

__all__ = ["RemoteVoiceLibrary", "is_address", "open_library"]

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_STAMPS = ("ETag", "etag", "LastModified", "mtime", "updated", "last_modified", "created", "size")


def is_address(folder: str | os.PathLike | None) -> bool:
    """Whether a folder of voices is the address of a store, such as `s3://bucket/voices`."""
    return isinstance(folder, str) and "://" in folder


def open_library(folder: str | os.PathLike | None) -> VoiceLibrary:
    """Open a library of voices.

    Args:
        folder (`str` or `os.PathLike`, *optional*): Folder, or address of a store; that of `VoiceLibrary` unless given.

    Raises:
        NotADirectoryError: If it is a file.
        ValueError, ImportError, OSError: As `RemoteVoiceLibrary` does.
    """
    if is_address(folder):
        return RemoteVoiceLibrary(str(folder))
    library = VoiceLibrary(folder)
    if library.folder.exists() and not library.folder.is_dir():
        raise NotADirectoryError(f"{str(library.folder)!r} is no folder of voices; give a folder, or a new one.")
    return library


class RemoteVoiceLibrary(VoiceLibrary):
    """Library of voices in a store. Additions and removals are written to the store before the mirror.

    Two processes that add one name in the same moment are not told apart: stores have no common way of creating a file
    only if it does not exist. The later one stays.

    Args:
        address (`str`): Address of a folder, such as `s3://bucket/voices`. Credentials are those of fsspec's package
            for this kind of store, from its own files and environment variables.
        max_age (`float`, defaults to 2.0): Seconds for which a listing is used.

    Raises:
        ValueError: If fsspec does not know the kind of store.
        ImportError: If the package for it is missing; the error names it.
        OSError: If the store cannot be read.
    """

    def __init__(self, address: str, max_age: float = 2.0) -> None:
        fsspec = import_extra("fsspec.core")
        try:
            self._store, self._root = fsspec.url_to_fs(address)
        except ImportError as error:
            raise ImportError(f"the voices at {address!r} cannot be opened: {error}.") from error
        except ValueError as error:
            raise ValueError(
                f"the voices at {address!r} cannot be opened: {error}; give a folder, or s3://…."
            ) from error
        self._mirror = tempfile.TemporaryDirectory(prefix="dia-voices-")
        super().__init__(self._mirror.name)
        self.address, self.max_age = address, max_age
        self._stamps: dict[str, tuple[Any, ...]] = {}
        self._uploading: list[str] = []  # files that the store has not got yet
        self._lock = threading.Lock()
        self._refreshed = -max_age
        self._is_reachable = True
        with self._lock:
            self._read()

    def refresh(self) -> None:
        """Bring the mirror up to date; if the store does not answer, it stays as it is, and this is logged once."""
        with self._lock:
            try:
                self._read()
            except Exception as error:  # of any kind of store
                if self._is_reachable:
                    logger.warning(
                        "the voices at %s cannot be read, those known before are used: %s", self.address, error
                    )
                self._is_reachable = False
                self._refreshed = time.monotonic()
            else:
                self._is_reachable = True

    def files(self) -> dict[str, Path]:
        """Return the files of the mirror by name, sorted."""
        if time.monotonic() - self._refreshed > self.max_age:
            self.refresh()
        return super().files()

    def add(self, name: str, voice: Voice, force: bool = False) -> Path:
        """Save a voice under a name, see `VoiceLibrary.add`.

        Raises:
            OSError: If it cannot be written to the store; it is then not in the mirror either.
        """
        self.refresh()
        file = f"{unicodedata.normalize('NFC', name)}{_SUFFIX}"
        self._uploading.append(file)
        try:
            path = super().add(name, voice, force)
            try:
                self._store.makedirs(self._root, exist_ok=True)
                self._store.put_file(str(path), self._remote(path))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        finally:
            self._uploading.remove(file)
        return path

    def remove(self, name: str) -> None:
        """Delete a voice, in the store first, see `VoiceLibrary.remove`."""
        path = self._file(name)
        self._store.rm_file(self._remote(path))
        path.unlink(missing_ok=True)

    def _remote(self, path: Path) -> str:
        return f"{self._root.rstrip('/')}/{path.name}"

    def _read(self) -> None:
        """Download what is new, and delete what has gone."""
        self._store.invalidate_cache()
        try:
            entries = self._store.ls(self._root, detail=True)
        except FileNotFoundError:  # until the first voice is added
            entries = []
        found = {}
        for entry in entries:
            name = PurePosixPath(entry["name"]).name
            if entry["type"] == "file" and name.endswith(_SUFFIX) and not name.startswith("."):
                found[name] = tuple(str(entry[key]) for key in _STAMPS if key in entry)
        for name, stamp in found.items():
            if self._stamps.get(name) != stamp or not (self.folder / name).is_file():
                with atomic_write(self.folder / name) as beside:
                    self._store.get_file(self._remote(self.folder / name), str(beside))
                self._stamps[name] = stamp
        for path in self.folder.glob(f"*{_SUFFIX}"):
            if path.name not in found and path.name not in self._uploading:
                path.unlink(missing_ok=True)
                self._stamps.pop(path.name, None)
        self._refreshed = time.monotonic()
