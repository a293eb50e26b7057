"""LoRA adapters (Hu et al., 2021) with PEFT: attached to a model, and merged into its weights.

Knows nothing of data and training runs. Called by `finetune.py` and users.
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
"""All weight matrices of all encoder and decoder layers.

The encoder is included because it reads the text: it has to adapt to another language, a new tag or another
pronunciation. It adds a quarter of the adapter parameters and little computation, since texts are short compared with
the decoder's frames. Embeddings and head are not trained. For the decoder alone, give the regular expression
`r".*\\.decoder\\..*_proj"`.
"""


@contextmanager
def _without_warnings_of_names() -> Iterator[None]:
    """Silence a deprecation warning about PEFT's own use of transformers, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def attach_lora(model: DiaForConditionalGeneration, settings: Mapping[str, Any] | None = None) -> PeftModel:
    """Freeze a model and add LoRA adapters, which have no effect until they are trained.

    Args:
        model (`DiaForConditionalGeneration`): Model; it is wrapped, not copied.
        settings (`Mapping[str, Any]`, *optional*): `r` (rank, 32), `lora_alpha` (32), `lora_dropout` (0.0),
            `target_modules` (names, or one regular expression; `LORA_TARGET_MODULES`), `use_rslora` (`False`),
            `use_dora` (`False`).

    Returns:
        `PeftModel`: Model in which only the adapters require gradients; they are float32 for any dtype of the model.

    Raises:
        ValueError: If no module matches `target_modules`.
        ImportError: If PEFT is not installed: `pip install "dia-hf[train]"`.

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
    """Merge an adapter into the weights of its base model, in float32.

    Args:
        model (`DiaForConditionalGeneration`, `str` or `os.PathLike`, *optional*): Base model, modified in place, or its
            folder or Hub id; by default the one that the adapter names.
        adapter (`str` or `os.PathLike`): Folder written by PEFT, such as a run's `adapter`.

    Returns:
        `DiaForConditionalGeneration`: Merged model in float32.

    Raises:
        FileNotFoundError: If the folder has no adapter.
        ValueError: If the adapter does not fit the model, or neither names one nor is given one.
        ImportError: If PEFT is not installed: `pip install "dia-hf[train]"`.

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
            raise ValueError(f"{file} names no base model; give the model that the adapter was trained with.")
    if isinstance(model, (str, os.PathLike)):
        model = Dia.from_pretrained(model, compute_dtype=torch.float32, device="cpu", load_dac=False).model
    try:
        with _without_warnings_of_names():
            wrapped = peft.PeftModel.from_pretrained(model.float(), os.fspath(adapter))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter {os.fspath(adapter)!r} does not fit the model: {error}") from error
    return wrapped.merge_and_unload(safe_merge=True)
