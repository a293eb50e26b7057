"""Tables of recordings: csv, tsv, lists without a header, JSON, JSON lines and Parquet, read as records by column.

The rows of text tables are parsed twice, first to count and check them, so that only the text of a table is in memory.
Knows neither roles of columns nor audio; called by `sources.py`, `corpora.py` and `dia_hf.evaluation`.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .._extras import import_extra
from ..text_files import first_line, read_text
from .clips import AUDIO_SUFFIXES
from .rows import RowError

__all__ = ["TABLES", "USUAL_COLUMNS", "Table", "columns_of", "open_file", "peek_columns", "reading_as"]

# Lower case, in order of preference. None for language: a language tag is added only on request.
USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio", "file_name", "path", "audio_path", "audio_filepath", "audio_file", "filename", "file", "wav",
    ),
    "text": (
        "text", "transcript", "transcription", "sentence", "normalized_text", "texts", "turns", "utterances",
        "dialogue", "dialog", "conversation", "segments", "value",
    ),
    "speaker": (
        "speaker", "speaker_id", "speaker_name", "client_id", "speakers", "speaker_ids", "spk", "spk_id", "from",
    ),
    "language": (),
    "id": ("id", "utterance_id", "segment_id", "clip_id"),
    "session": (
        "session", "session_id", "conversation_id", "conv_id", "dialogue_id", "dialog_id", "meeting_id", "call_id",
        "recording_id",
    ),
}  # fmt: skip
"""Role → its usual column names, in lower case."""
TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")
"""Suffixes of tables."""
_DELIMITERS = (",", "\t", ";", "|")
_PEEKED = 1 << 20  # characters of a table that are read to recognize it


@dataclass(frozen=True)
class Table:
    """Records with the same columns."""

    name: str
    column_names: Sequence[str]
    records: Iterable[tuple[str, int, Mapping[str, Any] | RowError]]  # source, row, content
    num_rows: int | None = None
    folder: Path | None = None  # base of relative paths
    root: Path | None = None  # base of ids
    id_prefix: str = ""
    audio_column: str | None = None  # the column whose feature type is audio
    layout: str = "table"  # name of the recognized layout
    has_splits: bool = False  # whether `split` was used
    is_timed: bool = False  # whether the rows are consecutive pieces of the text of their recordings


def open_file(path: Path, root: Path, given: set[str], is_alone: bool = True) -> Table:
    """Open a table.

    Args:
        path (`Path`): The table: csv, tsv, txt, jsonl, json or parquet.
        root (`Path`): Folder that the table's name and the ids are relative to.
        given (`set[str]`): Column names that the caller asked for.
        is_alone (`bool`, defaults to `True`): Whether it is the only table; otherwise ids begin with its path.

    Raises:
        ValueError: If the file cannot be read, or has an unknown suffix.
    """
    name = path.relative_to(root).as_posix()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import_extra("datasets")  # pyarrow is one of its dependencies
        from pyarrow import parquet

        with reading_as(path, "parquet"):
            file = parquet.ParquetFile(path)
        content = _read_parquet(path, file)
        with reading_as(path, "parquet"):
            names, num_rows = file.schema_arrow.names, file.metadata.num_rows
        records: Iterable[tuple[int, Any]] = enumerate(content, start=1)
    elif suffix in TABLES:
        text = read_text(path)
        if suffix in (".jsonl", ".json"):
            names, num_rows, records = _read_json(path, text)
        else:
            names, num_rows, records = _read_csv(path, text, given)
    elif suffix in AUDIO_SUFFIXES:
        raise ValueError(f"{str(path)!r} is a single recording; give its folder, or a table with its transcript.")
    else:
        raise ValueError(f"{str(path)!r} has an unknown suffix; give a folder or one of {', '.join(TABLES)}.")
    placed = ((name, number, record) for number, record in records)
    prefix = "" if is_alone else f"{os.path.splitext(name)[0]}/"
    return Table(name, names, placed, num_rows, path.parent, root, prefix)


@contextmanager
def reading_as(path: Path, kind: str) -> Iterator[None]:
    """Convert the errors of pyarrow and `datasets`, which have many types, to a `ValueError` that names the file."""
    try:
        yield
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read as {kind} ({first_line(error)}).") from error


def _read_parquet(path: Path, file: Any) -> Iterator[dict[str, Any]]:
    batches = file.iter_batches(batch_size=64)
    while True:
        with reading_as(path, "parquet"):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        yield from rows


def peek_columns(path: Path, given: set[str]) -> list[str]:
    """Return the columns of a text table by its beginning, or an empty list if it is no table."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.read(_PEEKED).replace("\r\n", "\n")
        if path.suffix.lower() not in (".json", ".jsonl"):
            return _head_of(path, head.split("\n", 1)[0], given)[1]
        rows = _first_object_of(head.lstrip().removeprefix("["))
    except (OSError, ValueError, RecursionError):
        return []
    return list(rows) if isinstance(rows, dict) else []


def _first_object_of(text: str) -> Any:
    return json.JSONDecoder().raw_decode(text.lstrip())[0]


def _read_json(path: Path, text: str) -> tuple[list[str], int, Iterator[tuple[int, Any]]]:
    """Read a JSON list or JSON lines, whatever the suffix; return the columns, the number of rows, and the rows."""
    content: Any = None
    if path.suffix.lower() == ".json" or text.lstrip().startswith("["):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            # NeMo manifests have the suffix .json and contain JSON lines.
            is_lines = path.suffix.lower() != ".json" or isinstance(_first_line_of(text), dict)
            if not is_lines:
                raise ValueError(f"{str(path)!r} is not valid JSON ({error}).") from error
        else:
            content = [content] if _is_row(content) else content
            if not isinstance(content, list):
                raise ValueError(
                    f"{str(path)!r} does not contain a list; give a list of objects, or one object per line, with "
                    "audio and text."
                )

    def read() -> Iterator[tuple[int, Any]]:
        for number, record in _read_lines(text) if content is None else enumerate(content, start=1):
            if not isinstance(record, (dict, RowError)):
                kind = type(record).__name__
                record = RowError("unreadable_row", f"the row is a {kind}; it must be an object.")
            yield number, record

    names: dict[str, None] = {}
    num_rows = 0
    for _, record in read():
        num_rows += 1
        if isinstance(record, dict):
            names.update(dict.fromkeys(record))
    return list(names), num_rows, read()


def _read_lines(text: str) -> Iterator[tuple[int, Any]]:
    # Not `splitlines`: it splits at characters that JSON allows in a string.
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, RowError("unreadable_row", f"the line is not valid JSON ({error}).")


def columns_of(records: Iterable[Any]) -> list[str]:
    """Return the columns of all rows; a row may lack some."""
    return list(dict.fromkeys(chain.from_iterable(record for record in records if isinstance(record, Mapping))))


def _first_line_of(text: str) -> Any:
    try:
        return json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return None


def _is_row(content: Any) -> bool:
    """Whether the content of a JSON file is the single row of a manifest."""
    if not isinstance(content, dict):
        return False
    by_lower = {str(name).lower(): value for name, value in content.items()}
    return all(any(isinstance(by_lower.get(name), str) for name in USUAL_COLUMNS[role]) for role in ("audio", "text"))


def _head_of(path: Path, first: str, given: set[str]) -> tuple[str, list[str], bool]:
    """Return the delimiter and the columns of a table, and whether its first line is a header."""
    known = {name for names in USUAL_COLUMNS.values() for name in names} | {name.lower() for name in given}
    marks = ("\t",) if path.suffix.lower() == ".tsv" else _DELIMITERS
    try:
        heads = {mark: [cell.strip() for cell in _split(first.rstrip("\r"), mark)] for mark in marks}
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is not a table: its first line cannot be read ({error}).") from error
    for mark, cells in heads.items():
        if known & {cell.lower() for cell in cells}:
            return mark, cells, True
    if "|" in first:
        # The third column of LJSpeech has numbers spelled out; other projects have the speaker in the second.
        num_cells = len(_split(first.rstrip("\r"), "|"))
        return "|", ["file_name", "text"] if num_cells == 2 else ["file_name", "second", "text"], False
    delimiter = max(heads, key=lambda mark: len(heads[mark]))
    return delimiter, heads[delimiter], True


def _read_csv(path: Path, text: str, given: set[str]) -> tuple[list[str], int, Iterator[tuple[int, Any]]]:
    """Read a table, detecting the delimiter in its first line; without a header it is `file|text`, as in LJSpeech."""
    delimiter, names, has_header = _head_of(path, text.split("\n", 1)[0], given)
    if not has_header:
        text = "\n" + text

    def read() -> Iterator[tuple[int, Any]]:
        number = 0
        for cells in _split_lines(text, delimiter):
            if not cells:
                continue
            number += 1
            if len(cells) > len(names):
                yield (
                    number,
                    RowError(
                        "extra_cells",
                        f"the row has {len(cells)} cells but the table {len(names)} columns; put a text that contains "
                        f"{delimiter!r} in quotes.",
                    ),
                )
            else:
                yield number, dict(zip(names, cells, strict=False))

    num_rows = 0
    try:
        for number, _ in read():
            num_rows = number
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} cannot be read after row {num_rows} ({error}); check for an unclosed quote."
        ) from error
    return names, num_rows, read()


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _split_lines(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the cells of each line after the first."""
    if delimiter in ",;":
        # Strict: otherwise an unclosed quote merges all following rows into one text.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(lines, None)
        yield from lines
        return
    # Texts between tabs or bars may contain quotes: a cell is unquoted only if the quotes enclose all of it.
    for line in islice(io.StringIO(text, newline="\n"), 1, None):
        line = line.removesuffix("\n")
        cells = line.rstrip("\r").split(delimiter) if line.strip() else []
        quoted = (len(cell) > 1 and cell[0] == cell[-1] == '"' and delimiter == "\t" for cell in cells)
        yield [cell[1:-1].replace('""', '"') if q else cell for cell, q in zip(cells, quoted, strict=True)]
