"""The loss of all channels: cross-entropy, weighted by channel, in slices that bound the memory of the logits.

At 1.6B a second of audio has 797,000 logits, 3.2 MB in float32, and a loss over all of them at once holds several
copies. Their head is one matrix, so that computing them again in the backward pass costs little. Imports torch only;
called by `DiaForConditionalGeneration`.

Legend: P positions (frames of all samples), C channels, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["IGNORED_LABEL", "ChannelSums", "channel_sums", "channel_sums_in_slices", "weighted_sum"]

IGNORED_LABEL = -100


class ChannelSums(NamedTuple):
    """Sums over the positions of each channel, each of shape `[C]`.

    Attributes:
        losses (float32): Cross-entropies of the labels that count; the only one with a gradient.
        num_correct (int64): Labels that had the best logit.
        counts (int64): Labels that count.
    """

    losses: torch.Tensor
    num_correct: torch.Tensor
    counts: torch.Tensor


def channel_sums(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> ChannelSums:
    """Add up each channel's cross-entropies.

    Args:
        logits (`torch.Tensor` of shape `[P, C, V]`): Of any floating dtype; computed with in float32.
        labels (`torch.LongTensor` of shape `[P, C]`): -100 where none counts.
        label_smoothing (`float`, defaults to 0.0): Share of the probability that all V tokens are to have alike
            (Szegedy et al., Rethinking the Inception Architecture, 2016).

    Returns:
        `ChannelSums`.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    counts = labels != IGNORED_LABEL
    # Not argmax, which takes as long as the loss on a CPU.
    of_labels = logits.detach().gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    is_correct = counts & (of_labels == logits.detach().amax(-1))
    return ChannelSums(losses.view_as(labels).sum(0), is_correct.sum(0), counts.sum(0))


def channel_sums_in_slices(
    hidden_states: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    slice_size: int,
    label_smoothing: float = 0.0,
) -> ChannelSums:
    """Do the same from what the head reads, with the logits of `slice_size` positions in memory at a time.

    Args:
        hidden_states (`torch.Tensor` of shape `[P, H]`): The network's last states.
        head (`Callable`): Maps states `[p, H]` to logits `[p, C, V]`; called again in the backward pass.
        labels (`torch.LongTensor` of shape `[P, C]`): -100 where none counts.
        slice_size (`int`): Positions at a time, at least 1.
        label_smoothing (`float`, defaults to 0.0): See `channel_sums`.

    Returns:
        `ChannelSums`.
    """

    def of_slice(states: torch.Tensor, labels: torch.Tensor) -> ChannelSums:
        return channel_sums(head(states), labels, label_smoothing)

    slices = zip(hidden_states.split(slice_size), labels.split(slice_size), strict=True)
    if torch.is_grad_enabled():
        sums = [checkpoint(of_slice, *one, use_reentrant=False) for one in slices]
    else:
        sums = [of_slice(*one) for one in slices]
    return ChannelSums(*(torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)))


def weighted_sum(losses: torch.Tensor, weights: Sequence[float] | None) -> torch.Tensor:
    """Add up the channels' losses `[C]`, each times its weight; only the weights' ratios count, their mean being 1."""
    if weights is None:
        return losses.sum()
    mean = sum(weights) / len(weights)
    return torch.stack([loss * (weight / mean) for loss, weight in zip(losses.unbind(), weights, strict=True)]).sum()
