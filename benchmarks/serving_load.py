"""Throughput and latency of `dia-hf serve` on the miniature, against transformers' own Dia behind a minimal route.

    python benchmarks/serving_load.py [--repeats 5] [--requests 48] [--threads 1]

Both servers run as processes of their own, the load generator in this one. Loads alternate: ours with 1 request at
once, ours with 8, transformers' with 1, ours in open loop at 60 % of the rate that 8 at once have reached. Within an
iteration, all requests have the same seed, so that both servers generate the same audio. Ratios are taken within each
iteration; the median over iterations counts. Writes results/serving.md and results/serving.json; exits with 1 if an aim
was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dia_hf.assets import MINIATURE
from dia_hf.bench import tables
from dia_hf.bench.serving import LoadFigures, measure_serving

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BATCH_SIZE = 8
SHARE = 0.6  # of the saturated rate, in open loop
START_SECONDS = 300.0  # for a server to load its model and warm up

TEXTS = (
    "[S1] Hello, my name is Dia.",
    "[S2] Good morning, my friend, and welcome.",
    "[S1] The cat and the dog sleep in the garden today.",
    "[S1] Hello, I am Dia. [S2] Welcome, Dia.",
    "[S2] My mother and my father drink coffee in the morning.",
    "[S1] What do you want for breakfast? [S2] Coffee, bread and cheese, please.",
    "[S1] My brother and my sister read a book of a happy lion in the snow.",
    "[S1] I love this music. [S2] We can play it now, and sing all night.",
    "[S2] On Monday we go to the city, on Tuesday we work at home, and on Sunday we sleep.",
    "[S1] Where is the white rabbit? [S2] It is here, in the old house, and it wants to eat an apple.",
    "[S1] Today is a cold day in January. [S2] Yes, and the snow is beautiful. [S1] Come in, we have hot tea for you.",
    "[S2] Seven children play in the garden with a big brown dog. [S1] Tomorrow they learn to read in a new school.",
)
"""Texts of 2 to 8 s."""


@dataclass
class Served:
    """Running server.

    Args:
        url (`str`): Address without a path.
        process (`subprocess.Popen`): Its process.
    """

    url: str
    process: subprocess.Popen


@contextmanager
def serve(command: Sequence[str], threads: int = 1) -> Iterator[Served]:
    """Run a server until it is ready, and end it with SIGTERM.

    Args:
        command (`Sequence[str]`): Arguments of Python, to which the file for the port is added.
        threads (`int`, defaults to 1): Threads of an operator.

    Raises:
        RuntimeError: If it does not become ready, or does not end with status 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        port_file, log = Path(folder, "port"), Path(folder, "log")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        with log.open("w") as lines:
            process = subprocess.Popen(
                [sys.executable, *command, str(port_file)], env=environment, stdout=lines, stderr=lines
            )
        try:
            end = time.monotonic() + START_SECONDS
            while not (url := _ready_url(port_file)):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{' '.join(command)} is not ready: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield Served(url, process)
            process.send_signal(signal.SIGTERM)
            if process.wait(60) not in (0, -signal.SIGTERM):  # uvicorn alone ends by the signal
                raise RuntimeError(
                    f"{' '.join(command)} has ended with {process.returncode}: {log.read_text()[-2000:]}"
                )
        finally:
            process.kill()
            process.wait()


def _ready_url(port_file: Path) -> str | None:
    port = port_file.read_text().strip() if port_file.is_file() else ""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10).close()
    except (OSError, ValueError):
        return None
    return f"http://127.0.0.1:{port}"


def measure(
    served: Served, seed: int, num_requests: int, concurrency: int | None = None, rate: float | None = None
) -> LoadFigures:
    """Send one load; texts are drawn by the seed, which is that of the requests as well."""
    rates, concurrencies = [] if rate is None else [rate], [] if concurrency is None else [concurrency]
    fields = {"response_format": "wav", "seed": seed}
    report = asyncio.run(
        measure_serving(served.url, rates, concurrencies, None, num_requests, TEXTS, fields, None, seed)
    )
    return report.loads[0]


def saturated_rate(load: LoadFigures) -> float:
    """Return the requests a second of a closed loop, until its last one was sent: after it, clients are idle."""
    return (load.num_requests - load.load) / load.requests[-1].arrival


LOADS = (
    "ours, 1 at once",
    f"ours, {BATCH_SIZE} at once",
    "transformers, 1 at once",
    f"ours, {SHARE:.0%} of saturation",
)


def run_iteration(ours: Served, theirs: Served, seed: int, num_requests: int) -> list[LoadFigures]:
    """Send all loads once, in the order of `LOADS`."""
    alone = measure(ours, seed, num_requests, concurrency=1)
    full = measure(ours, seed, 2 * num_requests, concurrency=BATCH_SIZE)
    baseline = measure(theirs, seed, num_requests, concurrency=1)
    steady = measure(ours, seed, 2 * num_requests, rate=SHARE * saturated_rate(full))
    return [alone, full, baseline, steady]


@dataclass
class Figure:
    """Figure with an aim.

    Args:
        name (`str`): Its name.
        values (`list[float]`): One of each iteration.
        value (`float`): The one that counts.
        aim (`str`): "≥ 3", for instance.
        is_met (`bool`): Whether it is.
    """

    name: str
    values: list[float]
    value: float
    aim: str
    is_met: bool


def find_figures(iterations: Sequence[Sequence[LoadFigures]]) -> list[Figure]:
    """Compute the figures with aims."""

    def p95(load: LoadFigures) -> float:
        assert load.first_audible is not None
        return load.first_audible.p95

    def figure(
        name: str, low: float, high: float, summary: Callable[[list[float]], float], read: Callable[..., float]
    ) -> Figure:
        values = [read(*loads) for loads in iterations]
        value = summary(values)
        aim = f"≥ {low:g}" if low else f"≤ {high:g}" if high else "0"
        return Figure(name, values, value, aim, low <= value <= high)

    inf, median = float("inf"), statistics.median
    return [
        figure(
            f"audio a second, {BATCH_SIZE} at once / 1 at once",
            *(3.0, inf, median, lambda alone, full, *_: full.audio_per_second / alone.audio_per_second),
        ),
        figure(
            f"audio a second, {BATCH_SIZE} at once / transformers, 1 at once",
            *(4.0, inf, median, lambda _, full, theirs, __: full.audio_per_second / theirs.audio_per_second),
        ),
        figure(
            f"p95 of the first audible sample, {BATCH_SIZE} at once / 1 at once",
            *(0.0, 3.0, median, lambda alone, full, *_: p95(full) / p95(alone)),
        ),
        figure(f"underruns at {SHARE:.0%} of saturation, in sum", 0.0, 0.0, sum, lambda *loads: loads[3].num_underruns),
        figure("errors, in sum", 0.0, 0.0, sum, lambda *loads: sum(sum(load.errors.values()) for load in loads)),
    ]


def describe_machine(machine: dict[str, Any]) -> str:
    """Return hardware and versions as a sentence."""
    versions = machine["versions"]
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"Python {versions['python']}, PyTorch {versions['torch']}, transformers {versions['transformers']}; "
        f"{time.strftime('%Y-%m-%d')}."
    )


def wrap(text: str) -> str:
    """Break a paragraph into lines, but no word."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def write_results(
    iterations: Sequence[Sequence[LoadFigures]], figures: Sequence[Figure], args: argparse.Namespace, load_before: float
) -> str:
    """Write results/serving.md and .json; return the tables."""

    def over(read: Callable[[LoadFigures], float | None], digits: int, factor: float = 1.0) -> list[str]:
        cells = []
        for loads in zip(*iterations, strict=True):
            values = [factor * value for value in map(read, loads) if value is not None]
            cells.append(
                f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
            )
        return cells

    def percentile(name: str, which: str) -> Callable[[LoadFigures], float | None]:
        return lambda load: getattr(getattr(load, name), which, None)

    rows = {
        "requests in an iteration": [str(load.num_requests) for load in iterations[0]],
        "audio seconds a second": over(lambda load: load.audio_per_second, 1),
        "requests a second": over(lambda load: load.num_requests / load.span_seconds, 2),
        "first byte, p50, ms": over(percentile("first_byte", "p50"), 0, 1e3),
        "first audible sample, p50, ms": over(percentile("first_audible", "p50"), 0, 1e3),
        "first audible sample, p95, ms": over(percentile("first_audible", "p95"), 0, 1e3),
        "end, p95, s": over(percentile("end", "p95"), 2),
        "underruns": over(lambda load: load.num_underruns, 0),
    }
    lines = [
        "| median of the iterations (lowest to highest) | " + " | ".join(LOADS) + " |",
        "|---" * (len(LOADS) + 1) + "|",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()),
        "",
        "| figure | value (lowest to highest) | aim | met |",
        "|---|---|---|---|",
        *(
            f"| {each.name} | {each.value:.3g} ({min(each.values):.3g} to {max(each.values):.3g}) | {each.aim} "
            f"| {'yes' if each.is_met else 'no'} |"
            for each in figures
        ),
    ]
    seconds = [request.audio_seconds for loads in iterations for request in loads[0].requests]
    machine = tables.environment("cpu")
    is_same = all(
        [request.audio_seconds for request in loads[0].requests]
        == [request.audio_seconds for request in loads[2].requests]
        for loads in iterations
    )
    command = f"python benchmarks/serving_load.py --repeats {args.repeats} --requests {args.requests}"
    method = (
        f"`{command} --threads {args.threads}`: the embedded miniature in float32, served by `dia-hf serve "
        f"--max-batch-size {BATCH_SIZE}` and, as the baseline, by transformers' own Dia behind one route of FastAPI "
        "that answers one request at a time with a whole wav (`serving_transformers.py`). Servers and load generator "
        f"are three processes on the same cores; threads of an operator: {args.threads}. {args.repeats} iterations, "
        f"the loads in turn, each with the texts and the seed of its iteration; answers in wav, {min(seconds):.1f} to "
        f"{max(seconds):.1f} s long. Both servers generate audio of {'the same' if is_same else 'other'} durations. "
        f"{describe_machine(machine)} Load average before the run: {load_before:.1f}."
    )
    notes = (
        "The first audible sample of the baseline comes with the whole. An underrun is a gap in a player that begins "
        "with the first sample. The saturated rate is that of the same iteration, with 8 requests at once, until the "
        "last one was sent."
    )
    paragraphs = ["# Serving", wrap(method), "\n".join(lines), wrap(notes)]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "serving.md").write_text("\n\n".join(paragraphs) + "\n", "utf-8")
    named = {
        f"iteration {number}, {name}": replace(load, requests=[])
        for number, loads in enumerate(iterations, start=1)
        for name, load in zip(LOADS, loads, strict=True)
    }
    tables.write_json(args.output / "serving.json", machine, figures={each.name: each for each in figures}, loads=named)
    return "\n".join(lines)


def main() -> int:
    """Start both servers, run all iterations, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="iterations (5)")
    parser.add_argument("--requests", type=int, default=48, help="one at a time; twice as many in the other loads (48)")
    parser.add_argument("--threads", type=int, default=1, help="of an operator, in both servers (1)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    own = ["-m", "dia_hf_command", "serve", "--max-batch-size", str(BATCH_SIZE), "--port", "0", "--port-file"]
    with (
        serve(own, args.threads) as ours,
        serve([str(HERE / "serving_transformers.py"), str(MINIATURE)], args.threads) as theirs,
    ):
        for served in (ours, theirs):
            measure(served, 0, len(TEXTS), concurrency=1)  # warm-up
        iterations = []
        for number in range(1, args.repeats + 1):
            iterations.append(run_iteration(ours, theirs, number, args.requests))
            rates = ", ".join(
                f"{name}: {load.audio_per_second:.1f}" for name, load in zip(LOADS, iterations[-1], strict=True)
            )
            print(f"iteration {number}: audio seconds a second: {rates}", file=sys.stderr, flush=True)
    figures = find_figures(iterations)
    print(write_results(iterations, figures, args, load_before))
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
