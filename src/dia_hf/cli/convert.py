"""`dia-hf convert`: a complete checkpoint of one in any layout."""

from __future__ import annotations

import argparse

from .arguments import print_result, read_tags

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf convert`."""
    from transformers.utils import logging

    from ..conversion import convert_checkpoint

    logging.disable_progress_bar()
    report = convert_checkpoint(
        args.source,
        args.dest,
        codec=args.codec,
        adapter=args.adapter,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        to=args.to,
        bits=args.bits,
        extra_tags=read_tags(args.extra_tag),
        force=args.force,
        dry_run=args.dry_run,
        verbose=not args.quiet,
    )
    summary = report.splitlines()[-2]
    result = {"path": args.dest, "written": not args.dry_run, "summary": summary}
    print_result(args, report if args.dry_run else "\n".join(report.splitlines()[-2:]), result)
