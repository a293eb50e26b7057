"""Throughput of two replicas under Ray Serve, one core each, against one replica with one core.

    python benchmarks/serving_replicas.py [--repeats 3] [--requests 48]

One Ray of this machine runs two applications of each model: one with a replica that is bound to the first core, and one
with two replicas, each bound to a core of its own. Their loads alternate in one run, a closed loop of `BATCH_SIZE`
requests at once for each replica. Load generator, proxy and Ray itself run on both cores, so with two replicas they
share these. The models are the embedded miniature, and a larger one with random weights, beside whose steps the work of
proxy and load generator is small. Ratios are taken within each iteration. Writes results/serving_replicas.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from turns import describe_machine, say, spread, wrap

from dia_hf import DiaConfig, DiaForConditionalGeneration, DiaProcessor
from dia_hf.assets import MINIATURE
from dia_hf.bench import tables
from dia_hf.bench.serving import SENTENCES, LoadFigures, measure_serving
from dia_hf.serving.local_cluster import LocalCluster
from dia_hf.serving.ray import AppArguments, app

RESULTS = Path(__file__).resolve().parent / "results"
BATCH_SIZE = 8
AIM = 1.8
LARGER = {"hidden_size": 384, "intermediate_size": 1152, "num_hidden_layers": 8, "num_attention_heads": 12}
SECONDS = 3.0  # of audio, which random weights do not end by themselves


def make_larger(folder: Path) -> int:
    """Write a model with random weights and the miniature's codec; return its number of parameters."""
    config = DiaConfig.from_pretrained(MINIATURE)
    for name, value in LARGER.items():
        setattr(config.decoder_config, name, value)
    torch.manual_seed(0)
    model = DiaForConditionalGeneration(config)
    model.generation_config = DiaForConditionalGeneration.from_pretrained(MINIATURE).generation_config
    model.save_pretrained(folder)
    DiaProcessor.from_pretrained(MINIATURE).save_pretrained(folder)
    return model.num_parameters()


def bind(application: str) -> None:
    """Bind each replica of an application, with all its threads, to a core of its own."""
    title = f"ray::ServeReplica:{application}:"
    cores = sorted(os.sched_getaffinity(0))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_text().startswith(title):
                continue
            core = {cores.pop(0)}
            for thread in (process / "task").iterdir():
                os.sched_setaffinity(int(thread.name), core)
        except (FileNotFoundError, ProcessLookupError):
            continue


def measure(url: str, application: str, replicas: int, seed: int, requests: int, fields: dict[str, Any]) -> LoadFigures:
    """Send a closed loop of a full batch for each replica, and as many requests for each."""
    fields = {"response_format": "wav", "seed": seed, **fields}
    at_once = [replicas * BATCH_SIZE]
    report = asyncio.run(
        measure_serving(f"{url}/{application}", (), at_once, None, replicas * requests, SENTENCES, fields, None, seed)
    )
    return report.loads[0]


def saturated(load: LoadFigures) -> float:
    """Return seconds of audio a second until the last request was sent: after it, clients are idle."""
    until = load.requests[-1].arrival
    return sum(one.audio_seconds for one in load.requests if one.end + one.arrival <= until) / until


def run(models: dict[str, tuple[str, dict[str, Any]]], args: argparse.Namespace) -> dict[str, list[list[LoadFigures]]]:
    """Start the applications, and measure all of them in turn."""
    from ray import serve

    common = {"max_batch_size": BATCH_SIZE, "num_cpus": 0.1, "max_queue": 1000}
    loads: dict[str, list[list[LoadFigures]]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory(prefix="dia") as folder:
        cluster = LocalCluster(AppArguments(model=MINIATURE, **common), port=0, temp_dir=folder)
        try:
            cluster.start()
            serve.delete("dia")
            for number, (path, _) in enumerate(models.values()):
                for replicas in (1, 2):
                    name = f"m{number}r{replicas}"
                    arguments = AppArguments(model=path, replicas=replicas, **common)
                    serve.run(app(arguments), name=name, route_prefix=f"/{name}")
                    bind(name)
            url = f"http://127.0.0.1:{cluster.port}"
            for turn in range(args.repeats + 1):  # the first one is a warm-up
                for number, (name, (_, fields)) in enumerate(models.items()):
                    requests = args.requests if turn else BATCH_SIZE
                    pair = [measure(url, f"m{number}r{count}", count, turn, requests, fields) for count in (1, 2)]
                    if turn:
                        loads[name].append(pair)
                        say(f"{turn}, {name}: {', '.join(f'{saturated(one):.1f}' for one in pair)} s of audio a second")
        finally:
            cluster.close()
    return loads


def table(loads: dict[str, list[list[LoadFigures]]]) -> tuple[str, dict[str, float]]:
    """Return the table, and the median ratio of each model."""
    lines = [
        "| model | seconds of audio a second, one replica | two replicas | ratio | first byte, p50, ms, one | two "
        "| errors |",
        "|---|---|---|---|---|---|---|",
    ]
    medians = {}
    for name, turns in loads.items():
        one, two = ([saturated(pair[place]) for pair in turns] for place in (0, 1))
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        medians[name] = statistics.median(ratios)
        first = [spread([1e3 * pair[place].first_byte.p50 for pair in turns], 0) for place in (0, 1)]  # type: ignore
        errors = sum(sum(load.errors.values()) for pair in turns for load in pair)
        cells = [name, spread(one), spread(two), spread(ratios, 2), *first, str(errors)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines), medians


def main() -> int:
    """Measure, write the page, and print the table; return 1 if the larger model misses the aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="iterations (3)")
    parser.add_argument("--requests", type=int, default=48, help="of an iteration, for each replica (48)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    args = parser.parse_args()
    load_before, begin = os.getloadavg()[0], time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        size = make_larger(Path(folder))
        small, large = "miniature, 3.2M", f"random weights, {size / 1e6:.0f}M"
        loads = run({small: (str(MINIATURE), {}), large: (folder, {"max_seconds": SECONDS})}, args)
    lines, ratios = table(loads)
    method = (
        f"`python benchmarks/serving_replicas.py --repeats {args.repeats} --requests {args.requests}`: replicas under "
        f"Ray Serve with a batch of {BATCH_SIZE}, each bound to one core, in a closed loop of {BATCH_SIZE} requests at "
        f"once for each; answers in wav, streamed. {args.repeats} iterations in which the loads alternate; median "
        "(lowest to highest), ratios within an iteration. Proxy, load generator and Ray run on both cores: beside one "
        "replica they have a core to themselves, beside two they do not. "
        f"{describe_machine(tables.environment('cpu'), 1, load_before)} "
        f"Duration: {time.monotonic() - begin:.0f} s."
    )
    aim = f"Aim: at least {AIM} with the larger model. Reached: {'yes' if ratios[large] >= AIM else 'no'}."
    args.output.mkdir(parents=True, exist_ok=True)
    page = "\n\n".join(["# Replicas under Ray Serve", wrap(method), lines, wrap(aim)]) + "\n"
    (args.output / "serving_replicas.md").write_text(page, "utf-8")
    print(lines)
    return 0 if ratios[large] >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
