"""Model card of a training run: base model, data, method and loss. Called by `finetune.py`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from transformers import TrainerState

from ..assets import MINIATURE
from ..atomic_write import atomic_write
from ..data.prepared import read_info
from ..model_card import make_model_card
from .recipe import Recipe

__all__ = ["write_run_card"]

_NOTE = "The license is that of the base model, and what the recordings allow. State here whose voice it is."


def write_run_card(output: Path, recipe: Recipe, state: TrainerState) -> None:
    """Write a model card, unless there is one. It contains no paths of this machine."""
    file = output / "README.md"
    if file.exists():
        return
    is_local = recipe.model == MINIATURE or os.path.exists(recipe.model)
    name = f"`{Path(recipe.model).name if is_local else recipe.model}`"
    if recipe.config is not None:
        name = "random weights"
    elif recipe.model == MINIATURE:
        name = "the embedded miniature"
    folders = []
    for folder in recipe.data:
        with suppress(OSError, ValueError):  # the folder may have been moved since
            folders.append(read_info(folder))
    losses = {key: entry[key] for entry in state.log_history for key in ("loss", "eval_loss") if key in entry}
    labels = {"loss": "training", "eval_loss": "evaluation"}
    method = "all weights" if recipe.lora is None else "LoRA adapters, merged (also in `adapter/`, separately)"
    hours = sum(info.get("seconds", 0) for info in folders) / 3600
    facts = {
        "base model": name,
        "data": f"{', '.join(f'`{Path(folder).name}`' for folder in recipe.data)}, {hours:.2f} h",
        "trained": f"{method}, {state.global_step} steps",
        "loss": ", ".join(f"{labels[key]} {value:.3f}" for key, value in losses.items()) or "not logged",
        "recipe": "`recipe.yaml`, with the versions of the packages",
    }
    num_clips = sum(info.get("num_clips", 0) for info in folders)
    base_model = None if is_local else recipe.model
    with atomic_write(file) as path:
        path.write_text(
            make_model_card(f"Dia, trained on {num_clips} clips", facts, _NOTE, base_model=base_model), "utf-8"
        )
