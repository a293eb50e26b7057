"""Throughput of two replicas under Ray Serve, one core each, against one replica with one core.

    python benchmarks/serving_replicas.py [--repeats 3] [--requests 48]

One Ray of this machine runs two applications of each model: one with a replica that is bound to the first core, and one
with two replicas, each bound to a core of its own. Their loads alternate in one run, a closed loop of `BATCH_SIZE`
requests at once for each replica:

- one core: the replica, and all else (load generator, proxy, Ray) on the first core;
- one replica: the replica on the first core, all else on either;
- two replicas: a replica on each core, all else on either.

The models are the embedded miniature, and a larger one with random weights, beside whose steps the work of proxy and
load generator is smaller. Ratios are taken within each iteration. Writes results/serving_replicas.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dia_hf import DiaConfig, DiaForConditionalGeneration, DiaProcessor
from dia_hf.assets import MINIATURE
from dia_hf.bench import tables
from dia_hf.bench.serving import SENTENCES, measure_serving
from dia_hf.serving.local_cluster import LocalCluster
from dia_hf.serving.ray import AppArguments, app
from turns import describe_machine, say, spread, wrap

RESULTS = Path(__file__).resolve().parent / "results"
BATCH_SIZE = 16
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


def processes(title: str) -> list[Path]:
    """Return the folders in /proc of the processes of Ray whose title begins so, in order of their start."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if (folder / "cmdline").read_text().startswith(title):
                found.append(folder)
    return sorted(found, key=lambda folder: int(folder.name))


def bind(folder: Path, cores: set[int]) -> None:
    """Bind all threads of a process."""
    for thread in (folder / "task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def others() -> list[Path]:
    """Return the proxy, Ray's own processes, and the load generator, which is this process."""
    return [*processes("ray::ProxyActor"), *processes("ray::ServeController"), Path("/proc", str(os.getpid()))]


def used(folders: Sequence[Path]) -> float:
    """Return the processor seconds that processes have used."""
    times = [(folder / "stat").read_text().rpartition(")")[2].split()[11:13] for folder in folders]
    return sum(int(ticks) for pair in times for ticks in pair) / os.sysconf("SC_CLK_TCK")


@dataclass
class Load:
    """Figures of a load.

    Args:
        throughput (`float`): Seconds of audio a second, until the last request was sent: after it, clients are idle.
        first_byte (`float`): Median, in milliseconds.
        share (`float`): Cores that load generator, proxy and controller used.
        num_errors (`int`): Requests that failed.
    """

    throughput: float
    first_byte: float
    share: float
    num_errors: int


def measure(url: str, replicas: int, seed: int, requests: int, fields: dict[str, Any]) -> Load:
    """Send a closed loop of a full batch for each replica, and as many requests for each."""
    fields = {"response_format": "wav", "seed": seed, **fields}
    at_once = [replicas * BATCH_SIZE]
    begin, before = time.monotonic(), used(others())
    report = asyncio.run(measure_serving(url, (), at_once, None, replicas * requests, SENTENCES, fields, None, seed))
    share = (used(others()) - before) / (time.monotonic() - begin)
    (load,) = report.loads
    until = load.requests[-1].arrival
    throughput = sum(one.audio_seconds for one in load.requests if one.end + one.arrival <= until) / until
    assert load.first_byte is not None
    return Load(throughput, 1e3 * load.first_byte.p50, share, sum(load.errors.values()))


def run(models: dict[str, tuple[str, dict[str, Any]]], args: argparse.Namespace) -> dict[str, list[list[Load]]]:
    """Start the applications, and measure all of them in turn."""
    from ray import serve

    common = {"max_batch_size": BATCH_SIZE, "num_cpus": 0.1, "max_queue": 1000}
    cores = sorted(os.sched_getaffinity(0))
    loads: dict[str, list[list[Load]]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory(prefix="dia") as folder:
        cluster = LocalCluster(AppArguments(model=MINIATURE, **common), port=0, temp_dir=folder)
        try:
            cluster.start()
            serve.delete("dia")
            paths = list(dict.fromkeys(path for path, _ in models.values()))
            for number, path in enumerate(paths):
                for replicas in (1, 2):
                    name = f"m{number}r{replicas}"
                    arguments = AppArguments(model=path, replicas=replicas, **common)
                    serve.run(app(arguments), name=name, route_prefix=f"/{name}")
                    for core, replica in zip(cores, processes(f"ray::ServeReplica:{name}:"), strict=False):
                        bind(replica, {core})
            for turn in range(args.repeats + 1):  # the first one is a warm-up
                for name, (path, fields) in models.items():
                    measured = []
                    for replicas, allowed in ((1, cores[:1]), (1, cores), (2, cores)):
                        for process in others():
                            bind(process, set(allowed))
                        url = f"http://127.0.0.1:{cluster.port}/m{paths.index(path)}r{replicas}"
                        measured.append(measure(url, replicas, turn, args.requests if turn else BATCH_SIZE, fields))
                    say(f"{turn}, {name}: {', '.join(f'{one.throughput:.1f}' for one in measured)} s of audio a second")
                    if turn:
                        loads[name].append(measured)
        finally:
            cluster.close()
    return loads


def table(loads: dict[str, list[list[Load]]]) -> tuple[str, dict[str, dict[str, float]]]:
    """Return the table, and the median ratio of two replicas to either kind of one, by kind and model."""
    lines = [
        "| model | on | seconds of audio a second | two replicas / this | first byte, p50, ms | cores of all else "
        "| errors |",
        "|---|---|---|---|---|---|---|",
    ]
    medians: dict[str, dict[str, float]] = {"one core": {}, "one replica": {}}
    for name, turns in loads.items():
        for place, kind in enumerate(("one core", "one replica", "two replicas")):
            here = [turn[place] for turn in turns]
            ratios = [turn[2].throughput / turn[place].throughput for turn in turns]
            cells = [name, kind, spread([one.throughput for one in here]), spread(ratios, 2)]
            cells += [spread([one.first_byte for one in here], 0), spread([one.share for one in here], 2)]
            lines.append(f"| {' | '.join([*cells, str(sum(one.num_errors for one in here))])} |")
            if kind in medians:
                medians[kind][name] = statistics.median(ratios)
    return "\n".join(lines), medians


def main() -> int:
    """Measure, write the page, and print the table; return 1 if two replicas on two cores miss the aim against one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="iterations (3)")
    parser.add_argument("--requests", type=int, default=48, help="of a load, for each replica (48)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    args = parser.parse_args()
    load_before, begin = os.getloadavg()[0], time.monotonic()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        size = make_larger(Path(folder))
        larger = f"random weights, {size / 1e6:.0f}M"
        models: dict[str, tuple[str, dict[str, Any]]] = {
            "miniature, 3.2M": (str(MINIATURE), {}),
            larger: (folder, {"max_seconds": SECONDS}),
            f"{larger}, not streamed": (folder, {"max_seconds": SECONDS, "stream": False}),
        }
        loads = run(models, args)
    lines, ratios = table(loads)
    method = (
        f"`python benchmarks/serving_replicas.py --repeats {args.repeats} --requests {args.requests}`: replicas under "
        f"Ray Serve with a batch of {BATCH_SIZE}, each bound to one core, in a closed loop of {BATCH_SIZE} requests at "
        f"once for each; answers in wav, streamed. {args.repeats} iterations in which the loads alternate; median "
        '(lowest to highest), ratios within an iteration. "All else" is the load generator, the proxy and Ray\'s '
        "controller: on one core they share it with the replica, beside one replica they have a core to themselves, "
        "and beside two they share both. "
        f"{describe_machine(tables.environment('cpu'), 1, load_before)} "
        f"Duration: {time.monotonic() - begin:.0f} s."
    )
    is_met = {kind: min(ratios[kind].values()) >= AIM for kind in ratios}
    told = ", ".join(f"{'yes' if met else 'no'} against {kind}" for kind, met in is_met.items())
    aim = f"Aim: two replicas at least {AIM} with each model. Met: {told}."
    args.output.mkdir(parents=True, exist_ok=True)
    page = "\n\n".join(["# Replicas under Ray Serve", wrap(method), lines, wrap(aim)]) + "\n"
    (args.output / "serving_replicas.md").write_text(page, "utf-8")
    print(lines)
    return 0 if is_met["one core"] else 1


if __name__ == "__main__":
    sys.exit(main())
