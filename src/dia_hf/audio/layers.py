"""Plan of a convolutional network: its layers in order, each with its kernel, stride and padding.

From it follow the outputs of each row of a padded batch as of the row alone, and the inputs that an output depends on.

Legend: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

__all__ = ["Layer", "make_plan", "margin_of", "run_plan"]

# Class names of transformers and of descript-audio-codec.
_POINTWISE = {"Snake1d", "Tanh"}
_RESIDUAL_UNITS = {"DacResidualUnit", "ResidualUnit"}
_SEQUENCES = {
    *("DacEncoder", "DacEncoderBlock", "DacDecoder", "DacDecoderBlock", "ModuleList"),
    *("Encoder", "EncoderBlock", "Decoder", "DecoderBlock", "Sequential"),
}


@dataclass(frozen=True)
class Layer:
    """One layer of a plan. The defaults describe a pointwise layer: each output depends on one input."""

    module: nn.Module
    reach: int = 0  # from the first to the last input of an output: dilation · (kernel size - 1)
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    is_transposed: bool = False
    opens: bool = False  # first layer of a residual unit, whose input is kept
    closes: bool = False  # last layer of a residual unit, to whose output the kept input is added

    def num_outputs(self, num_inputs: int) -> int:
        if self.is_transposed:
            return (num_inputs - 1) * self.stride - 2 * self.padding + self.reach + self.output_padding + 1
        return (num_inputs + 2 * self.padding - self.reach - 1) // self.stride + 1

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """Find the first and the last input that the outputs from `first` to `last` depend on."""
        if self.is_transposed:
            # Input i is added to the outputs from i · stride - padding to that + reach.
            return -((self.reach - self.padding - first) // self.stride), (last + self.padding) // self.stride
        return first * self.stride - self.padding, last * self.stride - self.padding + self.reach


def make_plan(module: nn.Module) -> list[Layer]:
    """List the layers of a network in the order of their registration, which is the order of their calls."""
    name = type(module).__name__
    if name in _POINTWISE:
        return [Layer(module)]
    if (
        isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ):
        reach = module.dilation[0] * (module.kernel_size[0] - 1)
        is_transposed = isinstance(module, nn.ConvTranspose1d)
        geometry = (module.stride[0], module.padding[0], module.output_padding[0])
        return [Layer(module, reach, *geometry, is_transposed=is_transposed)]
    if name in _SEQUENCES | _RESIDUAL_UNITS:
        plan = [layer for child in module.children() for layer in make_plan(child)]
        if name in _RESIDUAL_UNITS:
            plan[0] = replace(plan[0], opens=True)
            plan[-1] = replace(plan[-1], closes=True)
        return plan
    raise TypeError(
        f"the codec has a layer of a kind that is not known here, {module!r}; known are convolutions padded with "
        f"zeros, and {', '.join(sorted(_POINTWISE | _RESIDUAL_UNITS | _SEQUENCES))}."
    )


def run_plan(plan: Sequence[Layer], hidden: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, Sequence[int]]:
    """Call the layers on a right-padded batch, with the result of each row alone.

    Args:
        plan (`Sequence[Layer]`): The network.
        hidden (`torch.Tensor` of shape `[B, channels, positions]`): Input; modified beyond the rows' lengths.
        lengths (`Sequence[int]` of length B): Valid positions of each row.

    Returns:
        `tuple`: The output `[B, channels, positions]`, and its lengths. Values beyond these are undefined.
    """
    kept = hidden
    for layer in plan:
        if layer.opens:
            kept = hidden
        if layer.reach > 0:
            for row, length in enumerate(lengths):
                if length < hidden.shape[-1]:
                    hidden[row, :, length:] = 0
        is_snake = type(layer.module).__name__ == "Snake1d" and not hidden.requires_grad
        alpha: Any = layer.module.alpha if is_snake else None
        hidden = _snake(hidden, alpha) if is_snake else layer.module(hidden)
        lengths = [layer.num_outputs(length) for length in lengths]
        if layer.closes:
            hidden += kept
    return hidden, lengths


def _snake(hidden: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Compute x + sin²(αx) / α as the layer does, to the bit, in the memory of one result instead of four."""
    waves = alpha * hidden
    return waves.sin_().mul_(waves).mul_((alpha + 1e-9).reciprocal()).add_(hidden)


def margin_of(plan: Sequence[Layer], inputs_per_frame: int, outputs_per_frame: int) -> int:
    """Return the frames on either side of a frame that its outputs depend on, the larger of both sides."""
    first, last = 0, outputs_per_frame - 1
    for layer in reversed(plan):
        first, last = layer.inputs_of(first, last)
    return max(-(first // inputs_per_frame), last // inputs_per_frame)
