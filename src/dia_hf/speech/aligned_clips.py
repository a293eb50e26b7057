"""Sentences of an aligned recording: how well they fit, and clips of them to train on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .align import AlignedWord, is_sentence_end

__all__ = ["AlignedClip", "cut_clips", "evidence_of", "fits"]

_MARGIN = 0.25  # seconds before and after a clip, as far as the pause lasts


@dataclass(frozen=True)
class AlignedClip:
    """A part of a recording with its text.

    Attributes:
        start, end (`float`): Seconds from the beginning of the recording.
        text (`str`): Its words, with speaker tags.
        evidence (`float`): Sum of that of its words, in nats.
    """

    start: float
    end: float
    text: str
    evidence: float


def evidence_of(words: Sequence[AlignedWord]) -> float:
    """Return the sum of the evidence of words, in nats; words without a frame add nothing."""
    return sum(word.evidence for word in words if word.end > word.start)


def fits(words: Sequence[AlignedWord]) -> bool:
    """Return whether words are probably what is said: they make their audio likelier, and most of them have a time."""
    num_timed = sum(word.end > word.start for word in words)
    return evidence_of(words) > 0 and 2 * num_timed > len(words)


def cut_clips(
    words: Sequence[AlignedWord], seconds: float, max_seconds: float = 15.0
) -> tuple[list[AlignedClip], list[AlignedClip]]:
    """Cut a recording at sentences.

    Args:
        words (`Sequence[AlignedWord]`): From `Dia.align`.
        seconds (`float`): Duration of the recording.
        max_seconds (`float`, defaults to 15.0): Neighboring sentences are joined up to this duration. A sentence that
            is longer is a clip of its own.

    Returns:
        `tuple[list[AlignedClip], list[AlignedClip]]`: The clips in order, and the sentences that do not fit (`fits`),
        which are in none of them.

    Raises:
        ValueError: If `max_seconds` is not above 0.
    """
    if not max_seconds > 0:
        raise ValueError(f"`max_seconds` is {max_seconds}; give a number above 0.")
    sentences = list(_sentences(words))
    groups: list[list[AlignedClip]] = []
    doubtful: list[AlignedClip] = []
    taken: list[list[AlignedWord]] = []
    is_new = True
    for sentence, (start, end) in zip(sentences, _bounds(sentences, seconds), strict=True):
        clip = AlignedClip(start, end, _render(sentence), evidence_of(sentence))
        if not fits(sentence):
            doubtful.append(clip)
            is_new = True
        elif is_new or end - groups[-1][0].start > max_seconds:
            groups.append([clip])
            taken.append(sentence)
            is_new = False
        else:
            groups[-1].append(clip)
            taken[-1] = taken[-1] + sentence
    clips = [
        AlignedClip(group[0].start, group[-1].end, _render(words), evidence_of(words))
        for group, words in zip(groups, taken, strict=True)
    ]
    return clips, doubtful


def _sentences(words: Sequence[AlignedWord]) -> Iterator[list[AlignedWord]]:
    """Yield the words of each sentence, which another speaker's turn ends, too."""
    sentence: list[AlignedWord] = []
    for word, after in itertools.zip_longest(words, words[1:]):
        sentence.append(word)
        if after is None or is_sentence_end(word, after):
            yield sentence
            sentence = []


def _bounds(sentences: Sequence[Sequence[AlignedWord]], seconds: float) -> Iterator[tuple[float, float]]:
    """Yield where each sentence is cut out: in the middle of the pauses around it, not far from its words."""
    for place, sentence in enumerate(sentences):
        start, end = sentence[0].start, sentence[-1].end
        before = sentences[place - 1][-1].end if place else -start
        after = sentences[place + 1][0].start if place + 1 < len(sentences) else 2 * seconds - end
        yield (
            max(start - min(max(start - before, 0.0) / 2, _MARGIN), 0.0),
            min(end + min(max(after - end, 0.0) / 2, _MARGIN), seconds),
        )


def _render(words: Sequence[AlignedWord]) -> str:
    """Return the text of words with a tag where the speaker changes."""
    parts: list[str] = []
    for before, word in zip([None, *words], words, strict=False):
        if word.speaker is not None and (before is None or before.speaker != word.speaker):
            parts.append(f"{word.speaker} {word.text}")
        elif before is not None and before.end_char == word.start_char:
            parts[-1] += word.text
        else:
            parts.append(word.text)
    return " ".join(parts)
