"""Compare ways to round weights to int4, and measure the memory of loading and the time of calibration.

Usage: python benchmarks/quantization_quality.py [--frames N] [--width-layers N] [--memory FOLDER]

Accuracy: logits against float32 by `dia_hf.bench.parity`, on a random model of size "mid" with the kernels, and on the
embedded miniature, where the rounded values are multiplied in float32. All ways round the same weights in the same run,
and none is calibrated on texts of the report.

Time: rounding and calibration at the published widths, with `--width-layers` decoder layers.

Memory: `--memory` names a folder for a random checkpoint of the published size in bfloat16 (3.2 GB), which is made
there unless it exists; a process each loads it as it is and in int4, and generates.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchao.prototype.quantization.int4 import Int4OpaqueTensor
from torchao.quantization.quantize_.workflows import Int4ChooseQParamsAlgorithm
from transformers.utils import logging

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.bench import compare, make_config, make_model, make_processor, random_inputs, record_reference
from dia_hf.calibration import INPUTS, input_moments
from dia_hf.engine.linear import QuantizedLinear
from dia_hf.int4 import round_for_inputs, round_weights
from dia_hf.quantization import GROUP_SIZE, quantize_model

SENTENCES = [  # for the report; those of the calibration are in dia_hf/calibration.py
    "[S1] She sells old books in a shop near the station, mostly about birds.",
    "[S1] Nobody told me that the museum closes at four. [S2] Nor me, sadly.",
]
CHILD = """
import sys, time
def memory():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["VmHWM"].split()[0]) / 1024
import dia_hf
from dia_hf import Dia
import torchao.prototype.quantization.int4
imports = memory()
start = time.perf_counter()
dia = Dia.from_pretrained(sys.argv[1], device="cpu", quantization=None if sys.argv[2] == "none" else sys.argv[2])
loaded, seconds = memory(), time.perf_counter() - start
dia.model.generate(**dia.processor(text=["[S1] Hello."], return_tensors="pt"), max_new_tokens=2, guidance_scale=3.0)
print(imports, loaded, memory(), seconds)
"""


def layers_of(model: Any) -> list[tuple[int, str, nn.Linear]]:
    """List the linear layers that are quantized, with the input that each reads."""
    return [
        (index, source, layer.get_submodule(name))
        for index, layer in enumerate(model.model.decoder.layers)
        for source, names in INPUTS.items()
        for name in names
    ]


def by_torchao(model: Any, algorithm: str) -> Any:
    """Quantize as torchao does: "tinygemm", the rounding of `quantize_model` before, or "hqq"."""
    way = Int4ChooseQParamsAlgorithm(algorithm)
    for layer in model.model.decoder.layers:
        for names in INPUTS.values():
            for name in names:
                weight = Int4OpaqueTensor.from_hp(layer.get_submodule(name).weight, [1, GROUP_SIZE], way)
                layer.set_submodule(name, QuantizedLinear(weight))
    return model


def report(name: str, reference: Any, inputs: Any, model: Any) -> None:
    """Print a row of the table."""
    result = compare(reference, model, inputs)
    agreement = [f"{statistics.mean(one.top1_agreement):.1%}" for one in (result.conditional, result.guided)]
    errors = f"{result.conditional.relative_rms:.4f} | {result.guided.relative_rms:.4f}"
    kl = statistics.mean(result.kl_divergence)
    print(f"| {name} | {errors} | {agreement[0]} | {agreement[1]} | {kl:.2e} |", flush=True)


def mid_size(num_frames: int) -> None:
    """Compare all ways on a random model."""
    config = make_config("mid")
    model = make_model(config)
    processor = make_processor(config, "toy")
    texts = {"random letters": random_inputs(config, 2, 64), "sentences": dict(processor(SENTENCES))}
    references = {name: record_reference(model, inputs, num_frames, do_sample=True) for name, inputs in texts.items()}
    ways: dict[str, Callable[[Any], Any]] = {
        "bfloat16": lambda model: model,
        "int8": lambda model: quantize_model(model, "int8"),
        "int4, torchao's rounding (before)": lambda model: by_torchao(model, "tinygemm"),
        "int4, torchao's HQQ": lambda model: by_torchao(model, "hqq"),
        "int4": lambda model: quantize_model(model, "int4"),
        "int4, calibrated": lambda model: quantize_model(model, "int4", calibrate=True),
    }
    models = {name: way(copy.deepcopy(model).bfloat16()) for name, way in ways.items()}
    for kind, inputs in texts.items():
        print(f"\nmid, {kind}")
        for name, other in models.items():
            report(name, references[kind], inputs, other)


@torch.no_grad()
def miniature(num_frames: int) -> None:
    """Compare the rounded values on the embedded miniature."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE).eval()
    processor = DiaProcessor.from_pretrained(MINIATURE)
    inputs = dict(processor(SENTENCES))
    reference = record_reference(model, inputs, num_frames, do_sample=True)
    moments = list(input_moments(model))

    def rounded(way: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
        twin = copy.deepcopy(model)
        for index, source, linear in layers_of(twin):
            linear.weight.copy_(way(linear.weight, moments[index][source]))
        return twin

    def nearest(weight: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        groups = weight.unflatten(1, (-1, GROUP_SIZE))
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = (high - low) / 15
        return (low + step * ((groups - low) / step).round()).flatten(1)

    print("\nminiature, values alone")
    report("rounded to the nearest", reference, inputs, rounded(nearest))
    report("int4", reference, inputs, rounded(lambda weight, _: round_weights(weight, GROUP_SIZE).dequantize()))
    report("int4, calibrated", reference, inputs, rounded(lambda w, m: round_for_inputs(w, m, GROUP_SIZE).dequantize()))


def times(num_layers: int) -> None:
    """Time both ways at the published widths."""
    config = make_config("full")
    config.decoder_config.num_hidden_layers = num_layers
    for calibrate in (False, True):
        model = make_model(config, dtype=torch.bfloat16)
        wall, cpu = time.perf_counter(), time.process_time()
        quantize_model(model, "int4", calibrate)
        seconds = f"{time.perf_counter() - wall:.1f} s, CPU {time.process_time() - cpu:.1f} s"
        print(f"full width, {num_layers} decoder layers, calibrate={calibrate}: {seconds}", flush=True)


def memory(folder: Path) -> None:
    """Measure the peak memory of loading, each way in a process of its own."""
    if not (folder / "model.safetensors").is_file():
        config = make_config("full")
        make_model(config, dtype=torch.bfloat16).save_pretrained(folder)
        make_processor(config, "toy").save_pretrained(folder)
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(f"\nMiB; the checkpoint is {size:.0f}\n| | imports | loading | and two frames | loading beyond imports | s |")
    for scheme in ("none", "int4"):
        command = [sys.executable, "-c", CHILD, str(folder), scheme]
        words = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        imports, loaded, stepped, seconds = map(float, words)
        beyond = f"{loaded - imports:.0f} ({(loaded - imports) / size:.2f})"
        print(f"| {scheme} | {imports:.0f} | {loaded:.0f} | {stepped:.0f} | {beyond} | {seconds:.0f} |", flush=True)


def main() -> None:
    """Measure all, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--width-layers", type=int, default=1)
    parser.add_argument("--memory", type=Path, help="folder of a checkpoint of the published size, made if missing")
    args = parser.parse_args()
    logging.set_verbosity_error()
    columns = ("cond. rms", "guided rms", "cond. same token", "guided same token", "KL")
    print("| | " + " | ".join(columns) + " |")
    mid_size(args.frames)
    miniature(args.frames)
    if args.memory is not None:
        memory(args.memory)
    if args.width_layers:
        print()
        times(args.width_layers)


if __name__ == "__main__":
    main()
