"""Quantized tensors of MLX, as mlx-audio stores them: packed integers, scales and biases in the place of a weight.

Formulas and packing are those of `mlx.core.quantize`: in groups along the last dimension, w = scale · q + bias
("affine"), or w = scale · q with q and scale in the formats of OCP's Microscaling specification ("mxfp4", "mxfp8") or
of NVIDIA ("nvfp4"). The integers of a row are one stream of bits, the least significant one first. mlx-audio quantizes
the embeddings only; here any weight may be.

Legend: R rows, D values a row, G groups a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from ..text_files import shortened
from .weights import Weights

__all__ = ["dequantize", "unpack_weights"]

_AFFINE_BITS = (2, 3, 4, 5, 6, 8)
_MODES = {"affine": None, "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Bits and size of a group; "affine" leaves both to the file."""

# Of 4 bits: a sign, two bits of exponent, one of mantissa.
_FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_FP4 = torch.cat([_FP4, -_FP4])


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the integers `[R, D]` of packed ones, uint32 `[R, D · bits / 32]`."""
    content = np.unpackbits(packed.numpy().view(np.uint8), axis=1, bitorder="little")
    digits = content.reshape(len(packed), -1, bits)
    values = np.zeros(digits.shape[:2], dtype=np.uint8)
    for place in range(bits):
        values |= digits[:, :, place] << place
    return torch.from_numpy(values)


def dequantize(mode: str, bits: int, tensors: list[torch.Tensor]) -> torch.Tensor:
    """Dequantize a weight.

    Args:
        mode (`str`): "affine", "mxfp4", "mxfp8" or "nvfp4".
        bits (`int`): Bits of a value.
        tensors (`list[torch.Tensor]`): Packed integers, uint32 `[R, D · bits / 32]`; scales `[R, G]`, floating-point
            for "affine" and uint8 for the others; for "affine" biases `[R, G]`.

    Returns:
        `torch.Tensor` of shape `[R, D]`, float32: exact but for the rounding of "affine" to float32.
    """
    quantized = _unpack(tensors[0], bits)
    scales = tensors[1]
    group_size = quantized.shape[1] // scales.shape[1]
    if mode == "affine":
        scales, biases = (tensor.float().repeat_interleave(group_size, dim=1) for tensor in tensors[1:])
        return scales * quantized.float() + biases
    if mode == "nvfp4":
        scales = scales.view(torch.float8_e4m3fn).float()
    else:  # an exponent alone
        scales = torch.ldexp(torch.ones(scales.shape), scales.int() - 127)
    values = quantized.view(torch.float8_e4m3fn).float() if bits == 8 else _FP4[quantized.int()]
    return values * scales.repeat_interleave(group_size, dim=1)


def _settings(quantization: Mapping[str, Any], module: str) -> tuple[str, int | None, int | None]:
    """Return mode, bits and size of a group of a module: its own, or else those of all."""
    values = dict(quantization)
    own = values.get(module)
    if isinstance(own, Mapping):
        values |= own
    mode = values.get("mode", "affine")
    if not isinstance(mode, str) or mode not in _MODES:
        raise ValueError(f"`quantization` has the mode {shortened(mode)}; known are {', '.join(_MODES)}")
    numbers = []
    for name in ("bits", "group_size"):
        number = values.get(name)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"`quantization` has {shortened(number)} as `{name}`; expected a whole number above 0")
        numbers.append(number)
    return mode, numbers[0], numbers[1]


def unpack_weights(weights: Weights, quantization: Any) -> str:
    """Put the weight in the place of its packed integers, scales and biases; each is dequantized when it is read.

    Args:
        weights (`Weights`): Tensors of the files; changed.
        quantization (`dict`): `quantization` of the config.json.

    Returns:
        `str`: How they are quantized, such as "MLX, affine, 4 bits, groups of 64".

    Raises:
        ValueError: If settings and shapes do not fit each other, or a mode is unknown.
    """
    if not isinstance(quantization, Mapping):
        raise ValueError(
            f"`quantization` is {shortened(quantization)}; expected an object with `group_size` and `bits`"
        )
    found, plain = set(), weights.dtypes() - {None}  # both hold every value of the modes without a bias
    for scales in [name for name in weights if name.endswith(".scales")]:
        module = scales.removesuffix(".scales")
        mode, bits, group_size = _settings(quantization, module)
        names = [f"{module}.weight", scales, *([f"{module}.biases"] if mode == "affine" else [])]
        if missing := [name for name in names if name not in weights]:
            raise ValueError(f"{weights.file(scales)}: the tensor {missing[0]!r} of a quantized weight is missing")
        if mode != "affine" and f"{module}.biases" in weights:
            raise ValueError(f"{weights.file(scales)}: {module!r} has biases, which the mode {mode!r} has not")
        packed, groups = weights.shape(names[0]), weights.shape(scales)
        if len(packed) != 2 or any(weights.shape(name) != groups for name in names[1:]) or len(groups) != 2:
            shapes = ", ".join(str(list(weights.shape(name))) for name in names)
            raise ValueError(f"{weights.file(scales)}: the parts of {module!r} have shapes that do not fit: {shapes}")
        bits, group_size = _MODES[mode] or (bits or 4, group_size or 64)
        width = packed[1] * 32 // bits
        if bits not in _AFFINE_BITS or packed != (groups[0], width * bits / 32) or width != groups[1] * group_size:
            raise ValueError(
                f"{weights.file(scales)}: {names[0]!r} of {list(packed)} and scales of {list(groups)} are not of "
                f"{bits} bits in groups of {group_size}, as `quantization` says"
            )
        kinds = [weights.kind(name) for name in names]
        expected = ["U32", *(["F32|F16|BF16"] * 2 if mode == "affine" else ["U8"])]
        if any(kind not in wanted.split("|") for kind, wanted in zip(kinds, expected, strict=True)):
            raise ValueError(f"{weights.file(scales)}: the parts of {module!r} are {', '.join(map(str, kinds))}")
        dtype = weights.dtype(scales) or (torch.float32 if plain == {torch.float32} else torch.bfloat16)
        weights.derive(names[0], (groups[0], width), dtype, tuple(names), partial(dequantize, mode, bits))
        found.add(f"{mode}, {bits} bits, groups of {group_size}")
    return f"MLX, {'; '.join(sorted(found))}" if found else ""
