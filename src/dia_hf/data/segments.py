"""Segments: rows that are a part of a longer recording, in any of the usual columns and units.

Reads the begin and the duration of a segment from the cells of a row, and locates the segment in its recording. Knows
nothing of audio files; called by `clips.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .rows import RowError, is_missing, quote

__all__ = ["Mix", "Segment", "find_segment", "locate"]

# Column names as `_plain_name` returns them; a unit may follow.
_BEGINS = (
    "offset", "start", "begin", "start_time", "begin_time", "time_start", "time_begin", "start_offset", "start_ts",
    "start_timestamp", "audio_start", "audio_begin", "audio_offset", "onset", "t_start", "tmin", "xmin",
)  # fmt: skip
_ENDS = (
    "end", "stop", "end_time", "stop_time", "time_end", "time_stop", "end_offset", "end_ts", "end_timestamp",
    "audio_end", "audio_stop", "t_end", "tmax", "xmax",
)  # fmt: skip
_DURATIONS = ("duration", "dur")
_PAIRS = ("timestamp", "timestamps", "time_range", "interval", "segment")  # only if the cell holds two numbers
_OF_SEGMENTS = re.compile(r"(segment|seg|clip|utterance|utt|chunk|speech)_(?=[a-z])")
_UNITS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), 1e-3),
}
_COUNTS = re.compile(r"(frame|sample)_(offset|start|begin)|(offset|start|begin)_(frames?|samples?)")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)")
_SAME_SECONDS = 0.1  # tolerance for durations of the same audio: rounding, mp3 padding


@dataclass(frozen=True)
class Segment:
    """Part of a recording.

    Args:
        audio: Recording: a path, the bytes of a file, or a dictionary of `array` and `sampling_rate`.
        begin (`float`, *optional*): Begin in seconds. `None` if the row has a duration but no begin; the segment must
            then be the whole recording.
        duration (`float`, *optional*): Duration in seconds; by default to the end of the recording.
        is_placed (`bool`): Whether the begin is certainly one in this recording, as in subtitles beside it; otherwise a
            recording of the segment's duration is the segment itself, cut out of a longer recording.
    """

    audio: Any
    begin: float | None
    duration: float | None
    is_placed: bool = False

    def __str__(self) -> str:
        begin = self.begin or 0.0
        return f"{begin:.3f}-{'' if self.duration is None else f'{begin + self.duration:.3f}'}"


@dataclass(frozen=True)
class Mix:
    """Recordings or segments at their times in a conversation, added where they overlap.

    Args:
        parts (`tuple`): Recordings, or segments of recordings.
        begins (`tuple[float, ...]`): Begin of each part in seconds, from that of the first.
    """

    parts: tuple[Any, ...]
    begins: tuple[float, ...]


def find_segment(audio: Any, record: Mapping[str, Any]) -> Any:
    """Return the `Segment` of a recording that the other cells of its row define, or the recording if they define none.

    Args:
        audio: Recording, as in `Segment`.
        record (`Mapping[str, Any]`): Cells by column, without those of audio and text.

    Raises:
        RowError: "unclear_segment".
    """
    # 1. The begin and the end, from columns of their own or from one column of pairs.
    begin, end = _find_seconds(record, _BEGINS), _find_seconds(record, _ENDS)
    for column, pair in record.items() if begin is None and end is None else ():
        if _plain_name(column) in _PAIRS and isinstance(pair, (list, tuple, np.ndarray)) and len(pair) == 2:
            begin, end = (None if is_missing(value) else _as_seconds(column, value) for value in pair)
            break
    # 2. The duration, which only counts beside a begin or an end if it is usable.
    try:
        duration = _find_seconds(record, _DURATIONS if begin is None else (*_DURATIONS, "length"))
    except RowError:
        if begin is not None:
            raise
        duration = None
    if begin is None and duration is not None and duration <= 0:
        duration = None  # some datasets write 0 or -1 for an unknown duration
    if begin is None and (counted := [name for name in record if _is_count(name, record[name])]):
        raise RowError(
            "unclear_segment",
            f"{counted[0]!r} counts samples or frames; give the segment in seconds, as 'start' and 'end' or as "
            "'offset' and 'duration'.",
        )
    # 3. The missing one of begin, end and duration.
    if begin is None and end is not None and duration is not None:
        begin = end - duration
        if -_SAME_SECONDS <= begin < 0:
            begin = 0.0
    elif begin is None and end is not None:
        raise RowError("unclear_segment", f"the row has the end of a segment, {end:g} s, but no begin; add it.")
    if end is not None and begin is not None:
        duration = end - begin
    if begin is None and duration is None:
        return audio
    if not (begin is None or begin >= 0) or not (duration is None or duration > 0):
        where = "" if begin is None else f"begins at {begin:g} s and "
        raise RowError(
            "unclear_segment",
            f"the segment {where}lasts {math.inf if duration is None else duration:g} s; it must begin at 0 s or "
            "later and last longer than 0 s.",
        )
    return Segment(audio, begin, duration)


@lru_cache(maxsize=1024)
def _plain_name(column: Any) -> str:
    """Normalize a column name to lower-case words and underscores: "Start (ms)" and "segmentStartMs" are start_ms."""
    words = re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(column))).strip("_").lower()
    return _OF_SEGMENTS.sub("", words, count=1) if _OF_SEGMENTS.match(words) else words


def _is_count(column: Any, value: Any) -> bool:
    return _COUNTS.fullmatch(_plain_name(column)) is not None and not is_missing(value) and value not in (0, "0", -1)


def _find_seconds(record: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """Return the value in seconds of the first column found among `names`, with any unit."""
    plain = {_plain_name(column): column for column in reversed(list(record))}
    if any(name.split("_")[0] == "onset" for name in plain):  # with an onset column, the offset is the end
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
            # "0,5" is 0.5, but "1,500" is ambiguous.
            is_decimal = isinstance(value, str) and re.fullmatch(r"\s*-?\d+,(?!\d{3}\s*$)\d+\s*", value)
            number = float(value.replace(",", ".") if is_decimal else value)
    if not math.isfinite(number):
        raise RowError(
            "unclear_segment",
            f"{quote(value)} in column {str(column)!r} is not a number of seconds; give a number, or rename the column "
            "if it holds no times.",
        )
    return number


def locate(segment: Segment, seconds: float) -> tuple[float, float | None]:
    """Return the begin and the end of a segment in its recording.

    Args:
        segment (`Segment`): Segment to locate.
        seconds (`float`): Duration of the recording.

    Returns:
        `tuple[float, float | None]`: Begin and end in seconds; the end is `None` for the end of the recording.

    Raises:
        RowError: "unclear_segment" if the segment does not lie within the recording, or has no begin and is shorter.
    """
    begin, duration = segment.begin, segment.duration
    if duration is not None and abs(duration - seconds) <= _SAME_SECONDS and not segment.is_placed:
        return 0.0, None  # the file is the segment itself, cut out of a longer recording
    if begin is None:
        assert duration is not None
        # The duration is in another unit such as milliseconds, or the file was trimmed since, or it is rounded.
        if duration > seconds or (duration == int(duration) and duration > seconds - 1):
            return 0.0, None
        raise RowError(
            "unclear_segment",
            f"the row lasts {duration:g} s and its recording {seconds:.1f} s; add its begin ('offset'), or leave out "
            "its duration.",
        )
    if begin >= seconds or (duration is not None and begin + duration > seconds + _SAME_SECONDS):
        raise RowError(
            "unclear_segment",
            f"the segment {segment} s is not within its recording of {seconds:.1f} s; segments are in seconds.",
        )
    return begin, None if duration is None else begin + duration
