"""`dia-hf finetune`: a recipe, prepared data, and a checkpoint trained on it; also under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from .arguments import find_miniature, print_result

__all__ = ["run"]


def _model_of(folders: list[str]) -> str | None:
    """Return the model that data were prepared for; `None` where they do not say, or are none."""
    from ..data.prepared import read_info

    names = dict.fromkeys(read_info(folder).get("model") for folder in folders)
    if len(names) > 1:
        told = ", ".join("one that is not noted" if name is None else str(name) for name in names)
        raise ValueError(f"the data were prepared for several models ({told}); give --model.")
    return next(iter(names))


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf finetune`."""
    from dataclasses import replace

    from transformers.utils import logging

    from ..training import Recipe, finetune

    logging.disable_progress_bar()
    changes = {}
    for setting in args.set:
        key, is_given, value = setting.partition("=")
        if not is_given:
            raise ValueError(f"--set {setting!r} has no value; write KEY=VALUE, such as training.learning_rate=1e-4.")
        changes[key] = value
    kept = Path(args.output, "recipe.yaml")
    is_kept = args.resume and kept.is_file() and args.recipe is None
    recipe = Recipe.load(kept if is_kept else args.recipe or "lora")
    # A recipe of the user's own names its model; those that are shipped leave it to the data.
    is_open = not is_kept and not Path(args.recipe or "lora").is_file() and "model" not in changes
    model = args.model or (_model_of(args.data) if is_open else None)
    paths = {"data": args.data, "output": args.output, **({"model": find_miniature(model)} if model else {})}
    recipe = replace(recipe, **paths).change(changes)

    def say(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)

    with open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if args.quiet or args.json:  # the Trainer prints its metrics on standard output
            stack.enter_context(redirect_stdout(nowhere if args.quiet else sys.stderr))
        metrics = finetune(recipe, resume=args.resume, say=say)
    if os.environ.get("RANK", "0") == "0":
        losses = {"training": metrics.get("train_loss"), "evaluation": metrics.get("eval_loss")}
        said = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)
        result = {
            "path": args.output,
            "steps": metrics["step"],
            "seconds": metrics.get("train_runtime"),
            "train_loss": losses["training"],
            "eval_loss": losses["evaluation"],
        }
        print_result(args, f"{args.output}: {metrics['step']} steps; loss: {said}", result)
