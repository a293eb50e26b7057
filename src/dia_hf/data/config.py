"""Configuration of data preparation: columns, tags, audio processing, and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["MAX_CHARACTERS_PER_SECOND", "MIN_CHARACTERS_PER_SECOND", "TAG", "PrepareConfig"]

TAG = re.compile(r"\[[^\[\]\s]+\]")
"""Pattern of a tag: a word in square brackets."""

MIN_CHARACTERS_PER_SECOND, MAX_CHARACTERS_PER_SECOND = 3.0, 40.0
"""Speaking rates outside of this range mean that text and audio do not belong together."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Configuration of `prepare_dataset`.

    Args:
        audio_column, text_column, speaker_column, language_column, id_column, session_column (`str`, *optional*):
            Column names. By default audio, text, speaker, id and session are found by their usual names. A language
            column is used only if it is given; it adds a tag such as "[nl]" before the text.
        audio_root (`str`, *optional*): Folder of the recordings of a table, if it is not that of the table.
        tiers (`Sequence[str]`): Tiers of TextGrids that hold the texts; see `dia_hf.data.annotations`.
        speaker_tags (`Mapping[str, str]`): Tag of each speaker, such as `{"anna": "[S1]", "ben": "[S2]"}`, for texts
            without a tag. By default all of them get "[S1]".
        extra_tags (`Sequence[str]` or `Mapping[str, int | None]`): Further tags that occur in texts, such as "[S3]", or
            with their ids, `{"[S3]": 3, "[nl]": 14}`. Those without an id and language tags, in order of appearance,
            take the lowest ids up to 8 that are free.
        join_turns (`bool`, *optional*): Whether to join consecutive turns of a session, or segments of a recording, to
            clips, and to tag their speakers in the order in which they begin to speak. By default only the cues of
            subtitles and other annotations, and lists of turns with times, are joined.
        dialogue_seconds (`float`, defaults to 30.0): Maximum duration of a joined clip; the published model generates
            35.5 s at once.
        max_pause (`float`, defaults to 2.0): Maximum pause within a joined clip in seconds.
        max_overlap (`float`, defaults to 0.5): Seconds for which two turns may overlap; turns that overlap for longer
            are rejected.
        turn_gap (`float`, defaults to 0.2): Silence between joined turns that have no times, in seconds.
        loudness (`float`, *optional*, defaults to -23.0): Target loudness in LUFS, measured with pyloudnorm; `None` for
            no loudness normalization.
        keep_silence (`float`, *optional*, defaults to 0.1): Seconds of silence kept at both ends; `None` for no
            trimming.
        min_seconds (`float`, defaults to 0.5): Minimum duration of a clip, without silence at the ends.
        max_seconds (`float`, *optional*, defaults to 60.0): Maximum duration of a clip without silence at the ends, and
            twice that with it; `None` for no limit.
        min_characters_per_second, max_characters_per_second (`float`, default to 3.0 and 40.0): Limits of the speaking
            rate; outside of them text and audio do not belong together.

    Raises:
        ValueError: If a number is out of range, or a tag is not a word in square brackets.
    """

    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    language_column: str | None = None
    id_column: str | None = None
    session_column: str | None = None
    audio_root: str | None = None
    tiers: Sequence[str] = ()
    speaker_tags: Mapping[str, str] = field(default_factory=dict)
    extra_tags: Sequence[str] | Mapping[str, int | None] = ()
    join_turns: bool | None = None
    dialogue_seconds: float = 30.0
    max_pause: float = 2.0
    max_overlap: float = 0.5
    turn_gap: float = 0.2
    loudness: float | None = -23.0
    keep_silence: float | None = 0.1
    min_seconds: float = 0.5
    max_seconds: float | None = 60.0
    min_characters_per_second: float = MIN_CHARACTERS_PER_SECOND
    max_characters_per_second: float = MAX_CHARACTERS_PER_SECOND

    def __post_init__(self) -> None:
        for tag in (*self.speaker_tags.values(), *self.extra_tags):
            _check_tag(tag)
        if self.loudness is not None and not -70 <= self.loudness <= 0:
            raise ValueError(f"`loudness` is {self.loudness} LUFS; it must be between -70 and 0, or None.")
        if self.keep_silence is not None and not 0 <= self.keep_silence < math.inf:
            raise ValueError(f"`keep_silence` is {self.keep_silence} s; it must be 0 or more, or None.")
        for name in ("dialogue_seconds", "max_pause", "max_overlap", "turn_gap"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)} s; it must be 0 or more.")
        for name, low, high in (
            ("seconds", self.min_seconds, math.inf if self.max_seconds is None else self.max_seconds),
            ("characters_per_second", self.min_characters_per_second, self.max_characters_per_second),
        ):
            if not 0 <= low < high:
                raise ValueError(
                    f"`min_{name}` is {low} and `max_{name}` is {high}; they must be 0 or more, in this order."
                )


def _check_tag(tag: str) -> None:
    if not TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is not a tag; a tag is a word in square brackets, such as '[S3]' or '[nl]'.")
