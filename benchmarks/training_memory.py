"""How much memory a training step of the 1.6B takes: its tensors followed through forward, backward and AdamW.

Full fine-tuning is followed through tensors without content (`FakeTensorMode`), so that no machine has to hold them;
LoRA through real ones on the CPU. The CUDA context, the allocator's gaps and kernels' own buffers come on top.

    python benchmarks/training_memory.py full lora
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.bench.limits import PeakMemory
from dia_hf.training import attach_lora

FRAMES, TEXT_BYTES = 861 + 16, 150  # 10 s


def measure(kind: str, num_clips: int, checkpointing: bool) -> float:
    """Return the gigabytes of a step."""
    with FakeTensorMode() if kind == "full" else nullcontext():
        torch.set_default_dtype(torch.float32 if kind == "full" else torch.bfloat16)
        model: Any = DiaForConditionalGeneration(DiaConfig()).train()
        torch.set_default_dtype(torch.float32)
        model.loss_chunk_size = 512
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if kind == "lora":
            model.enable_input_require_grads()
            model = attach_lora(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained)
        for parameter in trained:  # as from the second step on
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
        codes = torch.ones(num_clips, FRAMES, 9, dtype=torch.long)
        text = torch.ones(num_clips, TEXT_BYTES, dtype=torch.long)
        state = [moment for values in optimizer.state.values() for moment in values.values()]
        with PeakMemory([*model.parameters(), *state]) as memory:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=text, decoder_input_ids=codes, labels=codes).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return memory.peak / 1e9


def main() -> None:
    """Print a line for each way to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=["full", "lora"])
    for kind in parser.parse_args().kinds:
        for num_clips, checkpointing in ((1, False), (1, True), (4, False), (4, True)):
            how = "with" if checkpointing else "without"
            size = measure(kind, num_clips, checkpointing)
            print(f"{kind}, {num_clips} clips of 10 s, {how} checkpointing: {size:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
