"""The arguments of `dia-hf heads`."""

from __future__ import annotations

import argparse

from .options import add_device, add_dtype, add_result

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf heads`."""
    heads = verbs.add_parser(
        "heads",
        help="find the alignment heads of a checkpoint",
        description="Find the heads of cross-attention that follow the text, which times of words need, in speech of "
        "the model's own, and write them into its generation_config.json.",
    )
    heads.add_argument("model", metavar="DIR", help="folder of a checkpoint in the layout of Hugging Face")
    heads.add_argument(
        "--texts", metavar="F", help="texts to speak, one a line, in a language of the model; default: four of English"
    )
    heads.add_argument("--dry-run", action="store_true", help="tell which they are, and write nothing")
    add_device(heads)
    add_dtype(heads)
    add_result(heads, "path, written, alignment_heads, before")
