"""One pass over the chunks of a dialogue: what has been generated, and how the next chunk is prompted.

Used by `Dialogue` for one caller, and by `SpeechHandle` for many.

Legend: T frames, C channels, S text bytes.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..generation import attend_to_text
from .doubts import SpeechStats, find_doubt
from .script import Turn, render
from .voices import Voice

if TYPE_CHECKING:
    from .dialogue import Dialogue

__all__ = ["DialogueRun", "Segment"]

# Factor by which a chunk may exceed its estimate; a prompt leaves room for that.
_PACE_RESERVE = 1.5


@dataclass(frozen=True, eq=False)
class Segment:
    """Speech as a prompt for later chunks."""

    order: int  # voices: below 0; chunks: their index
    turns: list[Turn]
    codes: torch.Tensor


def _seed_of_chunk(seed: int, index: int, attempt: int = 0) -> int:
    """Derive a seed for each chunk and attempt; the first one has the dialogue's, as a single call would."""
    if index == attempt == 0:
        return seed
    name = f"{seed}/{index}/{attempt}" if attempt else f"{seed}/{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


class DialogueRun:
    """One pass over the chunks of a dialogue: what has been generated, and the next call of `generate()`.

    Args:
        dialogue (`Dialogue`): The chunks.

    Attributes:
        num_frames (`list[int]`): Frames of each chunk that has been added.
        is_cut (`bool`): Whether the dialogue's `max_seconds` has cut it.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.num_frames: list[int] = []
        self.is_cut = False
        self._prompts: dict[str, list[Segment]] = {}  # of each speaker, from what was generated
        self._has_warned = False

    @property
    def index(self) -> int:
        """Index of the next chunk."""
        return len(self.num_frames)

    @property
    def has_next(self) -> bool:
        """Whether the next chunk is there."""
        return self.index < len(self.dialogue.chunks)

    @property
    def is_complete(self) -> bool:
        """Whether no chunk is left to generate, or no time for it."""
        is_open = self.dialogue.is_open  # before the chunks, which another thread may add
        if self.index == len(self.dialogue.chunks) and not is_open:
            return True
        left = self._frames_left()
        self.is_cut = self.is_cut or (left is not None and left <= 0)
        return self.is_cut

    def _frames_left(self) -> int | None:
        limit = self.dialogue.max_frames
        return None if limit is None else limit - sum(self.num_frames)

    def next_call(self, attempt: int = 0) -> dict[str, Any]:
        """Make the arguments of `generate()` for the next chunk.

        Args:
            attempt (`int`, defaults to 0): Number of earlier attempts at this chunk; each has another seed.
        """
        dialogue = self.dialogue
        model, processor = dialogue.model, dialogue.processor
        text, prompt = self.next_input()
        inputs = processor(text=[text], audio=[prompt]).to(model.device)
        options, max_frames = dict(dialogue.options), self._frames_left()
        if max_frames is not None or prompt is not None:
            # `max_length` of the checkpoint limits new frames; the positions limit prompt and new frames together.
            room = dialogue.frame_limit - 1 - (0 if prompt is None else len(prompt))
            limits = [room, max_frames, model.generation_config.max_length]
            num_frames = min(limit for limit in limits if limit is not None)
            options["max_new_tokens"] = model.config.steps_for_frames(num_frames)
        seed = _seed_of_chunk(dialogue.seed, self.index, attempt)
        generator = torch.Generator(model.device).manual_seed(seed)
        if dialogue.alignment_heads is not None:
            options |= {"return_alignment": True, "alignment_heads": dialogue.alignment_heads}
        return {**inputs, **options, "generator": generator, "engine": dialogue.engine}

    def next_input(self) -> tuple[str, torch.Tensor | None]:
        """Return the text that the model reads for the next chunk, transcripts of its prompt first, and the prompt."""
        turns, prompt = self._choose_prompt()
        return self.dialogue.render([*turns, *self.dialogue.chunks[self.index]]), prompt

    def next_texts(self) -> tuple[str, str]:
        """Return the text that the model reads for the next chunk, and the chunk's own text at its end."""
        return self.next_input()[0], self.dialogue.render(self.dialogue.chunks[self.index])

    def attend(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the mean weights `[T, S]` of the alignment heads for codes `[T, C]` of the next chunk."""
        dialogue, (text, prompt) = self.dialogue, self.next_input()
        assert dialogue.alignment_heads is not None
        whole = codes if prompt is None else torch.cat([prompt, codes])
        inputs = dialogue.processor(text=[text], audio=[whole])
        frames = inputs["decoder_input_ids"]
        weights = attend_to_text(dialogue.model, inputs["input_ids"], frames, dialogue.alignment_heads)
        return weights[0, len(whole) - len(codes) : len(whole)].mean(1).cpu()

    def _choose_prompt(self) -> tuple[list[Turn], torch.Tensor | None]:
        """Choose the last segment of each speaker, the chunk's own speakers first, as far as there is room."""
        dialogue, index = self.dialogue, self.index
        turns, frame_rate = dialogue.chunks[index], dialogue.codec.frame_rate
        seconds = _PACE_RESERVE * dialogue.expected_seconds[index] + 1
        max_frames = max(dialogue.max_prompt_frames, dialogue.frame_limit - int(seconds * frame_rate))
        chosen: list[Segment] = []
        speakers = dict.fromkeys([*(turn.speaker for turn in turns), *dialogue.voices, *self._prompts])
        for speaker, segment in [(one, segment) for one in speakers for segment in self._segments_of(one)]:
            if segment in chosen:
                continue
            trial = sorted([*chosen, segment], key=lambda segment: segment.order)
            num_frames = sum(len(segment.codes) for segment in trial)
            num_ids = dialogue.num_ids([*(turn for segment in trial for turn in segment.turns), *turns])
            if num_frames <= max_frames and num_ids <= dialogue.text_limit:
                chosen = trial
            elif not self._has_warned and any(turn.speaker == speaker for turn in turns):
                self._has_warned = True
                warnings.warn(
                    f"chunk {index + 1}: what {speaker} said last ({len(segment.codes) / frame_rate:.1f} s) "
                    "does not fit into the prompt, and the voice may change; a voice for each speaker prevents that. "
                    "Shown once a dialogue.",
                    stacklevel=4,
                )
        if not chosen:
            return [], None
        turns = [turn for segment in chosen for turn in segment.turns]
        return turns, torch.cat([segment.codes for segment in chosen])

    def _segments_of(self, speaker: str) -> list[Segment]:
        """Return the speech of a speaker to prompt with, the most important first."""
        voice = self.dialogue.voices.get(speaker)
        return [voice] if voice is not None else self._prompts.get(speaker, [])

    def kept_voices(self) -> dict[str, Voice]:
        """Return the speech of each speaker to prompt with, after its voice if that is short, for another dialogue.

        A voice of `min_prompt_seconds` or more is returned as it is, so that it does not change from one to the next.
        """
        dialogue, codec, voices = self.dialogue, self.dialogue.codec, {}
        for speaker, segments in self._prompts.items():
            given = dialogue.voices.get(speaker)
            if given is not None:
                is_long = len(given.codes) >= dialogue.min_prompt_seconds * codec.frame_rate
                segments = [given] if is_long else [given, *segments]
            segments = [one for one in segments if {turn.speaker for turn in one.turns} == {speaker}]
            while sum(len(one.codes) for one in segments) > dialogue.max_prompt_frames:
                segments = segments[1:]
            if segments:
                transcript = render([turn for one in segments for turn in one.turns])
                codes = torch.cat([one.codes for one in segments])
                voices[speaker] = Voice(codes, transcript, codec.fingerprint, codec.sampling_rate, codec.hop_length)
        return voices

    def would_cut(self, num_frames: int) -> bool:
        """Return whether a next chunk of this length would be cut by the dialogue's `max_seconds`."""
        left = self._frames_left()
        return left is not None and num_frames >= left

    def add(self, codes: torch.Tensor) -> None:
        """Add the codes `[T, C]` of the next chunk.

        They are a prompt of later chunks. An implausible chunk, such as one that did not end, is none where an earlier
        one is there: what is prompted with it fails, too.
        """
        turns = self.dialogue.chunks[self.index]
        self.is_cut = self.is_cut or self.would_cut(len(codes))
        is_plausible = self.find_chunk_doubt(self.index, len(codes)) is None
        if len(codes) > 0:
            segment = Segment(self.index, turns, codes)
            needed = self.dialogue.min_prompt_seconds * self.dialogue.codec.frame_rate
            for speaker in {turn.speaker for turn in turns}:
                before = self._prompts.get(speaker, [])
                if before and not is_plausible:
                    continue
                if needed == 0:
                    self._prompts[speaker] = [segment]
                elif sum(len(one.codes) for one in before) < needed:
                    self._prompts[speaker] = [*before, segment]
        self.num_frames.append(len(codes))

    def find_chunk_doubt(self, index: int, num_frames: int) -> str | None:
        """Describe why the length of a chunk is implausible for its text; see `find_doubt`."""
        one = SpeechStats(self.dialogue.codec.sampling_rate)
        one.seconds = one.sounding = num_frames / self.dialogue.codec.frame_rate
        cut_at = "the limit of one call of the model" if num_frames >= self.dialogue.most_frames else None
        return find_doubt(one, self.dialogue.expected_seconds[index], cut_at=cut_at)

    def find_doubts(self, heard: SpeechStats) -> list[str]:
        """Describe why the whole, or chunks, are implausible for their text.

        Args:
            heard (`SpeechStats`): Of the whole.
        """
        dialogue, number = self.dialogue, len(self.dialogue.chunks)
        limit = None
        if self.is_cut and dialogue.max_seconds is not None:
            limit = f"`max_seconds` ({dialogue.max_seconds:g})"
            if number > 1:
                limit += f": {len(self.num_frames)} of {number} chunks"
        elif number == 1 and sum(self.num_frames) >= dialogue.most_frames:
            limit = "the limit of one call of the model"
        if number == 0:
            return []
        if (doubt := find_doubt(heard, sum(dialogue.expected_seconds), cut_at=limit)) is not None:
            return [doubt]
        doubts = (self.find_chunk_doubt(index, num_frames) for index, num_frames in enumerate(self.num_frames))
        return [f"chunk {index + 1} of {number}: {doubt}" for index, doubt in enumerate(doubts) if doubt is not None]
