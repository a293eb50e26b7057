"""`dia-hf heads`: the alignment heads of a checkpoint, found in speech of its own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..text_files import read_text
from .arguments import print_result

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf heads`."""
    from transformers.utils import logging

    from ..calibration import TEXTS
    from ..generation import find_alignment_heads
    from ..generation.alignment import store_heads
    from ..speech import Dia

    file = Path(args.model, "generation_config.json")
    if not args.dry_run and not (file.is_file() and os.access(file.parent, os.W_OK)):
        raise ValueError(
            f"{args.model!r} is no folder with a generation_config.json that can be written; convert the checkpoint "
            "into a folder first (`dia-hf convert`), or give --dry-run."
        )
    texts = list(TEXTS[:4])
    if args.texts is not None:
        texts = [line.strip() for line in read_text(args.texts).split("\n") if line.strip()]
    logging.disable_progress_bar()
    dia = Dia.from_pretrained(args.model, compute_dtype=args.dtype, device=args.device, load_dac=False)
    before = getattr(dia.model.generation_config, "alignment_heads", None)
    found = find_alignment_heads(dia.model, dia.processor.tokenizer, texts)
    if not args.dry_run:
        store_heads(args.model, found)
    told = "as before" if found == before else f"before: {before}" if before else "before: none"
    result = {"path": str(file), "written": not args.dry_run, "alignment_heads": found, "before": before}
    print_result(args, f"{file}: alignment_heads {found} ({told})", result)
