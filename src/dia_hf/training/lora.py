"""LoRA adapters (Hu et al., 2021) with PEFT, attached to a model; `conversion/adapters.py` merges them into weights.

Knows nothing of data and training runs. Called by `finetune.py` and users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._extras import import_extra
from ..conversion.adapters import without_warnings_of_names
from ..modeling_dia import DiaForConditionalGeneration

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["LORA_TARGET_MODULES", "attach_lora"]

LORA_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
"""All weight matrices of all encoder and decoder layers.

The encoder is included because it reads the text: it has to adapt to another language, a new tag or another
pronunciation. It adds a quarter of the adapter parameters and little computation, since texts are short compared with
the decoder's frames. Embeddings and head are not trained. For the decoder alone, give the regular expression
`r".*\\.decoder\\..*_proj"`.
"""


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
    (114432, 5714560)

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
    with without_warnings_of_names():
        return peft.get_peft_model(model, config)
