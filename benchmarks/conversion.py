"""Time and peak memory of converting a checkpoint of the full size, 1.6 billion random parameters.

    python benchmarks/conversion.py FOLDER [options of dia-hf convert]

FOLDER needs 13 GB. The source is in nari-labs' layout, float32: a 0626 model, or a v0.1 model for `--to` nari-v0.1, mlx
and gguf-tts.cpp. It is made and converted in separate processes; the operating system reports the peak memory of the
conversion. The codec of a GGUF file is a random one of the published size.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import DacConfig, DacModel

from dia_hf import DiaConfig
from dia_hf.conversion.nari import config_to_0626, config_to_v0_1, tensor_rules

OF_V0_1 = ("nari-v0.1", "mlx", "gguf-tts.cpp")


def make_source(source: Path) -> None:
    """Write the source's config and random weights, the same under a config of v0.1, and a random codec."""
    source.mkdir(parents=True)
    config = DiaConfig()
    (source / "config.json").write_text(json.dumps(config_to_0626(config)))
    DacModel(DacConfig(sampling_rate=44100)).save_pretrained(source / "dac")
    config.decoder_config.cross_attention_rope = True
    (source / "v0.1").mkdir()
    (source / "v0.1" / "config.json").write_text(json.dumps(config_to_v0_1(config)))
    tensors = {name: torch.randn(rule.shape) for rule in tensor_rules(config) for name in rule.sources}
    save_file(tensors, source / "model.safetensors")
    os.link(source / "model.safetensors", source / "v0.1" / "model.safetensors")


def main(folder: str, *options: str) -> None:
    """Make the source if it is missing, convert it, and print a line of JSON."""
    source, dest = Path(folder) / "source", Path(folder) / "converted"
    if not source.exists():
        # In a separate process: memory of this one would count for the process that it starts.
        subprocess.run([sys.executable, __file__, "--make", str(source)], check=True)
    layout = options[options.index("--to") + 1] if "--to" in options else "huggingface"
    if layout == "gguf-tts.cpp":
        options = (*options, "--codec", str(source / "dac"))
    if layout == "onnx-codec":
        source = source / "dac"
    elif layout in OF_V0_1:
        source = source / "v0.1"
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
