"""`dia-hf batch` over many rows of the miniature: killed twice at random and resumed, and on actors of Ray.

    python benchmarks/batch_rows.py whole killed [--rows N] [--seed N] [--work DIR]
    python benchmarks/batch_rows.py ray [--rows N] [--rounds N]

`whole` speaks a table undisturbed. `killed` speaks it again, with two SIGKILLs after random numbers of rows, resumes,
and compares all files with those of `whole` byte for byte. `ray` divides a table between one actor on one core and two
actors with a core each, in turns, and compares their rates: rows a second between the first and the last tenth of the
files, so without the start. Prints a line for each run; exits with 1 if bytes differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

HOME = Path(__file__).parent.parent
sys.path.insert(0, str(HOME / "src"))
# Ray's workers have niceness 15 by default: on a shared machine, other jobs come first.
os.environ.update(HF_HUB_OFFLINE="1", PYTHONPATH=str(HOME / "src"), RAY_worker_niceness="0")


def write_table(path: Path, num_rows: int, seed: int) -> None:
    """Write rows of one to three words."""
    from dia_hf.asr.wer import vocabulary_of
    from dia_hf.bench.serving import SENTENCES

    words = vocabulary_of(SENTENCES)
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_rows):
            said = " ".join(draw.choice(words) for _ in range(draw.randint(1, 3)))
            file.write(json.dumps({"id": f"line-{number:05d}", "text": f"[S{1 + number % 2}] {said}."}) + "\n")


def start(table: Path, output: Path, *options: str, cores: str | None = None) -> subprocess.Popen:
    """Start the command, on some cores."""
    command = [sys.executable, "-m", "dia_hf_command", "batch", str(table), str(output), "--device", "cpu", *options]
    pinned = ["taskset", "-c", cores] if cores else []
    return subprocess.Popen([*pinned, *command, "--quiet", "--json"], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> dict:
    """Wait for the command, and return its result."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the command ended with status {process.returncode}")
    return json.loads(said)


def lines_of(output: Path) -> int:
    """Count the rows in the manifest."""
    try:
        return (output / "metadata.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def run_whole(table: Path, output: Path) -> None:
    """Speak a table undisturbed."""
    begin = time.time()
    result = finish(start(table, output))
    report = json.loads((output / "report.json").read_text("utf-8"))["last_run"]
    print(
        f"whole: {result}, {time.time() - begin:.1f} s with the start; {report['rows'] / report['elapsed']:.2f} rows/s"
    )


def run_killed(table: Path, output: Path, num_rows: int, seed: int) -> None:
    """Speak a table with two kills, and resume."""
    draw = random.Random(seed)
    for place in sorted(draw.sample(range(1, num_rows), 2)):
        process = start(table, output)
        while lines_of(output) < place and process.poll() is None:
            time.sleep(0.05)
        time.sleep(draw.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = (output / "metadata.jsonl").read_bytes()
        num_left = len(content.rpartition(b"\n")[2])
        print(f"killed: {lines_of(output)} rows in the manifest, and {num_left} bytes of a line", flush=True)
    result = finish(start(table, output))
    print(f"resumed: {result}; {json.loads((output / 'report.json').read_text('utf-8'))['last_run']}")


def compare(one: Path, other: Path) -> bool:
    """Compare all files but the reports, which have times; return whether they are the same."""

    def names(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"report.json"}

    there, here = names(one), names(other)
    differ = [name for name in there & here if (one / name).read_bytes() != (other / name).read_bytes()]
    print(f"compared: {len(there & here)} files in both, {len(there ^ here)} in one only, {len(differ)} differ")
    return there == here and not differ


def rate_of(output: Path) -> float:
    """Return rows a second between the first and the last tenth of the files."""
    times = sorted(path.stat().st_mtime for path in output.rglob("*.wav"))
    low, high = len(times) // 10, len(times) - len(times) // 10 - 1
    return (high - low) / (times[high] - times[low])


def pin_actors(output: Path, cores: list[str]) -> None:
    """Give each actor that writes to a folder a core of its own, with all its threads."""
    pinned: dict[str, str] = {}
    while len(pinned) < len(cores):
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                is_actor = entry.name.isdecimal() and (entry / "cmdline").read_bytes().startswith(b"ray::MapWorker")
                if is_actor and entry.name not in pinned and os.getsid(int(entry.name)) == os.getsid(0):
                    pinned[entry.name] = cores[len(pinned)]
        time.sleep(0.2)
    while not any(output.rglob("*.wav")):  # until all threads are there
        time.sleep(0.2)
    for process, core in pinned.items():
        subprocess.run(["taskset", "-a", "-p", "-c", core, process], check=True, stdout=subprocess.DEVNULL)


def run_ray(work: Path, num_rows: int, num_rounds: int, seed: int) -> bool:
    """Compare one actor with two, in turns."""
    table, ratios, is_same = work / "ray.jsonl", [], True
    write_table(table, num_rows, seed)
    for turn in range(num_rounds):
        rates = {}
        for actors, cores in ((1, "0"), (2, "0,1")):
            output, begin = work / f"ray-{turn}-{actors}", time.time()
            process = start(table, output, "--ray", "--actors", str(actors), cores=cores)
            pin_actors(output, cores.split(","))
            finish(process)
            first = min(path.stat().st_mtime for path in output.rglob("*.wav"))
            rates[actors] = rate_of(output)
            print(
                f"ray: {actors} actors, {rates[actors]:.2f} rows/s; first file after {first - begin:.1f} s", flush=True
            )
        ratios.append(rates[2] / rates[1])
        is_same &= compare(work / f"ray-{turn}-1", work / f"ray-{turn}-2")
    all_ratios = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ray: two actors to one: {all_ratios}; median {statistics.median(ratios):.2f}")
    return is_same


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["whole", "killed", "ray"])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder to keep; default: a temporary one")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    table, is_same = work / "texts.jsonl", True
    if "ray" in args.parts:
        is_same = run_ray(work, args.rows, args.rounds, args.seed)
    if {"whole", "killed"} & set(args.parts):
        write_table(table, args.rows, args.seed)
    if "whole" in args.parts:
        run_whole(table, work / "whole")
    if "killed" in args.parts:
        run_killed(table, work / "killed", args.rows, args.seed)
        is_same &= compare(work / "whole", work / "killed")
    if args.work is None:
        shutil.rmtree(work)
    sys.exit(0 if is_same else 1)


if __name__ == "__main__":
    main()
