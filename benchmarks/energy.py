"""Energy per generated frame: joules that the device uses during `generate`.

    python benchmarks/energy.py --size full --device cuda --frames 256

Weights and texts are random. Reads NVML on an NVIDIA GPU (needs `nvidia-ml-py`) and RAPL on an Intel CPU (on many
machines readable by root only). Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dia_hf.bench import make_config, make_model, random_inputs
from dia_hf.bench.limits import synchronize
from dia_hf.bench.speed import PUBLISHED_SAMPLING, exact_length

_RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Energy counter of a device: NVML on an NVIDIA GPU, RAPL on an Intel CPU.

    The counter of a CPU covers the whole package, other processes included.

    Args:
        device (`torch.device`): Device to measure.
        powercap (`Path`, *optional*): Folder of RAPL's counters.
    """

    def __init__(self, device: torch.device, powercap: Path = _RAPL) -> None:
        self._counters = sorted(powercap.glob("intel-rapl:?/energy_uj")) if device.type == "cpu" else []
        self._gpu: Callable[[], float] | None = None
        if device.type == "cuda":
            try:
                import pynvml

                pynvml.nvmlInit()
                uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
                pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            except Exception:  # library missing, access denied, or device without a counter
                return
            self._gpu = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3

    def read(self) -> float | None:
        """Return joules since an arbitrary moment, or `None` where there is no readable counter."""
        if self._gpu is not None:
            return self._gpu()
        try:
            return sum(int(counter.read_text()) for counter in self._counters) / 1e6 if self._counters else None
        except OSError:  # on many machines readable by root only
            return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate repeatedly, and print the median energy per frame of one sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["toy", "mid", "full"], default="toy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--text-bytes", type=int, default=100)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    meter = EnergyMeter(device)
    config = make_config(args.size)
    model = make_model(config, device, getattr(torch, args.dtype))
    inputs = random_inputs(config, args.batch_size, args.text_bytes, device)
    generation_config = exact_length(model, args.frames, **PUBLISHED_SAMPLING, do_sample=True)
    joules = []
    for _ in range(args.repeats + 1):
        synchronize(device)
        before = meter.read()
        model.generate(**inputs, generation_config=generation_config)
        synchronize(device)
        after = meter.read()
        if before is None or after is None:
            raise SystemExit(f"{device} has no energy counter that this process can read")
        joules.append(after - before)
    result = {**vars(args), "joules_per_frame": statistics.median(joules[1:]) / (args.frames * args.batch_size)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
