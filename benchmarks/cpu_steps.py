"""Time of a decoder step of the 1.6B on a CPU: this checkout, another version of it, and transformers' own Dia.

    git worktree add ../base a8c5fcb
    python benchmarks/cpu_steps.py --base ../base/src [--threads 2] [--turns 3]

Random weights of the published size; bfloat16, int8 and int4, alone (two rows, under guidance) and eight at once. Each
candidate is a process of its own that keeps its model; they measure in turn (A B C A B C). A step is the time between
two frames that reach a streamer, sampling included; a turn's value is the median of its steps, ratios are taken within
a turn, and the median over turns counts. Two groups of processes run after each other, because all models together do
not fit into 24 GiB. Writes results/cpu_steps.md and .json; exits with 1 if an aim was missed. About 6 minutes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import turns

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
RESULTS = HERE / "results"
TRANSFORMERS = "transformers bfloat16"
TEXT_BYTES = 100
_SKIPPED_STEPS = 3  # warm-up: the first steps still fill caches and memory pools
_FRAMES = {1: 24, 2: 24, 16: 12}  # of a call, by rows


@dataclass
class Candidate:
    """Candidate and its measurements.

    Args:
        name (`str`): Its name.
        kind (`str`): "transformers", "bfloat16", "int8" or "int4".
        source (`str`): The folder `src` of its version.
        step_bytes (`dict[int, int]`): Bytes that a step reads, by rows.
        steps_ms (`dict[int, list[float]]`): Median step of each turn, by rows.
        first_frame_ms (`dict[int, list[float]]`): Time to the first frame, of each turn, by rows.
        peak_bytes (`int`): Peak memory of the process, weights before quantization included.
    """

    name: str
    kind: str
    source: str
    step_bytes: dict[int, int] = field(default_factory=dict)
    steps_ms: dict[int, list[float]] = field(default_factory=dict)
    first_frame_ms: dict[int, list[float]] = field(default_factory=dict)
    peak_bytes: int = 0


def prepare_worker(kind: str, source: Path, layers: int | None, threads: int) -> tuple[Any, Any]:
    """Make the model of a candidate; return a first answer and the function that measures a call."""
    import resource

    import torch

    import dia_hf
    from dia_hf.bench import make_config, make_model, random_inputs, reduce_precision, transformers_twin
    from dia_hf.bench.limits import cache_bytes, weight_bytes
    from dia_hf.bench.speed import PUBLISHED_SAMPLING, exact_length

    if not Path(dia_hf.__file__).resolve().is_relative_to(source.resolve()):
        raise RuntimeError(f"dia_hf was imported from {dia_hf.__file__}, not from {source}")
    torch.set_num_threads(threads)
    config = make_config("full")
    if layers is not None:
        config.decoder_config.num_hidden_layers = layers
    model: Any = make_model(config, dtype=torch.bfloat16)
    if kind == "transformers":
        model = transformers_twin(model)
    elif kind != "bfloat16":
        model = reduce_precision(model, kind)
    gc.collect()
    weights = weight_bytes(model)

    def measure(rows: int) -> dict[str, Any]:
        batch_size, frames = max(1, rows // 2), _FRAMES[rows]
        guidance = {} if rows > 1 else {"guidance_scale": 1.0}
        sampling = {**PUBLISHED_SAMPLING, **guidance}
        inputs = random_inputs(config, batch_size, TEXT_BYTES)
        times: list[float] = []

        class Stamps:
            def put(self, value: torch.Tensor) -> None:
                times.append(time.perf_counter())

            def end(self) -> None:
                pass

        torch.manual_seed(0)
        start = time.perf_counter()
        config_of_call = exact_length(model, frames, **sampling, do_sample=True)
        model.generate(**inputs, generation_config=config_of_call, streamer=Stamps())
        stamps = times[1:]  # the first is the prompt
        if len(stamps) != frames:
            raise RuntimeError(f"{len(stamps)} frames instead of {frames}")
        cached = cache_bytes(config, batch_size, 1 + frames / 2, TEXT_BYTES, torch.bfloat16) // (2 if rows == 1 else 1)
        return {
            "steps_ms": [1e3 * (b - a) for a, b in pairwise(stamps)][_SKIPPED_STEPS:],
            "first_frame_ms": 1e3 * (stamps[0] - start),
            "step_bytes": weights + cached,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    return {"weight_bytes": weights}, measure


def start_workers(
    candidates: Sequence[Candidate], layers: int | None, threads: int, stack: ExitStack
) -> dict[str, turns.Worker]:
    """Start the processes of some candidates, two at a time: a start is bound by one core."""
    workers = {}
    for first in range(0, len(candidates), 2):
        some = candidates[first : first + 2]
        for one in some:
            turns.say(f"starting {one.name}")
            command = [sys.executable, str(HERE / "cpu_steps.py"), "--worker", one.kind, "--threads", str(threads)]
            command += ["--source", one.source, *([] if layers is None else ["--layers", str(layers)])]
            workers[one.name] = turns.Worker(one.name, command, Path(one.source), threads)
            stack.callback(workers[one.name].close)
        for one in some:
            workers[one.name].read_line()
    return workers


def measure_turn(candidate: Candidate, worker: turns.Worker, rows: int, keep: bool = True) -> None:
    """Let a worker measure one call; the warm-up is not kept."""
    answer = worker.ask(rows=rows)
    candidate.step_bytes[rows] = answer["step_bytes"]
    candidate.peak_bytes = answer["peak_bytes"]
    if keep:
        candidate.steps_ms.setdefault(rows, []).append(statistics.median(answer["steps_ms"]))
        candidate.first_frame_ms.setdefault(rows, []).append(answer["first_frame_ms"])
        turns.say(f"{candidate.name}, {rows} rows: {candidate.steps_ms[rows][-1]:.1f} ms a step")


@dataclass
class Figure:
    """Ratio with an aim.

    Args:
        name (`str`): What is divided by what.
        value (`float`): Median over turns of the ratio within a turn.
        aim (`float`): The least that it must be.
        is_met (`bool`): Whether it is.
    """

    name: str
    value: float
    aim: float
    is_met: bool


AIMS = (
    ("bfloat16", "base bfloat16", 2, 1.3),
    ("int8", "base int8", 2, 1.8),
    ("int4", "base int4", 2, 1.6),
    ("int8", TRANSFORMERS, 2, 3.0),
    ("int4", TRANSFORMERS, 2, 4.0),
    ("int8", "base int8", 16, 2.5),
)


def find_figures(group: Sequence[Candidate]) -> list[Figure]:
    """Compute the ratios whose candidates are both in this group."""
    by_name = {candidate.name: candidate for candidate in group}
    figures = []
    for ours, theirs, rows, aim in AIMS:
        if ours in by_name and theirs in by_name:
            value = turns.ratio(by_name[theirs].steps_ms[rows], by_name[ours].steps_ms[rows])
            figures.append(Figure(f"{ours} / {theirs}, batch {rows // 2}", value, aim, value >= aim))
    return figures


def format_group(group: Sequence[Candidate], bandwidth: float, frame_rate: float) -> str:
    """Format a table of one group, one row a candidate."""
    theirs = group[0]
    head = (
        "candidate | batch 1: step, ms | times as fast as transformers | GB a step | limit of memory, ms | share of it "
        "| first frame, ms | batch 8: step, ms | times as fast | audio s a second | peak memory, GB"
    )
    lines = [f"| {head} |", "|---" * 11 + "|"]
    for one in group:
        limit = 1e3 * one.step_bytes[2] / bandwidth
        step = statistics.median(one.steps_ms[2])
        cells = [
            one.name,
            turns.spread(one.steps_ms[2]),
            f"{turns.ratio(theirs.steps_ms[2], one.steps_ms[2]):.2f}",
            f"{one.step_bytes[2] / 1e9:.2f}",
            f"{limit:.1f}",
            f"{limit / step:.0%}",
            turns.spread(one.first_frame_ms[2], 0),
            turns.spread(one.steps_ms[16]),
            f"{turns.ratio(theirs.steps_ms[16], one.steps_ms[16]):.2f}",
            f"{8e3 / frame_rate / statistics.median(one.steps_ms[16]):.2f}",
            f"{one.peak_bytes / 1e9:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def commit_of(source: Path) -> str:
    """Return the short commit of a source folder."""
    done = subprocess.run(
        ["git", "-C", str(source), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Run both groups, print the tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, metavar="SRC", help="the folder src of the version to compare with")
    parser.add_argument("--threads", type=int, default=2, help="of an operator (2)")
    parser.add_argument("--turns", type=int, default=3, help="of each candidate (3)")
    parser.add_argument("--layers", type=int, help="of the decoder; fewer, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, default=SOURCE, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker is not None:
        turns.answer_requests(lambda: prepare_worker(args.worker, args.source, args.layers, args.threads))
        return 0

    import torch

    from dia_hf.bench import tables
    from dia_hf.bench.limits import read_bandwidth

    torch.set_num_threads(args.threads)
    load_before = os.getloadavg()[0]
    base = [] if args.base is None else [(str(args.base.resolve()), "base ")]
    groups = [
        [Candidate(TRANSFORMERS, "transformers", str(SOURCE))]
        + [Candidate(prefix + kind, kind, source) for kind in kinds for source, prefix in [*base, (str(SOURCE), "")]]
        for kinds in (("bfloat16",), ("int8", "int4"))
    ]
    bandwidths: list[float] = []
    for group in groups:
        bandwidths.append(read_bandwidth("cpu"))
        with ExitStack() as stack:
            workers = start_workers(group, args.layers, args.threads, stack)
            for rows in (2, 16):
                for turn in range(args.turns + 1):
                    for one in group:
                        measure_turn(one, workers[one.name], rows, keep=turn > 0)
        bandwidths.append(read_bandwidth("cpu"))
        turns.say(f"bandwidth {bandwidths[-2] / 1e9:.1f} and {bandwidths[-1] / 1e9:.1f} GB/s")

    bandwidth, frame_rate = max(bandwidths), 44100 / 512
    figures = [figure for group in groups for figure in find_figures(group)]
    machine = tables.environment("cpu")
    commits = f"commit {commit_of(SOURCE)}" + (f", base is commit {commit_of(args.base)}" if args.base else "")
    size = "the published size (1.6B)" if args.layers is None else f"the published width, {args.layers} layers"
    method = (
        f"`python benchmarks/cpu_steps.py --base OTHER/src --threads {args.threads} --turns {args.turns}`: random "
        f"weights of {size}, {TEXT_BYTES} bytes of text, guidance and sampling as published; {commits}. Each candidate "
        f"is a process; they measure in turn, {args.turns} turns after a warm-up; median of the turns (lowest to "
        f"highest), ratios within a turn. {turns.describe_machine(machine, args.threads, load_before)}"
    )
    bounds = (
        f"Memory reads at {bandwidth / 1e9:.1f} GB/s (a matrix-vector product of 1 GB, the best of "
        f"{', '.join(f'{value / 1e9:.1f}' for value in bandwidths)}, before and after each group). The limit of memory "
        "is the bytes of a step divided by that; the share says how much of the bandwidth a step reaches. Peak memory "
        "is the process's, and includes the bfloat16 weights before they are quantized."
    )
    aims = [
        "| times as fast, a step | value | aim | met |",
        "|---|---|---|---|",
        *(f"| {one.name} | {one.value:.2f} | ≥ {one.aim:g} | {'yes' if one.is_met else 'no'} |" for one in figures),
    ]
    text = "\n\n".join(
        [
            "# Steps on a CPU",
            turns.wrap(method),
            *(format_group(group, bandwidth, frame_rate) for group in groups),
            turns.wrap(bounds),
            *(["\n".join(aims)] if figures else []),
        ]
    )
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "cpu_steps.md").write_text(text + "\n", "utf-8")
    named = {
        f"{title}, {one.name}": one
        for title, group in zip(("bfloat16", "quantized"), groups, strict=True)
        for one in group
    }
    for one in named.values():
        one.source = "base" if one.name.startswith("base ") else "this"  # no path of a machine
    tables.write_json(
        args.output / "cpu_steps.json",
        {**machine, "bandwidths": bandwidths, "threads": args.threads, "commits": commits},
        figures={one.name: one for one in figures},
        candidates=named,
    )
    print(text)
    return 0 if all(one.is_met for one in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
