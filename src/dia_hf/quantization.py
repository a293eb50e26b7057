"""Quantization of the weights that every frame reads, to int8, int4 or fp8, through torchao.

The linear layers of the decoder's transformer layers are quantized. Weights that are read once a text (the encoder,
keys and values of cross-attention) stay as they are, because they cost no time; embedding, norms and head stay, because
guidance amplifies the head's error. Activations are bfloat16.

The products are computed in `engine/linear.py`. Called by `Dia.from_pretrained`, `Dia.from_local`, and by users.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from transformers import TorchAoConfig
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

from .engine.linear import QuantizedLinear
from .modeling_dia import DiaForConditionalGeneration

__all__ = ["SCHEMES", "check_scheme", "quantize_model"]

SCHEMES = {"int8": ("cpu", "cuda"), "int4": ("cpu", "cuda"), "fp8": ("cuda",)}
"""Schemes, and the devices that have kernels for each."""

GROUP_SIZE = 32
"""Weights of int4 that share a scale and a zero: the smallest supported group, for the smallest error."""

_INT4_ROWS = 16  # the int4 kernels need a multiple of this many outputs

_EVERY_FRAME = (
    "self_attention.q_proj",
    "self_attention.k_proj",
    "self_attention.v_proj",
    "self_attention.o_proj",
    "cross_attention.q_proj",
    "cross_attention.o_proj",
    "mlp.gate_up_proj",
    "mlp.down_proj",
)
_ONCE_A_TEXT = ["model.encoder", "logits_dense", *(rf"model.decoder.layers.\d+.cross_attention.{x}_proj" for x in "kv")]


def check_scheme(
    scheme: str, device: str | torch.device, dtype: str | torch.dtype = "auto", name: str = "compute_dtype"
) -> torch.dtype:
    """Check that a scheme is available, and return the dtype in which a quantized model computes.

    Args:
        scheme (`str`): "int8", "int4" or, on a GPU, "fp8".
        device (`str` or `torch.device`): Device of the model.
        dtype (`str` or `torch.dtype`, defaults to `"auto"`): The caller's dtype.
        name (`str`, defaults to `"compute_dtype"`): Name of the dtype argument in errors.

    Returns:
        `torch.dtype`: `torch.bfloat16`.

    Raises:
        ValueError: If the scheme is unknown, the device has no kernels for it, or the dtype is not bfloat16.
        ImportError: If torchao is missing or too old.

    Example:
    ```python
    >>> from dia_hf.quantization import check_scheme
    >>> check_scheme("int8", "cpu")
    torch.bfloat16

    ```
    """
    if scheme not in SCHEMES:
        raise ValueError(f"the quantization {scheme!r} is unknown; use {' or '.join(map(repr, SCHEMES))}.")
    device = torch.device(device)
    if device.type not in SCHEMES[scheme]:
        there = [other for other, devices in SCHEMES.items() if device.type in devices]
        advice = f"use {' or '.join(map(repr, there))}" if there else "use the device 'cpu' or 'cuda'"
        raise ValueError(f"there is no {scheme!r} on {device.type!r}; {advice}.")
    if dtype not in ("auto", torch.bfloat16):
        raise ValueError(
            f"`{name}` is {dtype}, but quantized weights are multiplied with bfloat16; leave it out, or use 'bfloat16'."
        )
    _config(scheme, device)
    return torch.bfloat16


def quantize_model(model: DiaForConditionalGeneration, scheme: str) -> DiaForConditionalGeneration:
    """Quantize in place the weights that every frame reads.

    int8 has a scale for each output of a layer, int4 a scale and a zero for each 32 weights of one, fp8 (e4m3) one for
    each layer. To transformers the result is a model of its torchao quantizer: it can be saved and loaded, except
    int4 on a CPU.

    Args:
        model (`DiaForConditionalGeneration`): Model in bfloat16, on its final device, without adapters.
        scheme (`str`): "int8", "int4" or, on a GPU, "fp8".

    Returns:
        `DiaForConditionalGeneration`: `model` itself.

    Raises:
        ValueError: If the scheme is unknown or not for this device, the model is in another dtype, is quantized
            already, has adapters, or has sizes that the kernels do not support. The model is then unchanged.
        ImportError: If torchao is missing or too old.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration
    >>> from dia_hf.quantization import quantize_model
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE, dtype=torch.bfloat16)
    >>> type(quantize_model(model, "int8").model.decoder.layers[0].mlp.down_proj.weight).__name__
    'Int8Tensor'

    ```
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("the model is quantized already; load it anew in bfloat16.")
    check_scheme(scheme, model.device, model.dtype, "dtype")
    layers: dict[str, Any] = {
        f"model.decoder.layers.{index}.{name}": layer.get_submodule(name)
        for index, layer in enumerate(model.model.decoder.layers)
        for name in _EVERY_FRAME
    }
    for name, linear in layers.items():
        _check_layer(name, linear, scheme)

    from torchao.quantization import quantize_

    config = _config(scheme, model.device)
    for name, linear in layers.items():
        quantize_(linear, config)
        if model.device.type == "cpu":
            model.set_submodule(name, QuantizedLinear(linear.weight))
    is_packed_for_this_cpu = scheme == "int4" and model.device.type == "cpu"
    kind = _PackedQuantizer if is_packed_for_this_cpu else TorchAoHfQuantizer
    quantizer = kind(TorchAoConfig(config, modules_to_not_convert=_ONCE_A_TEXT), pre_quantized=False)
    quantizer.preprocess_model(model)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer
    return model


def _config(scheme: str, device: torch.device) -> Any:
    """Return torchao's configuration of a scheme."""
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Float8WeightOnlyConfig, Int4WeightOnlyConfig, Int8WeightOnlyConfig
    except ImportError as error:
        raise ImportError(
            f'quantization needs torchao 0.18 or newer: pip install "dia-hf[quantize]" ({error}).'
        ) from error
    # Without this argument torchao sets options of torch.compile for the whole process.
    if scheme == "int8":
        return Int8WeightOnlyConfig(set_inductor_config=False)
    if scheme == "fp8":
        return Float8WeightOnlyConfig(set_inductor_config=False)
    if device.type == "cpu":
        return PrototypeInt4WeightOnlyConfig(group_size=GROUP_SIZE, set_inductor_config=False)
    return Int4WeightOnlyConfig(
        group_size=GROUP_SIZE, int4_packing_format="tile_packed_to_4d", set_inductor_config=False
    )


def _check_layer(name: str, linear: Any, scheme: str) -> None:
    kind = type(linear)
    if kind is not nn.Linear:
        raise ValueError(
            f"{name} is a {kind.__module__}.{kind.__name__}, not a plain nn.Linear; quantize before adding adapters."
        )
    width, outputs = linear.in_features, linear.out_features
    if scheme == "int4" and (width % GROUP_SIZE or outputs % _INT4_ROWS):
        raise ValueError(
            f"{name} maps {width} to {outputs}, but int4 needs inputs in multiples of "
            f"{GROUP_SIZE} and outputs in multiples of {_INT4_ROWS}; use 'int8'."
        )


class _PackedQuantizer(TorchAoHfQuantizer):
    """transformers' quantizer of weights in the layout of this machine's CPU, which cannot be saved."""

    def is_serializable(self) -> NoReturn:
        """Raise an error: `save_pretrained` calls this first."""
        raise ValueError(
            "int4 weights on a CPU are packed for that CPU and cannot be saved; save the model before it is quantized, "
            "or use 'int8'."
        )
