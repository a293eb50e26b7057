"""Alignment heads of a trained checkpoint: are those of its base still the ones that follow the text.

Measured on clips of the run, in one pass each: nothing is generated.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from ..generation.alignment import check_heads, choose_heads
from ..processing_dia import DiaProcessor

__all__ = ["update_heads"]

_NUM_CLIPS = 8


def update_heads(model: Any, processor: DiaProcessor, clips: Any) -> None:
    """Check the `alignment_heads` of a trained model's generation config, and replace those that follow no longer.

    A model without them stays without: they are found at the first use of timestamps.

    Args:
        model (`DiaForConditionalGeneration`): The model. Heads that are no longer among the best are replaced by the
            best; where none follows the text, they are removed.
        processor (`DiaProcessor`): Its processor.
        clips: Map-style dataset with `text` and `codes`, of which the first eight are used.

    Warns:
        UserWarning: If they are replaced or removed.
    """
    heads = getattr(model.generation_config, "alignment_heads", None)
    if not heads:
        return

    def read() -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        for place in range(min(len(clips), _NUM_CLIPS)):
            codes = torch.as_tensor(clips[place]["codes"]).long()[: processor.config.max_training_frames]
            inputs = processor(text=[clips[place]["text"]], audio=[codes]).to(model.device)
            yield inputs["input_ids"], inputs["decoder_input_ids"], len(codes)

    try:
        kept = {tuple(pair) for pair in check_heads(heads, model)}
        found = choose_heads(model, read())
    except ValueError as error:
        model.generation_config.alignment_heads = None
        warnings.warn(f"the checkpoint is saved without the base's `alignment_heads`: {error}", stacklevel=2)
        return
    if not kept <= {tuple(pair) for pair in found}:
        model.generation_config.alignment_heads = found
        warnings.warn(
            f"other heads follow the text after training: `alignment_heads` are {found} instead of {heads}.",
            stacklevel=2,
        )
