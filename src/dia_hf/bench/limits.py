"""What hardware sets as limits: bytes that a step must read, how fast memory gives them, joules.

Knows models by the names and sizes of their tensors only.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..configuration_dia import DiaConfig

__all__ = ["EnergyMeter", "PeakMemory", "cache_bytes", "read_bandwidth", "weight_bytes"]

_RAPL = Path("/sys/class/powercap")


def weight_bytes(model: torch.nn.Module) -> int:
    """Count the bytes of weights that one step of the decoder reads, as they are stored.

    All of the decoder's layers but the projections of the text to keys and values, which are computed once; its norm,
    and the head. Of the embedding a step reads a few rows, and of the encoder nothing.

    Args:
        model (`torch.nn.Module`): A Dia, ours or transformers'.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf import DiaConfig, DiaForConditionalGeneration
    >>> from dia_hf.bench.limits import weight_bytes
    >>> with torch.device("meta"):
    ...     weight_bytes(DiaForConditionalGeneration(DiaConfig()).to(torch.bfloat16))
    2529538048

    ```
    """
    return sum(
        stored_bytes(tensor)
        for name, tensor in model.state_dict().items()
        if name.startswith(("model.decoder.layers.", "model.decoder.norm.", "logits_dense."))
        and not any(part in name for part in (".cross_attention.k_proj.", ".cross_attention.v_proj."))
    )


def stored_bytes(tensor: torch.Tensor) -> int:
    """Count the bytes that a tensor holds; a quantized one is made of several, and its own dtype is not theirs."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def cache_bytes(config: DiaConfig, batch_size: int, num_frames: float, text_bytes: int, dtype: torch.dtype) -> int:
    """Count the bytes of keys and values that one guided step must read.

    Those of earlier frames, for the conditional and the unconditional half; those of the text for the conditional half
    alone, because without a text cross-attention gives the same vector for every query.

    Args:
        config (`DiaConfig`): The shape.
        batch_size (`int`): Samples, before guidance doubles them.
        num_frames (`float`): Frames in the cache, on average over the call.
        text_bytes (`int`): Length of each text.
        dtype (`torch.dtype`): Of the cache.
    """
    decoder = config.decoder_config
    a_frame = 2 * decoder.num_key_value_heads * decoder.head_dim
    a_byte = 2 * decoder.cross_num_key_value_heads * decoder.cross_head_dim
    numbers = decoder.num_hidden_layers * batch_size * (2 * num_frames * a_frame + text_bytes * a_byte)
    return int(numbers * dtype.itemsize)


def read_bandwidth(device: str | torch.device, num_bytes: int | None = None, repeats: int = 5) -> float:
    """Measure how fast memory is read, as a step reads weights: a large matrix times a vector.

    Args:
        device (`str` or `torch.device`): Whose memory.
        num_bytes (`int`, *optional*): Size of the matrix; 1 GB, or 4 GB on a GPU, unless given. It must be larger
            than the caches.
        repeats (`int`, defaults to 5): The best counts, of these and of as many plain sums.

    Returns:
        `float`: Bytes a second.
    """
    device = torch.device(device)
    num_bytes = num_bytes or (2**30 if device.type == "cpu" else 2**32)
    width = 8192
    matrix = torch.ones(max(num_bytes // (4 * width), 1), width, device=device)
    vector = torch.ones(width, device=device)
    seconds = [_seconds(read, device) for _ in range(repeats) for read in (lambda: matrix @ vector, matrix.sum)]
    return matrix.numel() * 4 / min(seconds)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


class PeakMemory(TorchDispatchMode):
    """Follows tensors through a piece of code, and notes the most bytes that were alive at once.

    On any device, and through tensors without content (`FakeTensorMode`) for what no machine at hand could hold. What
    kernels take for themselves is not seen.

    Args:
        tensors (`Iterable[torch.Tensor]`): What is there already and counts: weights, an optimizer's state.

    Attributes:
        peak (`int`): In bytes.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.bench.limits import PeakMemory
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
        """Compute, and note what came out."""
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                self._note(output)
        return outputs


class EnergyMeter:
    """Joules that a device has used, where it tells: an NVIDIA GPU through NVML, an Intel CPU through RAPL.

    A CPU's counter covers all that the package does, other processes included.

    Args:
        device (`torch.device`): Whose.
        powercap (`Path`, *optional*): Where Linux keeps RAPL's counters.
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
            except Exception:  # no library, no right to ask, or a device that does not tell: all the same here
                return
            self._gpu = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3

    def read(self) -> float | None:
        """Return joules since some moment, or `None` where nobody tells."""
        if self._gpu is not None:
            return self._gpu()
        try:
            return sum(int(counter.read_text()) for counter in self._counters) / 1e6 if self._counters else None
        except OSError:  # on many machines for root only
            return None
