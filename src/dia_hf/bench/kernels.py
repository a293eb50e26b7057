"""Name the kernels that compute a model on this machine: the C++ operators, or PyTorch's, and the reason."""

from __future__ import annotations

from typing import Any

import torch

from .. import native
from ..audio.dac import DacCodec
from ..engine.decoder import make_frame_decoder

__all__ = ["kernels_of"]


@torch.no_grad()
def kernels_of(model: Any, codec: Any = None) -> dict[str, str]:
    """Say by which kernels a model and its codec are computed on the fast path, without compilation.

    Args:
        model (`DiaForConditionalGeneration`): Model, quantized or not.
        codec (`Codec`, *optional*): Its codec.

    Returns:
        `dict`: What is computed, and the kernels: "C++, " and the instruction set, or "PyTorch" and the reason.

    Example:
    ```python
    >>> from dia_hf.bench import make_config, make_model
    >>> from dia_hf.bench.kernels import kernels_of
    >>> list(kernels_of(make_model(make_config("toy"))))
    ['decoder steps']

    ```
    """
    ours = f"C++, {native.variant_name()}"
    network = make_frame_decoder(model)
    found = {"decoder steps": f"PyTorch ({network.not_native_because})" if network.native is None else ours}
    if codec is not None:
        is_ours = isinstance(codec, DacCodec) and codec.has_native_decoder
        reason = native.unavailable_reason() or "not for this codec, device or dtype"
        found["decoder of the codec"] = ours if is_ours else f"PyTorch ({reason})"
    return found
