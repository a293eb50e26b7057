"""Output folder of a run: settings, audio files, manifest, report; one run at a time, resumed after any end.

An audio file is written atomically, and its line then added to the manifest: a process that is killed loses the rows in
work, and a half-written line is removed by the next run. At the end the manifest is sorted as the table is, so that it
does not depend on the order of work. Called by `run.py`.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..atomic_write import LOCK, atomic_write, is_leftover, locked
from ..text_files import first_line, read_json, shortened
from .rows import Failure, hash_of
from .speak import Entry

__all__ = ["BatchFolder", "Done", "key_of"]

_SETTINGS, _MANIFEST, _FAILED, _REPORT = "batch.json", "metadata.jsonl", "failed.jsonl", "report.json"
_VERSION = 1


@dataclass(slots=True)
class Done:
    """Row of the manifest in memory: the hash of what it asked for, the place of its line, and figures.

    Args:
        digest (`str`): See `Entry`.
        offset (`int`): Bytes before its line.
        seconds (`float`): Duration of its file.
        finish_reason (`str`): See `Entry`.
    """

    digest: str
    offset: int
    seconds: float
    finish_reason: str


class BatchFolder:
    """Folder of a run. Used within `held`.

    Args:
        path (`Path`): The folder, new, empty, or of an earlier run.

    Attributes:
        done (`dict[int, Done]`): Rows with an audio file, by the hash of their id.
        num_missing (`int`): Lines of the manifest whose audio file is missing; those rows count as not done.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, Done] = {}
        self.num_missing = 0
        self._manifest: BinaryIO | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder alone.

        Raises:
            ValueError: If it is a file, has other contents, or another process works in it.
        """
        path = self.path
        if path.exists() and not path.is_dir():
            raise ValueError(f"{str(path)!r} is a file; give a folder.")
        if path.is_dir() and not (path / _SETTINGS).is_file() and not all(map(is_leftover, path.iterdir())):
            raise ValueError(
                f"{str(path)!r} is not empty and was not made by `dia-hf batch`; give another folder, or empty it."
            )
        is_new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(path / LOCK, f"another process works in {str(path)!r}; wait for it, or give another folder."):
                try:
                    yield
                finally:
                    if self._manifest is not None:
                        self._manifest.close()
        finally:
            if is_new and not any(path.iterdir()):
                path.rmdir()

    def open(self, settings: Mapping[str, Any]) -> None:
        """Note the settings of a new run, or check that they are those of the earlier one, and read its manifest.

        Args:
            settings (`Mapping[str, Any]`): All that determines the bytes of the files, as JSON has it.

        Raises:
            ValueError: If they differ; the error names the differences. Or if a file of the folder is damaged.
        """
        settings = json.loads(json.dumps({"version": _VERSION, **settings}))
        file = self.path / _SETTINGS
        if file.is_file():
            before = read_json(file)
            for name in dict.fromkeys((*before, *settings)):
                if before.get(name) != settings.get(name):
                    raise ValueError(
                        f"{str(self.path)!r} was begun with the `{name}` {shortened(before.get(name))}, and this run "
                        f"has {shortened(settings.get(name))}; give the same, or another folder."
                    )
        else:
            self._write_json(_SETTINGS, settings)
        self._read_manifest()
        self._manifest = open(self.path / _MANIFEST, "ab")  # noqa: SIM115

    def _read_manifest(self) -> None:
        file = self.path / _MANIFEST
        if not file.exists():
            return
        offset = 0
        with open(file, "r+b") as manifest:
            for number, line in enumerate(manifest, start=1):
                if not line.endswith(b"\n"):
                    manifest.truncate(offset)  # of a process that was killed
                    return
                try:
                    entry = json.loads(line)
                    key, reason = key_of(entry["id"]), sys.intern(entry["finish_reason"])
                    done = Done(entry["digest"], offset, entry["seconds"], reason)
                    is_there = (self.path / entry["file_name"]).is_file()
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(
                        f"{str(file)!r} is damaged in line {number} ({first_line(error)}); remove the line, and its "
                        "row is done again."
                    ) from error
                self.num_missing += not is_there
                if is_there:
                    self.done[key] = done
                offset += len(line)

    def add(self, entry: Entry) -> None:
        """Add a row, whose audio file is written, to the manifest."""
        assert self._manifest is not None
        line = json.dumps(asdict(entry), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        offset = self._manifest.tell()
        self.done[key_of(entry.id)] = Done(entry.digest, offset, entry.seconds, entry.finish_reason)
        self._manifest.write(line)
        self._manifest.flush()

    def finish(self, keys: Sequence[int] | array, failures: Sequence[Failure], report: Mapping[str, Any]) -> None:
        """Sort the manifest, and write the failures and the report.

        Args:
            keys (`Sequence[int]`): Hashes of the ids, in the order of the table.
            failures (`Sequence[Failure]`): Rows without an audio file, in the same order.
            report (`Mapping[str, Any]`): The report.
        """
        assert self._manifest is not None
        self._manifest.close()
        self._manifest = None
        offsets = [self.done[key].offset for key in keys if key in self.done]
        file = self.path / _MANIFEST
        with atomic_write(file) as beside, open(file, "rb") as manifest, open(beside, "wb") as ordered:
            for offset in offsets:
                manifest.seek(offset)
                ordered.write(manifest.readline())
        with atomic_write(self.path / _FAILED) as beside, open(beside, "w", encoding="utf-8") as failed:
            for failure in failures:
                line = {"row": failure.row, "id": failure.id, "error": failure.error}
                failed.write(json.dumps(line) + "\n")
        self._write_json(_REPORT, report)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_write(self.path / name) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def key_of(row_id: str) -> int:
    """Return the hash of an id, by which rows are kept in memory."""
    return int(hash_of(row_id), 16)
