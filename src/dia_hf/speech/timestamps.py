"""Times of words and characters in generated speech, from the alignment that was recorded while the model spoke.

The text is the caller's, byte for byte: every time has its place in it. A character has the time in which its bytes are
spoken (`find_path`); a word lasts from its first letter to its last. Tags and white space have no time; they and
punctuation are the pauses of the path.

Legend: T frames, S text bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from ..generation import find_path
from ..tokenization_dia import any_of

__all__ = ["TimedText", "Timeline"]


@dataclass(frozen=True)
class TimedText:
    """A word or a character with its time.

    Attributes:
        text (`str`): As it is in the script.
        start, end (`float`): Seconds from the beginning of the audio.
        start_char, end_char (`int`): Its place in the script: `script[start_char:end_char]`.
        speaker (`str` or `None`): Tag of its speaker; `None` before the first tag.
    """

    text: str
    start: float
    end: float
    start_char: int
    end_char: int
    speaker: str | None


class _Character(NamedTuple):
    """A character of a text: its place, the first of its ids and the one after its last, and the speaker's tag."""

    place: int
    first_id: int
    next_id: int
    speaker: str | None


class Timeline:
    """Times of the characters of a script, which its chunks add as they are spoken.

    Args:
        script (`str`): The whole text, with tags.
        speaker_tokens (`Sequence[str]`): Tags of speakers of the tokenizer.
        frame_rate (`float`): Frames a second.
        language_tokens (`Sequence[str]`, *optional*): Its tags of languages and styles, which change no speaker.

    Attributes:
        script (`str`): The text.
        num_frames (`int`): Frames that were added.
    """

    def __init__(
        self, script: str, speaker_tokens: Sequence[str], frame_rate: float, language_tokens: Sequence[str] = ()
    ) -> None:
        self.script = script
        self.frame_rate = frame_rate
        self.num_frames = 0
        self._tags, self._speakers = any_of([*speaker_tokens, *language_tokens]), frozenset(speaker_tokens)
        self._characters = self._spoken(script)
        # Frames, one entry for each character that a chunk has added:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._limits: list[int] = []  # before which it begins if it was spoken

    def _spoken(self, text: str) -> list[_Character]:
        """Return the characters that are neither white space nor part of a tag."""
        spoken, place, first_id, speaker = [], 0, 0, None
        while place < len(text):
            if (tag := self._tags.match(text, place)) is not None:
                speaker = tag[0] if tag[0] in self._speakers else speaker
                place, first_id = tag.end(), first_id + 1
                continue
            next_id = first_id + len(text[place].encode())
            if not text[place].isspace():
                spoken.append(_Character(place, first_id, next_id, speaker))
            place, first_id = place + 1, next_id
        return spoken

    def add(self, text: str, own: str, weights: torch.Tensor, num_given: int = 0) -> None:
        """Add a chunk.

        Args:
            text (`str`): Text that the model read.
            own (`str`): Its end, the next part of the script; before it are transcripts of prompts, which it did not
                speak. Tags and white space may differ.
            weights (`torch.Tensor` of shape `[T, S]`): Mean weights of the alignment heads at the frames spoken.
            num_given (`int`, defaults to 0): Frames at their beginning that were given: a recording whose transcript
                is a part of the script. Its words have no time.
        """
        spoken, first = self._split(text, own)
        begin = self.num_frames - num_given
        self.num_frames += len(weights) - num_given
        if not spoken:
            return
        path = np.zeros(0)  # of a chunk without frames
        if len(weights):
            is_pause = self._pauses(text, spoken, first, weights.shape[1])
            path = find_path(weights[:, first:], is_pause).numpy() + first
        starts = (begin + np.searchsorted(path, [character.first_id for character in spoken])).tolist()
        self._starts += starts
        self._ends += (begin + np.searchsorted(path, [character.next_id for character in spoken])).tolist()
        self._limits += self._limits_of(text, spoken, starts, len(path) > 0)

    def _limits_of(self, text: str, spoken: Sequence[_Character], starts: Sequence[int], is_spoken: bool) -> list[int]:
        """Return the frames before which characters of a chunk begin if they were spoken.

        The path ends with the audio, which need not go on to marks: they are spoken if the letter before them is, or
        without one if the chunk is (`is_spoken`).
        """
        limits = []
        for character, start in zip(spoken, starts, strict=True):
            if _is_voiced(text[character.place]):
                is_spoken = start < self.num_frames
                limits.append(self.num_frames)
            else:
                limits.append(start + is_spoken)
        return limits

    def _split(self, text: str, own: str) -> tuple[list[_Character], int]:
        """Return the characters of a chunk, and the first id of the pause before them."""
        every = self._spoken(text)
        spoken = every[len(every) - len(self._spoken(own)) :]
        return spoken, every[-len(spoken) - 1].next_id if len(every) > len(spoken) else 0

    @staticmethod
    def _pauses(text: str, spoken: list[_Character], first: int, num_ids: int) -> np.ndarray:
        """Return whether each id from `first` on is one of a pause."""
        is_pause = np.ones(num_ids - first, dtype=bool)
        for character in spoken:
            if _is_voiced(text[character.place]):
                is_pause[character.first_id - first : character.next_id - first] = False
        return is_pause

    def _voiced(self, first: int, last: int) -> tuple[int, int]:
        """Return the first and the last letter of some characters; of marks alone, those themselves."""
        voiced = [i for i in range(first, last + 1) if _is_voiced(self.script[self._characters[i].place])]
        return (voiced[0], voiced[-1]) if voiced else (first, last)

    def _timed(self, first: int, last: int) -> TimedText:
        """Return the text from one character that was spoken to another one."""
        place, after = self._characters[first].place, self._characters[last].place + 1
        start, end = self._voiced(first, last)
        return TimedText(
            text=self.script[place:after],
            start=max(self._starts[start], 0) / self.frame_rate,
            end=self._ends[end] / self.frame_rate,
            start_char=place,
            end_char=after,
            speaker=self._characters[first].speaker,
        )

    @property
    def characters(self) -> list[TimedText]:
        """The characters that were spoken, in order, without white space and tags."""
        return [self._timed(i, i) for i in range(len(self._ends)) if self._was_reached(i, i)]

    @property
    def words(self) -> list[TimedText]:
        """The words that were spoken, in order: characters up to white space or a tag, punctuation included."""
        return [
            self._timed(first, last) for first, last in self._words(len(self._ends)) if self._was_reached(first, last)
        ]

    def shifted(self, seconds: float, factor: float = 1.0) -> list[TimedText]:
        """Return the words for audio that was cut or whose speed was changed.

        Args:
            seconds (`float`): Seconds that are added to the times.
            factor (`float`, defaults to 1.0): By which they are multiplied then.
        """
        moved = []
        for word in self.words:
            start, end = (max(time + seconds, 0.0) * factor for time in (word.start, word.end))
            moved.append(replace(word, start=start, end=end))
        return moved

    @property
    def all_words(self) -> list[TimedText]:
        """The words of the chunks that were added, those that were not spoken included."""
        return [self._timed(first, last) for first, last in self._words(len(self._ends))]

    @property
    def script_words(self) -> list[TimedText]:
        """The words of the whole script, without times: both are 0."""
        words = []
        for first, last in self._words(len(self._characters)):
            place, after = self._characters[first].place, self._characters[last].place + 1
            words.append(TimedText(self.script[place:after], 0.0, 0.0, place, after, self._characters[first].speaker))
        return words

    def _words(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the indices of the first and the last of so many characters for each word."""
        first = 0
        for i in range(1, number + 1):
            if i == number or self._characters[i].place != self._characters[i - 1].place + 1:
                yield first, i - 1
                first = i

    def _was_reached(self, first: int, last: int) -> bool:
        """Return whether these characters were spoken, and not given or cut."""
        start, _ = self._voiced(first, last)
        return self._ends[last] > 0 and self._starts[start] < self._limits[start]


def _is_voiced(character: str) -> bool:
    """Return whether a character is a letter, a digit or a mark on one, such as a vowel sign."""
    return unicodedata.category(character)[0] in "LNM"
