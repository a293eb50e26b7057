"""Dialogues: rows with lists of turns, and turns of a conversation joined to clips with [S1] and [S2].

Consecutive turns are joined up to a maximum duration and cut at pauses. A clip never contains speech without its text:
unusable and overlapping turns end it. Knows nothing of tables and codecs; called by `sources.py` and `prepare.py`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from ..tokenization_dia import SPEAKER_TAG
from .clips import clip_seconds, file_of
from .config import TAG, PrepareConfig
from .rows import Row, RowError, is_missing, quote
from .segments import Mix, Segment, find_segment

__all__ = ["JoinCounts", "expand_turns", "join_turns"]

_MAX_ACTIVE = 16  # turns that one turn is compared with: those that last longest
_KEPT_PAUSE = 0.1  # seconds of the pauses around a clip that it keeps at most
_MIN_SHARE = 0.5  # of the longest possible clip: the shortest one that is cut off for a better pause
_ENDS_SENTENCE = (".", "?", "!", "…", '."', '?"', '!"', ".”", "?”", "!”", ".)", "。", "？", "！", "।")  # fmt: skip
_TEXT_KEYS = ("text", "transcript", "sentence", "content", "utterance", "value", "normalized_text")
_Listed = tuple[str | None, Any, dict[str, Any]]  # speaker, text, and other values
_SPEAKER_KEYS = ("speaker", "speaker_id", "speaker_name", "role", "from", "spk")


@dataclass
class JoinCounts:
    """Counts of `join_turns`.

    Args:
        num_turns, num_joined (`int`): Turns of all conversations, and turns in clips.
        num_sessions, num_clips (`int`): Conversations, and clips made of them.
        num_dialogues (`int`): Clips of several speakers.
        num_overlaps (`int`): Overlaps of two speakers that clips keep.
        pauses (`list[float]`): Pauses between turns that clips keep, in seconds.
    """

    num_turns: int = 0
    num_joined: int = 0
    num_sessions: int = 0
    num_clips: int = 0
    num_dialogues: int = 0
    num_overlaps: int = 0
    pauses: list[float] = field(default_factory=list)

    def to_text(self) -> str:
        """Return the counts as one line."""
        pauses = self.to_dict()["pauses"]
        return (
            f"joined: {self.num_joined} of {self.num_turns} turns of {self.num_sessions} sessions to {self.num_clips} "
            f"clips, {self.num_dialogues} of them with several speakers; {len(self.pauses)} pauses kept (median "
            f"{pauses['median']:.2f} s, longest {pauses['most']:.2f} s), {self.num_overlaps} overlaps kept"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-serializable values."""
        counts = {name: value for name, value in vars(self).items() if name != "pauses"}
        spread = dict(zip(("median", "p95", "most"), np.quantile(self.pauses or [0.0], [0.5, 0.95, 1.0]), strict=True))
        return {**counts, "pauses": {name: round(float(value), 3) for name, value in spread.items()}}


def expand_turns(
    row: Row,
    text: Any,
    speakers: Any,
    spare: Mapping[str, Any],
    tags: Sequence[str],
    speaker_tags: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Yield the rows of a row whose text is a list of turns: one for each turn with times, else the whole dialogue.

    Args:
        row (`Row`): Row with its audio.
        text: Texts, turns as objects with a text and a speaker, or as pairs of these; also as an object of lists, or as
            JSON. Any other value yields the row as it is.
        speakers: Speaker of each text, unless the turns have them.
        spare (`Mapping[str, Any]`): The other cells, where lists of begins and ends may be.
        tags (`Sequence[str]`): Speaker tags, taken in the order in which the speakers appear.
        speaker_tags (`Mapping[str, str]`, *optional*): Tag of each speaker instead.
    """
    try:
        turns = _as_turns(text, speakers, spare)
        if turns is None:
            yield row
            return
        if not turns:
            raise RowError("empty_text", "the list of turns is empty.")
        audio = row.audio.audio if isinstance(row.audio, Segment) else row.audio
        parts = [audio if isinstance(audio, RowError) else _part_of(audio, turn) for turn in turns]
        session = row.session or row.id
        if all(isinstance(part, Segment) for part in parts):
            for (name, said, _), part in zip(turns, parts, strict=True):
                row_id = f"{row.id}@{part}"
                yield replace(
                    row, id=row_id, audio=part, text=said, speaker=name or row.speaker, session=session, is_timed=True
                )
            return
        names = tuple(dict.fromkeys(name or row.speaker or "" for name, _, _ in turns))
        if speaker_tags and any(names):
            if without := next((name for name in names if name not in speaker_tags), None):
                raise _without_tag(without)
            tag_of = dict(speaker_tags)
        else:
            _check_number(names, tags)
            tag_of = dict(zip(names, tags, strict=False))
        if any(is_missing(said) for _, said, _ in turns):
            raise RowError("empty_text", "a turn of the dialogue has no text.")
        named = tuple(name for name in names if name)
        for name, said, _ in turns:
            _check_text(said, name or row.speaker, bool(named))
        if not named and _speaker_tags_in(turns[0][1]):  # the texts have their own
            said = " ".join(said.strip() for _, said, _ in turns)
        elif speaker_tags and not named:
            raise _without_tag(None)
        else:
            said = _join_texts([(tag_of[name or row.speaker or ""], said) for name, said, _ in turns])
        yield replace(row, text=said, speaker=_joint_name(named), speakers=named)
    except RowError as error:
        yield replace(row, text=error)


def _as_turns(text: Any, speakers: Any, spare: Mapping[str, Any]) -> list[_Listed] | None:
    """Return the speaker, the text and the other values of each turn; `None` if a text is no list."""
    if isinstance(text, str) and text.lstrip().startswith(("[{", "[[", '["')):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return None
    if isinstance(text, Mapping):  # an object of lists: each turn has one item of each
        lists = {name: list(value) for name, value in text.items() if isinstance(value, (list, tuple, np.ndarray))}
        if not lists or len({len(values) for values in lists.values()}) != 1:
            raise RowError("unclear_turns", f"the turns are the object {quote(dict(text))}; give a list of turns.")
        text = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    if not isinstance(text, (list, tuple, np.ndarray)):
        return None
    turns: list[_Listed] = []
    for number, turn in enumerate(text):
        if isinstance(turn, Mapping):
            said = next((turn[key] for key in _TEXT_KEYS if key in turn), None)
            name = next((turn[key] for key in _SPEAKER_KEYS if key in turn), None)
            taken = {*_TEXT_KEYS, *_SPEAKER_KEYS}
            turns.append((_name(name), said, {key: value for key, value in turn.items() if key not in taken}))
            if said is None:
                raise RowError(
                    "unclear_turns", f"turn {number + 1} has {', '.join(map(repr, turn))}; give each a 'text'."
                )
        elif isinstance(turn, (list, tuple)) and len(turn) == 2:
            turns.append((_name(turn[0]), turn[1], {}))
        else:
            turns.append((None, turn, {}))
    if isinstance(speakers, (list, tuple, np.ndarray)):
        if len(speakers) != len(turns):
            raise RowError("unclear_turns", f"the row has {len(turns)} texts but {len(speakers)} speakers.")
        turns = [(_name(name), said, more) for name, (_, said, more) in zip(speakers, turns, strict=True)]
    for column, value in spare.items():
        if isinstance(value, (list, tuple, np.ndarray)) and len(value) == len(turns):
            for turn, item in zip(turns, value, strict=True):
                turn[2].setdefault(str(column).removesuffix("s"), item)
                turn[2].setdefault(str(column), item)
    if all(name is None for name, _, _ in turns):  # of a list in another column than the row's speaker
        turns = [
            (next((_name(more[key]) for key in _SPEAKER_KEYS if key in more), None), said, more)
            for _, said, more in turns
        ]
    named = [name is not None for name, _, _ in turns]
    if any(named) and not all(named):
        raise RowError("no_speaker", f"turn {named.index(False) + 1} of the dialogue has no speaker.")
    return turns


def _name(value: Any) -> str | None:
    return None if is_missing(value) else str(value)


def _part_of(audio: Any, turn: tuple[Any, Any, Mapping[str, Any]]) -> Any:
    part = find_segment(audio, turn[2])
    if isinstance(part, Segment) and (part.begin is None or part.duration is None):
        return audio
    return part


def _check_number(names: Sequence[str], tags: Sequence[str]) -> None:
    if len(names) > len(tags):
        raise RowError(
            "too_many_speakers",
            f"the dialogue has the {len(names)} speakers {', '.join(map(repr, names[:4]))}, but there are only the "
            f"tags {', '.join(tags)}; declare more: `extra_tags` (--extra-tag S3).",
        )


def _join_texts(turns: Iterable[tuple[str, str]]) -> str:
    """Join texts, with a tag at each change of the speaker."""
    said: list[str] = []
    last = None
    for tag, text in turns:
        said += [tag] * (tag != last) + [str(text).strip()]
        last = tag
    return " ".join(said)


def _joint_name(names: Sequence[str]) -> str | None:
    return " + ".join(names) or None


@dataclass(frozen=True)
class _Turn:
    """Turn at its time in the conversation, with the reason if no clip can contain it."""

    row: Row
    begin: float
    end: float
    error: RowError | None = None
    free_before: float = 0.0  # pause before it
    free_after: float = 0.0


def join_turns(
    rows: Iterable[Row], settings: PrepareConfig, tags: Sequence[str], max_bytes: int, counts: JoinCounts
) -> Iterator[Row]:
    """Join consecutive turns of each conversation to clips.

    Rows of one session are a conversation, in the order of their begins; without times,
    in that of the source, with `settings.turn_gap` between them. Other rows are yielded unchanged.

    Args:
        rows (`Iterable[Row]`): Rows of a source. Those of a session stand together if they contain their audio;
            otherwise they may be anywhere.
        settings (`PrepareConfig`): `join_turns` and the limits.
        tags (`Sequence[str]`): Speaker tags, taken in the order in which the speakers of a clip begin to speak.
        max_bytes (`int`): Maximum length of a clip's text in UTF-8.
        counts (`JoinCounts`): Takes the counts.

    Yields:
        `Row`: Joined rows by session. Turns that no clip can contain carry a `RowError`.
    """
    groups: dict[str, list[Row]] = {}
    done: set[str] = set()
    last: str | None = None
    for row in rows:
        wanted = row.is_timed if settings.join_turns is None else settings.join_turns
        session = row.session if wanted else None
        if session is None and row.audio is None and isinstance(row.text, RowError):
            session = last  # a row that cannot be read is taken for a turn of the conversation around it
        last = session
        if session is None:
            yield row
            continue
        if session in done:
            reason = f"the rows of the session {session!r} are not together; sort them by session."
            yield replace(row, text=RowError("scattered_session", reason))
            continue
        if session not in groups and groups and any(_holds_audio(rows) for rows in groups.values()):
            for name, of_session in groups.items():
                yield from _join_session(name, of_session, settings, tags, max_bytes, counts)
            done.update(groups)
            groups.clear()
        groups.setdefault(session, []).append(row)
    for name, of_session in groups.items():
        yield from _join_session(name, of_session, settings, tags, max_bytes, counts)


def _holds_audio(rows: Sequence[Row]) -> bool:
    return not isinstance(rows[-1].audio, RowError) and file_of(rows[-1].audio) is None


def _join_session(
    name: str, rows: list[Row], settings: PrepareConfig, tags: Sequence[str], max_bytes: int, counts: JoinCounts
) -> Iterator[Row]:
    counts.num_turns += len(rows)
    counts.num_sessions += 1
    turns: list[_Turn] = []
    is_timed = any(_begin_of(row) is not None for row in rows)
    has_speakers = any(row.speaker is not None for row in rows)
    if is_timed:
        # A row without a begin stays behind the one before it: its speech must not be within a clip.
        last, placed = 0.0, []
        for row in rows:
            begin = _begin_of(row)
            last = last if begin is None else begin
            placed.append((last, row))
        rows = [row for _, row in sorted(placed, key=lambda pair: pair[0])]
    now = 0.0
    for row in rows:
        try:
            begin, end = _times_of(row, is_timed, now)
        except RowError as error:
            turns.append(_Turn(row, now, now, error))
            continue
        turns.append(_Turn(row, begin, end, _error_of(row, settings, has_speakers)))
        now = end if is_timed else end + settings.turn_gap
    turns = _mark_overlaps(turns, settings.max_overlap)
    for is_usable, run in groupby(turns, lambda turn: turn.error is None):
        if not is_usable:
            yield from (replace(turn.row, text=turn.error) for turn in run)
            continue
        for part in _split(run, settings.max_pause):
            for clip, is_clip in _cut(part, settings, tags, max_bytes):
                if is_clip:
                    yield _as_row(clip, settings, tags, counts)
                else:
                    reason = f"{len(clip)} turns overlap so that they cannot be cut within the limits of a clip."
                    yield from (replace(turn.row, text=RowError("overlapping_turns", reason)) for turn in clip)


def _split(turns: Iterable[_Turn], max_pause: float) -> Iterator[list[_Turn]]:
    """Split turns at long pauses, and where the language changes."""
    part: list[_Turn] = []
    for turn in turns:
        if part and (turn.free_before > max_pause or turn.row.language != part[-1].row.language):
            yield part
            part = []
        part.append(turn)
    yield part


def _begin_of(row: Row) -> float | None:
    return row.audio.begin if isinstance(row.audio, Segment) else None


def _times_of(row: Row, is_timed: bool, now: float) -> tuple[float, float]:
    if isinstance(row.audio, RowError):
        raise row.audio
    if row.audio is None and isinstance(row.text, RowError):
        raise row.text
    if not is_timed:
        return now, now + clip_seconds(row.audio)
    begin = _begin_of(row)
    if begin is None:
        raise RowError("unclear_segment", "the row has no begin, unlike others of its session; add it.")
    duration = row.audio.duration
    if row.audio.is_placed:
        clip_seconds(row.audio)  # raises beyond the end of the recording
    return begin, begin + (clip_seconds(row.audio) if duration is None else duration)


def _error_of(row: Row, settings: PrepareConfig, has_speakers: bool) -> RowError | None:
    """Return the reason why no clip can contain a turn."""
    if isinstance(row.text, RowError):
        return row.text
    if is_missing(row.text):
        return RowError("empty_text", "the turn has no transcript, so that no clip can contain it.")
    if row.speaker is None and has_speakers:
        return RowError("no_speaker", "the turn has no speaker, unlike others of its session.")
    if settings.speaker_tags and row.speaker not in settings.speaker_tags:
        return _without_tag(row.speaker)
    try:
        _check_text(row.text, row.speaker, has_speakers)
    except RowError as error:
        return error
    return None


def _without_tag(speaker: str | None) -> RowError:
    return RowError("speaker_without_tag", f"the speaker {speaker!r} has no tag: `speaker_tags` (--speaker-tag).")


def _check_text(text: Any, speaker: str | None, has_speakers: bool) -> None:
    """Raise `RowError` if the text of a turn is no string, or has a speaker of its own."""
    if not isinstance(text, str):
        raise RowError("text_not_string", f"the transcript is a {type(text).__name__}; it must be a string.")
    if has_speakers and (inside := _speaker_tags_in(text)):
        raise RowError("tag_in_turn", f"the turn of {speaker!r} contains {inside[0]}; give each turn one speaker.")


def _speaker_tags_in(text: str) -> list[str]:
    return [tag for tag in TAG.findall(text) if SPEAKER_TAG.fullmatch(tag)]


def _mark_overlaps(turns: Sequence[_Turn], max_overlap: float) -> list[_Turn]:
    """Note the pauses before and after turns, and mark those that overlap with others for too long.

    A turn that is more than half within an unusable one is unusable, too: no clip could have its speech alone.
    """
    pauses: list[float] = []
    shared: list[list[tuple[int, float]]] = [[] for _ in turns]  # other turns, and the seconds shared with each
    active: list[int] = []  # turns that last beyond the begin of the current one
    last_end = 0.0
    for place, turn in enumerate(turns):
        active = [other for other in active if turns[other].end > turn.begin][:_MAX_ACTIVE]
        for other in active:
            seconds = min(turns[other].end, turn.end) - turn.begin
            shared[place].append((other, seconds))
            shared[other].append((place, seconds))
        active = sorted([*active, place], key=lambda other: -turns[other].end)
        pauses.append(turn.begin - last_end)
        last_end = max(last_end, turn.end)
    errors = [turn.error for turn in turns]
    for place, others in enumerate(shared):
        for other, seconds in others:
            if seconds > max_overlap:
                errors[place] = errors[place] or _overlap(turns[other].row, seconds)
    unusable = [place for place, error in enumerate(errors) if error is not None]
    while unusable:
        place = unusable.pop()
        for other, seconds in shared[place]:
            if errors[other] is None and seconds > (turns[other].end - turns[other].begin) / 2:
                errors[other] = _overlap(turns[place].row, seconds)
                unusable.append(other)
    after = [*pauses[1:], 0.0]
    return [
        replace(turn, free_before=before, free_after=behind, error=error)
        for turn, before, behind, error in zip(turns, pauses, after, errors, strict=True)
    ]


def _overlap(other: Row, seconds: float) -> RowError:
    name = "" if other.speaker is None else f" of {other.speaker!r}"
    return RowError("overlapping_turns", f"it overlaps with row {other.number}{name} for {seconds:.2f} s.")


def _cut(
    run: Sequence[_Turn], settings: PrepareConfig, tags: Sequence[str], max_bytes: int
) -> Iterator[tuple[Sequence[_Turn], bool]]:
    """Cut consecutive turns to clips: each as long as allowed, or shorter if that finds a better pause.

    Yields:
        `tuple[Sequence[_Turn], bool]`: Turns, and whether they are a clip within the limits.
    """
    longest = settings.dialogue_seconds
    if settings.max_seconds is not None:
        longest = min(longest, settings.max_seconds)
    ends = [place for place in range(1, len(run)) if run[place].free_before >= -settings.max_overlap] + [len(run)]
    first = 0
    while first < len(run):
        stop, end, num_bytes = first, 0.0, 0
        names: set[str | None] = set()
        while stop < len(run):
            turn = run[stop]
            end = max(end, turn.end)
            names.add(turn.row.speaker)
            num_bytes += len(turn.row.text.encode("utf-8", "replace")) + 5  # a tag and spaces
            number = len({settings.speaker_tags[str(name)] for name in names}) if settings.speaker_tags else len(names)
            is_full = end - run[first].begin > longest or num_bytes > max_bytes or number > len(tags)
            if is_full and stop > first:
                break
            stop += 1
        possible = ends[bisect_right(ends, first) : bisect_right(ends, stop)]
        if not possible:
            stop = ends[bisect_right(ends, first)]
        elif stop < len(run):
            stop = _best_cut(run, first, possible)
        yield run[first:stop], bool(possible)
        first = stop


def _best_cut(run: Sequence[_Turn], first: int, places: Sequence[int]) -> int:
    """Return the turn before which to cut: without an overlap, after the end of a sentence, at the longest pause."""
    whole = run[places[-1] - 1].end - run[first].begin
    late = [place for place in places if run[place - 1].end - run[first].begin >= _MIN_SHARE * whole]

    def quality(place: int) -> tuple[bool, bool, float]:
        pause = run[place].free_before
        return pause >= 0, run[place - 1].row.text.rstrip().endswith(_ENDS_SENTENCE), round(pause, 3)

    candidates = late if any(quality(place)[0] for place in late) else places
    return max(candidates, key=lambda place: (*quality(place), place))


def _as_row(clip: Sequence[_Turn], settings: PrepareConfig, tags: Sequence[str], counts: JoinCounts) -> Row:
    rows = [turn.row for turn in clip]
    names = tuple(dict.fromkeys(row.speaker for row in rows if row.speaker is not None))
    tag_of = settings.speaker_tags or dict(zip(names, tags, strict=False))
    counts.num_clips += 1
    counts.num_joined += len(clip)
    counts.num_dialogues += len(names) > 1
    for before, turn in pairwise(clip):
        counts.pauses += [turn.free_before] * (turn.free_before > 0)
        counts.num_overlaps += turn.free_before < 0 and before.row.speaker != turn.row.speaker
    text = _join_texts((tag_of.get(str(row.speaker), tags[0]), row.text) for row in rows)
    if not names and _speaker_tags_in(rows[0].text):  # the texts have their own
        text = " ".join(row.text.strip() for row in rows)
    audio, row_id = _audio_of(clip)
    return replace(rows[0], id=row_id, audio=audio, text=text, speaker=_joint_name(names), speakers=names)


def _is_whole(audio: Segment) -> bool:
    """Whether a recording has nothing around a segment, as one that was cut out of a longer recording."""
    try:
        return clip_seconds(audio) >= clip_seconds(audio.audio)
    except RowError:
        return False


def _audio_of(clip: Sequence[_Turn]) -> tuple[Any, str]:
    """Return the audio of a clip and its id: a longer segment of the recording, or a mix of several."""
    first, last = clip[0].row, clip[-1].row
    files = {file_of(turn.row.audio) for turn in clip}
    is_one = all(isinstance(turn.row.audio, Segment) for turn in clip) and (
        (len(files) == 1 and files != {None}) or len({id(turn.row.audio.audio) for turn in clip}) == 1
    )
    if is_one:
        if len(clip) == 1 and _is_whole(first.audio):
            return first.audio, first.id
        begin = max(0.0, clip[0].begin - max(0.0, min(_KEPT_PAUSE, clip[0].free_before / 2)))
        end = max(turn.end for turn in clip) + max(0.0, min(_KEPT_PAUSE, clip[-1].free_after / 2))
        whole = replace(first.audio, begin=begin, duration=end - begin)
        base = first.id.removesuffix(f"@{first.audio}")
        if base != first.id:
            return whole, f"{base}@{whole}"
        return whole, first.id if len(clip) == 1 else f"{first.id}..{last.id}"
    if len(clip) == 1:
        return first.audio, first.id
    begins = tuple(round(turn.begin - clip[0].begin, 6) for turn in clip)
    return Mix(tuple(turn.row.audio for turn in clip), begins), f"{first.id}..{last.id}"
