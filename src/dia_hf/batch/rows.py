"""Rows of a table as requests: fields, defaults, limits, names of files.

A row that cannot be used is a `Failure`; the others go on. Knows nothing of models; called by `run.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..audio.encoders import FORMATS
from ..data.rows import RowError, is_missing
from ..speech.options import check_option
from ..text_files import shortened
from ..tokenization_dia import SPEAKER_TAG
from .tables import read_records

__all__ = ["FIELDS", "FORMATS_OF_FILES", "BatchRow", "BatchSettings", "Failure", "read_rows"]

SAMPLING = ("cfg_scale", "temperature", "top_p", "cfg_filter_top_k")
OPTIONS = (*SAMPLING, "max_seconds", "speed", "loudness")
FIELDS = ("id", "text", "voice", "voices", "audio_prompt", "audio_prompt_transcript", "seed", *OPTIONS)
"""Columns of a table."""

FORMATS_OF_FILES = tuple(name for name in FORMATS if name != "pcm")
"""Formats of the audio files: the same audio gives the same bytes in each."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for itself
_ROWS_PER_FOLDER = 1000
_SPEEDS = (0.5, 2.0)  # of `change_speed`, for whole waveforms; streams have more


@dataclass(frozen=True)
class BatchSettings:
    """Settings of a run: what determines the bytes of its files, beside the table and the model.

    Args:
        format (`str`, defaults to `"wav"`): wav, flac, mp3, opus or aac; the latter two need `dia-hf[serve]`.
        sample_rate (`int`, *optional*): Rate of the files in hertz, 8,000 to 48,000; the model's own unless given.
        seed (`int`, defaults to 0): A row without a `seed` has one that is derived from this number and its id.
        options (`Mapping[str, Any]`, *optional*): Values for rows that do not give their own: `voice`, `cfg_scale`,
            `temperature`, `top_p`, `cfg_filter_top_k`, `max_seconds`, `speed`, `loudness`.
        max_retries (`int`, defaults to 2): Further attempts, each with another seed, at a row without a `seed` whose
            audio is implausible.

    Raises:
        ValueError: If a value is out of range, or an option is unknown.
    """

    format: str = "wav"
    sample_rate: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    max_retries: int = 2

    def __post_init__(self) -> None:
        if self.format not in FORMATS_OF_FILES:
            raise ValueError(f"`format` is {shortened(self.format)}; give one of {', '.join(FORMATS_OF_FILES)}.")
        check_option("seed", self.seed)
        if self.sample_rate is not None:
            check_option("sample_rate", self.sample_rate)
        if self.max_retries < 0:
            raise ValueError(f"`max_retries` is {self.max_retries}; give 0 or more.")
        for name, value in self.options.items():
            if name not in ("voice", *OPTIONS):
                raise ValueError(f"there is no option {name!r}; there are voice, {', '.join(OPTIONS)}.")
            if name != "voice":
                _check(name, value)


@dataclass(frozen=True)
class BatchRow:
    """A row that can be spoken, with the defaults of the run.

    Args:
        number (`int`): Number of the row, from 1, without the header; in JSON lines that of the line.
        id (`str`): Its id; its number in six digits unless given.
        file_name (`str`): Path of its audio file, relative to the output folder.
        text (`str`): Text with speaker tags.
        voices (`dict[str, str]` or `str`, *optional*): Names or files of saved voices by speaker ("S1"), or one.
        audio_prompt, audio_prompt_transcript (`str`, *optional*): A recording and its transcript, instead of voices.
        seed (`int`, *optional*): Seed.
        options (`dict[str, Any]`): Of `BatchSettings.options`, without the voice.
    """

    number: int
    id: str
    file_name: str
    text: str
    voices: dict[str, str] | str | None = None
    audio_prompt: str | None = None
    audio_prompt_transcript: str | None = None
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of what the row asks for, by which a resumed run finds that it has changed."""
        asked = {name: value for name, value in vars(self).items() if name not in ("number", "id", "file_name")}
        return hash_of(json.dumps(asked, sort_keys=True))


@dataclass(frozen=True)
class Failure:
    """A row without an audio file.

    Args:
        row (`int`): Number of the row; see `BatchRow`.
        id (`str`): Its id.
        error (`str`): The reason.
        is_foreseen (`bool`, defaults to `True`): Whether the row itself is the reason.
    """

    row: int
    id: str
    error: str
    is_foreseen: bool = True


def hash_of(text: str) -> str:
    """Return a hash of 64 bits, as 16 digits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def read_rows(path: Path, settings: BatchSettings, warns: bool = False) -> Iterator[BatchRow | Failure]:
    """Read the rows of a table, one by one; 64 bits of each id stay in memory.

    Args:
        path (`Path`): The table; see `read_records`.
        settings (`BatchSettings`): With the defaults and the format.
        warns (`bool`, defaults to `False`): Whether to warn of columns that have no meaning, once each.

    Yields:
        `BatchRow` or `Failure`: In the order of the table.

    Raises:
        FileNotFoundError, ValueError, ImportError: As `read_records` does.
    """
    ids: set[int] = set()
    names: set[int] = set()
    unknown: set[str] = set()
    for number, record in read_records(path, FIELDS):
        row_id = f"{number:06d}"
        try:
            if isinstance(record, RowError):
                raise record
            if warns:
                _warn_of_unknown(record, unknown, path)
            given = {name: record[name] for name in FIELDS if not is_missing(record.get(name))}
            row_id = str(given.pop("id", row_id))
            if (key := int(hash_of(row_id), 16)) in ids:
                raise ValueError("an earlier row has the same id; give each row its own.")
            ids.add(key)
            yield _make_row(number, row_id, _file_name(number, row_id, names, settings), given, settings)
        except (RowError, ValueError) as error:
            yield Failure(number, row_id, str(error))


def _warn_of_unknown(record: Mapping[str, Any], unknown: set[str], path: Path) -> None:
    for name in record.keys() - unknown - set(FIELDS):
        unknown.add(name)
        nearest = get_close_matches(name.lower(), FIELDS, n=1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"the columns are {', '.join(FIELDS)}."
        warnings.warn(f"the column {name!r} of {path.name!r} has no meaning here; {advice}", stacklevel=2)


def _file_name(number: int, row_id: str, names: set[int], settings: BatchSettings) -> str:
    """Return the path of a row's file: the id if each file system can keep it, otherwise with a hash."""
    name = row_id
    is_plain = _PLAIN_NAME.fullmatch(name) and not name.endswith(".") and not _DEVICES.fullmatch(name)
    if not is_plain or int(hash_of(name.casefold()), 16) in names:  # names may differ in case only
        name = f"{re.sub(r'[^A-Za-z0-9]+', '-', name)[:60].strip('-')}-{hash_of(row_id)}".lstrip("-")
    names.add(int(hash_of(name.casefold()), 16))
    return f"audio/{number // _ROWS_PER_FOLDER:04d}/{name}{FORMATS[settings.format].suffix}"


def _make_row(number: int, row_id: str, file_name: str, given: dict[str, Any], settings: BatchSettings) -> BatchRow:
    """Check the fields of a row, and add the defaults.

    Raises:
        ValueError: If a field is wrong; the error names it.
    """
    text = given.get("text")
    if text is None:
        raise ValueError("`text` is missing; give the text to speak.")
    if not isinstance(text, str) or not SPEAKER_TAG.sub("", text).strip():
        raise ValueError(f"`text` is {shortened(text)}, which has no words; give the text to speak.")
    seed = _number("seed", given["seed"]) if "seed" in given else None
    options = {name: value for name, value in settings.options.items() if name != "voice"}
    options |= {name: _number(name, given[name]) for name in OPTIONS if name in given}
    return BatchRow(
        number,
        row_id,
        file_name,
        text,
        *_voices_of(given, settings.options.get("voice")),
        seed=seed,
        options={name: options[name] for name in OPTIONS if name in options},
    )


def _number(name: str, value: Any) -> Any:
    """Check a number, which is text in CSV, and may be a whole float in Parquet."""
    if isinstance(value, str):
        try:
            value = int(value) if re.fullmatch(r"\s*[+-]?\d{1,30}\s*", value, re.ASCII) else float(value)
        except ValueError:
            raise ValueError(f"`{name}` is {shortened(value)}, which is no number.") from None
    if isinstance(value, float) and value.is_integer() and name in ("seed", "cfg_filter_top_k") and value < 2**53:
        value = int(value)
    _check(name, value)
    try:
        return value if name in ("seed", "cfg_filter_top_k") else float(value)
    except OverflowError:
        raise ValueError(f"`{name}` is {shortened(value)}; give a smaller number.") from None


def _check(name: str, value: Any) -> None:
    check_option(name, value)
    if name == "speed" and not _SPEEDS[0] <= value <= _SPEEDS[1]:
        raise ValueError(f"`speed` is {value:g}; give a number from {_SPEEDS[0]:g} to {_SPEEDS[1]:g}.")


def _voices_of(
    given: dict[str, Any], default: str | None
) -> tuple[dict[str, str] | str | None, str | None, str | None]:
    """Return voices, recording and transcript of a row; at most one kind of voice may be given."""
    kinds = [name for name in ("voice", "voices", "audio_prompt") if name in given]
    if len(kinds) > 1:
        raise ValueError(f"`{kinds[0]}` and `{kinds[1]}` are both given; give one.")
    if ("audio_prompt" in given) != ("audio_prompt_transcript" in given):
        missing = "audio_prompt_transcript" if "audio_prompt" in given else "audio_prompt"
        raise ValueError(f"`{missing}` is missing; give a recording together with its exact transcript.")
    voices = _parse_voices(given["voices"]) if "voices" in given else None
    for name in ("voice", "audio_prompt", "audio_prompt_transcript"):
        if name in given and not isinstance(given[name], str):
            raise ValueError(f"`{name}` is {shortened(given[name])}; give a text.")
    voice = given.get("voice", None if kinds else default)
    return voices or voice, given.get("audio_prompt"), given.get("audio_prompt_transcript")


def _parse_voices(value: Any) -> dict[str, str]:
    """Return voices by speaker, which are JSON in CSV, and may have empty fields in Parquet."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        value = {name: voice for name, voice in value.items() if voice is not None}
    if not isinstance(value, dict) or not value or not all(isinstance(voice, str) for voice in value.values()):
        raise ValueError(f'`voices` is {shortened(value)}; give a voice for each speaker, {{"S1": "anna"}}.')
    return dict(sorted(value.items()))
