"""Loss of all channels: cross-entropy, weighted by channel, in chunks that bound the memory of the logits.

At 1.6B a second of audio has 797,000 logits, 3.2 MB in float32, and a loss over all of them at once holds several
copies. `fused_linear_cross_entropy` computes the gradients of a chunk together with its logits;
`channel_sums_in_chunks`, for heads that are more than a matrix, recomputes the logits in the backward pass. Used by
`DiaForConditionalGeneration`.

Legend: P positions (frames of all samples), C channels, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = [
    "IGNORE_INDEX",
    "ChannelSums",
    "channel_sums",
    "channel_sums_in_chunks",
    "fused_linear_cross_entropy",
    "weighted_sum",
]

IGNORE_INDEX = -100


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
    """Sum each channel's cross-entropies.

    Args:
        logits (`torch.Tensor` of shape `[P, C, V]`): Any floating dtype; the loss is computed in float32.
        labels (`torch.LongTensor` of shape `[P, C]`): -100 is ignored.
        label_smoothing (`float`, defaults to 0.0): Probability mass that is spread over all V tokens
            (Szegedy et al., Rethinking the Inception Architecture, 2016).

    Returns:
        `ChannelSums`.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    counts = labels != IGNORE_INDEX
    # Not argmax, which takes as long as the loss on a CPU.
    of_labels = logits.detach().gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    is_correct = counts & (of_labels == logits.detach().amax(-1))
    return ChannelSums(losses.view_as(labels).sum(0), is_correct.sum(0), counts.sum(0))


def channel_sums_in_chunks(
    hidden_states: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    chunk_size: int,
    label_smoothing: float = 0.0,
) -> ChannelSums:
    """Sum each channel's cross-entropies with the logits of `chunk_size` positions in memory at a time.

    Args:
        hidden_states (`torch.Tensor` of shape `[P, H]`): The network's last states.
        head (`Callable`): Maps states `[p, H]` to logits `[p, C, V]`; recomputed in the backward pass.
        labels (`torch.LongTensor` of shape `[P, C]`): -100 is ignored.
        chunk_size (`int`): Positions at a time, at least 1.
        label_smoothing (`float`, defaults to 0.0): See `channel_sums`.

    Returns:
        `ChannelSums`.
    """

    def of_chunk(states: torch.Tensor, labels: torch.Tensor) -> ChannelSums:
        return channel_sums(head(states), labels, label_smoothing)

    chunks = zip(hidden_states.split(chunk_size), labels.split(chunk_size), strict=True)
    if torch.is_grad_enabled():
        sums = [checkpoint(of_chunk, *one, use_reentrant=False) for one in chunks]
    else:
        sums = [of_chunk(*one) for one in chunks]
    return ChannelSums(*(torch.stack(parts).sum(0) for parts in zip(*sums, strict=True)))


class _FusedLinearCrossEntropy(torch.autograd.Function):
    """Weighted sum of the cross-entropies of a linear head; see `fused_linear_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        channel_weights: torch.Tensor,
        chunk_size: int,
        label_smoothing: float,
    ) -> tuple[torch.Tensor, ...]:
        device, (num_positions, num_channels) = hidden_states.device.type, labels.shape
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        states, matrix, vocab_size = hidden_states.to(dtype), weight.to(dtype), len(weight) // num_channels
        counts = labels != IGNORE_INDEX
        labels, scales = labels.clamp(min=0)[..., None], (counts * channel_weights)[..., None]  # [P, C, 1]
        losses, is_correct = torch.empty_like(scales[..., 0]), torch.empty_like(counts)
        of_states = torch.empty_like(hidden_states)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
        for start in range(0, num_positions, chunk_size):
            at = slice(start, start + chunk_size)
            logits = (states[at] @ matrix.mT).unflatten(-1, (num_channels, vocab_size)).float()
            right, best = logits.gather(-1, labels[at]), logits.amax(-1, keepdim=True)
            mean = logits.mean(-1, keepdim=True) if label_smoothing else 0.0
            # In place from here on: the logits become their softmax, and then the gradient.
            powers = logits.sub_(best).exp_()
            total = powers.sum(-1, keepdim=True)
            loss = best + total.log() - (1 - label_smoothing) * right - label_smoothing * mean
            losses[at], is_correct[at] = loss[..., 0] * counts[at], (right == best)[..., 0] & counts[at]
            gradient = powers.mul_(scales[at] / total)
            if label_smoothing:
                gradient.sub_(scales[at] * (label_smoothing / vocab_size))
            gradient.scatter_add_(-1, labels[at], (label_smoothing - 1) * scales[at])
            of_logits = gradient.flatten(1).to(dtype)
            of_states[at] = of_logits @ matrix
            if of_weight is not None:
                of_weight += of_logits.mT @ states[at]
        ctx.save_for_backward(of_states, of_weight)
        of_channels, num_correct = losses.sum(0), is_correct.sum(0)
        ctx.mark_non_differentiable(of_channels, num_correct)
        return (of_channels * channel_weights).sum(), of_channels, num_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        of_states, of_weight = ctx.saved_tensors
        of_weight = None if of_weight is None else of_weight * of_loss
        return of_states * of_loss, of_weight, None, None, None, None


def fused_linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    chunk_size: int,
    channel_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, ChannelSums]:
    """Sum the cross-entropies of a head that is one matrix, with the logits of `chunk_size` positions in memory.

    The gradient of a cross-entropy, softmax minus label, follows from its value with little work. It is computed in the
    forward pass, chunk by chunk, through the head to the states; the backward pass only scales it. This takes three
    matrix products and one softmax, where recomputed logits take four and two.

    Args:
        hidden_states (`torch.Tensor` of shape `[P, H]`): The network's last states.
        weight (`torch.Tensor` of shape `[C·V, H]`): The head. Under autocast the products use autocast's dtype.
        labels (`torch.LongTensor` of shape `[P, C]`): -100 is ignored.
        chunk_size (`int`): Positions at a time, at least 1.
        channel_weights (`Sequence[float]`, *optional*): See `weighted_sum`.
        label_smoothing (`float`, defaults to 0.0): See `channel_sums`.

    Returns:
        `tuple`: The weighted sum, with a gradient, and `ChannelSums`, without one.
    """
    weights = torch.tensor(channel_weights or [1.0] * labels.shape[1], dtype=torch.float32)
    weights = (weights / weights.mean()).to(hidden_states.device)
    loss, losses, num_correct = _FusedLinearCrossEntropy.apply(
        hidden_states, weight, labels, weights, chunk_size, label_smoothing
    )
    return loss, ChannelSums(losses, num_correct, (labels != IGNORE_INDEX).sum(0))


def weighted_sum(losses: torch.Tensor, weights: Sequence[float] | None) -> torch.Tensor:
    """Sum the channels' losses `[C]`, each weighted by its weight divided by the mean weight."""
    if weights is None:
        return losses.sum()
    mean = sum(weights) / len(weights)
    return torch.stack([loss * (weight / mean) for loss, weight in zip(losses.unbind(), weights, strict=True)]).sum()
