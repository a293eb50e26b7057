"""Adapters of low rank (LoRA; Hu et al., 2021) beside a model's frozen weights, by PEFT; and back to plain weights.

Knows nothing of data and of how a run is done. Called by `finetune.py` and by users.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._extras import import_extra
from ..modeling_dia import DiaForConditionalGeneration
from ..speech import Dia
from ..text_files import read_json

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["LORA_TARGET_MODULES", "attach_lora", "merge_adapter"]

LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
"""Every matrix of every layer, of the encoder and of the decoder.

The encoder learns along because it is what reads the text: another language, a new tag or a word that is pronounced
otherwise begin there. It costs little: a quarter of the adapters, and a pass over the text's bytes that is short beside
the decoder's over the frames. Embeddings and head stay as they are. For the decoder alone, give the regular expression
`r".*\\.decoder\\..*_proj"`.
"""


@contextmanager
def _without_warnings_of_names() -> Iterator[None]:
    """Not tell people that PEFT asks transformers by an old name: there is nothing that they could change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def attach_lora(model: DiaForConditionalGeneration, settings: Mapping[str, Any] | None = None) -> PeftModel:
    """Freeze a model and put adapters beside its matrices, which change nothing until they are trained.

    Args:
        model (`DiaForConditionalGeneration`): Is wrapped, not copied.
        settings (`Mapping[str, Any]`, *optional*): `r` (rank, 32), `lora_alpha` (32), `lora_dropout` (0.0),
            `target_modules` (names, or one regular expression; `LORA_TARGET_MODULES`), `use_rslora` (`False`),
            `use_dora` (`False`).

    Returns:
        `PeftModel`: Only adapters require gradients; they are float32, whatever the model's dtype.

    Raises:
        ValueError: If no module has one of the names.
        ImportError: If PEFT is missing: `pip install "dia-hf[train]"`.

    Example:
    ```python
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration
    >>> from dia_hf.training.lora import attach_lora
    >>> model = attach_lora(DiaForConditionalGeneration.from_pretrained(MINIATURE), {"r": 4})
    >>> model.get_nb_trainable_parameters()
    (64256, 3218128)

    ```
    """
    peft = import_extra("peft")
    settings = dict(settings or {})
    targets = settings.get("target_modules") or LORA_TARGET_MODULES
    config = peft.LoraConfig(
        r=settings.get("r", 32),
        lora_alpha=settings.get("lora_alpha", 32),
        lora_dropout=settings.get("lora_dropout", 0.0),
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=settings.get("use_rslora", False),
        use_dora=settings.get("use_dora", False),
    )
    with _without_warnings_of_names():
        return peft.get_peft_model(model, config)


def merge_adapter(
    model: DiaForConditionalGeneration | str | os.PathLike | None, adapter: str | os.PathLike
) -> DiaForConditionalGeneration:
    """Add an adapter to the weights that it was trained beside, in float32.

    Args:
        model (`DiaForConditionalGeneration`, `str` or `os.PathLike`, *optional*): The model, which is changed, or its
            folder or Hub id; the one that the adapter names unless given.
        adapter (`str` or `os.PathLike`): Folder that PEFT wrote, such as a run's `adapter`.

    Returns:
        `DiaForConditionalGeneration`: Without adapters, float32.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
        ValueError: If it does not fit the model, or names none and none is given.
        ImportError: If PEFT is missing: `pip install "dia-hf[train]"`.

    Example: from an adapter alone to a complete checkpoint
    ```python
    >>> import tempfile
    >>> from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.training import merge_adapter
    >>> from dia_hf.training.lora import attach_lora
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     attach_lora(DiaForConditionalGeneration.from_pretrained(MINIATURE)).save_pretrained(f"{folder}/adapter")
    ...     merge_adapter(None, f"{folder}/adapter").save_pretrained(f"{folder}/merged")
    ...     _ = DiaProcessor.from_pretrained(MINIATURE).save_pretrained(f"{folder}/merged")
    ...     dia = Dia.from_pretrained(f"{folder}/merged")

    ```
    """
    peft = import_extra("peft")
    file = Path(adapter) / "adapter_config.json"
    if not file.is_file():
        raise FileNotFoundError(f"there is no adapter in {os.fspath(adapter)!r}: it has no adapter_config.json.")
    if model is None:
        model = read_json(file).get("base_model_name_or_path")
        if not model:
            raise ValueError(f"{file} names no model; give the one that the adapter was trained beside.")
    if isinstance(model, (str, os.PathLike)):
        model = Dia.from_pretrained(model, compute_dtype=torch.float32, device="cpu", load_dac=False).model
    try:
        with _without_warnings_of_names():
            wrapped = peft.PeftModel.from_pretrained(model.float(), os.fspath(adapter))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter {os.fspath(adapter)!r} does not fit the model: {error}") from error
    return wrapped.merge_and_unload(safe_merge=True)
