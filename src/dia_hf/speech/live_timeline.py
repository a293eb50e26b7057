"""Times of words and characters while they are spoken: `Timeline` with chunks that grow.

A time is known when the frames are settled in which its characters are spoken (`PathFollower`), and is not changed
afterwards. `take` returns each word or character once, with the audio that it ends in.

Legend: T frames, S text bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ..generation.alignment import PathSearch
from ..generation.spoken_path import PathFollower
from ..text_files import shortened
from .timestamps import TimedText, Timeline

__all__ = ["LiveTimeline", "Unit", "check_unit"]

Unit = Literal["word", "char"]


def check_unit(name: str, unit: Any) -> None:
    """Raise `ValueError` unless an argument is a `Unit`, or `None` for no times."""
    if unit not in (None, "word", "char"):
        raise ValueError(f"`{name}` is {shortened(unit)}; give 'word' or 'char'.")


class LiveTimeline(Timeline):
    """Times of a script whose chunks are added while they are spoken, and which may grow itself.

    Args:
        script (`str`): The text so far, with tags.
        speaker_tokens (`Sequence[str]`): Tags of the tokenizer.
        frame_rate (`float`): Frames a second.
        lag (`int`): Later frames that are known when a frame is settled, see `audio_lag`.
        unit (`str`, defaults to `"word"`): What `take` returns: "word" or "char".
        speaker (`str`, *optional*): Speaker of the text before the first tag.
        language_tokens (`Sequence[str]`, *optional*): Tags of languages and styles, which change no speaker.

    Attributes:
        num_taken (`int`): Characters before those that `take` returns next.
    """

    def __init__(
        self,
        script: str,
        speaker_tokens: Sequence[str],
        frame_rate: float,
        lag: int,
        unit: Unit = "word",
        speaker: str | None = None,
        language_tokens: Sequence[str] = (),
    ) -> None:
        super().__init__("", speaker_tokens, frame_rate, language_tokens)
        self._lag, self._unit, self._speaker = lag, unit, speaker
        self.num_taken = 0
        self._breaks: set[int] = set()  # indices of characters that begin a part of the script
        self._chunk: _Chunk | None = None
        self._last: _Chunk | None = None
        self.append(script)

    def append(self, part: str) -> None:
        """Add a part of the script, which begins a word; tags are not split.

        Args:
            part (`str`): The text after that before.
        """
        begin = len(self.script)
        self.script += part
        self._breaks.add(len(self._characters))
        for character in self._spoken(part):
            speaker = self._speaker if character.speaker is None else character.speaker
            self._characters.append(character._replace(place=begin + character.place, speaker=speaker))
        for tag in self._tags.finditer(part):
            self._speaker = tag[0] if tag[0] in self._speakers else self._speaker

    # --- chunks ---

    def begin(self, text: str, own: str, given: torch.Tensor | None = None) -> None:
        """Begin a chunk.

        Args:
            text, own (`str`): See `add`.
            given (`torch.Tensor` of shape `[T, S]`, *optional*): Weights at frames before it that were given: a
                recording whose transcript is a part of the script.
        """
        self._chunk = self._last = _Chunk(self, text, own)
        if given is not None:
            self._chunk.begin -= len(given)
            self._chunk.extend(given)

    def extend(self, weights: torch.Tensor) -> None:
        """Add frames to the chunk.

        Args:
            weights (`torch.Tensor` of shape `[T, S]`): Mean weights of the alignment heads.
        """
        if len(weights):
            assert self._chunk is not None
            self.num_frames += len(weights)
            self._chunk.extend(weights)

    def end(self) -> None:
        """End the chunk: all of its frames were added."""
        if self._chunk is not None:
            self._chunk.end()
            self._chunk = None

    def drop(self) -> None:
        """Take back the chunk that was begun last."""
        if self._last is not None:
            self.num_frames = self._last.num_frames
            for known in (self._starts, self._ends, self._limits):
                del known[self._last.num_before :]
            self.num_taken = min(self.num_taken, self._last.num_before)
        self._chunk = self._last = None

    # --- words ---

    def take(self, num_frames: int, is_last: bool = False) -> list[TimedText]:
        """Return the words or characters, not taken before, that end within a number of frames.

        Args:
            num_frames (`int`): Frames of audio from the beginning.
            is_last (`bool`, defaults to `False`): Whether there is no further audio: all that is left is returned.
        """
        taken, first = [], self.num_taken
        while first < len(self._characters):
            last = self._last_of_unit(first)
            _, end = self._voiced(first, last)
            if end >= len(self._ends):
                if not is_last or first >= len(self._ends):
                    break
                last = end = len(self._ends) - 1  # a word that was cut
            if self._ends[end] > num_frames and not is_last:
                break
            if self._was_reached(first, end):
                taken.append(self._timed(first, last))
            first = last + 1
        self.num_taken = first
        return taken

    def _last_of_unit(self, first: int) -> int:
        last = first
        while self._unit == "word" and last + 1 < len(self._characters) and last + 1 not in self._breaks:
            if self._characters[last + 1].place != self._characters[last].place + 1:
                break
            last += 1
        return last


class _Chunk:
    """A chunk of a timeline while it is spoken."""

    def __init__(self, timeline: LiveTimeline, text: str, own: str) -> None:
        self.timeline, self.text = timeline, text
        self.begin = self.num_frames = timeline.num_frames
        self.num_before = len(timeline._ends)
        self.spoken, self.first_id = timeline._split(text, own)
        self._follower: PathFollower | None = None
        self._num_settled = self._num_started = self._num_ended = 0

    def extend(self, weights: torch.Tensor) -> None:
        """Add frames."""
        if not self.spoken:
            return
        if self._follower is None:
            is_pause = self.timeline._pauses(self.text, self.spoken, self.first_id, weights.shape[1])
            self._follower = PathFollower(PathSearch(is_pause), self.timeline._lag)
        self._advance(self._follower.add(weights[:, self.first_id :]))

    def end(self) -> None:
        """Settle all frames; characters that were not reached begin and end with the last one."""
        if self._follower is not None:
            self._advance(self._follower.finish())
        timeline = self.timeline
        left = self.spoken[self._num_started :]
        starts = [timeline.num_frames] * len(left)
        timeline._starts += starts
        timeline._limits += timeline._limits_of(self.text, left, starts, self._num_settled > 0)
        timeline._ends += [timeline.num_frames] * (len(self.spoken) - self._num_ended)

    def _advance(self, places: Sequence[int]) -> None:
        """Note which characters begin and end with further frames that are settled."""
        timeline, spoken = self.timeline, self.spoken
        for place in places:
            frame, place = self.begin + self._num_settled, self.first_id + place
            while self._num_started < len(spoken) and spoken[self._num_started].first_id <= place:
                timeline._starts.append(frame)
                timeline._limits.append(frame + 1)
                self._num_started += 1
            while self._num_ended < len(spoken) and spoken[self._num_ended].next_id <= place:
                timeline._ends.append(frame)
                self._num_ended += 1
            self._num_settled += 1
