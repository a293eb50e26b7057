"""Measure the codec's decoder at the published size on a CPU: time, exactness, memory.

Usage: python benchmarks/codec_speed.py [--base SRC] [--repeats N] [--seconds S] [--output FILE]

Every candidate is a process that waits for its turn. The turns alternate, so that a busy machine slows all of them
alike; the figures are medians. `--base` is the `src` folder of another version of this package. The network has the
size of descript/dac_44khz, 76.6 million parameters, and random weights, with which its samples depend on every layer.
The miniature is the codec of the embedded checkpoint. Errors are those against float32 of the first candidate: the
largest, and the root mean square as a part of that of the samples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent.parent / "src"
MINIATURE = SOURCE / "dia_hf" / "assets" / "miniature"
STREAMS = 8
TASKS = {
    "whole clip": {},
    "growing, 1 frame at a time": {"piece": 1, "frames": 24},
    "growing, 4 frames at a time": {"piece": 4, "frames": 64},
    "growing, 32 frames at a time": {"piece": 32, "frames": 128},
    f"{STREAMS} growing clips, 2 frames at a time": {"piece": 2, "frames": 16, "streams": STREAMS},
}


# --- a candidate ---


def make_network(name: str) -> Any:
    """Make a `DacModel` whose samples depend on every weight, or load the miniature's."""
    import torch
    from torch import nn
    from transformers import DacConfig, DacModel

    if name == "miniature":
        return DacModel.from_pretrained(MINIATURE, subfolder="audio_tokenizer").eval()
    torch.manual_seed(0)
    network = DacModel(DacConfig(sampling_rate=44100)).eval()
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("alpha"):
                nn.init.uniform_(parameter, 0.5, 2)
            elif parameter.ndim == 3:
                fan = parameter.shape[1 if "conv_t" not in key else 0] * parameter.shape[-1]
                fan = fan / 8 if "conv_t" in key else fan
                nn.init.normal_(parameter, std=0.5 * fan**-0.5)
            elif "codebook" not in key:
                nn.init.normal_(parameter, std=0.05)
    return network


def work(name: str, dtype: str) -> None:
    """Serve the turns of a candidate."""
    import torch

    try:
        from dia_hf.audio.dac import DacCodec
    except ImportError:  # a version before this file
        from dia_hf.codec import Codec as DacCodec
    network = make_network(name).to(getattr(torch, dtype))
    codec = DacCodec(network)
    codes = torch.randint(codec.codebook_size, (20000, codec.num_codebooks), generator=torch.Generator().manual_seed(1))

    def run(frames: int, piece: int = 0, streams: int = 1) -> Any:
        if piece == 0:
            return codec.decode([codes[:frames]])[0]
        growing = [codec.stream() for _ in range(streams)]
        margin = codec.decoder_margin
        for stream in growing:
            stream.push(codes[:margin])
        start = time.perf_counter()
        for begin in range(margin, margin + frames, piece):
            for stream in growing:
                stream.push(codes[begin : begin + piece])
            codec.pop_many(growing, [piece] * streams)
        return time.perf_counter() - start

    print(json.dumps({"rate": codec.sampling_rate, "hop": codec.hop_length}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        file = order.pop("file", None)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        result = run(**order)
        seconds = time.perf_counter() - start if order.get("piece", 0) == 0 else result
        if file is not None:
            torch.save(result, file)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"seconds": seconds, "grown": (peak - before) / 1024, "peak": peak / 1024}), flush=True)


class Candidate:
    """A process that measures one version in one dtype."""

    def __init__(self, source: Path, network: str, dtype: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(source)}
        command = [sys.executable, __file__, "--work", network, dtype]
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.about = self._read()

    def turn(self, **order: Any) -> dict[str, float]:
        """Run a task once; return seconds, and MiB of memory."""
        assert self.process.stdin is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a candidate has ended: {' '.join(map(str, self.process.args))}")
        return json.loads(line)


# --- the measurement ---


def measure_times(candidates: dict[str, Candidate], seconds: float, repeats: int) -> dict[str, dict[str, float]]:
    """Return, for each task, the real-time factor of each candidate: seconds of computing a second of audio."""
    table = {}
    for task, options in TASKS.items():
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for repeat in range(repeats + 1):
            for name, candidate in candidates.items():
                rate, hop = candidate.about["rate"], candidate.about["hop"]
                order = {"frames": int(seconds * rate / hop), **options}
                audio = order["frames"] * order.get("streams", 1) * hop / rate
                taken = candidate.turn(**order)["seconds"] / audio
                if repeat > 0:  # the first packs weights and compiles kernels
                    times[name].append(taken)
        table[task] = {name: statistics.median(values) for name, values in times.items()}
        print(task, table[task], file=sys.stderr)
    return table


def measure_errors(candidates: dict[str, Candidate], folder: str) -> dict[str, tuple[float, float]]:
    """Return the largest and the relative error of each candidate against the first."""
    import torch

    waves = {}
    for name, candidate in candidates.items():
        file = str(Path(folder, "wave.pt"))
        candidate.turn(frames=200, file=file)
        waves[name] = torch.load(file).double()
    exact = next(iter(waves.values()))
    return {
        name: (
            float((wave - exact).abs().max()),
            float((wave - exact).square().mean().sqrt() / exact.square().mean().sqrt()),
        )
        for name, wave in waves.items()
    }


def candidates_of(sources: dict[str, Path], network: str) -> dict[str, Candidate]:
    """Start a process for each version and dtype."""
    return {
        f"{name}, {dtype}": Candidate(source, network, dtype)
        for dtype in ("float32", "bfloat16")
        for name, source in sources.items()
    }


def table_of(header: list[str], rows: list[list[str]]) -> str:
    """Format a table in Markdown."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(f"| {line} |" for line in padded)


def processor() -> str:
    """Return the name of the processor, and what there is of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        flags = next(line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return platform.processor()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in flags]
    return f"{name}, {os.cpu_count()} cores, {', '.join(known)}"


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="the src folder of another version")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the whole clip")
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
    else:
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Measure all candidates and print the tables."""
    sources = {"this": SOURCE} if args.base is None else {"base": args.base, "this": SOURCE}
    figures: dict[str, Any] = {"processor": processor()}
    with tempfile.TemporaryDirectory() as folder:
        for network in ("random", "miniature"):
            candidates = candidates_of(sources, network)
            figures[f"errors, {network}"] = measure_errors(candidates, folder)
            if network == "random":
                figures["times"] = measure_times(candidates, args.seconds, args.repeats)
            for candidate in candidates.values():
                candidate.close()
        memory = {}
        for dtype in ("float32", "bfloat16"):
            for name, source in sources.items():
                candidate = Candidate(source, "random", dtype)
                rate = candidate.about["rate"] / candidate.about["hop"]
                memory[f"{name}, {dtype}"] = [candidate.turn(frames=int(seconds * rate)) for seconds in (1, 60)]
                candidate.close()
        figures["memory"] = memory
    if args.output is not None:
        args.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    first = f"{next(iter(sources))}, float32"
    names = list(figures["memory"])
    print(f"Processor: {figures['processor']}\n\nReal-time factor, and how many times as fast as {first}:\n")
    rows = [
        [task, *(f"{row[name]:.3f} ({row[first] / row[name]:.2f} x)" for name in names)]
        for task, row in figures["times"].items()
    ]
    print(table_of(["task", *names], rows), f"\nErrors against {first}, largest and relative:\n", sep="\n")
    networks = ("random", "miniature")
    rows = [
        [name, *("{:.1e}, {:.1e}".format(*figures[f"errors, {network}"][name]) for network in networks)]
        for name in names
    ]
    print(table_of(["candidate", *networks], rows), "\nMemory in MiB, of the process:\n", sep="\n")
    rows = [
        [name, *(f"{turn[key]:.0f}" for turn in turns for key in ("grown", "peak"))]
        for name, turns in figures["memory"].items()
    ]
    print(table_of(["candidate", "1 s: more", "peak", "then 60 s: more", "peak"], rows))


if __name__ == "__main__":
    main()
