"""Annotations: files of timed texts beside recordings (subtitles, TextGrids, segments in JSON), and RTTM's speakers.

Reads turns, with begin, end, speaker and text, in the order of their begins. Knows nothing of audio and tables; called
by `sources.py`.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from .._extras import import_extra
from ..text_files import decode_text, first_line, is_deep, read_text
from .rows import RowError, is_missing, quote

__all__ = ["SUFFIXES", "Turn", "find_annotation", "find_text", "read_annotation", "speaker_at"]

SUFFIXES = (".srt", ".vtt", ".ass", ".textgrid", ".json")
"""Suffixes of annotations, in lower case and in order of preference."""

_MAX_BYTES = 1 << 26  # a day of subtitles is 5 MB
_MAX_SECONDS = 1e6
_MAX_NAME = 200  # characters of a tier's name that are compared
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^<>]+)>")  # WebVTT's voice span
_MARKUP = re.compile(r"<[/\w][^<>]*>")  # of HTML and WebVTT, but not in "a < b > c"
_DASH = re.compile(r"[-‐‑–—]\s*\S")  # a line of one of several speakers
# A label of WhisperX ("[SPEAKER_00]: "), or a name in capitals and a colon.
_LABEL = re.compile(r"(?:\[?((?i:speaker|spk)[ _-]?\d+)\]?:|([A-ZÀ-Þ][A-ZÀ-Þ0-9 .'’-]{0,30}):)\s+(?=\S)")
# Values in a TextGrid; all else there is explanation: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
_TEXTGRID_VALUE = re.compile(
    r'"(?P<string>[^"]*(?:""[^"]*)*)"|(?<!\S)(?P<number>[-+]?[\d.]+(?:[eE][-+]?\d+)?)(?!\S)|(?<!\S)<(?P<flag>\w+)>'
)
# Tiers of TextGrids by name, with the speaker in front as the Montreal Forced Aligner writes it.
_TIER = re.compile(
    r"(?:(?P<speaker>.+?)\s*[-_/:]\s*)?"
    r"(?:(?P<whole>utterances?|utts?|sentences?|phrases?|texts?|trans(?:cripts?|criptions?)?|ortho(?:graphy)?|turns?)"
    r"|(?P<words>words?|ort)|(?P<phones>phones?|phonemes?|phon|segments?|syllables?|mau|kan))",
    re.IGNORECASE,
)
_KINDS = ("whole", "words", "phones")
_SILENCES = {"sil", "sp", "<sil>", "<eps>", "<p:>", "#", "_"}
_UNKNOWN = {"spn", "<unk>", "<usb>", "<nib>"}  # speech that is not transcribed


@dataclass(frozen=True)
class Turn:
    """Timed text.

    Args:
        begin, end (`float`): In seconds; the end is `None` for the text of the whole recording.
        text (`str` or `RowError`): Text, or the reason why it cannot be used.
        speaker (`str`, *optional*): Speaker name.
    """

    begin: float
    end: float | None
    text: Any
    speaker: str | None = None


def find_annotation(recording: Path) -> Path | None:
    """Return the annotation of a recording: a file of its name, or with a language code before the suffix.

    Raises:
        RowError: "several_annotations".
    """
    for suffix in SUFFIXES:
        if (found := _find_beside(recording, suffix) or _find_beside(recording, f".*{suffix}")) is not None:
            return found
    return None


def find_text(recording: Path) -> Path | None:
    """Return the .txt file of a recording's name.

    Raises:
        RowError: "several_annotations".
    """
    return _find_beside(recording, ".txt")


def _find_beside(recording: Path, ending: str) -> Path | None:
    """Return the file of a recording's name: of exactly it, or in another case or Unicode form of an accent."""
    found = _names_in(recording.parent, _stamp(recording.parent)).get(_key(f"{recording.stem}{ending}"), [])
    if (exact := f"{recording.stem}{ending}") in found:
        found = [exact]
    if len(found) > 1:
        raise RowError(
            "several_annotations",
            f"there are {', '.join(map(repr, sorted(found)))} beside {recording.name!r}; leave one there.",
        )
    return recording.parent / found[0] if found else None


def _key(name: str) -> str:
    # Archives made under macOS have "é" as two characters; what is typed elsewhere, as one.
    return unicodedata.normalize("NFC", name).lower()


@lru_cache(maxsize=16)
def _names_in(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the annotations and texts in a folder by `_key`, and with a language code replaced by a star."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        stem, suffix = os.path.splitext(_key(name))
        if suffix in (*SUFFIXES, ".txt"):
            found.setdefault(f"{stem}{suffix}", []).append(name)
            if match := re.fullmatch(r"(.+)\.[a-z]{2,3}(-[a-z0-9]{2,8})*", stem):
                found.setdefault(f"{match[1]}.*{suffix}", []).append(name)
    return found


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_annotation(path: Path, tiers: Sequence[str] = ()) -> list[Turn]:
    """Read the turns of an annotation.

    Args:
        path (`Path`): SubRip, WebVTT, SubStation Alpha, Praat TextGrid, or JSON with `segments` of `start`, `end`,
            `text` and, optionally, `speaker`, as Whisper and WhisperX write it; or with `text` and `speaker` alone.
        tiers (`Sequence[str]`, *optional*): Tiers of a TextGrid that hold the texts. By default those that are named
            after utterances, sentences and the like, or else after words; if there are none, all but phones, each
            being that of the speaker whose name it has.

    Raises:
        RowError: "unreadable_annotation".
        ImportError: If the package for the format is not installed.
    """
    suffix = path.suffix.lower()
    try:
        if (num_bytes := path.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"it has {num_bytes:,} bytes; at most {_MAX_BYTES:,} are read")
        if suffix == ".textgrid":
            turns = list(_read_textgrid(path.read_bytes(), tiers))
        elif suffix == ".json":
            turns = list(_read_segments(read_text(path)))
        else:
            turns = list(_read_subtitles(read_text(path), suffix[1:]))
        for turn in turns:
            if turn.end is not None and not 0 <= turn.begin <= turn.end <= _MAX_SECONDS:
                raise ValueError(f"a text lasts from {turn.begin:g} to {turn.end:g} s")
        if not turns:
            raise ValueError("it has no timed texts")
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # parsers raise many types of errors
        reason = first_line(error).removesuffix(".")
        raise RowError("unreadable_annotation", f"{str(path)!r} cannot be read as {suffix[1:]} ({reason}).") from error
    return sorted(turns, key=lambda turn: turn.begin)


def _read_subtitles(text: str, form: str) -> Iterator[Turn]:
    pysubs2 = import_extra("pysubs2")
    speaker: str | None = None
    shown: list[str] = []
    events = pysubs2.SSAFile.from_string(text, format_=form, keep_unknown_html_tags=True)
    for event in sorted(events, key=lambda event: event.start):
        if event.type != "Dialogue":
            continue
        written = event.plaintext
        if "-->" in written:
            raise ValueError(f"the times after {event.start / 1000:.3f} s are not in the form of {form}")
        voices = {html.unescape(name).strip() for name in _VOICE.findall(written)}
        if form != "ass":
            written = html.unescape(_MARKUP.sub("", written)) if form == "vtt" else _MARKUP.sub("", written)
        lines = [" ".join(line.split()) for line in written.split("\n") if line.strip()]
        # Rolling captions repeat the last line of the cue before.
        new = lines[next((n for n in range(len(lines), 0, -1) if shown[-n:] == lines[:n]), 0) :]
        shown = lines or shown
        if not new:
            continue
        begin, end = event.start / 1000, event.end / 1000
        if len(voices) > 1 or sum(_DASH.match(line) is not None for line in new) > 1:
            reason = f"the cue {quote(' '.join(new))} has several speakers; split it."
            yield Turn(begin, end, RowError("several_speakers", reason))
            continue
        said = " ".join(new)
        if label := _LABEL.match(said):
            speaker, said = label[1] or label[2], said[label.end() :]
        yield Turn(begin, end, said, next(iter(voices), None) or event.name.strip() or speaker)


def _read_textgrid(content: bytes, tiers: Sequence[str]) -> Iterator[Turn]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # Praat's encoding of other than Latin letters
        content = content.decode("utf-16").encode()
    intervals: dict[str, list[tuple[float, float, str]]] = {}
    for name, entries in _read_tiers(decode_text(content, "its text")):
        intervals.setdefault(name, []).extend(entries)
    if missing := [name for name in tiers if name not in intervals]:
        raise ValueError(f"its interval tiers are {', '.join(map(repr, intervals)) or 'none'}; there is no {missing}")
    for name, speaker in _choose_tiers(list(tiers or intervals), bool(tiers)):
        for begin, end, label in intervals[name]:
            said = " ".join(label.split())
            if said and said.lower() not in _SILENCES:
                unknown = RowError("missing_text", f"the speech is labeled {said!r}; transcribe it.")
                yield Turn(begin, end, unknown if said.lower() in _UNKNOWN else said, speaker)


def _read_tiers(text: str) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    """Yield the name and the intervals of each interval tier, in either form: Praat counts and reads values only."""
    values = (match for match in _TEXTGRID_VALUE.finditer(text))

    def take(kind: str) -> str:
        match = next(values, None)
        if match is None:
            raise ValueError("it is truncated")
        if match.lastgroup != kind:
            raise ValueError(f"it has {quote(match[0])} where a {kind} must be")
        return match[kind].replace('""', '"')

    if (take("string"), take("string")) != ("ooTextFile", "TextGrid"):
        raise ValueError("its first lines are not those of a TextGrid")
    _, _, flag = take("number"), take("number"), take("flag")
    for _ in range(int(take("number")) if flag == "exists" else 0):
        is_interval = take("string") == "IntervalTier"
        name, _, _ = take("string"), take("number"), take("number")
        entries = []
        for _ in range(int(take("number"))):
            begin = float(take("number"))
            end = float(take("number")) if is_interval else begin
            entries.append((begin, end, take("string")))
        if is_interval:
            yield name, entries


def _choose_tiers(names: Sequence[str], are_given: bool) -> Iterator[tuple[str, str | None]]:
    """Yield the tiers that hold texts, and the speaker of each."""
    matches = {name: _TIER.fullmatch(name.strip()[:_MAX_NAME]) for name in names}
    if are_given:
        chosen = list(names)
    else:
        of_kind = {kind: [name for name, match in matches.items() if match and match[kind]] for kind in _KINDS}
        # Otherwise each tier is named by its speaker.
        chosen = of_kind["whole"] or of_kind["words"] or [name for name in names if name not in of_kind["phones"]]
    for name in chosen:
        match = matches[name]
        yield name, match["speaker"] if match is not None else name if len(chosen) > 1 else None


def _read_segments(text: str) -> Iterator[Turn]:
    try:
        content = json.loads(text)
        if is_deep(content):
            raise RecursionError
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(content, dict) and "segments" not in content and isinstance(content.get("text"), str):
        yield Turn(0.0, None, content["text"], _name(content.get("speaker")))
        return
    segments = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(segments, list):
        raise ValueError("it has no list 'segments'")
    for number, segment in enumerate(segments, start=1):
        times: list[Any] = [segment.get(name) for name in ("start", "end")] if isinstance(segment, dict) else [None]
        if not all(type(time) in (int, float) and math.isfinite(time) for time in times):
            raise ValueError(f"segment {number} has no numbers 'start' and 'end'")
        said = segment.get("text")
        if isinstance(said, str) and said.strip():
            yield Turn(float(times[0]), float(times[1]), said.strip(), _name(segment.get("speaker")))


def _name(speaker: Any) -> str | None:
    return None if is_missing(speaker) else str(speaker)


def speaker_at(recording: str, begin: float, end: float) -> str | None:
    """Return the speaker of a part of a recording, by the RTTM file of its name beside it; `None` without such a file.

    Raises:
        RowError: "unreadable_annotation"; "several_speakers" if another one speaks in more than a quarter of it;
            "no_speaker" if nobody does.
    """
    path = Path(recording).with_suffix(".rttm")
    turns = _read_rttm(path, _stamp(path))
    if turns is None:
        return None
    shares: dict[str, float] = {}
    place = bisect_left(turns, (end,))
    while place and turns[place - 1][3] > begin:
        place -= 1
        first, last, speaker, _ = turns[place]
        if (shared := min(last, end) - max(first, begin)) > 0:
            shares[speaker] = shares.get(speaker, 0.0) + shared
    names = sorted(shares, key=lambda name: -shares[name])
    if not names:
        raise RowError("no_speaker", f"{path.name} has no speaker from {begin:g} to {end:g} s.")
    if len(names) > 1 and shares[names[1]] > (end - begin) / 4:
        both = f"{names[0]!r} and {names[1]!r}"
        raise RowError("several_speakers", f"{path.name} has {both} from {begin:g} to {end:g} s; split the text.")
    return names[0]


@lru_cache(maxsize=16)
def _read_rttm(path: Path, changed: int) -> list[tuple[float, float, str, float]] | None:
    """Read the begin, end and speaker of each turn, sorted, with the latest end so far.

    A changed modification time invalidates the cache.
    """
    if not path.is_file():
        return None
    turns = []
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        lines = read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise RowError("unreadable_annotation", f"{str(path)!r} cannot be read ({first_line(error)}).") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            begin, duration, speaker = float(fields[3]), float(fields[4]), fields[7]
            if not (0 <= begin <= _MAX_SECONDS and 0 <= duration <= _MAX_SECONDS):
                raise ValueError
        except (IndexError, ValueError) as error:
            reason = f"line {number} of {str(path)!r} is not `SPEAKER file channel begin duration . . speaker . .`."
            raise RowError("unreadable_annotation", reason) from error
        turns.append((begin, begin + duration, speaker))
    turns.sort()
    latest = accumulate((last for _, last, _ in turns), max)
    return [(*turn, last) for turn, last in zip(turns, latest, strict=True)]
