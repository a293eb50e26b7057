"""The arguments of `dia-hf convert`."""

from __future__ import annotations

import argparse

from .options import DTYPES, add_extra_tag, add_result

__all__ = ["add_parser"]

LAYOUTS = ["huggingface", "nari-0626", "nari-v0.1", "mlx", "gguf-tts.cpp", "onnx", "onnx-codec"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf convert`."""
    convert = verbs.add_parser(
        "convert",
        help="convert a checkpoint",
        description="Make a complete checkpoint of one in another layout, or one for other software.",
    )
    convert.add_argument(
        "source", metavar="SOURCE", help="folder, weight file with its config.json, GGUF file, or name on the Hub"
    )
    convert.add_argument("dest", metavar="DEST", help="folder to be made")
    convert.add_argument(
        "--codec", metavar="SOURCE", help="DAC to put inside: descript's .pth file, a GGUF file, a folder or a name"
    )
    convert.add_argument(
        "--adapter", metavar="DIR|ID", help="adapter of PEFT to merge into the weights (dia-hf[train])"
    )
    convert.add_argument("--dtype", choices=DTYPES, help="default: that of the source")
    convert.add_argument("--max-shard-size", default="2GB", metavar="SIZE", help="limit of a weight file (2GB)")
    convert.add_argument("--to", choices=LAYOUTS, default="huggingface", help="layout to write (huggingface)")
    convert.add_argument(
        "--bits", type=int, metavar="BITS", help="quantize the weights: 8, 5, 4 in gguf-tts.cpp, and 8, 6, 4 in mlx"
    )
    add_extra_tag(convert, "of the tokenizer, for a fine-tune: nl=14 for the tag [nl] of byte 14, S3 for the next byte")
    convert.add_argument("--force", action="store_true", help="replace DEST if it is not empty")
    convert.add_argument("--dry-run", action="store_true", help="tell what would be done, and write nothing")
    add_result(convert, "path, written, summary")
