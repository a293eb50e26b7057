"""Conversion of `Dia`'s arguments, named as in nari-labs/dia, to those of `DiaForConditionalGeneration.generate`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from transformers import CompileConfig

from ..text_files import shortened

__all__ = ["generate_options"]


def generate_options(
    device: torch.device,
    cfg_scale: Any = None,
    temperature: Any = None,
    top_p: Any = None,
    cfg_filter_top_k: Any = None,
    use_torch_compile: bool = False,
    seed: int | Sequence[int] | None = None,
) -> dict[str, Any]:
    """Convert sampling parameters; those that are `None` are omitted, so that the checkpoint's apply.

    Args:
        device (`torch.device`): Device of the random generators.
        cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile, seed: See `Dia.generate`.

    Raises:
        TypeError: If a seed is no whole number.
    """
    options: dict[str, Any] = {
        "guidance_scale": cfg_scale,
        "top_p": top_p,
        "top_k": cfg_filter_top_k,
        "compile_config": CompileConfig() if use_torch_compile else None,
    }
    if isinstance(temperature, (int, float)) and temperature == 0:
        options["do_sample"] = False
    elif temperature is not None:
        options |= {"do_sample": True, "temperature": temperature}
    seeds = list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
    if seed is not None and not all(isinstance(one, Integral) and not isinstance(one, bool) for one in seeds):
        raise TypeError(f"`seed` is {shortened(seed)}; give a whole number, or one for each text.")
    if isinstance(seed, Sequence):
        options["generator"] = [torch.Generator(device).manual_seed(one) for one in seed]
    elif seed is not None:
        options["generator"] = torch.Generator(device).manual_seed(seed)
    return {name: value for name, value in options.items() if value is not None}
