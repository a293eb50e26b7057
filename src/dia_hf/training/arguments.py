"""`TrainingArguments` of a run: the recipe's values, and defaults for what it leaves open.

Called by `finetune.py`.
"""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from transformers import TrainingArguments

from ..text_files import first_line
from .recipe import Recipe
from .run_dir import checkpoints_of

__all__ = ["make_arguments", "reporters"]


def make_arguments(recipe: Recipe, has_evaluation: bool) -> TrainingArguments:
    """Return the arguments of a recipe's `training`, with defaults for values that it leaves open.

    Raises:
        ValueError: If the values cannot be used or contradict each other.
    """
    training = dict(recipe.training)
    if not has_evaluation:
        asked = [training.pop("eval_strategy", "no") != "no", training.pop("load_best_model_at_end", False)]
        if any(asked) or recipe.early_stopping_patience is not None or recipe.speak is not None:
            warnings.warn(
                "there are no clips for evaluation: evaluation, spoken samples and early stopping are off; give "
                "`eval_data`, or a larger `eval_fraction`.",
                stacklevel=3,
            )
    # Otherwise each process of a launch without GPUs would train separately.
    training.setdefault("use_cpu", not torch.accelerator.is_available())
    if not training.get("fp16") and not training["use_cpu"] and torch.cuda.is_available():
        training.setdefault("bf16", torch.cuda.is_bf16_supported(including_emulation=False))
    if training.get("gradient_checkpointing"):
        training.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    if "activation_checkpointing" in TrainingArguments.__dataclass_fields__:  # renamed in transformers 5.23
        training = {
            name.replace("gradient_checkpointing", "activation_checkpointing"): training[name] for name in training
        }
    if has_evaluation:
        training.setdefault("eval_strategy", "epoch")
    if has_evaluation and recipe.early_stopping_patience is not None:
        training.setdefault("save_strategy", training["eval_strategy"])
        training.setdefault("save_steps", training.get("eval_steps", training.get("logging_steps", 500)))
        training.setdefault("load_best_model_at_end", True)
        training.setdefault("metric_for_best_model", "eval_loss")
        # The early-stopping counter is part of the resumed state.
        training.setdefault("restore_callback_states_from_checkpoint", True)
    if str(training.get("metric_for_best_model", "")).endswith("_wer"):
        training.setdefault("greater_is_better", False)
    if has_evaluation and training.get("load_best_model_at_end"):
        _check_saves(training)
    if training.get("fp16") and training["use_cpu"]:
        raise ValueError("`training.fp16` needs a GPU; leave it out, or set `training.bf16`.")
    training.setdefault("logging_nan_inf_filter", False)  # the filter reports a NaN loss as 0
    training.setdefault("prediction_loss_only", True)
    training.setdefault("dataloader_pin_memory", not training["use_cpu"])
    training.setdefault("ddp_find_unused_parameters", False)
    # TensorBoard's callback is added by `make_callbacks`, with its folder.
    training["report_to"] = [name for name in reporters(recipe) if name != "tensorboard"] or "none"
    try:
        arguments = TrainingArguments(
            output_dir=str(checkpoints_of(recipe)),
            seed=recipe.seed,
            remove_unused_columns=False,
            label_names=["labels"],
            **training,
        )
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"the recipe's `training` is not valid: {first_line(error, 300)}") from error
    arguments.distributed_state.wait_for_everyone()  # all processes have checked the output before it is written
    _enable_fsdp_on_cpu(arguments)
    if arguments.n_gpu > 1:
        warnings.warn(
            f"{arguments.n_gpu} GPUs were found, but only one is used; to use all: accelerate launch --multi_gpu "
            "--no_python dia-hf finetune ...",
            stacklevel=3,
        )
        arguments._n_gpu = 1  # otherwise `Trainer` uses `nn.DataParallel`
    return arguments


def _check_saves(training: dict[str, Any]) -> None:
    """Raise `ValueError` unless each evaluation has a checkpoint, which keeping the best weights needs."""
    saved, evaluated = (str(training.get(name, "steps")) for name in ("save_strategy", "eval_strategy"))
    if saved != evaluated:
        raise ValueError(
            f"to keep the best weights, `training.save_strategy` ({saved!r}) must be `training.eval_strategy` "
            f"({evaluated!r}); or set `early_stopping_patience` to null."
        )
    saves, evaluations = (
        training.get(name, training.get("logging_steps", 500)) for name in ("save_steps", "eval_steps")
    )
    if evaluated == "steps" and min(saves, evaluations) >= 1 and saves % evaluations:
        raise ValueError(
            f"to keep the best weights, `training.save_steps` ({saves}) must be a multiple of `training.eval_steps` "
            f"({evaluations})."
        )


def _enable_fsdp_on_cpu(arguments: TrainingArguments) -> None:
    """Enable FSDP on CPUs, where accelerate would silently use DDP."""
    if arguments.use_cpu and os.environ.get("ACCELERATE_USE_FSDP") == "true" and arguments.world_size > 1:
        from accelerate import PartialState
        from accelerate.utils import DistributedType

        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def reporters(recipe: Recipe) -> list[str]:
    """Return the integrations that receive logs: those of the recipe, or else TensorBoard if it is installed."""
    given = recipe.training.get("report_to")
    if given is None:
        return ["tensorboard"] * (find_spec("tensorboard") is not None)
    return [given] if isinstance(given, str) else given
