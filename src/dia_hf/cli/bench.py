"""`dia-hf bench`: speed, or accuracy in reduced precision, as a table, JSON and a plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .arguments import DTYPES, check_writable, count

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf bench`."""
    bench = verbs.add_parser(
        "bench",
        help="measure speed or accuracy",
        description="Measure speed against transformers' own Dia, or accuracy in reduced precision (--parity).",
    )
    bench.set_defaults(run=_bench)
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


def _bench(args: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging

    from ..bench import make_config, make_model, make_processor
    from ..speech import Dia
    from ..speech.dia import resolve_device

    of_speed = {name: getattr(args, name) for name in ("dtype", "quantize", "codec", "plot")}
    given = [f"--{name}" for name, value in of_speed.items() if value is not None]
    if args.parity and given:
        raise ValueError(f"{' and '.join(given)} belong to speed; --parity names what is compared with float32.")
    if args.text and not args.parity:
        raise ValueError("--text is for --parity; speed depends on the length alone: --text-bytes.")
    if args.model and args.codec:
        raise ValueError("--codec is for random models; a checkpoint brings its own.")
    logging.disable_progress_bar()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    for option, path in (("--output", args.output), ("--plot", args.plot)):
        if path is not None:
            check_writable(option, Path(path))
    if args.output is not None and args.plot is not None and Path(args.output).resolve() == Path(args.plot).resolve():
        raise ValueError(f"--output and --plot are both {args.output!r}; give two files.")
    device = resolve_device(args.device)

    def make(dtype: str | None) -> tuple[Any, Any]:
        _say_progress(f"loading {args.model}" if args.model else f"random weights, size {args.size}")
        if args.model:
            dia = Dia.from_pretrained(args.model, compute_dtype=dtype, device=device)
            return dia.model, dia.processor
        config = make_config(args.size)
        codec = args.codec or ("full" if args.size == "full" and not args.parity else "toy")
        processor = make_processor(config, codec, device)
        return make_model(config, device, getattr(torch, dtype or "float32")), processor

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or each greedy call is told that `top_k`, the guidance's filter, is for sampling
    try:
        (_bench_parity if args.parity else _bench_speed)(args, make)
    finally:
        logging.set_verbosity(verbosity)


def _bench_speed(args: argparse.Namespace, make: Callable[[str | None], tuple[Any, Any]]) -> None:
    from ..bench import make_candidates, measure_speed, random_inputs, tables

    model, processor = make(args.dtype or ("bfloat16" if args.quantize else None))
    candidates = make_candidates(model, args.quantize, args.against, args.compile)
    inputs = random_inputs(model.config, args.batch_size, args.text_bytes, model.device)
    result = measure_speed(candidates, inputs, processor, args.frames, not args.greedy, args.repeats, say=_say_progress)
    result.settings.update(size=args.model or args.size, quantize=args.quantize)
    print(tables.speed_table(result))
    if args.output is not None:
        tables.write_json(args.output, tables.environment(model.device), speed=result)
    if args.plot is not None:
        tables.plot_steps(args.plot, result)


def _bench_parity(args: argparse.Namespace, make: Callable[[str | None], tuple[Any, Any]]) -> None:
    from ..bench import compare, random_inputs, record_reference, reduce_precision, tables

    model, processor = make("float32")
    device = model.device
    random = random_inputs(model.config, args.batch_size, args.text_bytes)
    inputs = dict(processor(args.text)) if args.text else random
    _say_progress("float32")
    reference = record_reference(model, inputs, args.frames, args.sample)
    reports = {}
    for number, scheme in enumerate(args.parity):
        # One model at a time: at full size two do not fit everywhere. The first scheme takes over the reference's.
        model = reduce_precision(model if number == 0 else make("float32")[0], scheme)
        _say_progress(scheme)
        reports[scheme] = compare(reference, model, inputs)
        model = None
    print(tables.parity_table(reports))
    if args.output is not None:
        tables.write_json(args.output, tables.environment(device), parity=reports)


def _say_progress(line: str) -> None:
    print(f"dia-hf bench: {line}", file=sys.stderr, flush=True)
