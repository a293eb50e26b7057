"""Subtitles of speech: SubRip (.srt), WebVTT (.vtt), JSON, and Praat's TextGrid.

A cue has words of one speaker: a sentence, or a part of one that is short enough to read. Its text is the script's,
each run of white space as one space.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .script import ends_sentence
from .timestamps import TimedText

__all__ = ["SUBTITLE_FORMATS", "Cue", "format_subtitles", "make_cues"]

SUBTITLE_FORMATS = (".srt", ".vtt", ".json", ".textgrid")
"""Endings of the files that `format_subtitles` makes the content of, in lower case."""

_MOST_CHARACTERS = 84  # of a cue: two lines of 42, as broadcasters have them
_MOST_SECONDS = 7.0
_LONGEST_PAUSE = 1.0  # seconds between words of a cue


@dataclass(frozen=True)
class Cue:
    """A subtitle.

    Attributes:
        start, end (`float`): Seconds.
        speaker (`str` or `None`): Tag of the speaker.
        words (`list[TimedText]`): Its words.
    """

    start: float
    end: float
    speaker: str | None
    words: list[TimedText]

    @property
    def text(self) -> str:
        """The words, with a space where the script has white space or a tag."""
        parts = []
        for before, word in zip([None, *self.words], self.words, strict=False):
            parts.append(word.text if before is None or before.end_char == word.start_char else f" {word.text}")
        return "".join(parts)


def make_cues(words: Sequence[TimedText]) -> list[Cue]:
    """Group words into cues.

    Args:
        words (`Sequence[TimedText]`): In order.

    Returns:
        `list[Cue]`: In order, none overlapping the next.
    """
    groups: list[list[TimedText]] = []
    for word in words:
        group = groups[-1] if groups else []
        is_new = (
            not group
            or group[-1].speaker != word.speaker
            or ends_sentence(group[-1].text)
            or word.start - group[-1].end > _LONGEST_PAUSE
            or word.end - group[0].start > _MOST_SECONDS
            or sum(len(one.text) + 1 for one in group) + len(word.text) > _MOST_CHARACTERS
        )
        if is_new:
            groups.append([word])
        else:
            group.append(word)
    return [Cue(group[0].start, group[-1].end, group[0].speaker, group) for group in groups]


def format_subtitles(words: Sequence[TimedText], kind: str, seconds: float | None = None) -> str:
    """Write words as subtitles.

    Args:
        words (`Sequence[TimedText]`): In order.
        kind (`str`): ".srt", ".vtt", ".json" for every word with its time, place and speaker, or ".textgrid" for a tier
            of words for each speaker.
        seconds (`float`, *optional*): Duration of the audio, for ".textgrid"; the end of the last word unless given.

    Returns:
        `str`: Content of a file.

    Raises:
        ValueError: If `kind` is another one.
    """
    if kind == ".json":
        rows = [
            # JSON has no infinity: the evidence of a word without a frame.
            {name: None if value == -math.inf else value for name, value in asdict(word).items()}
            for word in words
        ]
        return json.dumps({"words": rows}, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    if kind == ".textgrid":
        return _format_text_grid(words, seconds)
    if kind == ".srt":
        return "".join(
            f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text}\n\n"
            for number, cue in enumerate(make_cues(words), start=1)
        )
    if kind == ".vtt":
        cues = (f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_voiced(cue)}\n\n" for cue in make_cues(words))
        return "WEBVTT\n\n" + "".join(cues)
    raise ValueError(f"subtitles cannot be {kind!r}; give one of {', '.join(SUBTITLE_FORMATS)}.")


def _format_text_grid(words: Sequence[TimedText], seconds: float | None) -> str:
    """Write words in Praat's long text format; the time between them is empty intervals."""
    last = max(max((word.end for word in words), default=0.0), seconds or 0.0)
    speakers = list(dict.fromkeys(word.speaker for word in words)) or [None]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {last:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(speakers)}", "item []:"]
    for number, speaker in enumerate(speakers, start=1):
        intervals, reached = [], 0.0
        for word in words:
            if word.speaker == speaker and word.end > max(word.start, reached):
                start = max(word.start, reached)
                if start > reached:
                    intervals.append((reached, start, ""))
                intervals.append((start, word.end, word.text))
                reached = word.end
        if reached < last or not intervals:
            intervals.append((reached, last, ""))
        name = "words" if len(speakers) == 1 else f"{(speaker or '').strip('[]') or 'none'} - words"
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{_quoted(name)}"']
        lines += ["        xmin = 0", f"        xmax = {last:.6f}", f"        intervals: size = {len(intervals)}"]
        for place, (start, end, text) in enumerate(intervals, start=1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
            ]
            lines.append(f'            text = "{_quoted(text)}"')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace('"', '""')


def _time(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, hours = milliseconds // 60_000, milliseconds // 3_600_000
    return f"{hours:02}:{minutes % 60:02}:{milliseconds // 1000 % 60:02}{point}{milliseconds % 1000:03}"


def _voiced(cue: Cue) -> str:
    """Return the text of a cue for WebVTT, in a tag of its speaker."""
    text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    speaker = (cue.speaker or "").strip("[]")
    return f"<v {speaker}>{text}</v>" if speaker else text
