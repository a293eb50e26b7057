"""The arguments of `dia-hf bench`."""

from __future__ import annotations

import argparse

from .options import DTYPES, count

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf bench`."""
    bench = verbs.add_parser(
        "bench",
        help="measure speed or accuracy",
        description="Measure speed against transformers' own Dia, or accuracy in reduced precision (--parity).",
    )
    bench.add_argument(
        "--size", choices=["toy", "mid", "full"], default="toy", help="of random weights; full: the published 1.6B"
    )
    bench.add_argument("--model", metavar="DIR|ID", help="a checkpoint's weights instead of random ones")
    bench.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    bench.add_argument("--threads", type=count, metavar="N", help="of a CPU; default: torch's")
    bench.add_argument("--batch-size", type=count, default=1, metavar="N", help="texts at once (1)")
    bench.add_argument("--text-bytes", type=count, default=100, metavar="N", help="length of each random text (100)")
    bench.add_argument("--frames", type=count, default=64, metavar="N", help="new frames (64)")
    drawing = bench.add_mutually_exclusive_group()
    drawing.add_argument("--greedy", action="store_true", help="take the best token; default with --parity")
    drawing.add_argument("--sample", action="store_true", help="sample as published; default for speed")
    bench.add_argument("--output", "-o", metavar="F", help="write all figures there, as JSON")
    speed = bench.add_argument_group("speed")
    speed.add_argument(
        "--dtype", choices=DTYPES, help="default: that of the checkpoint, else float32; bfloat16 with --quantize"
    )
    speed.add_argument("--quantize", choices=["int8", "int4", "fp8"], help="our weights, not the baseline's")
    speed.add_argument(
        "--compile", action="store_true", default=None, help="measure ours compiled on a CPU, too (a C++ compiler)"
    )
    speed.add_argument("--against", choices=["transformers", "none"], default="transformers", help="the baseline")
    speed.add_argument("--codec", choices=["toy", "full"], help="of a random model; default: by its size")
    speed.add_argument("--repeats", type=count, default=3, metavar="N", help="iterations of each candidate (3)")
    speed.add_argument("--plot", metavar="F", help="draw the steps' times there (needs matplotlib)")
    parity = bench.add_argument_group("parity", "against float32 on the same weights")
    schemes = ["bfloat16", "float16", "int8", "int4", "fp8"]
    parity.add_argument("--parity", nargs="+", choices=schemes, metavar="SCHEME", help=", ".join(schemes))
    parity.add_argument("--text", action="append", metavar="TEXT", help="instead of random ones; more than once")
