"""Time and peak memory of converting a checkpoint of the full size, 1.6 billion random parameters.

    python benchmarks/conversion.py FOLDER [options of dia-hf convert]

FOLDER needs 13 GB. The source is in nari-labs' 0626 layout, float32. The source is made and converted in separate
processes; the operating system reports the peak memory of the conversion.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from dia_hf import DiaConfig
from dia_hf.conversion.nari import config_to_0626, tensor_rules


def make_source(source: Path) -> None:
    """Write the source's config and random weights."""
    source.mkdir(parents=True)
    config = DiaConfig()
    (source / "config.json").write_text(json.dumps(config_to_0626(config)))
    tensors = {name: torch.randn(rule.shape) for rule in tensor_rules(config) for name in rule.sources}
    save_file(tensors, source / "model.safetensors")


def main(folder: str, *options: str) -> None:
    """Make the source if it is missing, convert it, and print a line of JSON."""
    source, dest = Path(folder) / "source", Path(folder) / "converted"
    if not source.exists():
        # In a separate process: memory of this one would count for the process that it starts.
        subprocess.run([sys.executable, __file__, "--make", str(source)], check=True)
    command = [sys.executable, "-m", "dia_hf.cli", "convert", str(source), str(dest), "--force", *options]
    start = time.perf_counter()
    _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
    elapsed = time.perf_counter() - start
    if status != 0:
        sys.exit("the conversion failed")
    peak = usage.ru_maxrss * 1024
    output = sum(file.stat().st_size for file in dest.rglob("*") if file.is_file())
    print(
        json.dumps(
            {
                "options": options,
                "output_gb": round(output / 1e9, 2),
                "peak_gb": round(peak / 1e9, 2),
                "peak_over_output": round(peak / output, 2),
                "seconds": round(elapsed, 1),
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make_source(Path(sys.argv[2]))
    else:
        main(*sys.argv[1:])
