"""What `dia-hf prepare` is told: columns, tags, what is done to sound, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["TAG", "PrepareConfig"]

TAG = re.compile(r"\[[^\[\]\s]+\]")
"""A word in square brackets."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What `prepare_dataset` looks for, does and refuses.

    Args:
        audio_column, text_column, speaker_column, language_column, id_column (`str`, *optional*): Names of the
            columns. Those of audio, text, speaker and id are found by the usual names unless given; a language is
            used only if it is asked for, and puts a tag such as "[nl]" before the text.
        speaker_tags (`Mapping[str, str]`): The tag of each speaker, such as `{"anna": "[S1]", "ben": "[S2]"}`, for
            texts without a tag. Without it they get "[S1]", whoever speaks.
        extra_tags (`Sequence[str]`): Further tags that stand in texts, such as "[S3]". They and those of languages, in
            the order in which they come up, take the ids after the tokenizer's own.
        loudness (`float`, *optional*, defaults to -23.0): In LUFS, with pyloudnorm; `None` leaves it alone.
        keep_silence (`float`, *optional*, defaults to 0.1): Seconds of silence that stay at both ends; `None` cuts
            nothing off.
        min_seconds (`float`, defaults to 0.5): Shorter clips are rejected, measured without silence at the ends.
        max_seconds (`float`, *optional*, defaults to 60.0): Longer ones, too, and all that are twice as long with
            silence; `None` lets all pass.
        min_characters_per_second, max_characters_per_second (`float`, default to 3.0 and 40.0): Outside, text and
            audio do not belong together.

    Raises:
        ValueError: If a number is out of range, or a tag no word in brackets.
    """

    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    language_column: str | None = None
    id_column: str | None = None
    speaker_tags: Mapping[str, str] = field(default_factory=dict)
    extra_tags: Sequence[str] = ()
    loudness: float | None = -23.0
    keep_silence: float | None = 0.1
    min_seconds: float = 0.5
    max_seconds: float | None = 60.0
    min_characters_per_second: float = 3.0
    max_characters_per_second: float = 40.0

    def __post_init__(self) -> None:
        for tag in (*self.speaker_tags.values(), *self.extra_tags):
            _check_tag(tag)
        if self.loudness is not None and not -70 <= self.loudness <= 0:
            raise ValueError(f"`loudness` is {self.loudness} LUFS; it is between -70 and 0, or None.")
        if self.keep_silence is not None and not 0 <= self.keep_silence < math.inf:
            raise ValueError(f"`keep_silence` is {self.keep_silence} s; it is 0 or more, or None.")
        for name, low, high in (
            ("seconds", self.min_seconds, math.inf if self.max_seconds is None else self.max_seconds),
            ("characters_per_second", self.min_characters_per_second, self.max_characters_per_second),
        ):
            if not 0 <= low < high:
                raise ValueError(f"`min_{name}` is {low} and `max_{name}` {high}; they are 0 or more, in this order.")


def _check_tag(tag: str) -> None:
    if not TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag; a tag is a word in square brackets, such as '[S3]' or '[nl]'.")
