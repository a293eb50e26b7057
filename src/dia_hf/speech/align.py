"""Forced alignment: times of the words of a recording whose transcript is known, and how far the two agree.

The model reads the recording as if it had spoken it (teacher forcing). The times come from what its alignment heads
look at. A word's evidence is how much likelier the text makes the codes of channel 0 in its time:

    evidence = sum over its frames t of  log p(code_t | text, codes before t) - log p(code_t | codes before t)

The second term is the unconditional branch of guidance. A wrong word makes the recording less likely than no text at
all: evidence below 0, whatever the recording's quality.

A recording that is longer than a chunk is read in windows. A window has a little more text than is spoken in it at an
even pace; the path ends where the audio does. It is left at its last sentence end around which all words have evidence
above 0, and the next window begins in the pause there. A window without such a place is halved. Where even the shortest
has none, the first is left where its path agrees best with the even pace, so that what is wrong does not add up.

Legend: T frames, C codebooks, S text bytes.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from ..generation import attend_to_text
from .script import ends_sentence, estimate_seconds, parse_script, render, split_prefix
from .timestamps import TimedText, Timeline

__all__ = ["AlignedWord", "align", "is_sentence_end"]

_SPARE_TEXT = 1.2  # text of a window relative to its audio, at an even pace of the whole
_WORDS_AFTER = 2  # that a window must have aligned after a place at which it is left
_MOSTLY = 0.7  # of the words that are kept must be likely
_SHORTEST = 2.0  # seconds of a window


@dataclass(frozen=True)
class AlignedWord(TimedText):
    """A word of a transcript, with its time in the recording.

    Attributes:
        evidence (`float`): Log-likelihood in nats that the text adds to the frames of the word; below 0 for a word that
            is probably not what is said there, or beside one that is missing. `-inf` for a word without a frame.
    """

    evidence: float


class _Window(NamedTuple):
    """Words of a window, times from its beginning; how many are kept, and the frames up to the next window."""

    words: list[AlignedWord]
    num_words: int
    num_frames: int


@torch.inference_mode()
def align(
    model: Any,
    processor: Any,
    text: str,
    audio: Any,
    heads: list[list[int]],
    sampling_rate: int | None = None,
    chunk_length_s: float = 10.0,
    verbose: bool = False,
) -> list[AlignedWord]:
    """Align a recording and its transcript; see `Dia.align`.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        processor (`DiaProcessor`): Its processor, with the codec.
        text (`str`): Transcript with speaker tags.
        audio: The recording, in any form that the processor takes, or its codes `[T, C]`.
        heads (`list[list[int]]`): The model's alignment heads.
        sampling_rate (`int`, *optional*): Rate of a waveform in hertz.
        chunk_length_s (`float`, defaults to 10.0): Seconds of a window.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.

    Raises:
        ValueError: If the text or the recording is unusable, or a window longer than one pass of the model.
    """
    return _Aligner(model, processor, heads, chunk_length_s).align(text, audio, sampling_rate, verbose)


class _Aligner:
    """Alignment by one model."""

    def __init__(self, model: Any, processor: Any, heads: list[list[int]], chunk_length_s: float) -> None:
        self.model = model
        self.processor = processor
        self.heads = heads
        self.tokens = processor.tokenizer.speaker_tokens
        self.language_tokens = processor.tokenizer.language_tokens
        self.frame_rate = processor.codec.frame_rate
        self.max_ids = processor.tokenizer.model_max_length
        longest = model.config.max_training_frames / self.frame_rate
        if not 2 <= chunk_length_s <= longest:
            raise ValueError(f"`chunk_length_s` is {chunk_length_s}; this model reads windows of 2 to {longest:.1f} s.")
        self.max_frames = int(chunk_length_s * self.frame_rate)

    def _timeline(self, text: str) -> Timeline:
        return Timeline(text, self.tokens, self.frame_rate, self.language_tokens)

    def align(self, text: str, audio: Any, sampling_rate: int | None, verbose: bool) -> list[AlignedWord]:
        """Return the words of the whole text."""
        self.processor.tokenizer.check_text(text)
        prefix, script = split_prefix(text, self.language_tokens)
        every = self._timeline(script).script_words
        if not every:
            raise ValueError("the transcript has no words; give what is said in the recording.")
        codes = self.processor.encode_audio([audio], sampling_rate)[0]
        words: list[AlignedWord] = []
        frame, expected = 0, _expected_shares(every)
        with tqdm(total=round(len(codes) / self.frame_rate, 1), desc="aligning", unit="s", disable=not verbose) as bar:
            while len(words) < len(every) and frame < len(codes):
                left = [share * len(codes) - frame for share in expected[len(words) :]]
                window = self._read(script, every[len(words) :], codes[frame:], prefix, left)
                seconds = frame / self.frame_rate
                kept = window.words[: window.num_words]
                words += [replace(word, start=word.start + seconds, end=word.end + seconds) for word in kept]
                bar.update(window.num_frames / self.frame_rate)
                frame += window.num_frames
        end = len(codes) / self.frame_rate
        nothing = {"start": end, "end": end, "evidence": -float("inf")}
        return words + [AlignedWord(**vars(word) | nothing) for word in every[len(words) :]]

    def _read(
        self, script: str, words: Sequence[TimedText], codes: torch.Tensor, prefix: str, expected: Sequence[float]
    ) -> _Window:
        """Align a window with as many words as it may have; a shorter one if no place is good to leave it."""
        num_frames, doubtful = self.max_frames, None
        while True:
            part = codes[:num_frames]
            is_last = len(part) == len(codes)
            number = len(words)
            if not is_last:
                late = min(max(-expected[0], 0.0), num_frames)  # of the even pace
                spare = expected[0] + late + _SPARE_TEXT * num_frames
                number = max(bisect.bisect(expected, spare), min(3 * _WORDS_AFTER, len(words)))
            text, number = self._fit(script, words[:number], prefix)
            aligned = self._align_part(text, words[:number], part)
            if is_last:
                return _Window(aligned, len(aligned), len(part))
            place, is_good = self._place_to_leave(aligned, len(part), expected)
            middle = (aligned[place - 1].end + aligned[place].start) / 2 if place else len(part) / self.frame_rate / 2
            window = _Window(aligned, place, max(round(middle * self.frame_rate), 1))
            if is_good:
                return window
            doubtful = doubtful or window
            num_frames //= 2
            if num_frames < _SHORTEST * self.frame_rate:
                return doubtful

    def _fit(self, script: str, words: Sequence[TimedText], prefix: str) -> tuple[str, int]:
        """Render words as one text for the model; return it, and how many of them it has room for."""
        number = len(words)
        while True:
            first, last = words[0], words[number - 1]
            tag = "" if first.speaker is None else f"{first.speaker} "
            turns = parse_script(tag + script[first.start_char : last.end_char], self.tokens)
            text = render(turns, prefix=prefix)
            num_ids = self.processor.tokenizer.count_ids(text)
            if num_ids <= self.max_ids:
                return text, number
            if number == 1:
                raise ValueError(
                    f"a word of the transcript has {num_ids} bytes, and the model reads at most {self.max_ids}: "
                    f"{first.text[:40]!r}…; put spaces into it."
                )
            number = max(number * self.max_ids // (num_ids + 1), 1)

    def _align_part(self, text: str, words: Sequence[TimedText], codes: torch.Tensor) -> list[AlignedWord]:
        """Align codes and a text that fit into one pass; the words are those of the text, in the caller's script."""
        inputs = self.processor(text=[text], audio=[codes]).to(self.model.device)
        ids, frames = inputs["input_ids"], inputs["decoder_input_ids"]
        weights = attend_to_text(self.model, ids, frames, self.heads)[0, : len(codes)].mean(1).cpu()
        likelihood = _log_likelihood(self.model, ids, frames, len(codes))
        gain = likelihood - _log_likelihood(self.model, 0 * ids, frames, len(codes))
        timeline = self._timeline(text)
        timeline.add(text, text, weights)
        aligned = []
        for word, timed in zip(words, timeline.all_words, strict=True):
            first, last = round(timed.start * self.frame_rate), round(timed.end * self.frame_rate)
            evidence = float(gain[first:last].sum()) if last > first else -float("inf")
            aligned.append(AlignedWord(**vars(word) | {"start": timed.start, "end": timed.end, "evidence": evidence}))
        return aligned

    def _place_to_leave(self, words: list[AlignedWord], num_frames: int, expected: Sequence[float]) -> tuple[int, bool]:
        """Return how many words to keep of a window that ends within the recording, and whether that place is good."""
        number = sum(word.start < num_frames / self.frame_rate for word in words)
        places = range(number - _WORDS_AFTER, 0, -1)
        for place in places:
            around = words[max(place - _WORDS_AFTER, 0) : place + _WORDS_AFTER]
            is_likely = all(word.evidence > 0 for word in around) and _num_good(words[:place]) > _MOSTLY * place
            if is_likely and is_sentence_end(words[place - 1], words[place]):
                return place, True
        # Where the path agrees best with an even pace of the whole, at least a quarter of the window on.
        frames = [(words[place - 1].end + words[place].start) / 2 * self.frame_rate for place in places]
        late = [(place, frame) for place, frame in zip(places, frames, strict=True) if frame >= num_frames / 4]
        return min(late, key=lambda one: abs(expected[one[0]] - one[1]), default=(0, 0.0))[0], False


def _num_good(words: Sequence[AlignedWord]) -> int:
    return sum(word.evidence > 0 for word in words)


def _expected_shares(words: Sequence[TimedText]) -> list[float]:
    """Return the share of the whole that is over where each word begins, at an even pace."""
    ends = list(itertools.accumulate((estimate_seconds(word.text + " ") for word in words), initial=0.0))
    return [end / ends[-1] for end in ends[:-1]]


def is_sentence_end(word: TimedText, after: TimedText) -> bool:
    """Return whether a word ends a sentence, or the next one is another speaker's."""
    return ends_sentence(word.text) or word.speaker != after.speaker


def _log_likelihood(model: Any, ids: torch.Tensor, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Compute the log-likelihood `[T]` of the codes of channel 0, given those before them."""
    logits = model(input_ids=ids, decoder_input_ids=frames, use_cache=False).logits
    channel = logits.unflatten(0, (len(ids), -1))[0, 0, :num_frames].float().log_softmax(-1)
    return channel.gather(-1, frames[0, 1 : num_frames + 1, :1].long())[:, 0].cpu()
