"""Loading of a checkpoint of any layout directly into a model, without writing files.

Steps: open the source and plan (`checkpoint.py`) → processor and codec → model, its weights made one by one. The result
equals that of `convert_checkpoint` followed by `from_pretrained`, bit for bit. Called by users, and by `speech/` for
nari-labs' `from_local`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from .checkpoint import (
    Checkpoint,
    Target,
    choose_dtype,
    load_codec,
    make_config,
    make_generation_config,
    make_processor,
    make_tensor,
    parse_dtype,
    plan,
    recognize,
)
from .locate import locate
from .weights import Weights, check_sums

__all__ = ["load_checkpoint", "make_model", "open_checkpoint"]


def open_checkpoint(
    checkpoint_path: str | os.PathLike, config_path: str | os.PathLike | None = None
) -> tuple[Checkpoint, list[Target]]:
    """Find and recognize a checkpoint, and check all its tensors; see `load_checkpoint`."""
    folder, files = locate(checkpoint_path)
    if config_path is not None and not Path(config_path).is_file():
        raise FileNotFoundError(f"there is no config at {str(config_path)!r}.")
    weights = Weights(files)
    if config_path is not None and weights.is_gguf:
        raise ValueError(f"{files[0]} holds its own config; leave out {str(config_path)!r}, and give the file alone.")
    source = recognize(weights, Path(config_path) if config_path is not None else folder / "config.json")
    targets = plan(source, "huggingface")
    check_sums(files)
    return source, targets


def make_model(
    source: Checkpoint, targets: list[Target], dtype: torch.dtype, name: str | os.PathLike
) -> DiaForConditionalGeneration:
    """Make the model of a checkpoint, its weights one by one.

    Args:
        source (`Checkpoint`): Checkpoint.
        targets (`list[Target]`): Tensors of the Hugging Face layout, from `plan`.
        dtype (`torch.dtype`): Dtype of the weights.
        name (`str` or `os.PathLike`): `name_or_path` of the model.
    """
    generation_config = make_generation_config(source)
    model = DiaForConditionalGeneration.from_pretrained(
        None,
        config=make_config(source, dtype),
        state_dict={target.name: make_tensor(source, target, dtype) for target in targets},
        dtype=dtype,
    )
    model.generation_config = generation_config
    model.name_or_path = model.config.name_or_path = str(name)  # would be "None" otherwise
    return model


def load_checkpoint(
    checkpoint_path: str | os.PathLike,
    config_path: str | os.PathLike | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    codec: str | os.PathLike | None = None,
) -> tuple[DiaForConditionalGeneration, DiaProcessor]:
    """Load a checkpoint of any known layout into a model.

    Memory holds the weights once, plus the sources of one tensor; of a pickle, some 130 MB are mapped.
    A pickle is read once more beforehand, to compare it with its CRC-32 sums.

    Args:
        checkpoint_path (`str` or `os.PathLike`): Folder, weight file (.safetensors, .pth, .pt, .bin, .gguf) or Hub id;
            in the layout of Hugging Face, nari-labs 0626, nari-labs v0.1 (also as quantized by MLX), or of the GGUF
            files of TTS.cpp and CrispASR, detected by content.
        config_path (`str` or `os.PathLike`, *optional*): The config.json; by default the one in the folder of the
            weights. Generation config, tokenizer and feature extractor are read from its folder, if present. None for
            GGUF, which holds its own.
        dtype (`str` or `torch.dtype`, *optional*): "float32", "bfloat16" or "float16"; by default that of the
            source, or float32 for GGUF with tensors of several types. The codec keeps its own dtype.
        codec (`str` or `os.PathLike`, *optional*): Codec: descript's .pth file, a GGUF file with one, or a folder or
            Hub id of a `DacModel`. By default the processor has no codec, even if the checkpoint has one.

    Returns:
        `tuple[DiaForConditionalGeneration, DiaProcessor]`: Model on the CPU with the generation config that
        `convert_checkpoint` would write, and its processor.

    Raises:
        ValueError: If checkpoint or codec are incomplete, contradict their config, hold code, are damaged or cannot be
            read, or the dtype is unknown. The message names file and tensor.
        OSError: If the checkpoint, config or codec does not exist (`FileNotFoundError` for a path).

    Example:
    ```python
    >>> from dia_hf import MINIATURE
    >>> from dia_hf.conversion import load_checkpoint
    >>> model, processor = load_checkpoint(MINIATURE, dtype="bfloat16")
    >>> model.dtype, model.generate(**processor("[S1] Hello."), max_new_tokens=20).shape
    (torch.bfloat16, torch.Size([1, 21, 9]))

    ```
    """
    asked_dtype = parse_dtype(dtype)
    source, targets = open_checkpoint(checkpoint_path, config_path)
    target_dtype = choose_dtype(source.weights, asked_dtype)
    # Small files first, as in the conversion.
    processor = make_processor(source, load_codec(codec) if codec is not None else None)
    return make_model(source, targets, target_dtype, checkpoint_path), processor
