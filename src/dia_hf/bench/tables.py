"""Output of the benchmarks: text tables, JSON and plots, with a description of the machine.

Called by `dia-hf bench` and the scripts in `benchmarks/`.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .._extras import import_extra
from ..atomic_write import atomic_write
from .parity import ParityReport
from .serving import LoadFigures, Percentiles, ServingReport
from .speed import Speed, SpeedReport

__all__ = [
    "align",
    "environment",
    "parity_table",
    "plot_loads",
    "plot_steps",
    "serving_table",
    "speed_table",
    "write_json",
]

_NOISY = 1.5  # p90 / p10 of the step time above which ratios are not reliable


def environment(device: str | torch.device) -> dict[str, Any]:
    """Describe the hardware and the package versions.

    Args:
        device (`str` or `torch.device`): Device of the models.

    Returns:
        `dict`: `cpu`, `cores` (available to this process), `memory_bytes`, `gpu`, `gpu_memory_bytes` (`None` without
        CUDA), and `versions` of python, torch, transformers and dia_hf.
    """
    device, gpu, gpu_memory = torch.device(device), None, None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpu, gpu_memory = properties.name, properties.total_memory
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpu": gpu,
        "gpu_memory_bytes": gpu_memory,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "dia_hf": version("dia-hf"),
        },
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return match[1] if match else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _speed_rows(report: SpeedReport) -> dict[str, Callable[[Speed], str]]:
    """Return the rows of the table: a label, and a function from a candidate's measurements to a cell."""
    rate, batch_size = report.frame_rate, report.settings["batch_size"]

    def real_time(*parts: str) -> Callable[[Speed], str]:
        def read(speed: Speed) -> str:
            return f"{(speed.audio_seconds or 0) / sum(getattr(speed, part) for part in parts):.3g}"

        return read

    def steps(speed: Speed) -> str:
        assert speed.step is not None
        return f"{1e3 * batch_size / rate / speed.step.median:.3g}"

    return {
        "step, ms (median)": lambda speed: _number(speed.step and speed.step.median),
        "  p10 to p90": lambda speed: "-" if speed.step is None else f"{speed.step.p10:.2f} to {speed.step.p90:.2f}",
        "speedup, step": lambda speed: _number(speed.ratio),
        "memory limit of a step, ms": lambda speed: _number(speed.limit_ms),
        "limit / step": lambda speed: (
            "-" if speed.step is None or speed.limit_ms is None else f"{speed.limit_ms / speed.step.median:.1%}"
        ),
        "first frame, ms": lambda speed: _number(speed.first_frame_ms, 1),
        "first audio chunk, ms": lambda speed: _number(speed.first_chunk_ms, 1),
        "whole call, s": lambda speed: _number(speed.call_seconds),
        "× real time, steps": steps,
        "× real time, call": real_time("call_seconds"),
        "× real time, with codec": real_time("call_seconds", "codec_seconds"),
        "peak memory, MB": lambda speed: _number(speed.peak_memory_bytes and speed.peak_memory_bytes / 1e6, 0),
    }


def speed_table(report: SpeedReport) -> str:
    """Format a speed report: one row per measurement, one column per candidate."""
    ran = [speed for speed in report.candidates if speed.unavailable is None]
    rows = [["", *(speed.name for speed in ran)]]
    rows += [[name, *(read(speed) for speed in ran)] for name, read in _speed_rows(report).items()]
    settings = report.settings
    lines = [
        f"batch {settings['batch_size']}, {settings['text_bytes']} bytes of text, {settings['frames']} frames, "
        f"{settings['dtype']} on {settings['device']}, threads {settings['threads']}, "
        f"{'sampling' if settings['sampling']['do_sample'] else 'greedy'}, iterations {settings['repeats']}",
        "",
        align(rows),
        "",
        *(f"{speed.name}: {speed.unavailable}" for speed in report.candidates if speed.unavailable is not None),
        *(
            f"{speed.name}: noisy, p90 is {speed.step.p90 / speed.step.p10:.1f} × p10; other processes were running"
            for speed in ran
            if speed.step is not None and speed.step.p90 > _NOISY * speed.step.p10
        ),
        f"memory bandwidth {report.bandwidth / 1e9:.1f} GB/s; peak memory of the process "
        f"{report.process_peak_bytes / 1e6:.0f} MB",
    ]
    return "\n".join(lines)


def parity_table(reports: Mapping[str, ParityReport]) -> str:
    """Format parity reports: one column per scheme, followed by rows for each channel.

    Args:
        reports (`Mapping[str, ParityReport]`): Reports by scheme.
    """
    columns = [_parity_column(report) for report in reports.values()]
    rows = [["against float32", *reports]]
    rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    first = next(iter(reports.values()))
    return f"{first.num_texts} texts, {first.num_frames} frames\n\n{align(rows)}"


def _parity_column(report: ParityReport) -> dict[str, str]:
    """Return the cells of one report by row label."""
    column = {}
    for name, error in (("conditional", report.conditional), ("guided", report.guided)):
        column[f"{name} logits: relative rms"] = f"{error.relative_rms:.2e}"
        column[f"{name} logits: mean absolute"] = f"{error.mean_absolute:.2e}"
        column[f"{name} logits: max absolute"] = f"{error.max_absolute:.2e}"
    for channel, divergence in enumerate(report.kl_divergence):
        column[f"channel {channel}: KL, nats"] = f"{divergence:.2e}"
        column[f"channel {channel}: same best token"] = f"{report.conditional.top1_agreement[channel]:.1%}"
        column[f"channel {channel}: same, guided"] = f"{report.guided.top1_agreement[channel]:.1%}"
    parted = ("never" if frame is None else str(frame) for frame in report.greedy_differs_at)
    column["greedy codes differ from frame"] = " ".join(parted)
    return column


def serving_table(report: ServingReport) -> str:
    """Format the figures of a server: one column for each load, times as p50 / p95 / p99."""

    def times(name: str, factor: float, digits: int) -> Callable[[LoadFigures], str]:
        def read(load: LoadFigures) -> str:
            figures: Percentiles | None = getattr(load, name)
            values = (None,) * 3 if figures is None else (figures.p50, figures.p95, figures.p99)
            return " / ".join(_number(None if value is None else factor * value, digits) for value in values)

        return read

    cells: dict[str, Callable[[LoadFigures], str]] = {
        "requests": lambda load: str(load.num_requests),
        "errors": lambda load: ", ".join(f"{n} × {error}" for error, n in load.errors.items()) or "0",
        "first byte, ms": times("first_byte", 1e3, 0),
        "first audible sample, ms": times("first_audible", 1e3, 0),
        "  played, ms": times("heard", 1e3, 0),
        "end, s": times("end", 1, 2),
        "underruns": lambda load: str(load.num_underruns),
        "  seconds of silence": lambda load: _number(load.gap_seconds),
        "audio seconds a second": lambda load: _number(load.audio_per_second),
        "goodput, requests a second": lambda load: _number(load.goodput),
        "delay of the generator, ms": times("lag", 1e3, 1),
    }
    rows = [["p50 / p95 / p99", *(_load_name(load) for load in report.loads)]]
    rows += [[name, *(read(load) for load in report.loads)] for name, read in cells.items()]
    settings = report.settings
    return f"{settings['url']}, {settings['response_format']}, seed {settings['seed']}\n\n{align(rows)}"


def _load_name(load: LoadFigures) -> str:
    return f"{load.load:g} requests/s" if load.kind == "rate" else f"{load.load:g} at once"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as a text table: the first row is the header, the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def write_json(path: str | os.PathLike, machine: Mapping[str, Any], **reports: Any) -> None:
    """Write reports as JSON.

    Args:
        path (`str` or `os.PathLike`): Output file.
        machine (`Mapping`): Result of `environment`.
        reports: Dataclasses by name, or mappings of dataclasses.
    """
    plain = {
        name: {key: asdict(value) for key, value in report.items()} if isinstance(report, Mapping) else asdict(report)
        for name, report in reports.items()
    }
    with atomic_write(path) as beside:
        beside.write_text(json.dumps({"machine": dict(machine), **plain}, indent=2) + "\n", "utf-8")


def plot_steps(path: str | os.PathLike, report: SpeedReport) -> None:
    """Plot the step time of each candidate as a bar with whiskers from p10 to p90 and its memory limit as a line.

    Args:
        path (`str` or `os.PathLike`): Output file; its suffix determines the format.
        report (`SpeedReport`): Report to plot.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure_class = import_extra("matplotlib.figure").Figure
    ran = [(speed.name, speed.step, speed.limit_ms) for speed in report.candidates]
    bars = [(name, step, limit) for name, step, limit in ran if step is not None and limit is not None]
    figure = figure_class(figsize=(7, 1.6 + 0.6 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for place, (_, step, limit) in enumerate(bars):
        whiskers = [[step.median - step.p10], [step.p90 - step.median]]
        axes.barh(place, step.median, xerr=whiskers, color="tab:blue", capsize=3)
        axes.vlines(limit, place - 0.45, place + 0.45, color="tab:red", label="memory limit" if place == 0 else "_")
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per step")
    axes.set_title(f"{report.settings['dtype']} on {report.settings['device']}, batch {report.settings['batch_size']}")
    figure.legend(loc="outside lower right")
    with atomic_write(path) as beside:
        figure.savefig(beside)


def plot_loads(path: str | os.PathLike, report: ServingReport) -> None:
    """Plot the time to the first audible sample and the goodput over the loads, one row for each kind of load.

    Args:
        path (`str` or `os.PathLike`): Output file; its suffix determines the format.
        report (`ServingReport`): Report to plot.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure_class = import_extra("matplotlib.figure").Figure
    kinds = list(dict.fromkeys(load.kind for load in report.loads))
    figure = figure_class(figsize=(9, 3.2 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), 2, squeeze=False)
    for kind, (left, right) in zip(kinds, grid, strict=True):
        loads = [load for load in report.loads if load.kind == kind]
        places = [load.load for load in loads]
        for name in ("p50", "p95", "p99"):
            values = [1e3 * getattr(load.first_audible, name) if load.first_audible else float("nan") for load in loads]
            left.plot(places, values, marker="o", label=name)
        left.set_ylabel("first audible sample, ms")
        left.legend()
        right.plot(places, [load.goodput for load in loads], marker="o", label="requests without underrun or error")
        right.plot(places, [load.audio_per_second for load in loads], marker="o", label="seconds of audio")
        right.set_ylabel("a second")
        right.legend()
        for axes in (left, right):
            axes.set_xlabel("requests a second" if kind == "rate" else "requests at once")
            axes.set_ylim(bottom=0)
    with atomic_write(path) as beside:
        figure.savefig(beside)
