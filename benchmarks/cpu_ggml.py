"""A decoder step of the 1.6B in int8 and int4 against ggml's matrix products of one, on the same CPU in the same run.

    benchmarks/ggml/build.sh FOLDER
    python benchmarks/cpu_ggml.py --programs FOLDER [--threads 2] [--turns 5]

ggml computes the products alone: `ggml_mul_mat` at the shapes of all 18 layers and the head, with distinct weights for
each. Ours is the whole step between two frames, attention, sampling and all. int8 against Q8_0, int4 against Q4_0, and
bfloat16 against BF16 with `--bfloat16`. Of ggml's kernels (its own, llamafile's) and layouts the fastest counts. At 1
row (no guidance), 2 (one sample) and 16 (eight). The candidates are processes that measure in turn; ratios are taken
within a turn. Writes results/cpu_ggml.md and .json; exits with 1 if at 2 rows a step takes longer than ggml's products.
About 4 minutes.
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
KERNELS = {"ggml": ("plain", "repacked"), "llamafile": ("plain",)}
"""Programs of ggml/build.sh, by the kernels that they prefer, and the layouts to measure: repacked ones have others."""
ROWS = (1, 2, 16)
_STEPS = 10  # of ggml, a turn


@dataclass
class Products:
    """ggml's products in one type and layout, by one program.

    Args:
        kernels (`str`): The program.
        name (`str`): Type and layout.
        num_bytes (`int`): Size of the weights.
        steps_ms (`dict[int, list[float]]`): Median of each turn, by rows.
    """

    kernels: str
    name: str
    num_bytes: int
    steps_ms: dict[int, list[float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name in tables."""
        return f"{self.name}, {self.kernels}'s kernels"


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
        turns.say(f"{one.title}, {rows} rows: {one.steps_ms[rows][-1]:.1f} ms")


def main() -> int:
    """Run, print the table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=Path, required=True, metavar="FOLDER", help="made by ggml/build.sh")
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
        types = [TYPES[kind] for kind in kinds]
        ggml, theirs = {}, []
        for kernels, layouts in KERNELS.items():
            program = str(args.programs / f"step_products_{kernels}")
            ggml[kernels] = turns.Worker(kernels, [program, str(args.threads), str(layers), *types], None, args.threads)
            stack.callback(ggml[kernels].close)
            sizes = dict(part.rsplit(" ", 1) for part in ggml[kernels].read_line().strip().split(", ")[1:])
            names = [f"{kind} {layout}" for kind in types for layout in layouts]
            theirs += [Products(kernels, name, int(sizes[name])) for name in names if name in sizes]
        workers = start_workers(ours, args.layers, args.threads, stack)
        for rows in ROWS:
            for turn in range(args.turns + 1):
                for one in ours:
                    measure_turn(one, workers[one.name], rows, keep=turn > 0)
                    for products in theirs:
                        if products.name.startswith(TYPES[one.kind]):
                            measure_products(ggml[products.kernels], products, rows, keep=turn > 0)

    comparisons = []
    for one in ours:
        for rows in ROWS:
            same = [products for products in theirs if products.name.startswith(TYPES[one.kind])]
            best = min(same, key=lambda products: statistics.median(products.steps_ms[rows]))
            mine, other = one.steps_ms[rows], best.steps_ms[rows]
            comparisons.append(Comparison(one.name, best.title, rows, mine, other, turns.ratio(other, mine)))
    lines = [
        "| rows | our step | ms | ggml's products | ms | products / step | all of ggml's, ms |",
        "|---" * 7 + "|",
    ]
    for each in sorted(comparisons, key=lambda each: each.rows):
        everything = ", ".join(
            f"{products.title} {statistics.median(products.steps_ms[each.rows]):.1f}"
            for products in theirs
            if products.name.startswith(TYPES[each.ours])
        )
        cells = [str(each.rows), each.ours, turns.spread(each.ours_ms), each.theirs, turns.spread(each.theirs_ms)]
        lines.append(f"| {' | '.join([*cells, f'{each.ratio:.2f}', everything])} |")
    machine = tables.environment("cpu")
    method = (
        f"`python benchmarks/cpu_ggml.py --programs FOLDER --threads {args.threads} --turns {args.turns}"
        f"{' --bfloat16' if args.bfloat16 else ''}`: {layers} layers of the published width and the head, random "
        "weights. ggml 0.25.3, built by `benchmarks/ggml/build.sh` (-O3 -march=native, OpenMP), computes the "
        "matrix products of a step alone, the head in the same type; ours is the whole step, attention and "
        f"sampling included, 100 bytes of text. Ours is commit {commit_of(SOURCE)}. Processes that measure in turn, "
        f"{args.turns} turns after a warm-up; median of the turns (lowest to highest), ratios within a turn. "
        f"{turns.describe_machine(machine, args.threads, load_before)}"
    )
    sizes_of = {each.name: each.num_bytes for each in theirs}
    note = (
        "1 row is a call without guidance, 2 rows one sample, 16 rows eight. Bytes of ggml's weights: "
        + ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in sizes_of.items())
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
        products={products.title: products for products in theirs},
    )
    print(text)
    return 0 if all(each.ratio >= 1 for each in comparisons if each.rows == 2) else 1


if __name__ == "__main__":
    sys.exit(main())
