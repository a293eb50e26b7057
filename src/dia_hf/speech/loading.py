"""Loading of a model and its processor: device, dtype, checkpoint layout, quantization.

Called by `Dia`, and by the command line for the choice of a device.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..conversion import load_checkpoint
from ..conversion.adapters import locate_adapter, merge_adapter
from ..conversion.checkpoint import choose_dtype, load_codec, load_own_codec, make_processor, parse_dtype
from ..conversion.load import make_model, open_checkpoint
from ..conversion.locate import needs_conversion
from ..conversion.weights import read_index
from ..hub import check_model
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..quantization import check_scheme, quantize_model
from ..text_files import first_line

__all__ = ["ComputeDtype", "load_local", "load_model", "resolve_device"]

_CODEC = "descript/dac_44khz"  # that of all published models

Device = str | torch.device | None
Loaded = tuple[DiaForConditionalGeneration, DiaProcessor]


class ComputeDtype(str, Enum):
    """Dtypes with nari-labs' names; strings and `torch.dtype` are accepted as well."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    def to_dtype(self) -> torch.dtype:
        """Return the `torch.dtype`."""
        return getattr(torch, self.value)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Choose a device: the given one, or the fastest available one.

    Args:
        device (`str` or `torch.device`, *optional*): Such as `"cpu"`, `"cuda:1"` or `"mps"`.

    Raises:
        ValueError: If it is not available.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the device {str(device)!r} is not available here ({reason}); use 'cpu'.") from error
    return device


def _resolve_dtype(dtype: str | torch.dtype | None) -> str | torch.dtype:
    if dtype is None:
        return "auto"
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise ValueError(f"`compute_dtype` is {dtype!r}; use 'float32', 'bfloat16' or 'float16'.")
    return resolved


def _check_folder(model_name: str | os.PathLike) -> None:
    """Raise `ValueError` for an adapter or a damaged index, which transformers' errors do not name."""
    folder = Path(model_name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{str(model_name)!r} is an adapter, not a complete model; give the model that it was trained on, and the "
            "adapter as `adapter` (`--adapter`)."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        read_index(index)


def _resolve_placement(
    compute_dtype: str | torch.dtype | None, device: Device, quantization: str | None
) -> tuple[str | torch.dtype, torch.device]:
    """Check dtype, device and quantization before loading."""
    dtype, resolved = _resolve_dtype(compute_dtype), resolve_device(device)
    if quantization is not None:
        dtype = check_scheme(quantization, resolved, dtype)
    return dtype, resolved


def _place(model: DiaForConditionalGeneration, device: torch.device, quantization: str | None) -> None:
    model.to(device).eval()
    if quantization is not None:
        quantize_model(model, quantization)


def load_model(
    model_name: str | os.PathLike,
    compute_dtype: str | torch.dtype | None = None,
    device: Device = None,
    with_codec: bool = True,
    quantization: str | None = None,
    codec: str | os.PathLike | None = None,
    adapter: str | os.PathLike | None = None,
) -> Loaded:
    """Load a checkpoint of any layout; see `Dia.from_pretrained`."""
    dtype, device = _resolve_placement(compute_dtype, device, quantization)
    check_model(model_name)
    _check_folder(model_name)
    adapter_folder = None if adapter is None else locate_adapter(adapter)
    load = _load_other if needs_conversion(model_name) else _load_huggingface
    # The dtype of the result applies after an adapter is merged, in float32 and from the weights' own.
    model, processor = load(model_name, "auto" if adapter is not None else dtype, with_codec, codec)
    if adapter_folder is not None:
        own_dtype = model.dtype
        model = merge_adapter(model, adapter_folder).to(own_dtype if dtype == "auto" else dtype)
    _place(model, device, quantization)
    return model, processor


def _load_huggingface(
    model_name: str | os.PathLike, dtype: str | torch.dtype, with_codec: bool, codec: str | os.PathLike | None
) -> Loaded:
    try:
        model, report = DiaForConditionalGeneration.from_pretrained(model_name, dtype=dtype, output_loading_info=True)
    except (RuntimeError, SafetensorError, StrictDataclassError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{str(model_name)!r} cannot be loaded: {error}") from error
    if missing := sorted(report["missing_keys"]):
        # transformers would initialize them at random, with a warning.
        raise ValueError(
            f"{str(model_name)!r} lacks {len(missing)} of the model's tensors, such as {missing[0]!r}; it is "
            "incomplete, or no Dia checkpoint in the Hugging Face layout."
        )
    if with_codec and codec is not None:
        return model, DiaProcessor.from_pretrained(model_name, audio_tokenizer=load_codec(codec))
    return model, DiaProcessor.from_pretrained(model_name, load_codec=with_codec)


def _load_other(
    model_name: str | os.PathLike, dtype: str | torch.dtype, with_codec: bool, codec: str | os.PathLike | None
) -> Loaded:
    """Load a checkpoint in another layout; its codec is the given one, or its own, or the Hub's."""
    source, targets = open_checkpoint(model_name)
    network = None
    if with_codec:
        network = load_codec(codec) if codec is not None else load_own_codec(source)
    if with_codec and network is None:
        try:
            network = load_codec(_CODEC)
        except (OSError, ValueError) as error:
            raise OSError(
                f"{str(model_name)!r} ({source.layout}) has no codec inside, and {_CODEC!r} cannot be loaded "
                f"({first_line(error)}); give one: `Dia.from_pretrained(..., codec=...)`, `--codec`."
            ) from error
    processor = make_processor(source, network)
    target_dtype = choose_dtype(source.weights, parse_dtype(None if dtype == "auto" else dtype))
    return make_model(source, targets, target_dtype, model_name), processor


def load_local(
    config_path: str | os.PathLike,
    checkpoint_path: str | os.PathLike,
    compute_dtype: str | torch.dtype | None,
    device: Device,
    codec: str | os.PathLike | None,
    quantization: str | None,
) -> Loaded:
    """Load nari-labs' files; see `Dia.from_local`."""
    dtype, device = _resolve_placement(compute_dtype, device, quantization)
    model, processor = load_checkpoint(
        checkpoint_path, config_path, dtype=None if dtype == "auto" else dtype, codec=codec
    )
    _place(model, device, quantization)
    return model, processor
