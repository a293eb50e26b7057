"""Checkpoints of mlx-audio: names and config of nari-labs v0.1, quantized by the `mlx` package.

mlx-audio quantizes embeddings alone: its other matrices have heads and channels unfolded, for which MLX has no
quantized form. A quantized matrix is three tensors: packed integers, and scale and bias of each group of values in a
row, of which a value is scale · integer + bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .._extras import import_extra
from ..configuration_dia import DiaConfig
from .nari import config_to_v0_1

__all__ = ["GROUP_SIZE", "check_quantizable", "config_to_mlx", "is_quantized", "quantize"]

GROUP_SIZE = 64
_BITS = (4, 6, 8)


def is_quantized(name: str) -> bool:
    """Whether mlx-audio has a quantized form of a tensor."""
    return name == "encoder.embedding.weight" or name.startswith("decoder.embeddings.")


def check_quantizable(config: DiaConfig, bits: int) -> None:
    """Raise `ValueError` if mlx-audio reads no such number of bits, or embeddings are no multiple of a group wide."""
    if bits not in _BITS:
        raise ValueError(f"`bits` is {bits}; mlx-audio's checkpoints have {', '.join(map(str, _BITS))} bits.")
    for name, part in (("encoder", config.encoder_config), ("decoder", config.decoder_config)):
        if part.hidden_size % GROUP_SIZE:
            raise ValueError(
                f"`{name}_config.hidden_size` is {part.hidden_size}, and MLX quantizes groups of {GROUP_SIZE} values; "
                "convert without `bits` (`--bits`)."
            )


def config_to_mlx(config: DiaConfig, dtype: str, bits: int | None) -> dict[str, Any]:
    """Return the config of a checkpoint with weights of `dtype`, of which the embeddings may be quantized to `bits`.

    Raises:
        ValueError: If mlx-audio would compute something else than the model, with each reason.
    """
    values = {"model_type": "dia", **config_to_v0_1(config, dtype)}
    if bits is not None:
        quantization = {"group_size": GROUP_SIZE, "bits": bits, "mode": "affine"}
        # Every embedding by its path as well, without which the loader of mlx-audio 0.6 finds none.
        paths = ["encoder.embedding", *(f"decoder.embeddings.{i}" for i in range(config.decoder_config.num_channels))]
        values["quantization"] = quantization | {f"model.{path}": quantization for path in paths}
    return values


def quantize(name: str, weight: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Quantize a matrix as mlx-audio does.

    Args:
        name (`str`): Name of the tensor, which ends in ".weight".
        weight (`torch.Tensor` of shape `[rows, columns]`): The matrix, in float32, bfloat16 or float16.
        bits (`int`): Bits of a value.

    Returns:
        `dict[str, torch.Tensor]`: `[rows, columns · bits / 32]` in uint32 under the name, and scales and biases
        `[rows, columns / GROUP_SIZE]` in the dtype of the matrix.
    """
    mx: Any = import_extra("mlx.core")
    dtype = getattr(mx, str(weight.dtype).removeprefix("torch."))
    parts = mx.quantize(mx.array(weight.float().numpy()).astype(dtype), group_size=GROUP_SIZE, bits=bits)
    packed, scales, biases = (
        torch.from_numpy(np.array(part.astype(kind)))
        for part, kind in zip(parts, (mx.uint32, mx.float32, mx.float32), strict=True)
    )
    stem = name.removesuffix("weight")
    return {name: packed, f"{stem}scales": scales.to(weight.dtype), f"{stem}biases": biases.to(weight.dtype)}
