"""The arguments of `dia-hf batch`."""

from __future__ import annotations

import argparse

from .options import add_device, add_dtype, add_model, add_result, add_sampling, count, positive, seed

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf batch`."""
    batch = verbs.add_parser(
        "batch",
        help="speak the rows of a table into files",
        description="Speak the rows of a table into files, with a manifest; the same command goes on after an "
        "interruption.",
    )
    batch.add_argument(
        "table",
        metavar="TABLE",
        help=".jsonl, .csv, .tsv or .parquet with text, and perhaps id, voice, seed and options",
    )
    batch.add_argument("output", metavar="OUTPUT", help="folder, new or of an earlier run")
    add_model(batch)
    batch.add_argument(
        "--format",
        choices=["wav", "flac", "mp3", "opus", "aac"],
        default="wav",
        help="of the files (wav); opus and aac need dia-hf[serve]",
    )
    batch.add_argument("--sample-rate", type=count, metavar="HZ", help="of the files; default: the model's")
    batch.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="from which seeds of rows are derived, with their ids (0)"
    )
    add_device(batch)
    add_dtype(batch)
    batch.add_argument("--quantize", choices=["int8", "int4", "fp8"], help="smaller weights (dia-hf[quantize])")
    batch.add_argument("--max-batch-size", type=count, default=16, metavar="N", help="samples to compute at once (16)")
    batch.add_argument("--voices", metavar="DIR", help="folder of saved voices; default: that of `dia-hf voices`")
    batch.add_argument(
        "--force", action="store_true", help="speak rows again that have changed, and drop those that are gone"
    )
    batch.add_argument(
        "--strict", action="store_true", help="exit status 3 also for implausible audio, not only failures"
    )
    defaults = batch.add_argument_group("defaults", "for rows that do not give their own")
    defaults.add_argument("--voice", metavar="NAME", help="a saved voice")
    defaults.add_argument("--max-seconds", type=positive, metavar="S", help="limit of the audio of a row")
    defaults.add_argument("--speed", type=positive, metavar="X", help="0.5 to 2, at the same pitch (dia-hf[audio])")
    defaults.add_argument("--loudness", type=float, metavar="LUFS", help="by BS.1770, such as -16 (dia-hf[audio])")
    add_sampling(batch)
    cluster = batch.add_argument_group("cluster", "Ray: that of RAY_ADDRESS, or one of this machine (dia-hf[ray])")
    cluster.add_argument("--ray", action="store_true", help="divide the rows between actors of Ray Data")
    cluster.add_argument("--actors", type=count, metavar="N", help="default: one for each GPU; without one, one")
    add_result(batch, "path, rows, done, failed, implausible, seconds, speed")
