"""Quantization of the weights that every frame reads, to int8, int4 or fp8, through torchao.

The linear layers of the decoder's transformer layers are quantized. Weights that are read once a text (the encoder,
keys and values of cross-attention) stay as they are, because they cost no time; embedding, norms and head stay, because
guidance amplifies the head's error.

int8 and fp8 are rounded by torchao, int4 on a CPU by `int4.py`, in torchao's layout. The products are computed in
`engine/native.py` or `engine/linear.py`. Called by `Dia.from_pretrained`, `Dia.from_local`, and by users.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import TorchAoConfig
from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

from .calibration import INPUTS, TEXTS, input_moments
from .engine.linear import QuantizedLinear
from .int4 import Int4Weight, round_for_inputs, round_weights
from .modeling_dia import DiaForConditionalGeneration

__all__ = ["SCHEMES", "check_scheme", "quantize_model"]

SCHEMES = {"int8": ("cpu", "cuda"), "int4": ("cpu", "cuda"), "fp8": ("cuda",)}
"""Schemes, and the devices that have kernels for each."""

GROUP_SIZE = 32
"""Weights of int4 that share a scale and a zero: the smallest supported group, for the smallest error."""

_CHUNK = 2**18  # weights that are quantized to int8 at a time: they and the temporaries stay in the CPU's cache
_INT4_ROWS = 16  # the int4 kernels need a multiple of this many outputs
_PAGE_OUT = 21  # MADV_PAGEOUT of Linux

_EVERY_FRAME = tuple(itertools.chain.from_iterable(INPUTS.values()))
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


def quantize_model(
    model: DiaForConditionalGeneration,
    scheme: str,
    calibrate: bool | Sequence[str] = False,
    verbose: bool = False,
) -> DiaForConditionalGeneration:
    """Quantize in place the weights that every frame reads.

    int8 has a scale for each output of a layer, int4 a scale and a zero for each 32 weights of one, fp8 (e4m3) one for
    each layer. To transformers the result is a model of its torchao quantizer: it can be saved and loaded, except
    int4 on a CPU.

    The layers are replaced after all have been quantized: an error or Control-C leaves the model unchanged.

    Args:
        model (`DiaForConditionalGeneration`): Model in bfloat16, on its final device, without adapters.
        scheme (`str`): "int8", "int4" or, on a GPU, "fp8".
        calibrate (`bool` or `Sequence[str]`, defaults to `False`): For int4 on a CPU, whether the model first speaks
            a few texts, or these texts, so that weights are rounded with the least errors of the layers' outputs. It
            about halves the logits' error, and takes minutes at the published size.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `DiaForConditionalGeneration`: `model` itself.

    Raises:
        ValueError: If the scheme is unknown or not for this device, the model is in another dtype, is quantized
            already, has adapters, or has sizes that the kernels do not support; if `calibrate` is given for another
            scheme or device, or is empty; or if the inputs of a layer are not finite in calibration.
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

    on_cpu = model.device.type == "cpu"
    is_packed_for_this_cpu = scheme == "int4" and on_cpu
    texts = _texts_of(calibrate, is_packed_for_this_cpu)

    config = _config(scheme, model.device)
    weights: dict[str, torch.Tensor] = {}
    with tqdm(total=len(layers), desc="quantizing", unit=" layers", disable=not verbose) as bar:
        if texts is not None:
            rounded = _rounded_for_inputs(model, texts)
        elif is_packed_for_this_cpu:
            rounded = ((name, _packed(round_weights(linear.weight, GROUP_SIZE))) for name, linear in layers.items())
        else:
            quantize = _int8_by_torchao if scheme == "int8" and on_cpu else _quantized_by_torchao
            rounded = ((name, quantize(linear.weight, config)) for name, linear in layers.items())
        for name, weight in rounded:
            weights[name] = weight
            _page_out(layers[name].weight)
            bar.update()
    for name, weight in weights.items():
        if on_cpu:
            model.set_submodule(name, QuantizedLinear(weight))
        else:
            layers[name].weight = nn.Parameter(weight, requires_grad=False)
    kind = _PackedQuantizer if is_packed_for_this_cpu else TorchAoHfQuantizer
    quantizer = kind(TorchAoConfig(config, modules_to_not_convert=_ONCE_A_TEXT), pre_quantized=False)
    quantizer.preprocess_model(model)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer
    return model


def _texts_of(calibrate: bool | Sequence[str], is_supported: bool) -> Sequence[str] | None:
    """Return the texts of the calibration, or `None` if there is none."""
    if calibrate is False:
        return None
    if not is_supported:
        raise ValueError("`calibrate` is for 'int4' on a CPU alone; leave it out.")
    texts = TEXTS if calibrate is True else calibrate
    if isinstance(texts, str) or not texts:
        raise ValueError(f"`calibrate` is {texts!r}; give True, or a list of texts.")
    return texts


def _quantized_by_torchao(weight: torch.Tensor, config: Any) -> Any:
    from torchao.quantization import quantize_

    copy = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    copy.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(copy, config)
    return copy.weight


def _int8_by_torchao(weight: torch.Tensor, config: Any) -> torch.Tensor:
    """Quantize a weight on a CPU some rows at a time: torchao's temporaries are several times as large as its input."""
    parts = [_quantized_by_torchao(rows, config) for rows in weight.detach().split(max(1, _CHUNK // weight.shape[1]))]
    first = parts[0]
    data, scales, zeros = (
        None if getattr(first, name) is None else torch.cat([getattr(part, name) for part in parts])
        for name in ("qdata", "scale", "zero_point")
    )
    return type(first)(data, scales, first.block_size, first.dtype, zero_point=zeros)


def _rounded_for_inputs(model: Any, texts: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the quantized weights of all layers by name, rounded for the inputs in calibration."""
    for index, moments in enumerate(input_moments(model, texts)):
        layer = model.model.decoder.layers[index]
        for source, names in INPUTS.items():
            weights = [layer.get_submodule(name).weight for name in names]
            try:
                joint = round_for_inputs(torch.cat(weights), moments.pop(source), GROUP_SIZE)
            except ValueError as error:
                raise ValueError(f"model.decoder.layers.{index}.{source}: {error}") from error
            sizes = [len(weight) for weight in weights]
            for name, *parts in zip(names, *(tensor.split(sizes) for tensor in joint), strict=True):
                yield f"model.decoder.layers.{index}.{name}", _packed(Int4Weight(*parts))


def _packed(weight: Int4Weight) -> torch.Tensor:
    """Return torchao's tensor of a rounded weight, in the layout of this CPU's kernel."""
    from torchao.prototype.quantization.int4 import Int4OpaqueTensor

    data = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1)
    scales_and_zeros = torch.stack((weight.scales, weight.zeros), dim=-1).transpose(0, 1).contiguous()
    return Int4OpaqueTensor(data, scales_and_zeros, [1, GROUP_SIZE], weight.codes.shape)


def _page_out(weight: torch.Tensor) -> None:
    """Ask Linux to drop the pages of a weight that is mapped from a file: it is read again if it is needed again.

    A loaded checkpoint is mapped. Without this, what has been read of it stays in memory beside the quantized weights.
    Has no effect on other weights and systems.
    """
    if weight.device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    start, size = weight.data_ptr(), weight.nbytes
    with suppress(OSError, AttributeError):
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            maps = [line.split(maxsplit=5) for line in file]
        for addresses, _, _, _, inode, *_ in maps:
            first, end = (int(address, 16) for address in addresses.split("-"))
            if inode != "0" and first <= start and start + size <= end:
                aligned = start // mmap.PAGESIZE * mmap.PAGESIZE
                ctypes.CDLL(None).madvise(ctypes.c_void_p(aligned), ctypes.c_size_t(start + size - aligned), _PAGE_OUT)


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
