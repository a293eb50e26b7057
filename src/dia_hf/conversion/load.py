"""A checkpoint of any layout, loaded straight into a model: nothing is written.

Steps: open the source and plan (`checkpoint.py`) → processor and codec → model, its weights made one by one. What comes
out equals what `convert_checkpoint` writes and `from_pretrained` reads back, bit for bit. Called by users, and by
`speech/` for nari-labs' `from_local`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from .checkpoint import (
    choose_dtype,
    load_codec,
    locate,
    make_config,
    make_generation_config,
    make_processor,
    make_tensor,
    parse_dtype,
    plan,
    recognize,
)
from .weights import Weights, check_sums

__all__ = ["load_checkpoint"]


def load_checkpoint(
    checkpoint_path: str | os.PathLike,
    config_path: str | os.PathLike | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    codec: str | os.PathLike | None = None,
) -> tuple[DiaForConditionalGeneration, DiaProcessor]:
    """Load a checkpoint of any known layout into a model.

    The weights stand in memory once, and besides them what one tensor is made of; of a pickle, some 130 MB are mapped.
    A pickle is read once more beforehand, to compare it with its CRC-32 sums.

    Args:
        checkpoint_path (`str` or `os.PathLike`): Folder, weight file (.safetensors, .pth, .pt, .bin) or Hub id; in the
            layout of Hugging Face, nari-labs 0626 or nari-labs v0.1, told apart by content.
        config_path (`str` or `os.PathLike`, *optional*): Its config.json; the one beside the weights unless given.
            Generation config, tokenizer and feature extractor are read from beside it, where they are there.
        dtype (`str` or `torch.dtype`, *optional*): "float32", "bfloat16" or "float16"; that of the source unless given.
            The codec stays in its own.
        codec (`str` or `os.PathLike`, *optional*): The DAC: descript's .pth file, or a folder or Hub id of a
            `DacModel`. The processor has none unless given, even if the checkpoint has.

    Returns:
        `tuple[DiaForConditionalGeneration, DiaProcessor]`: The model on the CPU, ready for `generate`, with the
        generation config that `convert_checkpoint` would write; and its processor.

    Raises:
        ValueError: If checkpoint or codec are incomplete, contradict their config, hold code, are damaged or cannot be
            read, or the dtype is unknown. The message names file and tensor.
        OSError: If there is no such checkpoint, config or codec (`FileNotFoundError` for a path).

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
    folder, files = locate(checkpoint_path)
    if config_path is not None and not Path(config_path).is_file():
        raise FileNotFoundError(f"there is no config at {str(config_path)!r}.")
    source = recognize(Weights(files), Path(config_path) if config_path is not None else folder / "config.json")
    targets = plan(source, "huggingface")
    check_sums(files)
    target_dtype = choose_dtype(source.weights, asked_dtype)
    # Small things first, as in the conversion.
    processor = make_processor(source, load_codec(codec) if codec is not None else None)
    generation_config = make_generation_config(source)
    model = DiaForConditionalGeneration.from_pretrained(
        None,
        config=make_config(source, target_dtype),
        state_dict={target.name: make_tensor(source, target, target_dtype) for target in targets},
        dtype=target_dtype,
    )
    model.generation_config = generation_config
    model.name_or_path = model.config.name_or_path = str(checkpoint_path)  # which would be "None"
    return model, processor
