"""`dia-hf finetune`: a recipe, prepared data, and a checkpoint trained on it; also under `accelerate launch`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..assets import MINIATURE
from .arguments import REAL_MODEL, find_miniature

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf finetune`."""
    finetune = verbs.add_parser(
        "finetune",
        help="train on prepared data",
        description="Train on prepared data, as a recipe says, and write a checkpoint that is complete by itself. Also "
        "under `accelerate launch --no_python`.",
    )
    finetune.set_defaults(run=_finetune)
    finetune.add_argument("data", nargs="+", metavar="DATA", help="folders of `dia-hf prepare`")
    finetune.add_argument(
        "output", metavar="OUTPUT", help="a new folder for the result, and for all that the run keeps"
    )
    finetune.add_argument(
        "--recipe", metavar="NAME|FILE", help="lora (default), full or scratch, or a file like theirs"
    )
    finetune.add_argument(
        "--model", metavar="DIR|ID", help=f"start from it; default: what DATA was prepared for, or {REAL_MODEL}"
    )
    finetune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: training.learning_rate=1e-4, lora.r=16, eval_fraction=0.1; more than once",
    )
    finetune.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT, by its own recipe")
    finetune.add_argument(
        "--show",
        action=_Show,
        metavar="NAME",
        help="print the recipe lora, full or scratch, or the configuration ddp or fsdp2 for `accelerate launch`; exit",
    )


class _Show(argparse.Action):
    """Prints a file that comes with the package, to be kept and changed."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        folders = [Path(MINIATURE).parent / name for name in ("recipes", "accelerate")]
        files = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
        if str(values) not in files:
            parser.error(f"argument --show: there is no {values!r}; choose from {', '.join(sorted(files))}")
        print(files[values].read_text("utf-8"), end="")
        parser.exit()


def _model_of(folders: list[str]) -> str | None:
    """Return the model that data were prepared for; `None` where they do not say, or are none."""
    from ..data.prepared import read_info

    names = dict.fromkeys(read_info(folder).get("model") for folder in folders)
    if len(names) > 1:
        told = ", ".join("one that is not noted" if name is None else str(name) for name in names)
        raise ValueError(f"the data were prepared for several models ({told}); give --model.")
    return next(iter(names))


def _finetune(args: argparse.Namespace) -> None:
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
    metrics = finetune(recipe, resume=args.resume, say=lambda line: print(line, file=sys.stderr, flush=True))
    if os.environ.get("RANK", "0") == "0":
        losses = {"training": metrics.get("train_loss"), "evaluation": metrics.get("eval_loss")}
        said = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)
        print(f"{args.output}: {metrics['step']} steps; loss: {said}")
