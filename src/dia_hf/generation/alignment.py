"""Alignment of speech and text by the model itself: which byte of the text each frame speaks.

Some heads of the decoder's cross-attention look at the byte that is being spoken. `find_alignment_heads` finds them in
the model's own speech; a checkpoint stores them as `alignment_heads` of its `generation_config.json`, which is
Whisper's name. Their mean weights are recorded while the model speaks (`generate(..., return_alignment=True)`), or
computed for speech that is given (`attend_to_text`). `find_path` turns them into one byte a frame.

Row t of the weights belongs to the step that reads frame t of the delayed codes, the beginning of speech being frame 0,
and chooses channel 0 of the next one. So row t is about frame t of the codes without delay.

Legend: B samples, T frames, C channels, S text bytes, J heads.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..atomic_write import atomic_write
from ..delay_pattern import num_valid_frames
from ..engine import AlignmentHeads, make_frame_decoder, unsupported_reason_of
from ..text_files import read_json

__all__ = [
    "PathSearch",
    "attend_to_text",
    "check_heads",
    "choose_heads",
    "find_alignment_heads",
    "find_path",
    "score_heads",
    "store_heads",
]

_LEAST_WEIGHT = 1e-3  # Weights below it say nothing: a frame may be of any byte.
_NEARLY = 0.9  # Heads with at least this share of the best score are used, ...
_MOST_HEADS = 8  # ... and no more than this.
_LEAST_SCORE = 0.2  # Heads below it look at no byte in particular, or in no order.


def check_heads(heads: Any, model: Any) -> AlignmentHeads:
    """Check the `alignment_heads` of a generation config.

    Args:
        heads (`Sequence[Sequence[int]]` or `None`): Layer and query head of each.
        model (`DiaForConditionalGeneration`): The model.

    Returns:
        `AlignmentHeads`: The same as tuples.

    Raises:
        ValueError: If there are none, or the model has no such head.
    """
    if not heads:
        raise ValueError(
            "the generation config has no `alignment_heads`, the heads of cross-attention that look at the byte being "
            "spoken; set `model.generation_config.alignment_heads = find_alignment_heads(model, tokenizer, texts)`."
        )
    decoder = model.config.decoder_config
    limits = decoder.num_hidden_layers, decoder.cross_num_attention_heads
    for pair in heads:
        is_pair = isinstance(pair, Sequence) and len(pair) == 2 and all(type(number) is int for number in pair)
        if not is_pair or not all(0 <= number < limit for number, limit in zip(pair, limits, strict=True)):
            raise ValueError(
                f"`alignment_heads` has {pair!r}; give pairs of layer and head, below {limits[0]} and {limits[1]}."
            )
    return tuple((int(layer), int(head)) for layer, head in heads)


@torch.inference_mode()
def attend_to_text(
    model: Any,
    input_ids: torch.Tensor,
    frames: torch.Tensor,
    heads: Sequence[Sequence[int]],
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the weights of heads of cross-attention for speech that is given, in one pass.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        input_ids (`torch.LongTensor` of shape `[B, S]`): Bytes.
        frames (`torch.LongTensor` of shape `[B, T, C]`): Delayed codes, from the beginning of speech on.
        heads (`Sequence[Sequence[int]]`): Layer and query head of each.
        attention_mask (`torch.LongTensor` of shape `[B, S]`, *optional*): 1 = keep; all unless given.

    Returns:
        `torch.FloatTensor` of shape `[B, T, J, S]`: The weights of each head, on the model's device.

    Raises:
        ValueError: If the model has no such head; or if it has hooks, another attention implementation than "sdpa", or
            other properties that the fast path does not support.
    """
    if (reason := unsupported_reason_of(model)) is not None:
        raise ValueError(f"the weights of heads are computed by the fast path, which does not run because {reason}.")
    heads, network = check_heads(heads, model), make_frame_decoder(model)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    num_samples, num_frames, _ = frames.shape
    cache = network.new_cache(num_samples, False, num_frames, input_ids.shape[1], heads)
    texts = torch.arange(num_samples, device=network.device)
    network.read_text(cache, input_ids.to(network.device), mask.to(network.device), texts)
    network.read_frames(cache, frames.to(network.device), is_guided=False)
    return cache.attention


class PathSearch:
    """Viterbi search for the byte that each frame speaks, over frames that arrive in parts.

    The path never goes back. Three rules complete the weights:

    - in a pause the heads look at any pause of the text, not always at the one that is due: half of the weight of a
      pause is its own, and half that of the pause that is looked at most;
    - the pause after a text that ends with a letter has no byte: it is index S, whose weight is that of the pause that
      is looked at most;
    - a word that is passed without a frame costs as much as a frame without weight.

    Args:
        is_pause (`Sequence[bool]` of length S): Whether each byte is one of a pause: white space, a mark, a tag. Those
            between two pauses are a word. All `False` leaves the weights as they are.
    """

    def __init__(self, is_pause: Sequence[bool] | np.ndarray) -> None:
        self._is_pause = np.asarray(is_pause, dtype=bool)
        has_end = self._is_pause.any() and not self._is_pause[-1]
        self._has_end = bool(has_end)
        is_pause = np.append(self._is_pause, True) if has_end else self._is_pause
        before = np.append(True, is_pause)[:-1]
        after = np.append(is_pause, True)[1:]
        begins, ends = ~is_pause & before, ~is_pause & after
        self._places = np.arange(len(is_pause))
        # Potentials: passing words between two places costs the difference of what is skipped before each.
        skip = math.log(_LEAST_WEIGHT)
        self._leave = -skip * np.cumsum(begins)
        self._reach = skip * (np.cumsum(ends) - ends)
        self._stay = self._reach + skip * ~is_pause
        first = np.maximum.accumulate(np.where(begins, self._places, 0))
        self._words = np.flatnonzero(~is_pause & (first > 0))
        self._before_words = first[self._words] - 1
        self._score: np.ndarray | None = None
        self._came_from: list[np.ndarray] = []
        self._best: list[int] = []  # the place of the best path, at each frame

    def add(self, weights: torch.Tensor) -> None:
        """Add frames.

        Args:
            weights (`torch.Tensor` of shape `[T, S]`): Mean weights of the alignment heads.
        """
        rows = weights.double().cpu().numpy()
        if self._is_pause.any():
            rows = rows.copy()
            most = rows[:, self._is_pause].max(1, keepdims=True)
            rows[:, self._is_pause] = (rows[:, self._is_pause] + most) / 2
            rows = np.concatenate([rows, most], axis=1) if self._has_end else rows
        for row in np.log(rows + _LEAST_WEIGHT):
            if self._score is None:
                self._came_from.append(self._places)
                self._score = self._reach + row
                self._best.append(int(self._score.argmax()))
                continue
            # The best of the paths that have come no further; the last of equals, so that a path moves no more than
            # needed. First those of the same word, or to a pause; then those from before a word.
            score = self._score + self._leave
            best = np.maximum.accumulate(score)
            place = np.maximum.accumulate(np.where(score == best, self._places, 0)).astype(np.int32)
            score = best + self._stay
            entered = best[self._before_words] + self._reach[self._words]
            is_better = entered > score[self._words]
            words, before = self._words[is_better], self._before_words[is_better]
            score[words], place[words] = entered[is_better], place[before]
            self._came_from.append(place)
            self._score = score + row
            self._best.append(int(self._score.argmax()))

    def path(self, begin: int = 0) -> torch.Tensor:
        """Return the most probable path of the frames so far: `torch.LongTensor` of shape `[T]`, not decreasing.

        Args:
            begin (`int`, defaults to 0): Frames to leave out at its beginning.
        """
        path = []
        place = self._best[-1] if self._best else 0
        for frame in range(len(self._best) - 1, begin - 1, -1):
            path.append(place)
            place = self._came_from[frame].item(place)
        return torch.tensor(path[::-1], dtype=torch.long)

    def place_at(self, frame: int, last: int) -> int:
        """Return the byte of a frame in the most probable path up to a later one, as it was then."""
        place = self._best[last]
        for later in range(last, frame, -1):
            place = self._came_from[later].item(place)
        return place


def find_path(weights: torch.Tensor, is_pause: Sequence[bool] | np.ndarray | None = None) -> torch.Tensor:
    """Find the byte that each frame speaks: the most probable path through the weights that never goes back.

    Args:
        weights (`torch.Tensor` of shape `[T, S]`): Mean weights of the alignment heads.
        is_pause (`Sequence[bool]` of length S, *optional*): Whether each byte is one of a pause, see `PathSearch`; none
            is unless given.

    Returns:
        `torch.LongTensor` of shape `[T]`: Indices of bytes, which do not decrease. With `is_pause`, S is the pause
        after a text that ends with a letter.
    """
    search = PathSearch(np.zeros(weights.shape[1], dtype=bool) if is_pause is None else is_pause)
    search.add(weights)
    return search.path()


def score_heads(weights: torch.Tensor) -> torch.Tensor:
    """Score how well heads align: peaked, spread over the text, and in its order.

    The score is the mutual information of frame and byte, as a share of the most that it can be, times the correlation
    of the frame with the mean byte that is looked at. A head that always looks at one byte, or at all of them, has 0.

    Args:
        weights (`torch.Tensor` of shape `[T, J, S]`): Weights of the heads.

    Returns:
        `torch.DoubleTensor` of shape `[J]`: Scores, at most 1.
    """
    num_frames, _, num_bytes = weights.shape
    weights = weights.double()
    per_frame = torch.special.entr(weights).sum(-1).mean(0)
    information = (torch.special.entr(weights.mean(0)).sum(-1) - per_frame) / math.log(min(num_frames, num_bytes))
    places = torch.arange(num_bytes, device=weights.device, dtype=torch.double)
    means = (weights * places).sum(-1)
    means = means - means.mean(0)
    times = torch.arange(num_frames, device=weights.device, dtype=torch.double)[:, None]
    times = times - times.mean()
    correlation = (means * times).sum(0) / (means.norm(dim=0) * times.norm()).clamp(min=1e-12)
    return information * correlation.clamp(min=0)


def find_alignment_heads(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_frames: int = 400
) -> list[list[int]]:
    """Find the heads of cross-attention that look at the byte being spoken, in speech of the model's own.

    Args:
        model (`DiaForConditionalGeneration`): The model. It speaks with the sampling parameters of its generation
            config, and the seed 0.
        tokenizer (`DiaTokenizer`): Its tokenizer.
        texts (`Sequence[str]`): Texts of a sentence or two, in a language that the model speaks.
        max_frames (`int`, defaults to 400): Frames of each.

    Returns:
        `list[list[int]]`: Layer and query head of each, best first, for `generation_config.alignment_heads`.

    Raises:
        ValueError: If no head aligns; the model has not learned to speak the texts, or not by attention.
    """
    decoder = model.config.decoder_config

    def speak() -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        for text in texts:
            ids = tokenizer([text], return_tensors="pt")["input_ids"].to(model.device)
            generator = torch.Generator(model.device).manual_seed(0)
            frames = model.generate(input_ids=ids, max_new_tokens=max_frames, generator=generator)
            delay, eos, pad = model.config.delay_pattern, decoder.eos_token_id, decoder.pad_token_id
            yield ids, frames, int(num_valid_frames(frames[:, 1:], delay, eos, pad)[0])

    return choose_heads(model, speak())


def choose_heads(model: Any, samples: Iterable[tuple[torch.Tensor, torch.Tensor, int]]) -> list[list[int]]:
    """Choose the heads of cross-attention that follow the text of speech that is given.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        samples (`Iterable[tuple[torch.Tensor, torch.Tensor, int]]`): Bytes `[1, S]`, delayed codes `[1, T, C]` from the
            beginning of speech on, and the number of frames without delay.

    Returns:
        `list[list[int]]`: Layer and query head of each, best first.

    Raises:
        ValueError: If no head follows the text, or there are no samples.
    """
    decoder = model.config.decoder_config
    every = tuple(
        (layer, head) for layer in range(decoder.num_hidden_layers) for head in range(decoder.cross_num_attention_heads)
    )
    found = []
    for ids, frames, number in samples:
        weights = attend_to_text(model, ids, frames, every)[0, : max(number, 2)]
        found.append(score_heads(weights).cpu())
    if not found:
        raise ValueError("there are no texts; give some that the model speaks, such as '[S1] One two three.'.")
    scores = torch.stack(found).mean(0)
    best = scores.max().item()
    if best < _LEAST_SCORE:
        raise ValueError(
            f"no head of cross-attention follows the text: the best has a score of {best:.2f}, and {_LEAST_SCORE} is "
            "needed; give texts in a language that the model speaks."
        )
    order = scores.argsort(descending=True)[:_MOST_HEADS].tolist()
    return [list(every[place]) for place in order if scores[place] >= _NEARLY * best]


def store_heads(folder: str | os.PathLike, heads: Sequence[Sequence[int]]) -> None:
    """Write alignment heads into the `generation_config.json` of a checkpoint; all else in it stays.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint.
        heads (`Sequence[Sequence[int]]`): Layer and query head of each.

    Raises:
        ValueError: If it has no `generation_config.json`, or a damaged one.
        OSError: If the file cannot be written; it is left unchanged.
    """
    file = Path(folder, "generation_config.json")
    if not file.is_file():
        raise ValueError(f"there is no {str(file)!r}; give the folder of a checkpoint in Hugging Face's layout.")
    config = read_json(file)
    config["alignment_heads"] = [list(map(int, pair)) for pair in heads]
    # With this flag, as a training from scratch leaves it, transformers does not load fields that it does not know.
    config.pop("_from_model_config", None)
    with atomic_write(file) as beside:
        beside.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
