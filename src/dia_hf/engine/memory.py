"""How many samples fit into the memory that is free."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["free_memory", "num_fitting"]

# What the samples may take of the free memory. A batch is copied when it is set up and when it shrinks, and may be
# rounded up to the next power of two; the rest is for activations, the codec and the neighbors.
_SHARE = 0.15
# Beyond this many samples a step takes longer by as much as there is more in it.
_MOST_SAMPLES = 64


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; `None` where nobody tells.

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
    """Samples to compute at once: as many as fit, at least one and at most 64.

    Args:
        bytes_of_sample (`int`): What one takes.
        device (`torch.device`): Where.
    """
    free = free_memory(device)
    if free is None:
        return _MOST_SAMPLES
    return max(1, min(_MOST_SAMPLES, int(_SHARE * free) // bytes_of_sample))
