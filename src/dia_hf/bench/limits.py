"""Limits that the hardware sets: bytes that a step must read, and memory bandwidth.

Models are known by the names and sizes of their tensors only. Called by `speed.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from ..configuration_dia import DiaConfig

__all__ = ["cache_bytes", "read_bandwidth", "stored_bytes", "synchronize", "weight_bytes"]


def weight_bytes(model: torch.nn.Module) -> int:
    """Count the bytes of weights, as stored, that one decoder step reads.

    These are the decoder's layers without the cross-attention key and value projections (computed once per text), its
    final norm, and the output head. Of the embeddings a step reads only a few rows, and of the encoder nothing.

    Args:
        model (`torch.nn.Module`): Dia model, ours or transformers'.

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
    """Count the bytes of a tensor; for a quantized tensor, those of its inner tensors, whose dtypes differ."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return sum(stored_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def cache_bytes(config: DiaConfig, batch_size: int, num_frames: float, text_bytes: int, dtype: torch.dtype) -> int:
    """Count the bytes of keys and values that one decoder step with guidance must read.

    Self-attention reads earlier frames for the conditional and the unconditional half. Cross-attention reads the text
    for the conditional half only: without a text it gives the same vector for every query.

    Args:
        config (`DiaConfig`): Model config.
        batch_size (`int`): Number of samples, before guidance doubles it.
        num_frames (`float`): Frames in the cache, averaged over the call.
        text_bytes (`int`): Length of each text.
        dtype (`torch.dtype`): Dtype of the cache.
    """
    decoder = config.decoder_config
    a_frame = 2 * decoder.num_key_value_heads * decoder.head_dim
    a_byte = 2 * decoder.cross_num_key_value_heads * decoder.cross_head_dim
    numbers = decoder.num_hidden_layers * batch_size * (2 * num_frames * a_frame + text_bytes * a_byte)
    return int(numbers * dtype.itemsize)


def read_bandwidth(device: str | torch.device, num_bytes: int | None = None, repeats: int = 5) -> float:
    """Measure the read bandwidth of memory with a matrix-vector product, the access pattern of a decoder step.

    Args:
        device (`str` or `torch.device`): Device whose memory is read.
        num_bytes (`int`, *optional*): Size of the matrix, by default 1 GB, or 4 GB on a GPU. It must be larger than the
            processor's caches.
        repeats (`int`, defaults to 5): Repetitions of the product and of a sum over the matrix; the fastest counts.

    Returns:
        `float`: Bytes per second.
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
    """Wait until a device has finished all queued work."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
