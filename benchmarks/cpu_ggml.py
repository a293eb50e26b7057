"""A decoder step of the 1.6B in int8 and int4 against ggml's matrix products of one, on the same CPU in the same run.

    benchmarks/ggml/build.sh FOLDER
    python benchmarks/cpu_ggml.py --program FOLDER/build/step_products [--threads 2] [--turns 5]

ggml computes the products alone (`ggml_mul_mat` at the shapes of all 18 layers and the head, distinct weights for each);
ours is the whole step between two frames, attention, sampling and all. int8 against Q8_0, int4 against Q4_0, and
bfloat16 against BF16 with `--bfloat16`. Of ggml's layouts the faster one counts. At 1 row (no guidance), 2 (one sample)
and 16 (eight). The candidates are processes that measure in turn; ratios are taken within a turn. Writes
results/cpu_ggml.md and .json; exits with 1 if at 2 rows a step takes longer than ggml's products. About 3 minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import turns
from cpu_steps import SOURCE, Candidate, commit_of, measure_turn, start_workers

RESULTS = Path(__file__).resolve().parent / "results"
TYPES = {"int8": "q8_0", "int4": "q4_0", "bfloat16": "bf16"}
LAYOUTS = ("plain", "repacked")
ROWS = (1, 2, 16)
_STEPS = 10  # of ggml, a turn


@dataclass
class Products:
    """ggml's products in one type and layout.

    Args:
        name (`str`): Type and layout.
        num_bytes (`int`): Size of the weights.
        steps_ms (`dict[int, list[float]]`): Median of each turn, by rows.
    """

    name: str
    num_bytes: int
    steps_ms: dict[int, list[float]] = field(default_factory=dict)


@dataclass
class Comparison:
    """Our step against ggml's products.

    Args:
        ours, theirs (`str`): Names.
        rows (`int`): Rows.
        ours_ms, theirs_ms (`list[float]`): Of each turn.
        ratio (`float`): Their products / our step; above 1 ours is faster.
    """

    ours: str
    theirs: str
    rows: int
    ours_ms: list[float]
    theirs_ms: list[float]
    ratio: float


def measure_products(worker: turns.Worker, one: Products, rows: int, keep: bool) -> None:
    """Let ggml's program measure one type."""
    values = [float(word) for word in worker.ask_line(f"{one.name} {rows} {_STEPS}").split()]
    if keep:
        one.steps_ms.setdefault(rows, []).append(statistics.median(values))
        turns.say(f"ggml {one.name}, {rows} rows: {one.steps_ms[rows][-1]:.1f} ms")


def main() -> int:
    """Run, print the table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="made by ggml/build.sh")
    parser.add_argument("--threads", type=int, default=2, help="of both sides (2)")
    parser.add_argument("--turns", type=int, default=5, help="of each candidate (5)")
    parser.add_argument("--layers", type=int, help="of both sides; fewer, to try the script")
    parser.add_argument("--bfloat16", action="store_true", help="compare bfloat16 as well")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    args = parser.parse_args()

    from dia_hf.bench import tables

    load_before = os.getloadavg()[0]
    kinds = ["int8", "int4", *(["bfloat16"] if args.bfloat16 else [])]
    ours = [Candidate(kind, kind, str(SOURCE)) for kind in kinds]
    with ExitStack() as stack:
        layers = 18 if args.layers is None else args.layers
        command = [str(args.program), str(args.threads), str(layers), *(TYPES[kind] for kind in kinds)]
        ggml = turns.Worker("ggml", command, None, args.threads)
        stack.callback(ggml.close)
        sizes = dict(part.rsplit(" ", 1) for part in ggml.read_line().strip().split(", ")[1:])
        theirs = [
            Products(f"{TYPES[kind]} {layout}", int(sizes[f"{TYPES[kind]} {layout}"]))
            for kind in kinds
            for layout in LAYOUTS
            if f"{TYPES[kind]} {layout}" in sizes
        ]
        workers = start_workers(ours, args.layers, args.threads, stack)
        for rows in ROWS:
            for turn in range(args.turns + 1):
                for one in ours:
                    measure_turn(one, workers[one.name], rows, keep=turn > 0)
                    for products in theirs:
                        if products.name.startswith(TYPES[one.kind]):
                            measure_products(ggml, products, rows, keep=turn > 0)

    comparisons = []
    for one in ours:
        for rows in ROWS:
            same = [products for products in theirs if products.name.startswith(TYPES[one.kind])]
            best = min(same, key=lambda products: statistics.median(products.steps_ms[rows]))
            mine, other = one.steps_ms[rows], best.steps_ms[rows]
            comparisons.append(Comparison(one.name, best.name, rows, mine, other, turns.ratio(other, mine)))
    lines = [
        "| rows | our step | ms | ggml's products | ms | products / step | all layouts of ggml, ms |",
        "|---" * 7 + "|",
    ]
    for each in sorted(comparisons, key=lambda each: each.rows):
        everything = ", ".join(
            f"{products.name} {statistics.median(products.steps_ms[each.rows]):.1f}"
            for products in theirs
            if products.name.startswith(TYPES[each.ours])
        )
        cells = [str(each.rows), each.ours, turns.spread(each.ours_ms), each.theirs, turns.spread(each.theirs_ms)]
        lines.append(f"| {' | '.join([*cells, f'{each.ratio:.2f}', everything])} |")
    machine = tables.environment("cpu")
    method = (
        f"`python benchmarks/cpu_ggml.py --program PROGRAM --threads {args.threads} --turns {args.turns}"
        f"{' --bfloat16' if args.bfloat16 else ''}`: {layers} layers of the published width and the head, random "
        "weights. ggml 0.25.3, built by `benchmarks/ggml/build.sh` (-O3 -march=native, OpenMP, repacked weights and "
        "llamafile's kernels on), computes the matrix products of a step alone; ours is the whole step, attention and "
        f"sampling included, 100 bytes of text. Ours is commit {commit_of(SOURCE)}. Processes that measure in turn, "
        f"{args.turns} turns after a warm-up; median of the turns (lowest to highest), ratios within a turn. "
        f"{turns.describe_machine(machine, args.threads, load_before)}"
    )
    note = (
        "1 row is a call without guidance, 2 rows one sample, 16 rows eight. Bytes of ggml's weights: "
        + ", ".join(f"{products.name} {products.num_bytes / 1e9:.2f} GB" for products in theirs)
        + "; of ours in a step: "
        + ", ".join(f"{one.name} {one.step_bytes[2] / 1e9:.2f} GB" for one in ours)
        + "."
    )
    text = "\n\n".join(["# Against ggml", turns.wrap(method), "\n".join(lines), turns.wrap(note)])
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "cpu_ggml.md").write_text(text + "\n", "utf-8")
    for one in ours:
        one.source = "this"  # no path of a machine
    tables.write_json(
        args.output / "cpu_ggml.json",
        machine,
        comparisons={f"{each.ours}, {each.rows} rows": each for each in comparisons},
        products={products.name: products for products in theirs},
    )
    print(text)
    return 0 if all(each.ratio >= 1 for each in comparisons if each.rows == 2) else 1


if __name__ == "__main__":
    sys.exit(main())
