"""Prepared datasets: opened from disk, with their columns and files checked.

A damaged folder raises an error that names the file. Called by `training/`, `evaluation/` and users; `prepare.py`
writes these folders.

Legend: T frames, C codebooks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import import_extra
from ..text_files import first_line, read_json

if TYPE_CHECKING:
    from datasets import Dataset

    from ..tokenization_dia import DiaTokenizer

__all__ = ["CACHE_MARK", "VERSION", "load_prepared", "read_info", "tags_of"]

VERSION = 1
"""Version of the format, in prepared.json."""
CACHE_MARK = "CACHEDIR.TAG"
"""File that marks a cache folder, which backups leave out: https://bford.info/cachedir/."""


def load_prepared(folder: str | os.PathLike) -> tuple[Dataset, dict[str, Any]]:
    """Open a folder that `prepare_dataset` has written.

    Args:
        folder (`str` or `os.PathLike`): The `dest` of `prepare_dataset`.

    Returns:
        `tuple[datasets.Dataset, dict]`: The clips, with the columns `id`, `text` (with tags), `codes` (int16
        `[T, C]`, without delay, BOS and EOS), `seconds`, `speaker`, `source`, `row`, `speakers` and `session`; and
        the content of prepared.json: `codec`, `speaker_tokens` and `language_tokens` (as `DiaTokenizer` takes them),
        `settings`, `num_clips`, `seconds`.

    Raises:
        ValueError: If the folder is not a prepared dataset, is incomplete or damaged, or was written by a newer
            version.
        ImportError: If `datasets` is not installed.
    """
    folder = Path(folder)
    info = read_info(folder)
    names = info.pop("data_files", None)
    clips = _open_clips(folder, names)
    if len(clips) != info.get("num_clips", len(clips)):
        raise ValueError(
            f"{str(folder)!r} is damaged: its data has {len(clips)} clips, but prepared.json has {info['num_clips']}; "
            f"{_AGAIN}."
        )
    return clips, info


def tags_of(tokenizer: DiaTokenizer) -> dict[str, Any]:
    """Return the tags of a tokenizer as prepared.json has them, and as `DiaTokenizer` takes them."""
    speakers, languages = tokenizer.speaker_ids, tokenizer.language_ids
    is_counted = [*speakers.values()] == [*range(1, len(speakers) + 1)]
    tags: dict[str, Any] = {"speaker_tokens": list(speakers) if is_counted else speakers}
    return tags | {"language_tokens": languages} if languages else tags


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """Read prepared.json without opening the data.

    Raises:
        ValueError: As in `load_prepared`.
    """
    folder = Path(folder)
    path = folder / "prepared.json"
    if not path.is_file():
        if (folder / "cache" / CACHE_MARK).is_file():
            raise ValueError(f"{str(folder)!r} is not complete; run `dia-hf prepare` again to continue.")
        raise ValueError(
            f"{str(folder)!r} holds no prepared clips; make them with: dia-hf prepare SOURCE {str(folder)!r}."
        )
    info = read_json(path)
    if info.get("version") != VERSION:
        raise ValueError(
            f"{str(folder)!r} has version {first_line(info.get('version'), 60)} of the format; this dia_hf reads "
            f"version {VERSION}: update dia_hf."
        )
    _check_fields(path, info, _FIELDS)
    return info


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(name, str) and name for name in value)


def _is_ids(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(type(number) is int for number in value.values())


def _is_files(value: Any) -> bool:
    return _is_names(value) and all(os.path.basename(name) == name for name in value)


_AGAIN = "run `dia-hf prepare` again to rewrite it"
# Name, whether it is required, check, and description of a valid value.
_FIELDS: tuple[tuple[str, bool, Callable[[Any], bool], str], ...] = (
    ("codec", True, lambda value: isinstance(value, dict), "an object"),
    ("codec.fingerprint", True, lambda value: isinstance(value, str), "a string"),
    ("speaker_tokens", True, lambda value: _is_names(value) or _is_ids(value), "a list of tags, or tags with ids"),
    ("language_tokens", False, lambda value: _is_ids(value), "tags with ids"),
    ("settings", False, lambda value: isinstance(value, dict), "an object"),
    ("num_clips", False, lambda value: type(value) is int and value >= 0, "a whole number"),
    ("seconds", False, lambda value: type(value) in (int, float) and 0 <= value < float("inf"), "a number"),
    ("data_files", False, _is_files, "a list of files in the folder"),
)
_STATE_FIELDS: tuple[tuple[str, bool, Callable[[Any], bool], str], ...] = (
    (
        "_data_files",
        True,
        lambda value: (
            isinstance(value, list)
            and all(isinstance(file, dict) for file in value)
            and _is_files([file.get("filename") for file in value])
        ),
        "a list of files in the folder, each with its `filename`",
    ),
)


def _check_fields(
    path: Path, content: Mapping[str, Any], fields: Iterable[tuple[str, bool, Callable[[Any], bool], str]]
) -> None:
    for name, is_required, is_valid, expected in fields:
        value: Any = content
        for key in name.split("."):
            value = value.get(key)
        if value is None and not is_required:
            continue
        if not is_valid(value):
            raise ValueError(
                f"{str(path)!r} is damaged: its `{name}` is {first_line(json.dumps(value), 80)}, but must be "
                f"{expected}; {_AGAIN}."
            )


def _open_clips(folder: Path, names: Sequence[str] | None) -> Dataset:
    """Open the named data files, or else those of state.json, and check their content."""
    datasets = import_extra("datasets")
    state_file = folder / "state.json"
    state = read_json(state_file)
    _check_fields(state_file, state, _STATE_FIELDS)
    written = [file["filename"] for file in state["_data_files"]]
    for name in names or written:
        if not (folder / name).is_file():
            raise ValueError(f"{str(folder)!r} is damaged: the file {name!r} is missing; {_AGAIN}.")
    if names is None or names == written:
        read_json(folder / "dataset_info.json")
    try:
        if names is None or names == written:
            clips = datasets.load_from_disk(str(folder))
        else:  # an update was interrupted between state.json and prepared.json
            clips = datasets.concatenate_datasets([datasets.Dataset.from_file(str(folder / name)) for name in names])
        clips.data.table.validate(full=True)  # otherwise damaged offsets would read beyond the file
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise many types of errors in `datasets` and pyarrow
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"the data in {str(folder)!r} cannot be read ({why}); {_AGAIN}.") from error
    _check_columns(folder, clips)
    return clips


def _check_columns(folder: Path, clips: Dataset) -> None:
    from pyarrow import types

    schema = clips.data.table.schema
    expected = {"id": types.is_string, "text": types.is_string, "seconds": types.is_floating, "codes": _is_codes}
    for name, is_valid in expected.items():
        if name not in clips.column_names or schema.get_field_index(name) < 0:
            raise ValueError(f"the data in {str(folder)!r} has no column {name!r}; {_AGAIN}.")
        kind, num_missing = schema.field(name).type, clips.data.table.column(name).null_count
        if not is_valid(kind):
            raise ValueError(
                f"the data in {str(folder)!r} has the column {name!r} as {first_line(kind, 80)}, which is not a type "
                f"that `dia-hf prepare` writes; {_AGAIN}."
            )
        if num_missing:
            raise ValueError(f"the data in {str(folder)!r} lacks {num_missing} values of {name!r}; {_AGAIN}.")


def _is_codes(kind: Any) -> bool:
    """Whether a pyarrow type is a list of lists of integers."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    for _ in range(2):
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        kind = kind.value_type
    return types.is_integer(kind)
