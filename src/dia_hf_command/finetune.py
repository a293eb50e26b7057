"""The arguments of `dia-hf finetune`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .options import MINIATURE, REAL_MODEL, add_result

__all__ = ["add_parser"]


class _Show(argparse.Action):
    """Print a file of the package, to be saved and edited."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        folders = [Path(MINIATURE).parent / name for name in ("recipes", "accelerate")]
        files = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
        if str(values) not in files:
            parser.error(f"argument --show: there is no {values!r}; choose from {', '.join(sorted(files))}")
        parser._print_message(files[values].read_text("utf-8"), sys.stdout)
        parser.exit()


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf finetune`."""
    finetune = verbs.add_parser(
        "finetune",
        help="train on prepared data",
        description="Train on prepared data, as a recipe says, and write a complete checkpoint. Also "
        "under `accelerate launch --no_python`.",
    )
    finetune.add_argument("data", nargs="+", metavar="DATA", help="folders of `dia-hf prepare`")
    finetune.add_argument("output", metavar="OUTPUT", help="a new folder for the result and the files of the run")
    finetune.add_argument("--recipe", metavar="NAME|FILE", help="lora (default), full or scratch, or a recipe file")
    finetune.add_argument(
        "--model",
        metavar="DIR|ID",
        help=f"model to start from; default: the one that DATA was prepared for, or {REAL_MODEL}",
    )
    finetune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: training.learning_rate=1e-4, lora.r=16, eval_fraction=0.1; more than once",
    )
    finetune.add_argument("--resume", action="store_true", help="continue the run in OUTPUT with its own recipe")
    finetune.add_argument(
        "--show",
        action=_Show,
        metavar="NAME",
        help="print the recipe lora, full or scratch, or the configuration ddp or fsdp2 for `accelerate launch`; exit",
    )
    add_result(finetune, "path, steps, seconds, train_loss, eval_loss")
