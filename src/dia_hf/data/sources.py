"""Where clips come from: folders, tables and datasets, all as rows of audio, text, speaker, language and id.

Finds the columns, the files and the segments of files, reads a clip's samples when asked, and says for each row what is
wrong with it instead of stopping there. Knows nothing of codecs, of tags, and of what makes a clip fit for training;
called by `prepare.py`.

Legend: N samples.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..audio.io import audio_seconds, read_audio
from ..text_files import first_line, read_text

__all__ = [
    "AUDIO_SUFFIXES",
    "Row",
    "RowError",
    "RowSource",
    "Segment",
    "digest_audio",
    "file_of",
    "find_audio",
    "find_clip",
    "import_datasets",
    "is_missing",
    "open_file",
    "open_source",
    "read_clip",
]

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64", ".m4a", ".aac", ".webm",
)  # fmt: skip
"""File endings by which a name is taken for a recording, whether libsndfile reads it or not."""

# Lower case, the likeliest first. None for language: a tag before the text is something to be asked for.
_USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio", "file_name", "path", "audio_path", "audio_filepath", "audio_file", "filename", "file", "wav",
    ),
    "text": ("text", "transcript", "transcription", "sentence", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "speaker_name"),
    "language": (),
    "id": ("id", "utterance_id", "segment_id", "clip_id"),
}  # fmt: skip
# Names as `_plain_name` writes them, behind which a unit may stand.
_BEGINS = (
    "offset", "start", "begin", "start_time", "begin_time", "time_start", "time_begin", "start_offset", "start_ts",
    "start_timestamp", "audio_start", "audio_begin", "audio_offset", "onset", "t_start", "tmin", "xmin",
)  # fmt: skip
_ENDS = (
    "end", "stop", "end_time", "stop_time", "time_end", "time_stop", "end_offset", "end_ts", "end_timestamp",
    "audio_end", "audio_stop", "t_end", "tmax", "xmax",
)  # fmt: skip
_DURATIONS = ("duration", "dur")
_PAIRS = ("timestamp", "timestamps", "time_range", "interval", "segment")  # if they hold two numbers
_OF_SEGMENTS = re.compile(r"(segment|seg|clip|utterance|utt|chunk|speech)_(?=[a-z])")
_PLACES = ("wavs", "wav", "clips")  # where LJSpeech, its kin and Common Voice keep what their tables name
_UNITS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), 1e-3),
}
_COUNTS = re.compile(r"(frame|sample)_(offset|start|begin)|(offset|start|begin)_(frames?|samples?)")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_SAME_SECONDS = 0.1  # what durations of the same sound differ by: rounded numbers, the padding of mp3
_DELIMITERS = (",", "\t", ";", "|")
_TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".parquet")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class RowError(ValueError):
    """Why a row cannot be used: a code for programs, a sentence for people.

    Args:
        code (`str`): Such as "missing_file"; it stays the same from version to version.
        reason (`str`): The sentence.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)  # both, or it could not come back from another process
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Segment:
    """A part of a recording.

    Args:
        audio: The recording: a path, the bytes of a file, or a dictionary of `array` and `sampling_rate`.
        begin (`float`, *optional*): In seconds. `None` where the row says how long it is and not where it begins: it
            has to be the whole recording, then.
        duration (`float`, *optional*): In seconds; to the recording's end unless given.
    """

    audio: Any
    begin: float | None
    duration: float | None

    def __str__(self) -> str:
        begin = self.begin or 0.0
        return f"{begin:.3f}-{'' if self.duration is None else f'{begin + self.duration:.3f}'}"


@dataclass(frozen=True)
class Row:
    """A clip as its source has it.

    Args:
        source (`str`): The file that the row stands in, relative to what was opened, or the dataset's name.
        number (`int`): Which row of it, from 1; of JSONL the line. A header is no row.
        id (`str`): From the id column, or else the audio file's path without its ending and, of a segment, "@", where
            it begins and where it ends in seconds; or else the row's number.
        audio: A path, the bytes of a file, a dictionary of `array` and `sampling_rate`, a `Segment` of one of these, or
            the `RowError` that says why there is none.
        text: What the text column holds, or a `RowError`.
        speaker (`str`, *optional*): Who speaks.
        language (`str`, *optional*): In which language.
    """

    source: str
    number: int
    id: str
    audio: Any
    text: Any
    speaker: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class RowSource:
    """An opened source.

    Args:
        name (`str`): What to call it: a file's or folder's name without the folders above it, or the dataset's.
        rows (`Iterable[Row]`): In the order of the source.
        num_rows (`int`, *optional*): How many there are, where that is known.
    """

    name: str
    rows: Iterable[Row]
    num_rows: int | None


@dataclass(frozen=True)
class _Table:
    """Records that share their columns."""

    name: str
    column_names: Sequence[str]
    records: Iterable[tuple[str, int, Mapping[str, Any] | RowError]]  # source, row, content
    num_rows: int | None = None
    folder: Path | None = None  # that relative paths start from
    root: Path | None = None  # that ids are relative to
    id_prefix: str = ""
    audio_column: str | None = None  # the one whose type says that it is audio


def import_datasets() -> ModuleType:
    """Import `datasets`, which comes with an extra.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f'`datasets` cannot be imported ({error}); `pip install "dia-hf[train]"` brings it.'
        ) from error
    return datasets


def open_source(
    source: Any, columns: Mapping[str, str | None] | None = None, split: str | None = None, config: str | None = None
) -> RowSource:
    """Open whatever holds recordings and their transcripts.

    Args:
        source: One of

            - a folder with `metadata.csv`, `.tsv`, `.jsonl` or `.parquet`, in it or in folders below it;
            - a folder of audio files, each with a `.txt` of the same name beside it;
            - a table by itself: csv, tsv, jsonl, json or parquet, or a list of `file|text` without a header. Paths
              in it are relative to its folder;
            - a folder of parquet files, or one that `datasets` saved to disk;
            - the name of a dataset on the Hub;
            - a `datasets.Dataset`, or any iterable of dictionaries.
        columns (`Mapping[str, str]`, *optional*): The names of the columns `audio`, `text`, `speaker`, `language` and
            `id`. Where one is missing the usual names are tried; no language is read then.
        split (`str`, *optional*): Of a dataset with several.
        config (`str`, *optional*): Of a dataset on the Hub with several.

    Returns:
        `RowSource`: Its rows are read while they are asked for, the audio not even then: see `read_clip`.

    Raises:
        ValueError: If there is nothing to read, a column is missing (the error lists those there are), or a split
            has to be named.
        FileNotFoundError: If there is neither a file nor a dataset of this name.

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
            raise ValueError(f"`config` is {config!r}, but {str(path)!r} is no dataset on the Hub; leave it out.")
        name = path.name or path.resolve().name
        tables = _open_folder(path, given, split) if path.is_dir() else [open_file(path, path.parent, given)]
        is_on_disk = any(table.folder is None for table in tables)
        if split is not None and not is_on_disk:
            raise ValueError(
                f"`split` is {split!r}, but {str(path)!r} is no dataset; give the folder or file of the split itself."
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
        raise ValueError(f"{str(folder)!r} is prepared already; give what it was prepared from.")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with _reading(folder, "a dataset"):
            loaded = import_datasets().load_from_disk(str(folder))
        return [_open_dataset(loaded, folder.resolve().name, split)]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if path.name in {f"metadata{suffix}" for suffix in _TABLES if suffix != ".txt"}]
    tables = tables or [path for path in files if path.suffix == ".parquet"]
    if tables:
        return [open_file(path, folder, given, is_alone=len(tables) == 1) for path in tables]
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        raise ValueError(
            f"there are no clips in {str(folder)!r}; put a metadata.csv there with the columns file_name and text, or "
            "audio files with a .txt of the same name beside each."
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
    """Open a table of any kind, `root` being the folder from which it is named; `given` are columns asked for."""
    name = path.relative_to(root).as_posix()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import_datasets()  # which brings pyarrow
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
        raise ValueError(f"{str(path)!r} is one recording; give the folder, or a table with its transcript.")
    else:
        raise ValueError(f"{str(path)!r} is of no known kind; give a folder or one of {', '.join(_TABLES)}.")
    placed = ((name, number, record) for number, record in records)
    prefix = "" if is_alone else f"{os.path.splitext(name)[0]}/"
    return _Table(name, names, placed, num_rows, path.parent, root, prefix)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Name the file where pyarrow or `datasets` say what is wrong with it, by errors of many kinds."""
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
    """Read one list or JSON lines, whatever the ending; return the columns and the rows."""
    records: list[tuple[int, Any]] = []
    content: Any = None
    if path.suffix.lower() == ".json" or text.lstrip().startswith("["):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            # NeMo calls its manifests .json, and what they hold are lines.
            is_lines = path.suffix.lower() != ".json" or isinstance(_first_line_of(text), dict)
            if not is_lines:
                raise ValueError(f"{str(path)!r} is no JSON ({error}).") from error
        else:
            content = [content] if _is_row(content) else content
            if not isinstance(content, list):
                raise ValueError(
                    f"{str(path)!r} holds no list; give a list of objects, or one object a line, of audio and text."
                )
    if content is not None:
        records = list(enumerate(content, start=1))
    else:
        # Not `splitlines`: it cuts at characters that JSON lets stand in a string.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    records.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    records.append((number, RowError("unreadable_row", f"the line is no JSON ({error}).")))
    for place, (number, record) in enumerate(records):
        if not isinstance(record, (dict, RowError)):
            kind = type(record).__name__
            records[place] = number, RowError("unreadable_row", f"the row is a {kind} where an object should stand.")
    return _columns_of(record for _, record in records), records


def _columns_of(records: Iterable[Any]) -> list[str]:
    """Return the columns of all rows, which may lack some."""
    return list(dict.fromkeys(chain.from_iterable(record for record in records if isinstance(record, Mapping))))


def _first_line_of(text: str) -> Any:
    try:
        return json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return None


def _is_row(content: Any) -> bool:
    """Whether what a file holds is the one row of a manifest."""
    if not isinstance(content, dict):
        return False
    by_lower = {str(name).lower(): value for name, value in content.items()}
    return all(any(isinstance(by_lower.get(name), str) for name in _USUAL_COLUMNS[role]) for role in ("audio", "text"))


def _read_csv(path: Path, text: str, given: set[str]) -> tuple[list[str], list[tuple[int, Any]]]:
    """Read a table whose delimiter its first line tells; without a header it is `file|text`, as LJSpeech has it."""
    first = text.split("\n", 1)[0].rstrip("\r")
    known = {name for names in _USUAL_COLUMNS.values() for name in names} | {name.lower() for name in given}
    marks = ("\t",) if path.suffix.lower() == ".tsv" else _DELIMITERS
    try:
        heads = {mark: _split(first, mark) for mark in marks}
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is no table: its first line cannot be read ({error}).") from error
    delimiter = next((mark for mark, cells in heads.items() if known & {cell.strip().lower() for cell in cells}), None)
    names = [] if delimiter is None else [cell.strip() for cell in heads[delimiter]]
    if delimiter is None and "|" in first:
        delimiter = "|"
        # LJSpeech writes numbers out in the third column; lists of other projects have the speaker in the second.
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
                    f"the row has {len(cells)} cells but the table {len(names)} columns; put a text that holds "
                    f"{delimiter!r} in quotes.",
                )
            else:
                record = dict(zip(names, cells, strict=False))
            records.append((len(records) + 1, record))
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} cannot be read after row {len(records)} ({error}); look for a quote that is not closed."
        ) from error
    return names, records


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _split_lines(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the cells of each line but the first."""
    if delimiter in ",;":
        # Strict, or a quote that is not closed makes one text of all the rows that follow.
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        next(lines, None)
        yield from lines
        return
    # Texts between tabs or bars hold quotes of their own: a cell is unquoted only where it is quoted from end to end.
    for line in text.split("\n")[1:]:
        cells = line.rstrip("\r").split(delimiter) if line.strip() else []
        quoted = (len(cell) > 1 and cell[0] == cell[-1] == '"' and delimiter == "\t" for cell in cells)
        yield [cell[1:-1].replace('""', '"') if q else cell for cell, q in zip(cells, quoted, strict=True)]


def _open_hub(name: str, config: str | None, split: str | None) -> _Table:
    if not _HUB_NAME.fullmatch(name) or name.endswith(_TABLES):
        raise FileNotFoundError(f"there is no file or folder {name!r}.")
    datasets = import_datasets()
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"there is no file or folder {name!r}, and as a dataset on the Hub it cannot be had: {error}"
        ) from error
    return _open_dataset(loaded, name, split=None)


def _open_rows(rows: Any, split: str | None) -> _Table:
    datasets = import_datasets()
    if isinstance(rows, (datasets.Dataset, datasets.IterableDataset, dict)):
        return _open_dataset(rows, getattr(getattr(rows, "info", None), "dataset_name", None) or "dataset", split)
    if split is not None:
        raise ValueError(f"`split` is {split!r}, but the source is no dataset with splits; leave it out.")
    iterator = iter(rows)
    first = next(iterator, None)
    if not isinstance(first, Mapping):
        found = "holds nothing" if first is None else f"holds a {type(first).__name__}"
        raise ValueError(f"the source {found}; give dictionaries of at least audio and text.")
    records = (("rows", number, row) for number, row in enumerate(chain([first], iterator), start=1))
    names = _columns_of(rows if isinstance(rows, (list, tuple)) else [first])
    return _Table("rows", names, records, len(rows) if hasattr(rows, "__len__") else None)


def _open_dataset(dataset: Any, name: str, split: str | None) -> _Table:
    datasets = import_datasets()
    if isinstance(dataset, dict):
        if split is None and len(dataset) == 1:
            split = next(iter(dataset))
        if split not in dataset:
            asked = "" if split is None else f"no split {split!r}, but "
            raise ValueError(f"{name!r} has {asked}{', '.join(map(repr, dataset))}; name one: `split` (--split).")
        dataset = dataset[split]
    elif split is not None:
        raise ValueError(f"`split` is {split!r}, but {name!r} has no splits; leave it out.")
    # Undecoded: what decodes otherwise is torchcodec, which needs FFmpeg.
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
    """Return the column of each role, `None` where there is none."""
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
            raise ValueError(f"which column is the {role}? {there}; name it: `{role}_column` (--{role}-column).")
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


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: `None`, NaN (what pandas writes there), or nothing but blanks."""
    return (
        value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip())
    )


def file_of(audio: Any) -> str | None:
    """Return the path of a row's audio, where it has one."""
    if isinstance(audio, Segment):
        audio = audio.audio
    return audio if isinstance(audio, str) else None


def find_clip(value: Any, folder: Path, record: Mapping[str, Any]) -> Any:
    """Return what `find_audio` does, or the `Segment` of it that the other cells of the row speak of."""
    audio = find_audio(value, folder)
    begin, end = _find_seconds(record, _BEGINS), _find_seconds(record, _ENDS)
    for column, pair in record.items() if begin is None and end is None else ():
        if _plain_name(column) in _PAIRS and isinstance(pair, (list, tuple, np.ndarray)) and len(pair) == 2:
            begin, end = (None if is_missing(value) else _as_seconds(column, value) for value in pair)
            break
    try:
        duration = _find_seconds(record, _DURATIONS if begin is None else (*_DURATIONS, "length"))
    except RowError:
        if begin is not None:
            raise
        duration = None
    if begin is None and duration is not None and duration <= 0:
        duration = None  # as some write what they do not know
    if begin is None and (counted := [name for name in record if _is_count(name, record[name])]):
        raise RowError(
            "unclear_segment",
            f"{counted[0]!r} counts samples or frames; give the segment in seconds, as 'start' and 'end' or as "
            "'offset' and 'duration'.",
        )
    if begin is None and end is not None and duration is not None:
        begin = end - duration
        if -_SAME_SECONDS <= begin < 0:
            begin = 0.0
    elif begin is None and end is not None:
        raise RowError("unclear_segment", f"the row has the end of a segment, {end:g} s, but no begin; give it, too.")
    if end is not None and begin is not None:
        duration = end - begin
    if begin is None and duration is None:
        return audio
    if not (begin is None or begin >= 0) or not (duration is None or duration > 0):
        where = "" if begin is None else f"begins at {begin:g} s and "
        raise RowError(
            "unclear_segment",
            f"the segment {where}lasts {math.inf if duration is None else duration:g} s; it begins at 0 s or later, "
            "and lasts longer than 0 s.",
        )
    return Segment(audio, begin, duration)


@lru_cache(maxsize=1024)
def _plain_name(column: Any) -> str:
    """Write the name of a column as small words between underscores: "Start (ms)", "segmentStartMs" are start_ms."""
    words = re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(column))).strip("_").lower()
    return _OF_SEGMENTS.sub("", words, count=1) if _OF_SEGMENTS.match(words) else words


def _is_count(column: Any, value: Any) -> bool:
    return _COUNTS.fullmatch(_plain_name(column)) is not None and not is_missing(value) and value not in (0, "0", -1)


def _find_seconds(record: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """Return what a row says of where its segment begins or ends, or how long it is, in seconds."""
    plain = {_plain_name(column): column for column in reversed(list(record))}
    if any(name.split("_")[0] == "onset" for name in plain):  # beside an onset, the offset is the end
        names = [name for name in names if name != "offset"] + ["offset"] * (names is _ENDS)
    for name in names:
        for unit, factor in _UNITS.items():
            column = plain.get(f"{name}_{unit}" if unit else name)
            if column is not None and not is_missing(record[column]):
                return factor * _as_seconds(column, record[column])
    return None


def _as_seconds(column: Any, value: Any) -> float:
    number = math.nan
    if isinstance(value, str) and (match := _CLOCK.fullmatch(value.strip())):
        hours, minutes, seconds = match.groups(default="0")
        number = 3600 * int(hours) + 60 * int(minutes) + float(seconds.replace(",", "."))
    elif not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            # 0,5 is half, but 1,500 may be either.
            is_decimal = isinstance(value, str) and re.fullmatch(r"\s*-?\d+,(?!\d{3}\s*$)\d+\s*", value)
            number = float(value.replace(",", ".") if is_decimal else value)
    if not math.isfinite(number):
        raise RowError(
            "unclear_segment",
            f"{_quote(value)} stands in {str(column)!r}, where the segment's seconds should; give a number, or call a "
            "column that is no time otherwise.",
        )
    return number


def find_audio(value: Any, folder: Path) -> Any:
    """Return a file's path, its bytes, or a dictionary of `array` and `sampling_rate`."""
    if hasattr(value, "get_all_samples"):  # torchcodec's decoder
        samples = value.get_all_samples()
        value = {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}
    if isinstance(value, Mapping) and not is_missing(value.get("bytes")):
        value = value["bytes"]
    elif isinstance(value, Mapping) and value.get("array") is not None:
        rate = value.get("sampling_rate")
        if not isinstance(rate, (int, float, np.number)) or not 0 < rate < float("inf"):
            raise RowError("unreadable_audio", f"the samples come with the sampling rate {rate!r}; it is above 0.")
        try:
            array = np.asarray(value["array"])
        except ValueError as error:
            raise RowError("unreadable_audio", f"the samples are no array ({error}).") from error
        if array.dtype.kind not in "fiu":
            raise RowError("unreadable_audio", f"the samples are of the kind {array.dtype}; they are numbers.")
        return {"array": array, "sampling_rate": int(rate)}
    elif isinstance(value, Mapping):
        value = value.get("path")
    if is_missing(value):
        raise RowError("missing_audio", "the row has no audio.")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise RowError("audio_not_path", f"{_quote(value)} stands where a path to the audio should.")
    return _find_file(os.fspath(value), folder)


def _find_file(written: str, folder: Path) -> str:
    name = written.strip()
    candidates = [folder / name, folder / written]
    if "\\" in name:  # a table that was made under Windows
        candidates.append(folder / name.replace("\\", "/"))
    has_suffix = name.lower().endswith(AUDIO_SUFFIXES)
    if has_suffix:
        candidates += [folder / place / name for place in _PLACES]
    else:  # LJSpeech names its files by their ids
        candidates += [folder / place / f"{name}{suffix}" for place in ("", *_PLACES) for suffix in AUDIO_SUFFIXES[:4]]
    for path in candidates:
        if os.path.isfile(path):
            return str(path)
    if has_suffix or not re.search(r"\s", name):
        raise RowError("missing_file", f"there is no file {str(candidates[0])!r}.")
    raise RowError("audio_not_path", f"{_quote(name)} stands where a path to the audio should.")


def _quote(value: Any) -> str:
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:59]}…"


def read_clip(audio: Any, max_seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Read the samples of a row's audio; of a segment, these alone.

    Args:
        audio: As `Row.audio` has it.
        max_seconds (`float`, *optional*): What is longer is refused; a file by its header, without being read.

    Returns:
        `tuple[np.ndarray, int]`: Samples, of a file float32 `[channels, N]`, of an array as they are; and their rate
        in hertz.

    Raises:
        RowError: "missing_file", "unreadable_audio", "too_long" or "unclear_segment".
    """
    if isinstance(audio, RowError):
        raise audio
    begin, end = 0.0, None
    recording = audio.audio if isinstance(audio, Segment) else audio
    try:
        if isinstance(audio, Segment):
            begin, end = _place(audio, _seconds_of(recording))
        if max_seconds is not None:
            _check_seconds((_seconds_of(recording) if end is None else end) - begin, max_seconds)
        if not isinstance(recording, dict):
            return read_audio(recording, begin, end)
    except FileNotFoundError as error:
        raise RowError("missing_file", str(error)) from error
    except RowError:
        raise
    except (OSError, ValueError) as error:
        raise RowError("unreadable_audio", str(error)) from error
    samples, sampling_rate = recording["array"], recording["sampling_rate"]
    if isinstance(audio, Segment) and samples.ndim:
        first, last = round(begin * sampling_rate), None if end is None else round(end * sampling_rate)
        samples = samples.take(range(*slice(first, last).indices(max(samples.shape))), int(np.argmax(samples.shape)))
    return samples, sampling_rate


def _seconds_of(recording: Any) -> float:
    if isinstance(recording, dict):
        return max(recording["array"].shape, default=0) / recording["sampling_rate"]
    return audio_seconds(recording)


def _place(segment: Segment, seconds: float) -> tuple[float, float | None]:
    """Return where a segment begins and ends in its recording of so many seconds."""
    begin, duration = segment.begin, segment.duration
    if duration is not None and abs(duration - seconds) <= _SAME_SECONDS:
        return 0.0, None  # cut already: such rows tell where in a longer recording they come from
    if begin is None:
        assert duration is not None
        # By another clock, such as milliseconds, or with what was cut off since; or rounded to seconds.
        if duration > seconds or (duration == int(duration) and duration > seconds - 1):
            return 0.0, None
        raise RowError(
            "unclear_segment",
            f"the row lasts {duration:g} s and its recording {seconds:.1f} s; say where it begins ('offset'), or leave "
            "its duration out.",
        )
    if begin >= seconds or (duration is not None and begin + duration > seconds + _SAME_SECONDS):
        raise RowError(
            "unclear_segment",
            f"the segment {segment} s does not lie within its recording of {seconds:.1f} s; segments are in seconds.",
        )
    return begin, None if duration is None else begin + duration


def _check_seconds(seconds: float, max_seconds: float | None) -> None:
    if max_seconds is not None and seconds > max_seconds:
        raise RowError("too_long", f"it has {seconds:.1f} s; at most {max_seconds:g} s are read: cut it at pauses.")


def digest_audio(audio: Any) -> bytes:
    """Return a hash of a row's audio by its content: of a file's bytes, or of samples and their rate; and of a segment.

    Raises:
        RowError: "missing_file" or "unreadable_audio".
    """
    if isinstance(audio, RowError):
        raise audio
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(audio, Segment):
        recording = audio.audio
        is_file = isinstance(recording, str)
        digest.update(
            _digest_file(os.path.abspath(recording), *_stamp(recording)) if is_file else digest_audio(recording)
        )
        digest.update(f"{audio.begin} {audio.duration}".encode())
    elif isinstance(audio, dict):
        array = np.ascontiguousarray(audio["array"])
        digest.update(f"{array.dtype} {array.shape} {audio['sampling_rate']}".encode())
        digest.update(array.tobytes())
    elif isinstance(audio, bytes):
        digest.update(audio)
    else:
        try:
            with open(audio, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError as error:
            raise RowError("missing_file", f"there is no file {audio!r}.") from error
        except OSError as error:
            raise RowError("unreadable_audio", f"{audio!r} cannot be read ({error.strerror}).") from error
    return digest.digest()


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _digest_file(path: str, num_bytes: int, changed: int) -> bytes:
    """Hash a file once for its many segments; of another size or time it is another."""
    return digest_audio(path)
