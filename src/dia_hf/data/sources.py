"""Sources of clips: folders, tables and datasets, read as rows of audio, text, speaker, language and id.

Finds columns and files. A row that cannot be used carries a `RowError`; reading continues with the next row. Knows
nothing of codecs, tags and what makes a clip fit for training; called by `prepare.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import import_extra
from ..text_files import read_text
from .annotations import SUFFIXES, find_annotation, find_text, read_annotation, speaker_at
from .clips import AUDIO_SUFFIXES, file_of, find_audio
from .corpora import find_corpus, select_split
from .dialogues import expand_turns
from .rows import Row, RowError, is_missing
from .segments import Segment, find_segment
from .tables import TABLES, USUAL_COLUMNS, Table, columns_of, open_file, peek_columns, reading_as

__all__ = ["RowSource", "open_source"]

_LISTS = (list, tuple, dict, np.ndarray)  # types of cells with several values
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class RowSource:
    """Opened source.

    Args:
        name (`str`): Name of the file or folder without its parents, or of the dataset.
        rows (`Iterable[Row]`): Rows in the order of the source.
        num_rows (`int`, *optional*): Number of rows, if known.
        layout (`str`): Recognized layout and columns, for people.
    """

    name: str
    rows: Iterable[Row]
    num_rows: int | None
    layout: str = ""


def open_source(
    source: Any,
    columns: Mapping[str, str | None] | None = None,
    split: str | None = None,
    config: str | None = None,
    *,
    audio_root: str | os.PathLike | None = None,
    tiers: Sequence[str] = (),
    tags: Sequence[str] = ("[S1]", "[S2]"),
    speaker_tags: Mapping[str, str] | None = None,
) -> RowSource:
    """Open a source of recordings and their transcripts.

    Args:
        source: One of

            - a folder with `metadata.csv`, `.tsv`, `.jsonl` or `.parquet`, in it or in folders below it;
            - a folder in the layout of LibriSpeech, LibriTTS, VCTK, ESD or Kaldi;
            - a folder with another table of recordings, such as Common Voice's `train.tsv`;
            - a folder of audio files, each with a `.txt`, subtitles, a TextGrid or segments in JSON of the same name
              beside it;
            - a table: csv, tsv, jsonl, json or parquet, or a list of `file|text` without a header. Paths in it are
              relative to its folder;
            - a folder of parquet files, or one that `datasets` saved to disk;
            - the name of a dataset on the Hub;
            - a `datasets.Dataset`, or any iterable of dictionaries.
        columns (`Mapping[str, str]`, *optional*): The names of the columns `audio`, `text`, `speaker`, `language`, `id`
            and `session`. For a missing entry the usual names are tried; for language there are none.
        split (`str`, *optional*): Split of a dataset or corpus that has several; of a corpus, or several joined by "+".
        config (`str`, *optional*): Config of a Hub dataset that has several.
        audio_root (`str` or `os.PathLike`, *optional*): Folder of the recordings, as in `find_audio`.
        tiers (`Sequence[str]`, *optional*): Tiers of TextGrids, as in `read_annotation`.
        tags (`Sequence[str]`, *optional*): Speaker tags for rows that are dialogues, as in `expand_turns`.
        speaker_tags (`Mapping[str, str]`, *optional*): Tag of each speaker instead, as in `expand_turns`.

    Returns:
        `RowSource`: Rows are read lazily; their audio is read by `dia_hf.data.clips.read_clip`.

    Raises:
        ValueError: If the source is empty, a column is missing (the error lists the columns found), or a split must be
            chosen.
        FileNotFoundError: If there is no file, folder or dataset with this name, or no folder `audio_root`.

    Example:
    ```python
    >>> from dia_hf.data.sources import open_source
    >>> source = open_source([{"path": "a.wav", "sentence": "Hello."}], {"text": "sentence"})
    >>> [(row.number, row.text, str(row.audio)) for row in source.rows]
    [(1, 'Hello.', "there is no file 'a.wav', nor in a folder wavs, wav or clips there.")]

    ```
    """
    columns = {role: (columns or {}).get(role) for role in USUAL_COLUMNS}
    given = {name for name in columns.values() if name is not None}
    root = None if audio_root is None else Path(audio_root)
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"there is no folder {str(root)!r}, which `audio_root` (--audio-root) names.")
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source):
        path = Path(source)
        if config is not None:
            raise ValueError(f"`config` is {config!r}, but {str(path)!r} is not a Hub dataset; leave it out.")
        name = path.name or path.resolve().name
        if path.is_dir():
            tables = _open_folder(path, given, split, root, tiers)
        else:
            tables = [open_file(path, path.parent, given)]
        if split is not None and not any(table.has_splits for table in tables):
            raise ValueError(
                f"`split` is {split!r}, but {str(path)!r} is not a dataset; give the folder or file of the split."
            )
    elif isinstance(source, (str, os.PathLike)):
        name = str(source)
        tables = [_open_hub(name, config, split)]
    else:
        tables = [_open_rows(source, split)]
        name = tables[0].name
    if tiers and not any("textgrid" in table.layout for table in tables):
        raise ValueError(f"`tiers` (--tier) are those of TextGrids, and {name!r} has none; leave them out.")
    found = [(table, _find_columns(table, columns)) for table in tables]
    counts = [table.num_rows for table in tables]
    num_rows = None if None in counts else sum(count or 0 for count in counts)
    rows = chain.from_iterable(_read_rows(table, where, root, tags, speaker_tags) for table, where in found)
    return RowSource(name, rows, num_rows, "; ".join(dict.fromkeys(_describe(*pair) for pair in found)))


def _describe(table: Table, columns: Mapping[str, str | None]) -> str:
    roles = ", ".join(f"{role} {name!r}" for role, name in columns.items() if name is not None)
    return f"{table.layout}: {roles}"


def _open_folder(
    folder: Path, given: set[str], split: str | None, root: Path | None, tiers: Sequence[str]
) -> list[Table]:
    if (folder / "prepared.json").is_file():
        raise ValueError(f"{str(folder)!r} is a prepared dataset; give its source instead.")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with reading_as(folder, "a dataset"):
            loaded = import_extra("datasets").load_from_disk(str(folder))
        return [_open_dataset(loaded, folder.resolve().name, split)]
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if path.name in {f"metadata{suffix}" for suffix in TABLES if suffix != ".txt"}]
    if not tables:
        if corpus := find_corpus(folder, files, split):
            return [corpus]
        tables = [path for path in files if path.suffix == ".parquet"]
    if tables:
        return [open_file(path, folder, given, is_alone=len(tables) == 1) for path in tables]
    if tables := _find_tables(folder, files, given):
        chosen = select_split(tables, lambda path: path.stem, split, str(folder))
        opened = [open_file(path, folder, given, is_alone=len(chosen) == 1) for path in chosen]
        is_common_voice = (folder / "clips").is_dir() and all(path.suffix == ".tsv" for path in chosen)
        layout = "Common Voice" if is_common_voice else "table"
        return [replace(table, has_splits=True, layout=layout) for table in opened]
    recordings = _find_recordings(folder, files, root)
    if not recordings:
        others = [path.relative_to(folder).as_posix() for path in files if path.suffix.lower() in TABLES]
        columns = [f"{name!r} has the columns {peek_columns(folder / name, given)}" for name in others[:3]]
        raise ValueError(
            f"there are no clips in {str(folder)!r}{''.join(f'; {found}' for found in columns)}. Add a metadata.csv "
            "with the columns file_name and text, or audio files with a .txt file, subtitles or a TextGrid of the "
            "same name beside each; or give a table and its columns (--audio-column, --text-column, --audio-root)."
        )
    annotated = {path: found for path in recordings if (found := _annotation_of(path)) is not None}
    names = ["audio", "text", *(["speaker", "start", "end"] if annotated else [])]
    kinds = sorted({found.suffix.lower()[1:] for found in annotated.values() if isinstance(found, Path)})
    layout = f"recordings with {' and '.join(kinds) or 'txt'} files"
    return [
        Table(
            folder.name,
            names,
            _read_beside(folder, recordings, annotated, tiers),
            None if annotated else len(recordings),
            folder,
            folder,
            layout=layout,
            is_timed=bool(annotated),
        )
    ]


def _find_tables(folder: Path, files: Sequence[Path], given: set[str]) -> list[Path]:
    """Return the tables at the top of a folder that have the columns of audio and text."""
    found = []
    for path in files:
        if path.parent == folder and path.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl"):
            names = {name.lower() for name in peek_columns(path, given)}
            wanted = [{*USUAL_COLUMNS[role], *map(str.lower, given)} for role in ("audio", "text")]
            if len(names) > 1 and all(names & usual for usual in wanted):
                found.append(path)
    return found


def _find_recordings(folder: Path, files: Sequence[Path], root: Path | None) -> list[Path]:
    """Return the recordings in a folder, or those below `root` that its annotations are about."""
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if recordings or root is None:
        return recordings
    stems = {path.with_suffix("") for path in files if path.suffix.lower() in (*SUFFIXES, ".txt")}
    stems |= {stem.with_suffix("") for stem in stems}  # a language code
    named = (stem.with_name(f"{stem.name}{suffix}") for stem in sorted(stems) for suffix in AUDIO_SUFFIXES)
    return [path for path in named if (root / path.relative_to(folder)).is_file()]


def _annotation_of(recording: Path) -> Path | RowError | None:
    try:
        return find_annotation(recording)
    except RowError as error:
        return error


def _read_beside(
    folder: Path, recordings: Sequence[Path], annotated: Mapping[Path, Path | RowError], tiers: Sequence[str]
) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Read the turns beside each recording, or its whole text."""
    for path in recordings:
        name = path.relative_to(folder).as_posix()
        found = annotated.get(path)
        if found is None:
            yield name, 1, {"audio": name, "text": _read_text_beside(path)}
            continue
        try:
            if isinstance(found, RowError):
                raise found
            turns = read_annotation(found, tiers)
        except RowError as error:
            yield name, 1, {"audio": name, "text": error}
            continue
        source = found.relative_to(folder).as_posix()
        for number, turn in enumerate(turns, start=1):
            times = {} if turn.end is None else {"start": turn.begin, "end": turn.end}
            yield source, number, {"audio": name, "text": turn.text, "speaker": turn.speaker, **times}


def _read_text_beside(recording: Path) -> str | RowError:
    try:
        path = find_text(recording)
        if path is None or not path.is_file():
            return RowError("missing_text", f"there is no {recording.stem}.txt beside {recording.name}.")
        return read_text(path)
    except RowError as error:
        return error
    except (OSError, ValueError) as error:
        return RowError("unreadable_text", str(error))


def _open_hub(name: str, config: str | None, split: str | None) -> Table:
    if not _HUB_NAME.fullmatch(name) or name.endswith(TABLES):
        raise FileNotFoundError(f"there is no file or folder {name!r}.")
    datasets = import_extra("datasets")
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except (OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"there is no file or folder {name!r}, and it cannot be loaded as a Hub dataset: {error}"
        ) from error
    return _open_dataset(loaded, name, split=None)


def _open_rows(rows: Any, split: str | None) -> Table:
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
    names = columns_of(rows if isinstance(rows, (list, tuple)) else [first])
    return Table("rows", names, records, len(rows) if hasattr(rows, "__len__") else None)


def _open_dataset(dataset: Any, name: str, split: str | None) -> Table:
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
    return Table(
        name,
        names,
        records,
        len(dataset) if is_sized else None,
        audio_column=next(iter(audio_columns), None),
        layout="dataset",
        has_splits=True,
    )


def _label(feature: Any, value: int | None) -> str | None:
    return None if value is None or value < 0 else feature.int2str(value)


def _find_columns(table: Table, given: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the column of each role; `None` if there is none."""
    there = f"{table.name!r} has the columns {', '.join(map(repr, table.column_names)) or '(none)'}"
    by_lower = {name.lower(): name for name in reversed(table.column_names)}
    found: dict[str, str | None] = {}
    for role, usual in USUAL_COLUMNS.items():
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


def _read_rows(
    table: Table,
    columns: Mapping[str, str | None],
    root: Path | None,
    tags: Sequence[str],
    speaker_tags: Mapping[str, str] | None,
) -> Iterator[Row]:
    for source, number, record in table.records:
        if isinstance(record, RowError):
            yield Row(source, number, f"{table.id_prefix}{number:06d}", None, record)
            continue
        values = {role: None if column is None else record.get(column) for role, column in columns.items()}
        named = {role: _name(values[role]) for role in ("speaker", "language", "id", "session")}
        text = values["text"]
        taken = {column for column in columns.values() if column is not None}
        spare = {column: value for column, value in record.items() if column not in taken}
        has_turns = not isinstance(text, str) and isinstance(text, _LISTS)
        of_clip = {column: value for column, value in spare.items() if not (has_turns and isinstance(value, _LISTS))}
        recording = None
        try:
            recording = find_audio(values["audio"], table.folder or Path(), root)
            audio = find_segment(recording, of_clip)
        except RowError as error:
            audio = error
        if table.is_timed and isinstance(audio, Segment):
            audio = replace(audio, is_placed=True)
        if named["speaker"] is None and isinstance(audio, Segment) and not isinstance(text, RowError):
            try:
                named["speaker"] = _speaker_of(audio)
            except RowError as error:
                text = error
        name, session = named["id"], named["session"]
        if name is None and (file := file_of(audio)) is not None and table.root is not None:
            name = os.path.splitext(Path(os.path.relpath(file, table.root)).as_posix())[0]
            if isinstance(audio, Segment) and audio.begin is not None:
                name = f"{name}@{audio}"
        name = name or f"{table.id_prefix}{number:06d}"
        is_part = isinstance(audio, RowError) or (isinstance(audio, Segment) and audio.begin is not None)
        if session is None and is_part and (file := file_of(recording)):
            session = file if table.root is None else Path(os.path.relpath(file, table.root)).as_posix()
        row = Row(source, number, name, audio, text, named["speaker"], named["language"], session)
        row = replace(row, is_timed=table.is_timed and isinstance(audio, Segment | RowError))
        yield from expand_turns(row, text, values["speaker"], spare, tags, speaker_tags)


def _speaker_of(segment: Segment) -> str | None:
    file = file_of(segment)
    if file is None or segment.begin is None or segment.duration is None:
        return None
    return speaker_at(file, segment.begin, segment.begin + segment.duration)


def _name(value: Any) -> str | None:
    return None if is_missing(value) or isinstance(value, _LISTS) else str(value)
