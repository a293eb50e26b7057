"""Rows of a source: audio, text, speaker, language and id, or the error that makes a row unusable.

Data classes shared by `segments.py`, `clips.py`, `sources.py` and the files that read rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "RowError", "is_missing", "quote"]


class RowError(ValueError):
    """Reason why a row cannot be used: a code for programs and a message for people.

    Args:
        code (`str`): Code such as "missing_file", stable across versions.
        reason (`str`): Message.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)  # both arguments: unpickling in another process needs them
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Row:
    """Clip as listed in its source.

    Args:
        source (`str`): File that contains the row, relative to the opened folder, or the dataset's name.
        number (`int`): Number of the row, from 1, without the header; in JSONL the number of the line.
        id (`str`): Value of the id column; else the audio file's path without its suffix, followed for a segment by "@"
            and its begin and end in seconds; else the row's number.
        audio: Path, bytes of a file, dictionary of `array` and `sampling_rate`, `Segment` of one of these, `Mix` of
            these, or the `RowError` that explains why there is none.
        text: Value of the text column, or a `RowError`.
        speaker (`str`, *optional*): Speaker name.
        language (`str`, *optional*): Language.
        session (`str`, *optional*): Conversation that the row belongs to: value of the session column; else, for a
            segment of a file, the file's path.
        speakers (`tuple[str, ...]`): Names of all speakers of a dialogue, in the order of their tags.
        is_timed (`bool`): Whether the row is one of consecutive pieces of a recording, as a cue of subtitles is.
    """

    source: str
    number: int
    id: str
    audio: Any
    text: Any
    speaker: str | None = None
    language: str | None = None
    session: str | None = None
    speakers: tuple[str, ...] = ()
    is_timed: bool = False


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: `None`, NaN (written by pandas), or only whitespace."""
    return (
        value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value.strip())
    )


def quote(value: Any) -> str:
    """Return the repr of a value, shortened to 60 characters."""
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:59]}…"
