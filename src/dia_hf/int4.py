"""Rounding of weights to int4: a scale and a zero for each group of weights, chosen for the least squared error.

A weight of a group is `(code - 8) * scale + zero`, where a code is 0 to 15, and scale and zero are bfloat16: what
torch's int4 kernels compute. `round_weights` minimizes the squared error of the weights. `round_for_inputs` minimizes
that of the layer's outputs on given inputs, by letting each weight compensate the errors of those rounded before it
(GPTQ; Frantar et al., 2022), in the form of successive rounding with the Cholesky factor (Babai's nearest plane).

Called by `quantization.py`.

Legend: I width of the input, O width of the output, G weights in a group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

__all__ = ["Int4Weight", "round_for_inputs", "round_weights"]

_HIGHEST = 15
_MIDDLE = 8  # the code that means zero
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # factors on a group's range; a smaller one cuts outliers
_REFINEMENTS = 2
_SMALLEST = 2.0**-100  # scale of a group of equal weights
_CHUNK = 2**18  # weights rounded at a time: they and the temporaries stay in the CPU's cache
_DAMPING = 0.3  # of the mean second moment; measured, see benchmarks/results/quantization.md


class Int4Weight(NamedTuple):
    """A weight rounded to int4.

    Attributes:
        codes (`torch.Tensor` of shape `[O, I]`): 0 to 15, uint8.
        scales, zeros (`torch.Tensor` of shape `[O, I / G]`): bfloat16.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor

    def dequantize(self) -> torch.Tensor:
        """Return the values `[O, I]`, float32."""
        codes = self.codes.unflatten(1, (self.scales.shape[1], -1)).float() - _MIDDLE
        return (codes * self.scales.float().unsqueeze(-1) + self.zeros.float().unsqueeze(-1)).flatten(1)


def round_weights(weight: torch.Tensor, group_size: int) -> Int4Weight:
    """Round a weight to int4 with the least squared error that a search of each group's range finds.

    Weights on a grid of 16 values whose ends both occur in each group are recovered exactly.

    Args:
        weight (`torch.Tensor` of shape `[O, I]`): Floating point.
        group_size (`int`): Weights in a group, a divisor of I.

    Returns:
        `Int4Weight`.
    """
    parts = []
    for rows in weight.detach().split(max(1, _CHUNK // weight.shape[1])):
        groups = rows.float().unflatten(1, (-1, group_size))
        scales, zeros = _search(groups, None)
        parts.append((_codes(groups, scales, zeros).to(torch.uint8).flatten(1), scales.bfloat16(), zeros.bfloat16()))
    return Int4Weight(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def round_for_inputs(weight: torch.Tensor, second_moments: torch.Tensor, group_size: int) -> Int4Weight:
    """Round a weight to int4 with little squared error of the layer's outputs on given inputs.

    Takes O · I² / 2 + I³ / 6 multiplications and additions. The result is deterministic.

    Args:
        weight (`torch.Tensor` of shape `[O, I]`): Floating point.
        second_moments (`torch.Tensor` of shape `[I, I]`): Sum of x xᵀ over inputs x, float32. A share of its mean
            diagonal is added to it, because few inputs say little about others.
        group_size (`int`): Weights in a group, a divisor of I.

    Returns:
        `Int4Weight`.

    Raises:
        ValueError: If the second moments are not finite.
    """
    diagonal = second_moments.diagonal().clone()
    damping = _DAMPING * float(diagonal.mean())
    if not damping < float("inf") or damping < 0:
        raise ValueError("the second moments of the inputs are not finite.")
    damped = second_moments.clone()
    damped.diagonal().add_(damping or 1.0)
    diagonal += damping or 1.0
    factor = torch.linalg.cholesky(damped, upper=True)
    del damped
    weight = weight.detach().float()
    num_outputs, width = weight.shape
    codes = torch.empty(num_outputs, width, dtype=torch.uint8)
    scales, zeros = (torch.empty(num_outputs, width // group_size, dtype=torch.bfloat16) for _ in range(2))
    errors = torch.zeros(width, num_outputs)
    # ‖factor (w - rounded)‖² is a sum over rows of an upper triangle: the last weight's error is in one term alone, and
    # each earlier weight can cancel what the later ones' errors add to its own term.
    for start in reversed(range(0, width, group_size)):
        end = start + group_size
        triangle = factor[start:end, start:end]
        target = weight[:, start:end].T.contiguous()  # [G, O]
        wanted = target
        if end < width:
            carried = factor[start:end, end:] @ errors[end:]
            wanted = target + torch.linalg.solve_triangular(triangle, carried, upper=True)
        scale, zero = (x[:, 0] for x in _search(wanted.T[:, None].contiguous(), diagonal[start:end]))
        unit = triangle / triangle.diagonal()[:, None]
        missed = torch.zeros_like(wanted)
        for index in reversed(range(group_size)):
            value = wanted[index] + unit[index, index + 1 :] @ missed[index + 1 :]
            code = _code(value, scale, zero)
            codes[:, start + index] = code
            rounded = torch.addcmul(zero, code - _MIDDLE, scale)
            missed[index] = wanted[index] - rounded
            errors[start + index] = target[index] - rounded
        group = start // group_size
        scales[:, group], zeros[:, group] = scale, zero
    return Int4Weight(codes, scales, zeros)


def _code(value: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Return the nearest codes, float32."""
    return value.sub(zero).div_(scale).round_().add_(_MIDDLE).clamp_(0, _HIGHEST)


def _codes(groups: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    return _code(groups, scales.unsqueeze(-1), zeros.unsqueeze(-1))


def _search(groups: torch.Tensor, importance: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose scales and zeros: the best of several parts of each group's range, refined by least squares.

    Args:
        groups (`torch.Tensor` of shape `[..., G]`): Weights, float32.
        importance (`torch.Tensor` of shape `[G]`, *optional*): Factors on the squared errors.

    Returns:
        `tuple`: Scales and zeros `[...]`, float32 with values that bfloat16 has.
    """
    low, high = groups.amin(-1), groups.amax(-1)
    middle, half = (low + high) / 2, (high - low) / 2
    sum_of: Callable[[torch.Tensor], torch.Tensor] = (
        (lambda values: values.sum(-1)) if importance is None else lambda values: values @ importance
    )

    def error_of(scales: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = _codes(groups, scales, zeros).sub_(_MIDDLE)
        rounded = torch.addcmul(zeros.unsqueeze(-1), codes, scales.unsqueeze(-1))
        return sum_of(rounded.sub_(groups).square_()), codes

    best: list[torch.Tensor] = []
    for clip in _CLIPS:
        best = _better(best, *_grid(half * (2 * clip / _HIGHEST), middle - half * clip), error_of)
    total = float(groups.shape[-1]) if importance is None else float(importance.sum())
    for _ in range(_REFINEMENTS):
        codes = error_of(best[1], best[2])[1]
        code_mean, mean = sum_of(codes) / total, sum_of(groups) / total
        centered = codes - code_mean.unsqueeze(-1)
        variance = sum_of(centered.square())
        scales = sum_of(centered * groups) / variance
        scales = torch.where((variance > 0) & (scales > 0), scales, best[1])
        best = _better(best, *_grid(scales, mean - scales * (code_mean + _MIDDLE)), error_of)
    return best[1], best[2]


def _grid(scales: torch.Tensor, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round scales and the zeros for a lowest value to bfloat16."""
    scales = scales.clamp(min=_SMALLEST).bfloat16().float()
    return scales, torch.add(low, scales, alpha=_MIDDLE).bfloat16().float()


def _better(
    best: list[torch.Tensor],
    scales: torch.Tensor,
    zeros: torch.Tensor,
    error_of: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> list[torch.Tensor]:
    """Return errors, scales and zeros, the better ones of two candidates for each group."""
    found = [error_of(scales, zeros)[0], scales, zeros]
    if not best:
        return found
    is_better = found[0] < best[0]
    return [torch.where(is_better, new, old) for new, old in zip(found, best, strict=True)]
