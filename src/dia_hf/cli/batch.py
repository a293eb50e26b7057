"""`dia-hf batch`: the rows of a table, spoken into files."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from ..assets import MINIATURE
from .arguments import MINIATURE_NOTE, check_writable, print_result, sampling_of

__all__ = ["run"]


def run(args: argparse.Namespace) -> int:
    """Run `dia-hf batch`; return the exit status."""
    if args.actors is not None and not args.ray:
        raise ValueError("--actors is the number of actors of --ray, which is missing.")
    check_writable("OUTPUT", Path(args.output, "batch.json"))

    from transformers.utils import logging

    from ..batch import BatchReport, BatchSettings, run_batch
    from ..batch.tables import check_table
    from ..speech.dia import Dia
    from ..speech.engine import share_cores

    check_table(Path(args.table))
    options = {
        **sampling_of(args),
        **{name: getattr(args, name) for name in ("voice", "max_seconds", "speed", "loudness")},
    }
    settings = BatchSettings(
        format=args.format,
        sample_rate=args.sample_rate,
        seed=args.seed,
        options={name: value for name, value in options.items() if value is not None},
    )
    logging.disable_progress_bar()
    warnings.simplefilter("default", UserWarning)  # not once for each row
    if args.model == MINIATURE and not args.quiet:
        print(MINIATURE_NOTE, file=sys.stderr)
    common = {
        "voices": args.voices,
        "max_batch_size": args.max_batch_size,
        "force": args.force,
        "verbose": not args.quiet,
    }
    report: BatchReport
    try:
        if args.ray:
            from ..batch.ray import run_batch_on_ray

            loading = {"compute_dtype": args.dtype, "device": args.device, "quantization": args.quantize}
            report = run_batch_on_ray(
                args.model, args.table, args.output, settings, num_actors=args.actors, **loading, **common
            )
        else:
            dia = Dia.from_pretrained(args.model, args.dtype, args.device, quantization=args.quantize)
            share_cores(dia)
            report = run_batch(dia, args.table, args.output, settings, **common)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("rows that are spoken are kept; the same command goes on from there.") from error
    result = {
        "path": args.output,
        "rows": report.num_rows,
        "done": report.num_done,
        "failed": len(report.failures),
        "implausible": report.num_implausible,
        "seconds": round(report.seconds, 3),
        "speed": round(report.speed, 3),
    }
    files = "metadata.jsonl and failed.jsonl" if report.failures else "metadata.jsonl"
    print_result(args, f"{report}\n{args.output}: read {files} there", result)
    if report.failures and args.quiet and not args.json:
        failed = Path(args.output, "failed.jsonl")
        warnings.warn(f"{len(report.failures)} of {report.num_rows} rows failed; read {failed}", stacklevel=2)
    return 3 if report.failures or (args.strict and report.num_implausible) else 0
