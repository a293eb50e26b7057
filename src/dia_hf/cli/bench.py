"""`dia-hf bench`: speed, accuracy in reduced precision, or a server under load, as a table, JSON and a plot."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .arguments import check_writable

__all__ = ["run"]

_OF_SERVING = (
    *("rate", "concurrency", "duration", "requests", "texts", "voice", "served_model", "format", "fields", "api_key"),
    "seed",
)
_NOT_OF_SERVING = (
    *("model", "device", "threads", "greedy", "sample", "dtype", "quantize", "compile", "codec", "kernels", "parity"),
    "text",
)


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf bench`."""
    import torch
    from transformers.utils import logging

    from ..bench import make_config, make_model, make_processor
    from ..speech import Dia
    from ..speech.dia import resolve_device

    _check_serving(args)
    of_speed = {name: getattr(args, name) for name in ("dtype", "quantize", "codec", "plot")}
    given = [f"--{name}" for name, value in of_speed.items() if value is not None]
    if args.parity and given:
        raise ValueError(f"{' and '.join(given)} belong to speed; --parity names what is compared with float32.")
    if args.kernels and (args.parity or args.plot or args.output):
        raise ValueError("--kernels measures nothing; leave --parity, --output and --plot out.")
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
    if args.serve:
        _bench_serving(args)
        return
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
        (_say_kernels if args.kernels else _bench_parity if args.parity else _bench_speed)(args, make)
    finally:
        logging.set_verbosity(verbosity)


def _say_kernels(args: argparse.Namespace, make: Callable[[str | None], tuple[Any, Any]]) -> None:
    from ..bench import reduce_precision, tables
    from ..bench.kernels import kernels_of

    model, processor = make(args.dtype or ("bfloat16" if args.quantize else None))
    if args.quantize:
        model = reduce_precision(model, args.quantize)
    print(tables.align([["computed", "by"], *map(list, kernels_of(model, processor.codec).items())]))


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


def _check_serving(args: argparse.Namespace) -> None:
    given = {name for name, value in vars(args).items() if value is not None and value is not False}
    if args.serve is None and (lost := [f"--{name.replace('_', '-')}" for name in _OF_SERVING if name in given]):
        raise ValueError(f"{' and '.join(lost)} belong to --serve, the address of a server.")
    if args.serve is not None and (lost := [f"--{name}" for name in _NOT_OF_SERVING if name in given]):
        raise ValueError(f"{' and '.join(lost)} cannot be given with --serve, which measures a running server.")


def _bench_serving(args: argparse.Namespace) -> None:
    from ..bench import tables
    from ..bench.serving import SENTENCES, measure_serving
    from ..evaluation import read_sentences

    try:
        fields = json.loads(args.fields or "{}")
    except ValueError as error:
        raise ValueError(f"--fields is no JSON ({error}); give an object.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"""--fields is {args.fields}; give an object, such as '{{"seed": 1}}'.""")
    given = {"voice": args.voice, "model": args.served_model, "response_format": args.format}
    report = asyncio.run(
        measure_serving(
            args.serve,
            args.rate or ([] if args.concurrency else [1.0, 2.0, 4.0]),
            args.concurrency or [],
            args.duration or (None if args.requests else 30.0),
            args.requests,
            [sentence.text for sentence in read_sentences(args.texts)] if args.texts else SENTENCES,
            {**fields, **{name: value for name, value in given.items() if value is not None}},
            args.api_key or os.environ.get("DIA_HF_API_KEY"),
            args.seed or 0,
            say=_say_progress,
        )
    )
    print(tables.serving_table(report))
    if args.output is not None:
        tables.write_json(args.output, tables.environment("cpu"), serving=report)
    if args.plot is not None:
        tables.plot_loads(args.plot, report)


def _say_progress(line: str) -> None:
    print(f"dia-hf bench: {line}", file=sys.stderr, flush=True)
