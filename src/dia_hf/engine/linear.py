"""Linear layers with the same input, fused and computed by the fastest kernel for their weights.

A decoding step is bound by reading weights for a few rows at a time: fewer and larger products, in the memory layout
that the processor prefers, determine its speed. The numbers of rows at which each kernel pays were measured on two
cores with AMX; see `docs/quantization.md`.

Used by `decoder.py`, and by `quantization.py` for its layers: for many rows at once, and for steps where there is no
C++ operator (`native.py`).

Legend: I width of the input, O width of a layer's output, G size of a group of weights that share a scale.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["QuantizedLinear", "fused_linear", "int4_block", "is_bare", "is_int4", "is_int8"]

_Linear = Callable[[torch.Tensor], torch.Tensor]

# The time of the kernels for quantized weights grows with the number of rows. From these numbers on it is faster to
# dequantize the weights to bfloat16 in chunks that fit into the CPU's cache (size in weights).
_INT8_ROWS = 16
_INT4_ROWS = 256
_CHUNK = 4 * 2**20


def fused_linear(modules: Sequence[nn.Module], *, pack: bool = False, join: bool = True) -> _Linear:
    """Fuse linear layers that take the same input into one function.

    Dense layers become one product with all their weights; so do layers that torchao has quantized to int8 or int4,
    with bfloat16 inputs on a CPU, bypassing its tensor class. Anything else (adapters, hooks, other quantizers, biases)
    is called as it is. The function keeps copies of weights where several were concatenated or packed, so it is stale
    after the weights change.

    Args:
        modules (`Sequence[nn.Module]`): The layers, at least one, each from `[..., I]` to `[..., O]`.
        pack (`bool`, defaults to `False`): Whether to copy dense bfloat16 weights on a CPU into the layout of its
            kernels, where it has bfloat16 kernels.
        join (`bool`, defaults to `True`): Whether to copy the weights of several layers into one matrix.

    Returns:
        `Callable`: From `[..., I]` to `[..., sum of O]`, the outputs concatenated, in the input's dtype. It does not
        synchronize with the device.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.engine.linear import fused_linear
    >>> query, key = torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(8, 4, bias=False)
    >>> fused_linear([query, key])(torch.zeros(2, 3, 8)).shape
    torch.Size([2, 3, 20])

    ```
    """
    if not join and len(modules) > 1:
        parts = [fused_linear([module], pack=pack) for module in modules]
        return lambda states: torch.cat([part(states) for part in parts], dim=-1)
    if all(is_bare(module) for module in modules):
        weights: list[Any] = [module.weight for module in modules]
        if all(type(weight) in (torch.Tensor, nn.Parameter) and weight.is_floating_point() for weight in weights):
            if len({(weight.dtype, weight.device) for weight in weights}) == 1:
                return _dense(weights, pack)
        elif all(is_int8(weight) for weight in weights):
            return _int8(weights)
        elif all(is_int4(weight) for weight in weights) and _can_join_int4(weights):
            return _int4(weights)
    return _one_by_one(modules)


class QuantizedLinear(nn.Linear):
    """`nn.Linear` with a weight quantized by torchao on a CPU; its product bypasses torchao's.

    torchao dequantizes the whole int8 weight to bfloat16 at each call, even for one row: ten times the time of the
    dense layer.

    Args:
        weight (`torch.Tensor` of shape `[O, I]`): torchao's tensor.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map `[..., I]` to `[..., O]`."""
        if input.dtype == torch.bfloat16:
            if is_int8(self.weight):
                return _int8([self.weight])(input)
            if is_int4(self.weight):
                return _int4([self.weight])(input)
        return super().forward(input)


def is_bare(module: nn.Module) -> bool:
    """Return whether a layer is its weight and nothing else."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    is_wrapped = any(hooks) or "forward" in vars(module) or hasattr(module, "_hf_hook")
    return type(module) in (nn.Linear, QuantizedLinear) and module.bias is None and not is_wrapped


def _one_by_one(modules: Sequence[nn.Module]) -> _Linear:
    if len(modules) == 1:
        return modules[0]
    return lambda states: torch.cat([module(states) for module in modules], dim=-1)


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Concatenate tensors; a single one is not copied."""
    return tensors[0].detach() if len(tensors) == 1 else torch.cat([tensor.detach() for tensor in tensors], dim)


def _dense(weights: Sequence[torch.Tensor], pack: bool) -> _Linear:
    weight = _joined(weights)
    if pack and weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and _has_bfloat16_kernels():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return lambda states: torch.ops.mkldnn._linear_pointwise(states, packed, None, "none", [], "")
    return lambda states: F.linear(states, weight)


def _has_bfloat16_kernels() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _is_torchao(weight: Any, name: str) -> bool:
    """Return whether this is a torchao tensor for bfloat16 on a CPU, without importing torchao."""
    kind = type(weight)
    is_theirs = kind.__name__ == name and kind.__module__.startswith("torchao.")
    return is_theirs and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"


def is_int8(weight: Any) -> bool:
    """Return whether a weight has one scale a row and nothing else, as the int8 kernel needs."""
    if not _is_torchao(weight, "Int8Tensor"):
        return False
    is_weight_only = weight.act_quant_kwargs is None and weight.act_pre_scale is None
    # The kernel reads 16 weights at a time and does not check where a row ends.
    return is_weight_only and list(weight.block_size) == [1, weight.qdata.shape[1]] and weight.qdata.shape[1] % 16 == 0


def _int8(weights: Sequence[Any]) -> _Linear:
    data = _joined([weight.qdata for weight in weights])
    scales = _joined([weight.scale.flatten() for weight in weights]).to(torch.bfloat16)
    chunks = data.split(max(1, _CHUNK // data.shape[1]))

    def multiply(states: torch.Tensor) -> torch.Tensor:
        rows = states.flatten(0, -2).contiguous()
        if len(rows) <= _INT8_ROWS:
            output = torch._weight_int8pack_mm(rows, data, scales)
        else:
            output = torch.cat([F.linear(rows, part.to(rows.dtype)) for part in chunks], dim=1) * scales
        return output.unflatten(0, states.shape[:-1])

    return multiply


def is_int4(weight: Any) -> bool:
    """Return whether a weight has group scales and zeros in the layout of the CPU's int4 kernel, and nothing else."""
    return _is_torchao(weight, "Int4OpaqueTensor") and weight.act_mapping_type is None and weight.act_pre_scale is None


def _can_join_int4(weights: Sequence[Any]) -> bool:
    """Return whether packed weights can be concatenated: rows are packed in blocks whose size depends on the CPU."""
    is_whole = all(weight.qdata.shape[0] % 64 == 0 for weight in weights[:-1])
    return is_whole and len({weight.block_size[1] for weight in weights}) == 1


def _int4(weights: Sequence[Any]) -> _Linear:
    data = _joined([weight.qdata for weight in weights])
    scales = _joined([weight.scale_and_zero for weight in weights], dim=1)
    group, block = weights[0].block_size[1], int4_block()

    def multiply(states: torch.Tensor) -> torch.Tensor:
        rows = states.flatten(0, -2).contiguous()
        if len(rows) <= _INT4_ROWS or block is None or len(data) % block:
            output = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, data, group, scales)
        else:
            step = max(1, _CHUNK // (rows.shape[1] * block)) * block
            starts = range(0, len(data), step)
            parts = ((data[start : start + step], scales[:, start : start + step]) for start in starts)
            output = torch.cat([F.linear(rows, _unpack_int4(*part, block)) for part in parts], dim=1)
        return output.unflatten(0, states.shape[:-1])

    return multiply


def _unpack_int4(data: torch.Tensor, scales: torch.Tensor, block: int) -> torch.Tensor:
    """Unpack weights `[O, I / 2]` with scales and zeros `[I / G, O, 2]` into dense weights `[O, I]`, bfloat16.

    A block holds, for each input index, the weights of its rows: two in a byte, one of the first and one of the second
    half of the rows.
    """
    num_blocks, width, num_groups = len(data) // block, 2 * data.shape[1], len(scales)
    halves = data.view(num_blocks, width, block // 2)
    codes = torch.cat((halves & 15, halves >> 4), dim=-1).to(scales.dtype).sub_(8)
    scale, zero = scales.view(num_groups, num_blocks, 1, block, 2).transpose(0, 1).unbind(-1)
    codes.view(num_blocks, num_groups, -1, block).mul_(scale).add_(zero)
    return codes.transpose(1, 2).reshape(-1, width)


@functools.cache
def int4_block() -> int | None:
    """Find the number of rows in a block on this CPU by packing known weights; `None` if the layout is another."""
    codes = torch.randint(16, (64, 4), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    scales = torch.stack((torch.ones(1, 64), torch.full((1, 64), 8.0)), dim=-1)
    for block in (64, 32):
        if torch.equal(_unpack_int4(packed, scales, block), codes.float()):
            return block
    return None
