"""Measure how long the command and `import dia_hf` take to start.

Usage: python benchmarks/start.py [--base SRC] [--repeats N] [--full]

`--full` adds the time to the first frame of a random bfloat16 checkpoint of the published size (3.2 GB on disk, in the
page cache), which it writes to a temporary folder, with its parts.

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

# From the shell to the first frame, with the time of each part.
FIRST_FRAME = """
import time
start = time.perf_counter()
import torch
imported_torch = time.perf_counter()
from dia_hf import DiaForConditionalGeneration, DiaProcessor
from dia_hf.speech import loading
imported = time.perf_counter()
import sys
quantization = sys.argv[2] if len(sys.argv) > 2 else None
model, processor = loading.load_model(sys.argv[1], device="cpu", quantization=quantization)
loaded = time.perf_counter()
from dia_hf.engine import make_frame_decoder
make_frame_decoder(model)
packed = time.perf_counter()
model.generate(**processor(text=["[S1] Hello, I am Dia. [S2] Welcome, Dia."]), max_new_tokens=1)
end = time.perf_counter()
print(imported_torch - start, imported - imported_torch, loaded - imported, packed - loaded, end - packed)
"""
PARTS = ("import torch", "import dia_hf", "load (and quantize)", "prepare the decoder", "text and first frame")


def run(args: list[str], source: Path) -> tuple[float, float]:
    """Run Python; return wall time and CPU time in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, *args], env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_first_frame(folder: Path, repeats: int) -> None:
    """Write a checkpoint of the published size, and print the time to its first frame and of each part."""
    make = (
        "import sys, torch\n"
        "from dia_hf.bench import make_config, make_model, make_processor\n"
        "config = make_config('full')\n"
        "make_model(config, dtype=torch.bfloat16).save_pretrained(sys.argv[1])\n"
        "make_processor(config, 'full').save_pretrained(sys.argv[1])\n"
    )
    run(["-c", make, str(folder)], SOURCE)
    os.sync()  # or writing it back competes with the first measurements
    print(f"\n| first frame, median of {repeats}, s | wall | {' | '.join(PARTS)} |\n|---{'|---' * (1 + len(PARTS))}|")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    schemes = ([], ["int8"], ["int4"])
    times: list[list[list[float]]] = [[] for _ in schemes]
    for repeat in range(repeats + 1):
        for values, scheme in zip(times, schemes, strict=True):
            start = time.perf_counter()
            command = [sys.executable, "-c", FIRST_FRAME, str(folder), *scheme]
            done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
            wall = time.perf_counter() - start
            if repeat > 0:  # the first fills the caches of files
                values.append([wall, *map(float, done.stdout.split()[-len(PARTS) :])])
    for values, scheme in zip(times, schemes, strict=True):
        cells = [f"{statistics.median(column):.2f}" for column in zip(*values, strict=True)]
        print(f"| 1.6B, {scheme[0] if scheme else 'bfloat16'} | {' | '.join(cells)} |")


def main() -> None:
    """Measure all candidates and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="the src folder of another version")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="also the first frame of the published size")
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
    if args.full:
        with tempfile.TemporaryDirectory() as folder:
            measure_first_frame(Path(folder), args.repeats)


if __name__ == "__main__":
    main()
