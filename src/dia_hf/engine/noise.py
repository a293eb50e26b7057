"""Exponentially distributed noise for sampling, with the values of `Tensor.exponential_`, drawn faster on a CPU.

PyTorch draws on a CPU one value after the other: a double u, uniform in [0, 1), and -log(1 - u) of it. Here the
generators draw the u of all samples, which takes a quarter of the time, and one vectorized logarithm serves them all.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["ExponentialNoise"]


class ExponentialNoise:
    """A tensor to be filled from generators, a part at a time.

    Args:
        shape (`tuple[int, ...]`): Shape.
        device (`torch.device`): Device.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._is_uniform = device.type == "cpu" and _is_log_of_uniform()
        self.raw = torch.empty(shape, dtype=torch.float64 if self._is_uniform else torch.float32, device=device)

    def draw(self, part: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Fill a part of `raw`, or a tensor like it, from a generator; return it."""
        return part.uniform_(generator=generator) if self._is_uniform else part.exponential_(generator=generator)

    def copy_to(self, noise: torch.Tensor) -> None:
        """Write the noise, float32; the next part of `raw` must be drawn before the next call."""
        noise.copy_(self.raw.neg_().log1p_().neg_() if self._is_uniform else self.raw)


@functools.cache
def _is_log_of_uniform() -> bool:
    """Return whether this PyTorch draws exponential values in this way, bit by bit."""
    theirs, ours = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    expected = torch.empty(10000).exponential_(generator=theirs)
    uniform = torch.empty(10000, dtype=torch.float64).uniform_(generator=ours)
    is_same_state = torch.equal(theirs.get_state(), ours.get_state())
    return is_same_state and torch.equal(expected, uniform.neg_().log1p_().neg_().float())
