"""Memory of a training step of the 1.6B: tensors tracked through forward, backward and AdamW.

Full fine-tuning is tracked with tensors without content (`FakeTensorMode`), so that it runs on any machine; LoRA with
real tensors on the CPU. The CUDA context, allocator fragmentation and internal buffers of kernels are not included.

    python benchmarks/training_memory.py full lora
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.training import attach_lora

FRAMES, TEXT_BYTES = 861 + 16, 150  # 10 s


class PeakMemory(TorchDispatchMode):
    """Context that tracks the tensors made in it, and records the most bytes that were allocated at once.

    Works on any device, and with tensors without content (`FakeTensorMode`). Internal buffers of kernels are not
    counted.

    Args:
        tensors (`Iterable[torch.Tensor]`): Existing tensors that count: weights, optimizer state.

    Attributes:
        peak (`int`): Peak memory in bytes.

    Example:
    ```python
    >>> import torch
    >>> from training_memory import PeakMemory
    >>> weight = torch.ones(1000)
    >>> with PeakMemory([weight]) as memory:
    ...     _ = (weight * 2).exp()
    >>> memory.peak
    12000

    ```
    """

    def __init__(self, tensors: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.peak = self._alive = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in tensors:
            self._note(tensor)

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            weakref.finalize(storage, self._forget, storage.nbytes())
            self._alive += storage.nbytes()
            self.peak = max(self.peak, self._alive)

    def _forget(self, num_bytes: int) -> None:
        self._alive -= num_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and record its outputs."""
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                self._note(output)
        return outputs


def measure(kind: str, num_clips: int, checkpointing: bool) -> float:
    """Return the peak memory of a step in gigabytes."""
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
        for parameter in trained:  # state as from the second step on
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
    """Print a line for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=["full", "lora"])
    for kind in parser.parse_args().kinds:
        for num_clips, checkpointing in ((1, False), (1, True), (4, False), (4, True)):
            how = "with" if checkpointing else "without"
            size = measure(kind, num_clips, checkpointing)
            print(f"{kind}, {num_clips} clips of 10 s, {how} checkpointing: {size:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
