"""The number of samples that fit into free memory."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["free_memory", "num_fitting"]

# Share of the free memory that samples may take. A batch is copied when it is set up and when it shrinks, and may be
# rounded up to the next power of two; the rest is for activations, the codec and other processes.
_SHARE = 0.15
# Beyond this number of samples a step's time grows in proportion.
_MOST_SAMPLES = 64


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated on a device; `None` if that is unknown.

    Args:
        device (`torch.device`): The device.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    report = Path("/proc/meminfo")
    if device.type != "cpu" or not report.exists():
        return None
    lines = dict(line.split(":", 1) for line in report.read_text("ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def num_fitting(bytes_of_sample: int, device: torch.device) -> int:
    """Return the number of samples to compute at once: as many as fit, at least 1 and at most 64.

    Args:
        bytes_of_sample (`int`): Memory of one sample.
        device (`torch.device`): The device.
    """
    free = free_memory(device)
    if free is None:
        return _MOST_SAMPLES
    return max(1, min(_MOST_SAMPLES, int(_SHARE * free) // bytes_of_sample))
