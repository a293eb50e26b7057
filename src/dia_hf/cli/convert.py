"""`dia-hf convert`: a complete checkpoint of one in any layout."""

from __future__ import annotations

import argparse

from .arguments import DTYPES

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf convert`."""
    convert = verbs.add_parser(
        "convert",
        help="convert a checkpoint",
        description="Make a complete checkpoint of one in the layout of Hugging Face or of nari-labs (0626, v0.1).",
    )
    convert.set_defaults(run=_convert)
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
    convert.add_argument("--force", action="store_true", help="replace DEST if it is not empty")
    convert.add_argument("--dry-run", action="store_true", help="tell what would be done, and write nothing")


def _convert(args: argparse.Namespace) -> None:
    from ..conversion import convert_checkpoint

    report = convert_checkpoint(
        args.source,
        args.dest,
        codec=args.codec,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        to=args.to,
        force=args.force,
        dry_run=args.dry_run,
    )
    print(report if args.dry_run else "\n".join(report.splitlines()[-2:]))
