"""The arguments of `dia-hf bench`."""

from __future__ import annotations

import argparse

from .options import DTYPES, count, positive, seed

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf bench`."""
    bench = verbs.add_parser(
        "bench",
        help="measure speed, accuracy or a server",
        description=(
            "Measure speed against transformers' own Dia, accuracy in reduced precision (--parity), or a speech server "
            "under load (--serve)."
        ),
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
    speed.add_argument("--kernels", action="store_true", help="say which kernels run here, and measure nothing")
    speed.add_argument("--against", choices=["transformers", "none"], default="transformers", help="the baseline")
    speed.add_argument("--codec", choices=["toy", "full"], help="of a random model; default: by its size")
    speed.add_argument("--repeats", type=count, default=3, metavar="N", help="iterations of each candidate (3)")
    speed.add_argument("--plot", metavar="F", help="draw the steps' times there, or the loads (needs matplotlib)")
    parity = bench.add_argument_group("parity", "against float32 on the same weights")
    schemes = ["bfloat16", "float16", "int8", "int4", "fp8"]
    parity.add_argument("--parity", nargs="+", choices=schemes, metavar="SCHEME", help=", ".join(schemes))
    parity.add_argument("--text", action="append", metavar="TEXT", help="instead of random ones; more than once")
    serving = bench.add_argument_group("serving", "load on a server of the OpenAI speech API, this one or another")
    serving.add_argument("--serve", metavar="URL", help="address of the server, such as http://127.0.0.1:8000")
    serving.add_argument(
        "--rate", type=rates, metavar="R,R", help="open loop: requests a second, at random times (1, 2, 4)"
    )
    serving.add_argument("--concurrency", type=counts, metavar="N,N", help="closed loop: requests at once")
    serving.add_argument("--duration", type=positive, metavar="S", help="seconds of each load (30)")
    serving.add_argument("--requests", type=count, metavar="N", help="number of requests of each load")
    serving.add_argument("--texts", metavar="F", help="texts, one a line; default: built-in ones")
    serving.add_argument("--voice", metavar="NAME", help="default: alloy")
    serving.add_argument("--served-model", metavar="ID", help="the model's name in requests; default: dia")
    serving.add_argument("--format", choices=["pcm", "wav"], help="default: pcm")
    serving.add_argument("--fields", metavar="JSON", help="""further fields of each request, such as '{"seed": 1}'""")
    serving.add_argument("--api-key", metavar="KEY", help="default: the environment's DIA_HF_API_KEY, if set")
    serving.add_argument("--seed", type=seed, metavar="N", help="of arrivals and texts (0)")


def rates(value: str) -> list[float]:
    """Read numbers above 0, with commas between them."""
    return [positive(part) for part in value.split(",")]


def counts(value: str) -> list[int]:
    """Read whole numbers of 1 or more, with commas between them."""
    return [count(part) for part in value.split(",")]
