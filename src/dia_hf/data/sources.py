"""Sources of clips: folders, tables and datasets, read as rows of audio, text, speaker, language and id.

Finds columns and files. A row that cannot be used carries a `RowError`; reading continues with the next row. Knows
nothing of codecs, tags and what makes a clip fit for training; called by `prepare.py`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from .._extras import import_extra
from ..text_files import first_line, read_text
from .clips import AUDIO_SUFFIXES, file_of, find_clip
from .rows import Row, RowError, is_missing
from .segments import Segment

__all__ = ["RowSource", "open_file", "open_source"]

# Lower case, in order of preference. None for language: a language tag is added only on request.
_USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio", "file_name", "path", "audio_path", "audio_filepath", "audio_file", "filename", "file", "wav",
    ),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "speaker_name"),
    "language": (),
    "id": ("id", "utterance_id", "segment_id", "clip_id"),
}  # fmt: skip
_DELIMITERS = (",", "\t", ";", "|")
_TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class RowSource:
    """Opened source.

    Args:
        name (`str`): Name of the file or folder without its parents, or of the dataset.
        rows (`Iterable[Row]`): Rows in the order of the source.
        num_rows (`int`, *optional*): Number of rows, if known.
    """

    name: str
    rows: Iterable[Row]
    num_rows: int | None


@dataclass(frozen=True)
class _Table:
    """Records with the same columns."""

    name: str
    column_names: Sequence[str]
    records: Iterable[tuple[str, int, Mapping[str, Any] | RowError]]  # source, row, content
    num_rows: int | None = None
    folder: Path | None = None  # base of relative paths
    root: Path | None = None  # base of ids
    id_prefix: str = ""
    audio_column: str | None = None  # the column whose feature type is audio


def open_source(
    source: Any, columns: Mapping[str, str | None] | None = None, split: str | None = None, config: str | None = None
) -> RowSource:
    """Open a source of recordings and their transcripts.

    Args:
        source: One of

            - a folder with `metadata.csv`, `.tsv`, `.jsonl` or `.parquet`, in it or in folders below it;
            - a folder of audio files, each with a `.txt` of the same name beside it;
            - a table: csv, tsv, jsonl, json or parquet, or a list of `file|text` without a header. Paths in it are
              relative to its folder;
            - a folder of parquet files, or one that `datasets` saved to disk;
            - the name of a dataset on the Hub;
            - a `datasets.Dataset`, or any iterable of dictionaries.
        columns (`Mapping[str, str]`, *optional*): The names of the columns `audio`, `text`, `speaker`, `language` and
            `id`. For a missing entry the usual names are tried; for language there are none.
        split (`str`, *optional*): Split of a dataset that has several.
        config (`str`, *optional*): Config of a Hub dataset that has several.

    Returns:
        `RowSource`: Rows are read lazily; their audio is read by `dia_hf.data.clips.read_clip`.

    Raises:
        ValueError: If the source is empty, a column is missing (the error lists the columns found), or a split must be
            chosen.
        FileNotFoundError: If there is no file, folder or dataset with this name.

    Example:
    ```python
    >>> from dia_hf.data.sources import open_source
    >>> source = open_source([{"path": "a.wav", "sentence": "Hello."}], {"text": "sentence"})
    >>> [(row.number, row.text, str(row.audio)) for row in source.rows]
    [(1, 'Hello.', "there is no file 'a.wav'.")]

    ```
    """
    columns = {role: (columns or {}).get(role) for role in _USUAL_COLUMNS}
    given = {name for name in columns.values() if name is not None}
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source):
        path = Path(source)
        if config is not None:
            raise ValueError(f"`config` is {config!r}, but {str(path)!r} is not a Hub dataset; leave it out.")
        name = path.name or path.resolve().name
        tables = _open_folder(path, given, split) if path.is_dir() else [open_file(path, path.parent, given)]
        is_on_disk = any(table.folder is None for table in tables)
        if split is not None and not is_on_disk:
            raise ValueError(
                f"`split` is {split!r}, but {str(path)!r} is not a dataset; give the folder or file of the split."
            )
    elif isinstance(source, (str, os.PathLike)):
        name = str(source)
        tables = [_open_hub(name, config, split)]
    else:
        tables = [_open_rows(source, split)]
        name = tables[0].name
    found = [(table, _find_columns(table, columns)) for table in tables]
    counts = [table.num_rows for table in tables]
    num_rows = None if None in counts else sum(count or 0 for count in counts)
    return RowSource(name, chain.from_iterable(_read_rows(table, where) for table, where in found), num_rows)


def _open_folder(folder: Path, given: set[str], split: str | None) -> list[_Table]:
    if (folder / "prepared.json").is_file():
        raise ValueError(f"{str(folder)!r} is a prepared dataset; give its source instead.")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with _reading(folder, "a dataset"):
            loaded = import_extra("datasets").load_from_disk(str(folder))
        return [_open_dataset(loaded, folder.resolve().name, split)]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if path.name in {f"metadata{suffix}" for suffix in _TABLES if suffix != ".txt"}]
    tables = tables or [path for path in files if path.suffix == ".parquet"]
    if tables:
        return [open_file(path, folder, given, is_alone=len(tables) == 1) for path in tables]
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        raise ValueError(
            f"there are no clips in {str(folder)!r}; add a metadata.csv with the columns file_name and text, or audio "
            "files with a .txt file of the same name beside each."
        )
    records = (
        (name := path.relative_to(folder).as_posix(), 1, {"audio": name, "text": _read_text_beside(path)})
        for path in recordings
    )
    return [_Table(folder.name, ["audio", "text"], records, len(recordings), folder, folder)]


def _read_text_beside(recording: Path) -> str | RowError:
    path = recording.with_suffix(".txt")
    if not path.is_file():
        return RowError("missing_text", f"there is no {path.name} beside {recording.name}.")
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        return RowError("unreadable_text", str(error))


def open_file(path: Path, root: Path, given: set[str], is_alone: bool = True) -> _Table:
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

        with _reading(path, "parquet"):
            file = parquet.ParquetFile(path)
        content = _read_parquet(path, file)
        with _reading(path, "parquet"):
            names, num_rows = file.schema_arrow.names, file.metadata.num_rows
        records: Iterable[tuple[int, Any]] = enumerate(content, start=1)
    elif suffix in _TABLES:
        text = read_text(path)
        if suffix in (".jsonl", ".json"):
            names, records = _read_json(path, text)
        else:
            names, records = _read_csv(path, text, given)
        num_rows = len(records)
    elif suffix in AUDIO_SUFFIXES:
        raise ValueError(f"{str(path)!r} is a single recording; give its folder, or a table with its transcript.")
    else:
        raise ValueError(f"{str(path)!r} has an unknown suffix; give a folder or one of {', '.join(_TABLES)}.")
    placed = ((name, number, record) for number, record in records)
    prefix = "" if is_alone else f"{os.path.splitext(name)[0]}/"
    return _Table(name, names, placed, num_rows, path.parent, root, prefix)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
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
        with _reading(path, "parquet"):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        yield from rows


def _read_json(path: Path, text: str) -> tuple[list[str], list[tuple[int, Any]]]:
    """Read a JSON list or JSON lines, whatever the suffix; return the columns and the rows."""
    records: list[tuple[int, Any]] = []
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
    if content is not None:
        records = list(enumerate(content, start=1))
    else:
        # Not `splitlines`: it splits at characters that JSON allows in a string.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    records.append((number, RowError("unreadable_row", f"the line is not valid JSON ({error}).")))
    for place, (number, record) in enumerate(records):
        if not isinstance(record, (dict, RowError)):
            kind = type(record).__name__
            records[place] = number, RowError("unreadable_row", f"the row is a {kind}; it must be an object.")
    return _columns_of(record for _, record in records), records


def _columns_of(records: Iterable[Any]) -> list[str]:
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
    return all(any(isinstance(by_lower.get(name), str) for name in _USUAL_COLUMNS[role]) for role in ("audio", "text"))


def _read_csv(path: Path, text: str, given: set[str]) -> tuple[list[str], list[tuple[int, Any]]]:
    """Read a table, detecting the delimiter in its first line; without a header it is `file|text`, as in LJSpeech."""
    first = text.split("\n", 1)[0].rstrip("\r")
    known = {name for names in _USUAL_COLUMNS.values() for name in names} | {name.lower() for name in given}
    marks = ("\t",) if path.suffix.lower() == ".tsv" else _DELIMITERS
    try:
        heads = {mark: _split(first, mark) for mark in marks}
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is not a table: its first line cannot be read ({error}).") from error
    delimiter = next((mark for mark, cells in heads.items() if known & {cell.strip().lower() for cell in cells}), None)
    names = [] if delimiter is None else [cell.strip() for cell in heads[delimiter]]
    if delimiter is None and "|" in first:
        delimiter = "|"
        # The third column of LJSpeech has numbers spelled out; other projects have the speaker in the second.
        names = ["file_name", "text"] if len(heads["|"]) == 2 else ["file_name", "second", "text"]
        text = "\n" + text
    elif delimiter is None:
        delimiter = max(heads, key=lambda mark: len(heads[mark]))
        names = [cell.strip() for cell in heads[delimiter]]
    records: list[tuple[int, Any]] = []
    try:
        for cells in _split_lines(text, delimiter):
            if not cells:
                continue
            if len(cells) > len(names):
                record: Any = RowError(
                    "extra_cells",
                    f"the row has {len(cells)} cells but the table {len(names)} columns; put a text that contains "
                    f"{delimiter!r} in quotes.",
                )
            else:
                record = dict(zip(names, cells, strict=False))
            records.append((len(records) + 1, record))
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} cannot be read after row {len(records)} ({error}); check for an unclosed quote."
        ) from error
    return names, records


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
    for line in text.split("\n")[1:]:
        cells = line.rstrip("\r").split(delimiter) if line.strip() else []
        quoted = (len(cell) > 1 and cell[0] == cell[-1] == '"' and delimiter == "\t" for cell in cells)
        yield [cell[1:-1].replace('""', '"') if q else cell for cell, q in zip(cells, quoted, strict=True)]


def _open_hub(name: str, config: str | None, split: str | None) -> _Table:
    if not _HUB_NAME.fullmatch(name) or name.endswith(_TABLES):
        raise FileNotFoundError(f"there is no file or folder {name!r}.")
    datasets = import_extra("datasets")
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"there is no file or folder {name!r}, and it cannot be loaded as a Hub dataset: {error}"
        ) from error
    return _open_dataset(loaded, name, split=None)


def _open_rows(rows: Any, split: str | None) -> _Table:
    datasets = import_extra("datasets")
    if isinstance(rows, (datasets.Dataset, datasets.IterableDataset, dict)):
        return _open_dataset(rows, getattr(getattr(rows, "info", None), "dataset_name", None) or "dataset", split)
    if split is not None:
        raise ValueError(f"`split` is {split!r}, but the source has no splits; leave it out.")
    iterator = iter(rows)
    first = next(iterator, None)
    if not isinstance(first, Mapping):
        found = "is empty" if first is None else f"contains a {type(first).__name__}"
        raise ValueError(f"the source {found}; give dictionaries with at least audio and text.")
    records = (("rows", number, row) for number, row in enumerate(chain([first], iterator), start=1))
    names = _columns_of(rows if isinstance(rows, (list, tuple)) else [first])
    return _Table("rows", names, records, len(rows) if hasattr(rows, "__len__") else None)


def _open_dataset(dataset: Any, name: str, split: str | None) -> _Table:
    datasets = import_extra("datasets")
    if isinstance(dataset, dict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            asked = "" if split is None else f"no split {split!r}, but "
            raise ValueError(f"{name!r} has {asked}{', '.join(map(repr, dataset))}; choose one: `split` (--split).")
        dataset = dataset[split]
    elif split is not None:
        raise ValueError(f"`split` is {split!r}, but {name!r} has no splits; leave it out.")
    # Undecoded: `datasets` decodes with torchcodec, which needs FFmpeg.
    features = dataset.features or {}
    audio_columns = [column for column, feature in features.items() if isinstance(feature, datasets.Audio)]
    for column in audio_columns:
        dataset = dataset.cast_column(column, datasets.Audio(decode=False))
    labels = {column: feature for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    is_sized = isinstance(dataset, datasets.Dataset)
    if is_sized:
        dataset = dataset.with_format(None)
    names = list(features)
    content: Iterator[Any] = iter(dataset)
    if not names:
        first: Mapping[str, Any] = next(content, {})
        names, content = list(first), chain([first], content)
    records = (
        (name, number, record | {column: _label(feature, record[column]) for column, feature in labels.items()})
        for number, record in enumerate(content, start=1)
    )
    return _Table(
        name, names, records, len(dataset) if is_sized else None, audio_column=next(iter(audio_columns), None)
    )


def _label(feature: Any, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.int2str(value)


def _find_columns(table: _Table, given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the column of each role; `None` if there is none."""
    there = f"{table.name!r} has the columns {', '.join(map(repr, table.column_names)) or '(none)'}"
    by_lower = {name.lower(): name for name in reversed(table.column_names)}
    found: dict[str, str | None] = {}
    for role, usual in _USUAL_COLUMNS.items():
        name = given[role]
        if name is not None and name not in table.column_names:
            raise ValueError(f"there is no {role} column {name!r}: {there}.")
        if name is None and role == "audio":
            name = table.audio_column
        found[role] = name or next((by_lower[alias] for alias in usual if alias in by_lower), None)
    for role in ("audio", "text"):
        if found[role] is None:
            raise ValueError(f"no {role} column was found: {there}; name it with `{role}_column` (--{role}-column).")
    return found


def _read_rows(table: _Table, columns: Mapping[str, str | None]) -> Iterator[Row]:
    for source, number, record in table.records:
        if isinstance(record, RowError):
            yield Row(source, number, f"{table.id_prefix}{number:06d}", None, record)
            continue
        values = {role: None if column is None else record.get(column) for role, column in columns.items()}
        named = {
            role: None if is_missing(values[role]) else str(values[role]) for role in ("speaker", "language", "id")
        }
        taken = {column for column in columns.values() if column is not None}
        spare = {column: value for column, value in record.items() if column not in taken}
        try:
            audio = find_clip(values["audio"], table.folder or Path(), spare)
        except RowError as error:
            audio = error
        name = named["id"]
        if name is None and (file := file_of(audio)) is not None and table.root is not None:
            name = os.path.splitext(Path(os.path.relpath(file, table.root)).as_posix())[0]
            if isinstance(audio, Segment) and audio.begin is not None:
                name = f"{name}@{audio}"
        name = name or f"{table.id_prefix}{number:06d}"
        yield Row(source, number, name, audio, values["text"], named["speaker"], named["language"])
