"""Time and peak memory of reading other formats at full size, 1.6 billion random parameters.

    python benchmarks/conversion_sources.py FOLDER KIND [options of dia-hf convert]

FOLDER needs 13 GB. The source is made with the library of its format, and converted by another process, whose peak
memory the operating system reports; both are removed. KIND is fine-tune (float16, as `torch.save` of a compiled model
beside its step), mlx-4bit (bfloat16), F32, F16, Q8_0, Q5_0 or Q4_0 (GGUF), or adapter (a LoRA of rank 32 on nari-labs'
0626 layout in float32).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import DacConfig, DacModel

from dia_hf import DiaConfig
from dia_hf.conversion.gguf_writer import make_keys
from dia_hf.conversion.nari import config_to_0626, config_to_v0_1, tensor_rules
from dia_hf.conversion.tts_cpp import codec_rules, tts_cpp_rules
from dia_hf.training import LORA_TARGET_MODULES

KINDS = ["fine-tune", "mlx-4bit", "F32", "F16", "Q8_0", "Q5_0", "Q4_0", "adapter"]
V0_1 = DiaConfig(decoder_config={"cross_attention_rope": True})


def make_nari(source: Path) -> None:
    """Write a checkpoint of the 0626 release."""
    config = DiaConfig()
    (source / "config.json").write_text(json.dumps(config_to_0626(config)))
    tensors = {name: torch.randn(rule.shape) for rule in tensor_rules(config) for name in rule.sources}
    save_file(tensors, source / "model.safetensors")


def make_fine_tune(source: Path) -> None:
    """Write a file of a training script, of the first release."""
    (source / "config.json").write_text(json.dumps(config_to_v0_1(V0_1)))
    names = [(name, rule.shape) for rule in tensor_rules(V0_1) for name in rule.sources]
    tensors = {f"_orig_mod.{name}": torch.randn(shape).half() for name, shape in names}
    torch.save({"model": tensors, "step": 1000}, source / "ckpt_step1000.pth")


def make_mlx(source: Path) -> None:
    """Write a folder of mlx-audio's, its embeddings of 4 bits."""
    import mlx.core as mx

    told = {"quantization": {"group_size": 64, "bits": 4}}
    (source / "config.json").write_text(json.dumps({**config_to_v0_1(V0_1), **told}))
    tensors = {}
    for rule in tensor_rules(V0_1):
        for name in rule.sources:
            array = mx.random.normal(rule.shape).astype(mx.bfloat16)
            module = name.removesuffix(".weight")
            names = (name, f"{module}.scales", f"{module}.biases") if "embedding" in name else (name,)
            arrays = mx.quantize(array, group_size=64, bits=4) if "embedding" in name else (array,)
            mx.eval(*arrays)
            tensors |= dict(zip(names, arrays, strict=True))
    mx.save_safetensors(str(source / "model.safetensors"), tensors, {"format": "mlx"})


def make_gguf(source: Path, kind: str) -> None:
    """Write a file of TTS.cpp's, of 16 random rows that repeat."""
    import gguf

    writer = gguf.GGUFWriter(str(source / "dia.gguf"), "dia", use_temp_file=True)
    codec, random = DacModel(DacConfig(sampling_rate=44100)), np.random.default_rng(0)
    for key, value in make_keys(V0_1, codec, None).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for rule in tts_cpp_rules(V0_1):
        for name in rule.sources:
            raw = gguf.GGMLQuantizationType["F32" if name.endswith("norm") else kind]
            rows = random.standard_normal((16, rule.shape[-1]), dtype=np.float32)
            block = gguf.quants.quantize(rows, raw)
            count = rule.shape[0] if len(rule.shape) > 1 else 1
            array = np.tile(block, (-(-count // 16), 1))[:count]
            writer.add_tensor(name, array if len(rule.shape) > 1 else array[0], raw_dtype=raw)
    state = codec.state_dict()
    for rule in codec_rules(codec.config):
        writer.add_tensor(rule.sources[0], state[rule.name].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_adapter(folder: Path) -> None:
    """Write an adapter as PEFT does."""
    import peft

    peft.LoraConfig(r=32, lora_alpha=32, target_modules=list(LORA_TARGET_MODULES)).save_pretrained(folder)
    tensors = {}
    for rule in tensor_rules(DiaConfig()):
        module = rule.name.removesuffix(".weight")
        if module.endswith(LORA_TARGET_MODULES):
            num_out, num_in = rule.our_shape
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(32, num_in)
            tensors[f"base_model.model.{module}.lora_B.weight"] = 1e-3 * torch.randn(num_out, 32)
    save_file(tensors, folder / "adapter_model.safetensors")


def make(kind: str, source: Path) -> None:
    """Write a source."""
    source.mkdir(parents=True)
    if kind == "adapter":
        make_nari(source)
        (source / "adapter").mkdir()
        make_adapter(source / "adapter")
    elif kind == "fine-tune":
        make_fine_tune(source)
    elif kind == "mlx-4bit":
        make_mlx(source)
    else:
        make_gguf(source, kind)


def measure(kind: str, source: Path, dest: Path, options: list[str]) -> None:
    """Convert, and print a line of JSON."""
    if kind == "adapter":
        options = ["--adapter", str(source / "adapter"), *options]
    command = [sys.executable, "-m", "dia_hf.cli", "convert", str(source), str(dest), "--force", "--quiet", *options]
    start = time.perf_counter()
    _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
    elapsed = time.perf_counter() - start
    if status != 0:
        sys.exit("the conversion failed")
    peak = usage.ru_maxrss * 1024
    weights = [file.stat().st_size for file in source.iterdir() if file.is_file()]
    output = sum(file.stat().st_size for file in dest.rglob("*") if file.is_file())
    result = {
        "source": kind,
        "options": options,
        "source_gb": round(sum(weights) / 1e9, 2),
        "output_gb": round(output / 1e9, 2),
        "peak_gb": round(peak / 1e9, 2),
        "peak_over_output": round(peak / output, 2),
        "seconds": round(elapsed, 1),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    """Make a source, convert it, and remove both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args, options = parser.parse_known_args()
    source, dest = args.folder / f"source-{args.kind}", args.folder / "converted"
    if args.make:
        make(args.kind, source)
        return
    # In a separate process: memory of this one would count for the process that it starts.
    subprocess.run([sys.executable, __file__, str(args.folder), args.kind, "--make"], check=True)
    try:
        measure(args.kind, source, dest, options)
    finally:
        shutil.rmtree(source)
        shutil.rmtree(dest, ignore_errors=True)


if __name__ == "__main__":
    main()
