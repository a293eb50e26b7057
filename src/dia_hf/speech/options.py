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
    num_texts: int | None = None,
) -> dict[str, Any]:
    """Convert sampling parameters; those that are `None` are omitted, so that the checkpoint's apply.

    Args:
        device (`torch.device`): Device of the random generators.
        cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile, seed: See `Dia.generate`.
        num_texts (`int`, *optional*): Number of texts, for which a list of seeds must have one value each.

    Raises:
        TypeError: If a seed is no whole number.
        ValueError: If 0 is one of several temperatures, or there is not a seed for each text.
    """
    options: dict[str, Any] = {
        "guidance_scale": cfg_scale,
        "top_p": top_p,
        "top_k": cfg_filter_top_k,
        "compile_config": CompileConfig() if use_torch_compile else None,
    }
    if isinstance(temperature, Sequence) and any(one == 0 for one in temperature):
        raise ValueError(
            f"`temperature` is {shortened(temperature)}; 0, greedy decoding, is for a whole call: give numbers above "
            "0, or generate the texts of temperature 0 in a call of their own."
        )
    if isinstance(temperature, (int, float)) and temperature == 0:
        options["do_sample"] = False
    elif temperature is not None:
        options |= {"do_sample": True, "temperature": temperature}
    seeds = list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
    if seed is not None and not all(isinstance(one, Integral) and not isinstance(one, bool) for one in seeds):
        raise TypeError(f"`seed` is {shortened(seed)}; give a whole number, or one for each text.")
    if isinstance(seed, Sequence):
        if num_texts is not None and len(seed) != num_texts:
            raise ValueError(
                f"`seed` has {len(seed)} values for {num_texts} texts; give one for each, or a single one."
            )
        options["generator"] = [torch.Generator(device).manual_seed(one) for one in seed]
    elif seed is not None:
        options["generator"] = torch.Generator(device).manual_seed(seed)
    return {name: value for name, value in options.items() if value is not None}
