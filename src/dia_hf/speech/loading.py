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
from ..conversion.checkpoint import is_nari
from ..conversion.weights import read_index
from ..hub import check_model
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..quantization import check_scheme, quantize_model

__all__ = ["ComputeDtype", "load_local", "load_model", "resolve_device"]

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
            f"{str(model_name)!r} is an adapter, not a complete model; merge it into the model that it was trained on: "
            "`dia_hf.training.merge_adapter`."
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
    load_codec: bool = True,
    quantization: str | None = None,
) -> Loaded:
    """Load a checkpoint in the Hugging Face layout, or a folder in nari-labs'; see `Dia.from_pretrained`."""
    dtype, device = _resolve_placement(compute_dtype, device, quantization)
    check_model(model_name)
    _check_folder(model_name)
    if is_nari(model_name):
        model, processor = _load_nari(model_name, dtype, load_codec)
        _place(model, device, quantization)
        return model, processor
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
    _place(model, device, quantization)
    return model, DiaProcessor.from_pretrained(model_name, load_codec=load_codec)


def _load_nari(model_name: str | os.PathLike, dtype: str | torch.dtype, load_codec: bool) -> Loaded:
    """Load a folder in a layout of nari-labs; its codec is the Hub's unless one is inside."""
    inside = os.path.join(model_name, "audio_tokenizer")
    codec = inside if os.path.isdir(inside) else "descript/dac_44khz"
    try:
        return load_checkpoint(
            model_name, dtype=None if dtype == "auto" else dtype, codec=codec if load_codec else None
        )
    except (OSError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else OSError
        raise kind(
            f"{str(model_name)!r} is in nari-labs' layout; name its files, `Dia.from_local(config_path, "
            "checkpoint_path, codec=...)`, or make it whole, `dia-hf convert --codec`. As a folder, "
            f"with the codec {codec!r}, it cannot be loaded: {str(error).splitlines()[0]}"
        ) from error


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
