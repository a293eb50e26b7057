"""Forced alignment: times of the words of a recording whose transcript is known, and how far the two agree.

The model reads the recording as if it had spoken it (teacher forcing). The times come from what its alignment heads
look at. A word's evidence is how much likelier the text makes the codes of channel 0 in its time:

    evidence = sum over its frames t of  log p(code_t | text, codes before t) - log p(code_t | codes before t)

The second term is the unconditional branch of guidance. A wrong word makes the recording less likely than no text at
all: evidence below 0, whatever the recording's quality.

Legend: T frames, S text bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..generation import attend_to_text
from .timestamps import TimedText, Timeline

__all__ = ["AlignedWord", "align"]


@dataclass(frozen=True)
class AlignedWord(TimedText):
    """A word of a transcript, with its time in the recording.

    Attributes:
        evidence (`float`): Log-likelihood in nats that the text adds to the frames of the word; below 0 for a word that
            is probably not what is said there, or beside one that is missing. `-inf` for a word without a frame.
    """

    evidence: float


@torch.inference_mode()
def align(
    model: Any, processor: Any, text: str, audio: Any, heads: list[list[int]], sampling_rate: int | None = None
) -> list[AlignedWord]:
    """Align a recording and its transcript; see `Dia.align`.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        processor (`DiaProcessor`): Its processor, with the codec.
        text (`str`): Transcript with speaker tags.
        audio: The recording, in any form that the processor takes, or its codes `[T, C]`.
        heads (`list[list[int]]`): The model's alignment heads.
        sampling_rate (`int`, *optional*): Rate of a waveform in hertz.

    Raises:
        ValueError: If the text or the recording is too long for one pass, or unusable.
    """
    processor.tokenizer.check_text(text)
    inputs = processor(text=[text], audio=[audio], sampling_rate=sampling_rate).to(model.device)
    ids, frames = inputs["input_ids"], inputs["decoder_input_ids"]
    num_frames, limit = model.config.frames_for_steps(frames.shape[1]), model.config.max_training_frames
    frame_rate = processor.codec.frame_rate
    if ids.shape[1] > processor.tokenizer.model_max_length or num_frames > limit:
        raise ValueError(
            f"the transcript has {ids.shape[1]} ids and the recording {num_frames / frame_rate:.1f} s; one pass takes "
            f"{processor.tokenizer.model_max_length} ids and {limit / frame_rate:.1f} s. Cut the recording at a pause."
        )
    weights = attend_to_text(model, ids, frames, heads)[0, :num_frames].mean(1).cpu()
    gain = _log_likelihood(model, ids, frames, num_frames) - _log_likelihood(model, 0 * ids, frames, num_frames)
    tokenizer = processor.tokenizer
    timeline = Timeline(text, tokenizer.speaker_tokens, frame_rate, tokenizer.language_tokens)
    timeline.add(text, text, weights)
    words = []
    for word in timeline.all_words:
        first, last = round(word.start * frame_rate), round(word.end * frame_rate)
        evidence = float(gain[first:last].sum()) if last > first else -float("inf")
        words.append(AlignedWord(**vars(word), evidence=evidence))
    return words


def _log_likelihood(model: Any, ids: torch.Tensor, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Compute the log-likelihood `[T]` of the codes of channel 0, given those before them."""
    logits = model(input_ids=ids, decoder_input_ids=frames, use_cache=False).logits
    channel = logits.unflatten(0, (len(ids), -1))[0, 0, :num_frames].float().log_softmax(-1)
    return channel.gather(-1, frames[0, 1 : num_frames + 1, :1].long())[:, 0].cpu()
