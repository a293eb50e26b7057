"""Plan of a convolutional network: its layers in order, each with its kernel, stride and padding.

From it follow the outputs of each row of a padded batch as of the row alone, the inputs that an output depends on, and
the outputs of an input that grows, each computed once.

Legend: B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["GrowingRun", "Layer", "make_plan", "margin_of", "run_plan"]

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

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map `[B, channels, positions]`."""
        if type(self.module).__name__ == "Snake1d" and not hidden.requires_grad:
            alpha: Any = self.module.alpha
            return _snake(hidden, alpha)
        return self.module(hidden)

    def num_outputs(self, num_inputs: int) -> int:
        """Return the number of outputs of a whole input."""
        if self.is_transposed:
            return (num_inputs - 1) * self.stride - 2 * self.padding + self.reach + self.output_padding + 1
        return (num_inputs + 2 * self.padding - self.reach - 1) // self.stride + 1

    @property
    def is_pointwise(self) -> bool:
        """Whether each output depends on the input at its position, and on nothing else."""
        return self.reach == self.padding == 0 and self.stride == 1 and not self.is_transposed

    @property
    def is_bare(self) -> bool:
        """Whether the layer is a module without hooks and parametrizations, which `unpadded` can copy."""
        return not (self.module._forward_hooks or self.module._forward_pre_hooks or is_parametrized(self.module))

    def unpadded(self) -> Layer:
        """Return the layer without padding, or, where it is transposed, without its cropping; it shares the weights."""
        module: Any = copy.copy(self.module)
        module.padding = (0,)
        return replace(self, module=module)

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
        hidden = layer(hidden)
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


class GrowingRun:
    """A plan on one input that grows: each layer computes its outputs once, as soon as the inputs are there.

    Each layer keeps the last inputs that later outputs need. The outputs, concatenated, are those of the whole input,
    up to rounding.

    Args:
        plan (`Sequence[Layer]`): The network, by `unpadded`.
    """

    def __init__(self, plan: Sequence[Layer]) -> None:
        self.plan = plan
        self._inputs: list[torch.Tensor | None] = [None] * len(plan)  # that later outputs need
        self._num_used = [0] * len(plan)  # of these, by the outputs before
        self._num_cropped = [0] * len(plan)  # outputs at the beginning that were left out
        self._kept: dict[int, torch.Tensor] = {}  # inputs of a residual unit, from the next output on, by its layer
        self.has_ended = False

    def copy(self) -> GrowingRun:
        """Copy the state; its tensors are never written to."""
        other = GrowingRun(self.plan)
        other._inputs, other._num_used, other._num_cropped = self._inputs[:], self._num_used[:], self._num_cropped[:]
        other._kept, other.has_ended = dict(self._kept), self.has_ended
        return other

    def push(self, hidden: torch.Tensor | None, is_last: bool = False) -> torch.Tensor | None:
        """Add inputs, and compute the outputs that are final.

        Args:
            hidden (`torch.Tensor` of shape `[1, channels, positions]`, *optional*): The next inputs.
            is_last (`bool`, defaults to `False`): Whether no further ones come; once.

        Returns:
            `torch.Tensor` of shape `[1, channels, positions]`, or `None` where there are no outputs.
        """
        unit, self.has_ended = 0, is_last
        for index, layer in enumerate(self.plan):
            if layer.opens:
                unit = index
                if hidden is not None:
                    self._kept[unit] = _joined(self._kept.get(unit), hidden)
            if layer.is_pointwise:
                hidden = None if hidden is None else layer(hidden)
            elif hidden is not None or (is_last and self._inputs[index] is not None):
                compute = self._transposed if layer.is_transposed else self._conv
                hidden = compute(index, hidden, is_last)
            if layer.closes and hidden is not None:
                number, kept = hidden.shape[-1], self._kept[unit]
                hidden = hidden + kept[..., :number]
                self._kept[unit] = kept[..., number:].clone()
        return hidden

    def _conv(self, index: int, hidden: torch.Tensor | None, is_last: bool) -> torch.Tensor | None:
        layer, inputs = self.plan[index], self._inputs[index]
        if inputs is None:
            assert hidden is not None
            inputs = hidden.new_zeros(*hidden.shape[:2], layer.padding)
        if hidden is not None:
            inputs = _joined(inputs, hidden)
        if is_last:
            inputs = _joined(inputs, inputs.new_zeros(*inputs.shape[:2], layer.padding))
        number = max((inputs.shape[-1] - layer.reach - 1) // layer.stride + 1, 0)
        self._inputs[index] = inputs[..., number * layer.stride :].clone()
        return layer(inputs) if number > 0 else None

    def _transposed(self, index: int, hidden: torch.Tensor | None, is_last: bool) -> torch.Tensor | None:
        layer, inputs = self.plan[index], self._inputs[index]
        inputs = inputs if hidden is None else _joined(inputs, hidden)
        assert inputs is not None
        outputs = layer(inputs)
        begin, end = self._num_used[index] * layer.stride, inputs.shape[-1] * layer.stride
        if is_last:
            end = outputs.shape[-1] - layer.padding
        cropped = min(layer.padding - self._num_cropped[index], max(end - begin, 0))
        self._num_cropped[index] += cropped
        used = min(layer.reach // layer.stride, inputs.shape[-1])
        self._num_used[index] = used
        self._inputs[index] = inputs[..., inputs.shape[-1] - used :].clone()
        outputs = outputs[..., begin + cropped : end]
        return outputs if outputs.shape[-1] > 0 else None


def _joined(before: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    return hidden if before is None else torch.cat((before.to(hidden), hidden), dim=-1)
