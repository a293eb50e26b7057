"""Measure how long the command and `import dia_hf` take to start.

Usage: python benchmarks/start.py [--base SRC] [--repeats N]

All candidates run in turn, each in a process of its own, so that a busy machine slows all of them alike. The figures
are the medians of wall time and of CPU time (user and system). `--base` is the `src` folder of another version.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"

# The names of transformers that `import dia_hf` needs.
TRANSFORMERS = (
    "AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSpeechSeq2Seq, AutoModelForTextToWaveform, "
    "AutoProcessor, AutoTokenizer, BatchFeature, CompileConfig, DacModel, PreTrainedModel, ProcessorMixin, "
    "SequenceFeatureExtractor, TextToAudioPipeline, TorchAoConfig"
)


def run(args: list[str], source: Path) -> tuple[float, float]:
    """Run Python; return wall time and CPU time in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, *args], env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure all candidates and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="the src folder of another version")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "demo.wav"))
        demo = ["generate", "[S1] Hello, I am Dia. [S2] Welcome, Dia.", "--seed", "7", "--output", file]
        command = ["-m", "dia_hf_command"]
        candidates = {
            "import argparse, typer": (["-c", "import argparse, typer"], SOURCE),
            "dia-hf --help": ([*command, "--help"], SOURCE),
            "dia-hf generate --help": ([*command, "generate", "--help"], SOURCE),
            "import torch and transformers' classes": (
                ["-c", f"import torch\nfrom transformers import {TRANSFORMERS}"],
                SOURCE,
            ),
            "import dia_hf": (["-c", "import dia_hf"], SOURCE),
            "dia-hf generate, the demo": ([*command, *demo], SOURCE),
        }
        if args.base is not None:
            for name in ("dia-hf --help", "import dia_hf", "dia-hf generate, the demo"):
                candidates[f"{name} (base)"] = (candidates[name][0], args.base)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
        for repeat in range(args.repeats + 1):
            for name, (words, source) in candidates.items():
                measured = run(words, source)
                if repeat > 0:  # the first fills the caches of files
                    times[name].append(measured)
    width = max(map(len, times))
    print(f"| {'candidate'.ljust(width)} | wall, s | CPU, s |\n|:{'-' * (width + 1)}|--------:|-------:|")
    for name, values in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"| {name.ljust(width)} | {wall:7.2f} | {cpu:6.2f} |")


if __name__ == "__main__":
    main()
