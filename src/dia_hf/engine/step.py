"""One decoding step of a batch: read a frame, choose the next, and store it, all on preallocated tensors.

Values that the host knows while the device works (numbers of frames, lengths of texts) are passed as plain numbers;
everything else is in `FrameState`. Nothing here synchronizes with the device.

Legend: B samples, R rows (B, or 2·B under guidance), C channels, V vocabulary, N new frames, G frames with
forced tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from .decoder import FrameCache, FrameDecoder
from .native import take_frame
from .sampling import NEVER, SamplingParams, SamplingSpec

__all__ = ["FrameState", "FrameView", "take_step"]


class FrameView(NamedTuple):
    """The part of the cache that a step reads: the used part, or more.

    Attributes:
        axis (`torch.LongTensor` of shape `[frames]`): 0, 1, 2 …, as many as frames to read, the new one
            included. A tensor, because its length may change under `torch.compile` and a number may not.
        num_bytes (`int`): Bytes of text.
        is_ragged, is_text_ragged (`bool`): Whether some row has fewer frames, or some text fewer bytes.
    """

    axis: torch.Tensor
    num_bytes: int
    is_ragged: bool
    is_text_ragged: bool


@dataclass
class FrameState:
    """State of the samples of a batch, as tensors on the device.

    Attributes:
        cache (`FrameCache`): Keys and values.
        params (`SamplingParams`): Per-sample sampling parameters.
        forced (`torch.LongTensor` of shape `[B, G, C]`): Forced tokens; see `SamplingSpec.complete`.
        delays (`torch.LongTensor` of shape `[C]`): Frames of delay.
        tokens (`torch.LongTensor` of shape `[B, C]`): The last frame, which the next step reads.
        lengths (`torch.LongTensor` of shape `[R]`): Frames of each row before it.
        num_new (`torch.LongTensor` of shape `[B]`): New frames so far.
        end (`torch.LongTensor` of shape `[B]`): New frame in which channel 0 ended, or `NEVER`.
        new (`torch.LongTensor` of shape `[B, N, C]`): The new frames.
        noise (`torch.Tensor` of shape `[B, C, V]` or `None`): For the next draw; exponentially distributed.
        is_broken (`torch.BoolTensor` of shape `[B]`): Whether some draw had no valid token, or NaN.
        size, graphs: Of a batch with fixed addresses; see `runners.py`.
        addresses: Of these tensors, for `native.py`; found at the first step.
    """

    cache: FrameCache
    params: SamplingParams
    forced: torch.Tensor
    delays: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor
    num_new: torch.Tensor
    end: torch.Tensor
    new: torch.Tensor
    noise: torch.Tensor | None
    is_broken: torch.Tensor
    size: Any = None
    graphs: dict[int, Any] = field(default_factory=dict)
    addresses: Any = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "addresses": None}  # of a copy there are others

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.tokens)

    def rows_of(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the indices of the rows of some samples."""
        is_guided = len(self.lengths) > self.num_samples
        return torch.cat((samples, samples + self.num_samples)) if is_guided else samples

    def select(self, samples: torch.Tensor) -> FrameState:
        """Copy some samples, by index."""
        rows = self.rows_of(samples)
        return FrameState(
            self.cache.select(rows, samples),
            self.params.select(samples),
            self.forced[samples],
            self.delays,
            self.tokens[samples],
            self.lengths[rows],
            self.num_new[samples],
            self.end[samples],
            self.new[samples],
            None if self.noise is None else self.noise[samples],
            self.is_broken[samples],
        )

    def copy_rows(self, other: FrameState, samples: torch.Tensor) -> None:
        """Copy all samples of another state into these indices."""
        rows = self.rows_of(samples)
        self.cache.copy_rows(other.cache, rows, samples)
        self.params.copy_rows(other.params, samples)
        self.forced[samples, : other.forced.shape[1]] = other.forced
        self.tokens[samples] = other.tokens
        self.lengths[rows] = other.lengths
        self.num_new[samples] = other.num_new
        self.end[samples] = other.end
        self.new[samples, : other.new.shape[1]] = other.new
        self.is_broken[samples] = other.is_broken

    def widened(self, other: FrameState) -> FrameState:
        """Return the same samples with room for as many frames, bytes and forced tokens as another state has."""

        def pad(tensor: torch.Tensor, like: torch.Tensor, dim: int) -> torch.Tensor:
            missing = like.shape[dim] - tensor.shape[dim]
            if missing <= 0:
                return tensor
            return torch.cat((tensor, tensor.new_zeros((*tensor.shape[:dim], missing, *tensor.shape[dim + 1 :]))), dim)

        mine, like = self.cache, other.cache
        cache = FrameCache(
            [pad(keys, like.keys[0], 2) for keys in mine.keys],
            [pad(values, like.values[0], 2) for values in mine.values],
            [pad(keys, like.text_keys[0], 2) for keys in mine.text_keys],
            [pad(values, like.text_values[0], 2) for values in mine.text_values],
            pad(mine.text_mask, like.text_mask, 3),
            mine.recorded,
            pad(pad(mine.attention, like.attention, 1), like.attention, 3),
        )
        new, forced = pad(self.new, other.new, 1), pad(self.forced, other.forced, 1)
        return replace(self, cache=cache, new=new, forced=forced, size=None, graphs={})

    def clear(self, samples: torch.Tensor) -> None:
        """Set the cache of some samples to zero."""
        rows = self.rows_of(samples)
        for tensor in (*self.cache.keys, *self.cache.values):
            tensor[rows] = 0
        for tensor in (*self.cache.text_keys, *self.cache.text_values):
            tensor[samples] = 0
        self.is_broken[samples] = False


def take_step(network: FrameDecoder, spec: SamplingSpec, state: FrameState, view: FrameView) -> None:
    """Read the last frame of every sample, choose the next, and store it.

    Args:
        network (`FrameDecoder`): The weights.
        spec (`SamplingSpec`): Sampling parameters that the samples share.
        state (`FrameState`): The samples; changed in place.
        view (`FrameView`): The part of the cache to read.
    """
    logits = network.step(state.cache, state.tokens, state.lengths, *view)
    if network.native is not None:
        take_frame(logits, spec, state)
        return
    chosen, ends, best = spec.choose(logits, state.params, state.num_new, state.noise)
    ends_now = (state.end == NEVER) & (ends | (state.num_new == state.params.last_begin_of_end))
    state.end.copy_(torch.where(ends_now, state.num_new, state.end))
    tokens, is_chosen = spec.complete(chosen, state.forced, state.delays, state.num_new, state.end)
    # A sample that has ended may remain in the batch; it then overwrites its own last frame and slot.
    index = state.num_new.clamp(max=state.new.shape[1] - 1)[:, None, None].expand(-1, 1, tokens.shape[1])
    state.new.scatter_(1, index, tokens[:, None])
    state.tokens.copy_(tokens)
    state.num_new.add_(1)
    state.lengths.add_(1).clamp_(max=state.cache.keys[0].shape[2] - 1)
    if spec.do_sample:
        state.is_broken.logical_or_((is_chosen & ~best.isfinite()).any(-1))
