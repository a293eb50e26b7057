"""Scripts of any length as data: parsing, checks, splitting into chunks, rendering.

A script is a text for Dia, "[S1] Hello. (laughs) [S2] Hi!", of any length. This file does not depend on models, tokens
and audio, so durations are estimates from the characters; called by `speech/dialogue.py`.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from sentencex import segment

from ..tokenization_dia import any_of

__all__ = [
    "NON_VERBAL_TAGS",
    "Turn",
    "check_script",
    "ends_sentence",
    "estimate_seconds",
    "parse_part",
    "parse_script",
    "plan_chunks",
    "remove_tags",
    "render",
    "split_prefix",
]

# From nari-labs/dia's README, without the parentheses.
NON_VERBAL_TAGS = (
    "laughs", "clears throat", "sighs", "gasps", "coughs", "singing", "sings", "mumbles", "beep", "groans", "sniffs",
    "claps", "screams", "inhales", "exhales", "applause", "burps", "humming", "sneezes", "chuckle", "whistles",
)  # fmt: skip

# Conversational English has about 150 words a minute, each of six characters with the space after it.
_CHARACTERS_PER_SECOND = 15
# A Chinese or Japanese character is one or two syllables, at about five characters a second.
_CHARACTERS_PER_WIDE_CHARACTER = 3
_SECONDS_PER_SOUND = 1

# A tag of a language or a style inside a turn; a longer one can be split.
_TAG = r"\[[A-Za-z0-9_-]{1,12}\]"

# Joins two emojis to one.
_JOINER = "\u200d"

# Costs of ending a chunk inside a turn, in chunks: seven more chunks are better than one split turn.
_SENTENCE_COST, _CLAUSE_COST, _WORD_COST, _CHARACTER_COST = 10.0, 20.0, 40.0, 80.0
# A chunk that is too short costs more than thousands of splits.
_SHORT_COST = 1e6

_SENTENCE_END = re.compile(r"""[.!?…。！？]["'”’»)\]]*$""")

_SOUND = rf"\((?:{'|'.join(NON_VERBAL_TAGS)})\)"
_SOUNDS = re.compile(_SOUND, re.IGNORECASE)
_CLAUSES = re.compile(r""".+?(?:[,;:،؛…–-]["'”’»)]* |[—，、；：]["'”’»」』）]* ?|$)""")
_WORDS = re.compile(rf"(?:{_SOUND}|\S)+ ?", re.IGNORECASE)
_CHARACTERS = re.compile(rf"(?:{_SOUND}|{_TAG}|\S) ?", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """Text of one speaker before the next one. Turns of equal text are equal, regardless of their position.

    Args:
        speaker (`str`): The speaker's tag, such as "[S1]".
        text (`str`): Text without the tag.
        line (`int`, defaults to 1): Line of the tag in the script, counted from 1.
        column (`int`, defaults to 1): Column of the tag in that line, in characters counted from 1.
    """

    speaker: str
    text: str
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)


def _normalize(text: str) -> str:
    return " ".join(text.split())


def _read(text: str, speaker_tokens: Sequence[str]) -> Iterator[tuple[int, str | None, str]]:
    """Yield position, tag (None before the first) and text, possibly empty, of every turn."""
    if not speaker_tokens:
        raise ValueError("no speaker tokens; at least one is needed, such as '[S1]'.")
    for tag in speaker_tokens:
        if not tag or tag.split() != [tag]:
            raise ValueError(f"{tag!r} cannot be a speaker token; use a word without spaces, such as '[S1]'.")
    tags = list(any_of(speaker_tokens).finditer(text))  # anywhere, as in the tokenizer
    ends = [*(match.start() for match in tags), len(text)]
    before = text[: ends[0]]
    if before.strip():
        yield len(before) - len(before.lstrip()), None, _normalize(before)
    for match, end in zip(tags, ends[1:], strict=True):
        yield match.start(), match.group(), _normalize(text[match.end() : end])


def split_prefix(text: str, language_tokens: Sequence[str]) -> tuple[str, str]:
    """Split off tags of a language or a style, such as `[nl]`, at the beginning of a script.

    Args:
        text (`str`): The script.
        language_tokens (`Sequence[str]`): Tags of the tokenizer that are no speaker's.

    Returns:
        `tuple[str, str]`: The prefix, with single spaces, and the script with spaces in its place.

    Example:
    ```python
    >>> from dia_hf.speech.script import split_prefix
    >>> split_prefix("[nl] [S1] Dat is goed.", ["[nl]", "[de]"])
    ('[nl]', '     [S1] Dat is goed.')

    ```
    """
    tags = any_of(language_tokens)
    match = re.match(rf"\s*(?:(?:{tags.pattern})\s*)+", text)
    if match is None:
        return "", text
    return " ".join(tags.findall(match.group())), re.sub(r"\S", " ", match.group()) + text[match.end() :]


def parse_part(
    text: str,
    speaker_tokens: Sequence[str],
    language_tokens: Sequence[str] = (),
    prefix: str = "",
    speaker: str | None = None,
) -> list[Turn]:
    """Parse a part of a dialogue, such as the transcript of a voice, that is rendered behind the dialogue's prefix.

    Args:
        text (`str`): The part.
        speaker_tokens, language_tokens (`Sequence[str]`): Tags of the tokenizer.
        prefix (`str`, defaults to `""`): The dialogue's, see `split_prefix`. The part's own is left out if it is the
            same, and otherwise stays at the beginning of the first turn.
        speaker (`str`, *optional*): Speaker of text before the first tag; the first of the tokenizer unless given.

    Returns:
        `list[Turn]`: The turns, see `parse_script`.
    """
    own, spoken = split_prefix(text, language_tokens)
    turns = parse_script(f"{speaker or ''} {spoken}", speaker_tokens)
    if turns and own:
        after, rest = split_prefix(turns[0].text, language_tokens)
        turns[0] = replace(turns[0], text=" ".join([own, after, rest.strip()]))
    if turns and prefix:
        own, rest = split_prefix(turns[0].text, language_tokens)
        if own == prefix and rest.strip():
            turns[0] = replace(turns[0], text=rest.strip())
    return [replace(turn, text=_normalize(turn.text)) for turn in turns]


def remove_tags(text: str, tags: Sequence[str]) -> str:
    """Return a text without some tags, and with single spaces."""
    return _normalize(any_of(tags).sub(" ", text))


def _locator(text: str) -> Callable[[int], tuple[int, int]]:
    """Return a function from a position in the text to line and column."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def locate(position: int) -> tuple[int, int]:
        line = bisect_right(starts, position)
        return line, position - starts[line - 1] + 1

    return locate


def parse_script(text: str, speaker_tokens: Sequence[str] = ("[S1]", "[S2]")) -> list[Turn]:
    r"""Parse a script into turns.

    Line ends and other white space inside a turn become one space. Text before the first tag belongs to the first
    speaker, and a tag without text is no turn; `check_script` warns of both.

    Args:
        text (`str`): The script.
        speaker_tokens (`Sequence[str]`, defaults to `("[S1]", "[S2]")`): Tags of the tokenizer.

    Returns:
        `list[Turn]`: The turns in order, none of them empty; no two are merged.

    Raises:
        ValueError: If there are no speaker tokens, or one of them is empty or holds white space.

    Example:
    ```python
    >>> from dia_hf.speech.script import parse_script
    >>> parse_script("[S1] Hello.\n[S2] Hi!\nHow are you?")[1]
    Turn(speaker='[S2]', text='Hi! How are you?', line=2, column=1)

    ```
    """
    locate = _locator(text)
    return [
        Turn(tag or speaker_tokens[0], speech, *locate(position))
        for position, tag, speech in _read(text, speaker_tokens)
        if speech
    ]


def _excerpt(text: str) -> str:
    text = _normalize(text)
    return text if len(text) <= 40 else text[:39] + "…"


def _check_turns(text: str, speaker_tokens: Sequence[str]) -> Iterator[tuple[int, str]]:
    turns = list(_read(text, speaker_tokens))
    for i, (position, tag, speech) in enumerate(turns):
        previous_tag, previous_speech = turns[i - 1][1:] if i else (None, "")
        if tag is None:
            yield position, f"text before the first speaker tag; it becomes {speaker_tokens[0]}'s"
        elif not speech:
            is_closing_tag = 0 < i == len(turns) - 1 and tag != previous_tag  # as `render` writes it
            if not is_closing_tag:
                yield position, f"{tag} has no text; the turn is left out"
        elif tag == previous_tag and previous_speech:
            yield position, f"{tag} is repeated; the two turns become one"


def _check_brackets(
    text: str, speaker_tokens: Sequence[str], language_tokens: Sequence[str]
) -> Iterator[tuple[int, str]]:
    known = ", ".join(speaker_tokens)
    for match in re.finditer(r"\[[^\[\]]*\]|[\[\]]", text):
        found = _excerpt(match.group())
        word = "".join(found.split()).lower()
        if match.group() in speaker_tokens or match.group() in language_tokens:
            continue
        if len(match.group()) == 1:
            message = f"{found} is not paired; known speaker tags are {known}"
        elif re.fullmatch(r"\[s\d+\]", word) or word in [tag.lower() for tag in speaker_tokens]:
            message = f"unknown speaker tag {found}; known are {known}"
        elif word in [tag.lower() for tag in language_tokens]:
            message = f"unknown language tag {found}; known are {', '.join(language_tokens)}"
        else:
            every = ", ".join([*speaker_tokens, *language_tokens])
            kind = "tag" if language_tokens else "speaker tag"
            message = f"{found} is no {kind} (known are {every}); sounds stand in parentheses, such as (laughs)"
        yield match.start(), message


def _check_sounds(text: str) -> Iterator[tuple[int, str]]:
    for match in re.finditer(r"\(([^()\[\]]*)\)", text):
        phrase, words = re.sub(r"\s+", " ", match.group(1)), match.group(1).split()
        # Up to three words of letters are taken for a sound, anything else for text.
        is_sound = 0 < len(words) <= 3 and all(word.replace("-", "").isalpha() for word in words)
        if not is_sound or phrase in NON_VERBAL_TAGS:
            continue
        if nearest := difflib.get_close_matches(" ".join(words).lower(), NON_VERBAL_TAGS, n=1):
            advice = f"the nearest is ({nearest[0]})"
        else:
            advice = f"known are {', '.join(NON_VERBAL_TAGS)}"
        yield match.start(), f"({_excerpt(phrase)}) is no sound that Dia was trained on; {advice}"


def _check_control_characters(text: str, tags: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    meanings = {0: "padding", **{number: tag for tag, number in tags.items()}}
    for match in re.finditer(r"[\0-\x1f\x7f]", text):
        code = ord(match.group())
        if code in meanings and not match.group().isspace():  # white space becomes a space
            message = f"control character U+{code:04X}, which the tokenizer refuses: it means {meanings[code]}"
            yield match.start(), message


def _ids_of(speaker_tokens: Sequence[str] | Mapping[str, int], first: int = 1) -> Mapping[str, int]:
    if isinstance(speaker_tokens, Mapping):
        return speaker_tokens
    return {tag: number for number, tag in enumerate(speaker_tokens, start=first)}


def check_script(
    text: str,
    speaker_tokens: Sequence[str] | Mapping[str, int] = ("[S1]", "[S2]"),
    language_tokens: Sequence[str] | Mapping[str, int] = (),
) -> list[str]:
    """Find probable mistakes, and sounds that Dia was not trained on.

    A parenthesis of at most three words, all of letters, is taken for a sound, any other one for text. A tag at the
    end is accepted after another speaker's turn: see `closing_tag` of `render`.

    Args:
        text (`str`): The script.
        speaker_tokens (`Sequence[str]` or `Mapping[str, int]`, defaults to `("[S1]", "[S2]")`): Tags of the tokenizer,
            of the ids 1, 2, … or with their ids.
        language_tokens (`Sequence[str]` or `Mapping[str, int]`, defaults to none): Its tags of languages and styles, of
            the ids that follow or with their ids.

    Returns:
        `list[str]`: Warnings in the order of the script, each beginning with its line and column (in characters), both
        counted from 1; empty if there are none.

    Raises:
        ValueError: If there are no speaker tokens, or one of them is empty or holds white space.

    Example:
    ```python
    >>> from dia_hf.speech.script import check_script
    >>> check_script("[S1] Hello. [S5] Hi!")
    ['line 1, column 13: unknown speaker tag [S5]; known are [S1], [S2]']

    ```
    """
    speaker_ids = _ids_of(speaker_tokens)
    language_ids = _ids_of(language_tokens, first=len(speaker_ids) + 1)
    findings = [
        *_check_turns(text, list(speaker_ids)),
        *_check_brackets(text, list(speaker_ids), list(language_ids)),
        *_check_sounds(text),
        *_check_control_characters(text, {**speaker_ids, **language_ids}),
    ]
    locate = _locator(text)
    return ["line {}, column {}: {}".format(*locate(position), message) for position, message in sorted(findings)]


def _num_characters(text: str) -> int:
    """Count characters with the weights of the estimate; white space must be normalized."""
    rest, num_sounds = _SOUNDS.subn("", text) if "(" in text else (text, 0)
    num_wide = 0 if rest.isascii() else sum(unicodedata.east_asian_width(character) in "WF" for character in rest)
    return (
        len(rest)
        + num_wide * (_CHARACTERS_PER_WIDE_CHARACTER - 1)
        + num_sounds * _SECONDS_PER_SOUND * _CHARACTERS_PER_SECOND
    )


def estimate_seconds(text: str) -> float:
    """Estimate the duration of a text as speech.

    A rough estimate: 15 characters a second, a wide (East Asian) character counting as three; one second for each
    non-verbal tag that Dia was trained on. The pace of a speaker changes it by a third or more.

    Args:
        text (`str`): Text without speaker tags.

    Returns:
        `float`: Seconds.

    Example:
    ```python
    >>> from dia_hf.speech.script import estimate_seconds
    >>> estimate_seconds("Let us see what it says (sighs)")
    2.6

    ```
    """
    return _num_characters(_normalize(text)) / _CHARACTERS_PER_SECOND


def ends_sentence(word: str) -> bool:
    """Return whether a word ends a sentence by its punctuation; "Mr." does, too."""
    return _SENTENCE_END.search(word) is not None


def _cut_sentences(text: str, language: str) -> list[str]:
    sentences: list[str] = []
    for sentence in segment(language, text):
        if sentence.startswith(" "):  # happens after "[1]"
            sentences[-1] += " "
            sentence = sentence[1:]
        if sentence:
            sentences.append(sentence)
    return sentences


def _cut_word(word: str, load: Callable[[str], float]) -> list[str]:
    """Split a word into pieces of at least 1/16 of a chunk; from 1/8 on even between a letter and its accent."""
    pieces, total = [""], 0.0
    for unit in _CHARACTERS.findall(word):
        category = unicodedata.category(unit[0])
        is_accent = category.startswith("M") or category == "Sk"  # a skin tone is an accent, too
        is_joined = is_accent or unit[0] == _JOINER or pieces[-1].endswith(_JOINER)
        if total >= 1 / 8 or (total >= 1 / 16 and not is_joined):
            pieces.append("")
            total = 0.0
        pieces[-1] += unit
        total += load(unit)
    return pieces


def _cut_turn(text: str, language: str, load: Callable[[str], float]) -> list[tuple[str, float]]:
    """Split a turn into pieces, each with the cost of ending a chunk after it; joined, they are the turn.

    Sentences and clauses are always split; words and characters only where a piece would fill more than a quarter of a
    chunk (a `load` of 1). With pieces that small, short chunks can be avoided.
    """
    pieces = [(text, 0.0)]
    for cost, largest, cut in (
        (_SENTENCE_COST, 0.0, lambda piece: _cut_sentences(piece, language)),
        (_CLAUSE_COST, 0.0, _CLAUSES.findall),
        (_WORD_COST, 1 / 4, _WORDS.findall),
        (_CHARACTER_COST, 1 / 4, lambda piece: _cut_word(piece, load)),
    ):
        finer: list[tuple[str, float]] = []
        for piece, piece_cost in pieces:
            parts = cut(piece) if load(piece) > largest else [piece]
            finer += [(part, cost) for part in parts[:-1]]
            finer.append((parts[-1], piece_cost))
        pieces = finer
    return pieces


class _Piece(NamedTuple):
    """Part of a turn that is not split; its place in the script excludes the space after it."""

    turn: int  # index
    text: str  # with the space after it, if there is one
    cut_cost: float  # of ending a chunk after it
    first_character: int  # as the estimate weighs characters
    last_character: int
    first_byte: int  # of the script as rendered, without its first tag
    last_byte: int


def _cut_turns(turns: Sequence[Turn], language: str, load: Callable[[str], float]) -> list[_Piece]:
    pieces: list[_Piece] = []
    character = byte = 0
    for i, turn in enumerate(turns):
        if i:
            byte += len(" ") if turn.speaker == turns[i - 1].speaker else len(" 2 ")  # a tag is one byte
        for text, cut_cost in _cut_turn(turn.text, language, load):
            first_character, first_byte = character, byte
            character += _num_characters(text)
            byte += len(text.encode())
            space = text.endswith(" ")
            pieces.append(_Piece(i, text, cut_cost, first_character, character - space, first_byte, byte - space))
    return pieces


def _plan_starts(pieces: Sequence[_Piece], max_seconds: float, min_seconds: float, max_bytes: int) -> list[int]:
    """Find, for each number of pieces, the start of the last chunk in the plan of least cost."""
    costs, starts = [0.0], [0]
    for end, last in enumerate(pieces, start=1):
        costs.append(math.inf)
        starts.append(end)
        for start in range(end - 1, -1, -1):
            first = pieces[start]
            seconds = (last.last_character - first.first_character) / _CHARACTERS_PER_SECOND
            num_bytes = last.last_byte - first.first_byte + len("1 ") + len(" 2")
            if seconds > max_seconds or num_bytes > max_bytes:
                break
            # The sum of squares is least for even chunks; the 1 makes one chunk cheaper than two.
            cost = costs[start] + 1 + (seconds / max_seconds) ** 2 + last.cut_cost
            if seconds < min_seconds:
                cost += _SHORT_COST
            if cost < costs[end]:
                costs[end], starts[end] = cost, start
        assert starts[end] < end, "no piece is too long for a chunk"
    return starts


def plan_chunks(
    turns: Sequence[Turn],
    max_seconds: float = 20.0,
    min_seconds: float = 5.0,
    max_bytes: int = 1024,
    language: str = "en",
) -> list[list[Turn]]:
    """Split a script into chunks for one call of the model each.

    A script that fits is one chunk. Otherwise turns are split only where needed: after a sentence if possible, then
    after a clause, between words, and between characters as the last resort; never inside a non-verbal tag that Dia was
    trained on. A turn that fits is split as well if this avoids a chunk below `min_seconds`. Among the remaining plans,
    one of few and even chunks is chosen. The parts of a turn keep its speaker and its position.

    Args:
        turns (`Sequence[Turn]`): The script.
        max_seconds (`float`, defaults to 20): Longest chunk, in seconds of `estimate_seconds`; at least 2. The speech
            of longer ones is too fast.
        min_seconds (`float`, defaults to 5): Shortest chunk as far as possible, in the same seconds, at most
            `max_seconds`. Up to 3/8 of a `max_seconds` of at least 10 it is always possible, if the script is that long
            and `max_bytes` leaves room.
        max_bytes (`int`, defaults to 1024): Limit of bytes of a rendered chunk with its closing tag, a tag counting as
            one; at least 64. A value below the encoder's limit leaves room for the transcript of a prompt.
        language (`str`, defaults to `"en"`): Language code for `sentencex`, such as "de". Unknown codes, such as
            "de-AT", are taken for English.

    Returns:
        `list[list[Turn]]`: The turns of every chunk, none of them empty; the same for the same arguments.

    Raises:
        ValueError: If a limit is out of its range.

    Example:
    ```python
    >>> from dia_hf.speech.script import parse_script, plan_chunks, render
    >>> script = parse_script("[S1] This is one sentence. And this is one more. [S2] Yes!")
    >>> [render(turns) for turns in plan_chunks(script, max_seconds=3, min_seconds=1)]
    ['[S1] This is one sentence.', '[S1] And this is one more. [S2] Yes!']

    ```
    """
    if not max_seconds >= 2:
        raise ValueError(f"max_seconds is {max_seconds}; use 2 or more, such as 20.")
    if not 0 <= min_seconds <= max_seconds:
        raise ValueError(f"min_seconds is {min_seconds}; use 0 to max_seconds ({max_seconds}), such as 5.")
    if max_bytes < 64:
        raise ValueError(f"max_bytes is {max_bytes}; use 64 or more, such as 1024.")

    def load(text: str) -> float:
        return max(_num_characters(text) / (max_seconds * _CHARACTERS_PER_SECOND), len(text.encode()) / max_bytes)

    turns = [replace(turn, text=_normalize(turn.text)) for turn in turns if turn.text.strip()]
    pieces = _cut_turns(turns, language, load)
    starts = _plan_starts(pieces, max_seconds, min_seconds, max_bytes)
    chunks: list[list[Turn]] = []
    end = len(pieces)
    while end:
        start = starts[end]
        parts = groupby(pieces[start:end], key=lambda piece: piece.turn)
        chunks.append([replace(turns[i], text="".join(piece.text for piece in part).strip()) for i, part in parts])
        end = start
    return chunks[::-1]


def render(turns: Sequence[Turn], closing_tag: bool = False, prefix: str = "") -> str:
    """Render turns as text for Dia.

    Adjacent turns of the same speaker share one tag, because Dia was not trained on a repeated tag.

    Args:
        turns (`Sequence[Turn]`): Turns in order.
        closing_tag (`bool`, defaults to `False`): Whether to append the tag of the second-to-last speaker, which
            nari-labs recommends against truncated ends. With one speaker nothing is appended.
        prefix (`str`, defaults to `""`): Tags at the beginning; see `split_prefix`.

    Returns:
        `str`: The text. `parse_script` reads it back, adjacent turns of the same speaker as one.

    Example:
    ```python
    >>> from dia_hf.speech.script import Turn, render
    >>> render([Turn("[S1]", "Hello."), Turn("[S1]", "It is me."), Turn("[S2]", "Hi!")], closing_tag=True)
    '[S1] Hello. It is me. [S2] Hi! [S1]'

    ```
    """
    spoken = [turn for turn in turns if turn.text.strip()]
    speeches = [
        (speaker, " ".join(turn.text for turn in group)) for speaker, group in groupby(spoken, lambda t: t.speaker)
    ]
    parts = [prefix] * bool(prefix) + [f"{speaker} {speech}" for speaker, speech in speeches]
    if closing_tag and len(speeches) > 1:
        parts.append(speeches[-2][0])
    return " ".join(parts)
