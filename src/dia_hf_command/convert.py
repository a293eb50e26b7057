"""The arguments of `dia-hf convert`."""

from __future__ import annotations

import argparse

from .options import DTYPES, add_extra_tag, add_result

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf convert`."""
    convert = verbs.add_parser(
        "convert",
        help="convert a checkpoint",
        description="Make a complete checkpoint of one in the layout of Hugging Face or of nari-labs (0626, v0.1).",
    )
    convert.add_argument(
        "source", metavar="SOURCE", help="folder, weight file with its config.json, or name on the Hub"
    )
    convert.add_argument("dest", metavar="DEST", help="folder to be made")
    convert.add_argument(
        "--codec", metavar="SOURCE", help="DAC to put inside: descript's .pth file, a folder or a name"
    )
    convert.add_argument("--dtype", choices=DTYPES, help="default: that of the source")
    convert.add_argument("--max-shard-size", default="2GB", metavar="SIZE", help="limit of a weight file (2GB)")
    convert.add_argument("--to", choices=["huggingface", "nari-0626"], default="huggingface", help="layout to write")
    add_extra_tag(convert, "of the tokenizer, for a fine-tune: nl=14 for the tag [nl] of byte 14, S3 for the next byte")
    convert.add_argument("--force", action="store_true", help="replace DEST if it is not empty")
    convert.add_argument("--dry-run", action="store_true", help="tell what would be done, and write nothing")
    add_result(convert, "path, written, summary")
