"""Options of requests: their limits, and their conversion to arguments of `DiaForConditionalGeneration.generate`.

They are named as in nari-labs/dia. The limits are those of requests from outside: of the server, and of tables.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from transformers import CompileConfig

from ..text_files import shortened

__all__ = ["LIMITS", "check_option", "check_temperature", "generate_options"]

LIMITS: Mapping[str, Mapping[str, Any]] = {
    "seed": {"ge": 0, "le": 2**63 - 1},
    "cfg_scale": {"gt": 0, "le": 100},
    "temperature": {"ge": 0, "le": 100},
    "top_p": {"gt": 0, "le": 1},
    "cfg_filter_top_k": {"ge": 1, "le": 2**31 - 1},
    "max_seconds": {"gt": 0},
    "speed": {"ge": 0.25, "le": 4.0},
    "loudness": {"ge": -70, "le": 0},
    "sample_rate": {"ge": 8_000, "le": 48_000},
}
"""Option → its bounds, named as in pydantic's `Field`."""

_WHOLE = ("seed", "cfg_filter_top_k", "sample_rate")
_BOUNDS = {"gt": "above", "ge": "at least", "le": "at most"}
_LOWEST_TEMPERATURE = 0.001  # above 0; logits that are divided by less may overflow


def check_option(name: str, value: Any) -> None:
    """Check an option of a request.

    Args:
        name (`str`): A key of `LIMITS`.
        value: Its value.

    Raises:
        ValueError: If it is no number, or beyond its limits; the error names the option, the value and the limits.

    Example:
    ```python
    >>> from dia_hf.speech.options import check_option
    >>> check_option("top_p", 0.9)
    >>> check_option("top_p", 9)
    Traceback (most recent call last):
        ...
    ValueError: `top_p` is 9; give a number above 0 and at most 1.

    ```
    """
    kind = Integral if name in _WHOLE else (int, float)
    is_number = isinstance(value, kind) and not isinstance(value, bool) and value not in (float("inf"), -float("inf"))
    limits = LIMITS[name]
    if not is_number or not all(getattr(operator, bound)(value, limit) for bound, limit in limits.items()):
        number = "whole number" if name in _WHOLE else "number"
        bounds = " and ".join(f"{_BOUNDS[bound]} {limit}" for bound, limit in limits.items())
        raise ValueError(f"`{name}` is {shortened(value)}; give a {number} {bounds}.")
    if name == "temperature":
        try:
            check_temperature(value)
        except ValueError as error:
            raise ValueError(f"`{name}` is {shortened(value)}; {error}.") from None


def check_temperature(temperature: float) -> float:
    """Return a temperature; raise `ValueError` if it is above 0 and so low that logits may overflow."""
    if 0 < temperature < _LOWEST_TEMPERATURE:
        raise ValueError(f"give 0 (greedy decoding), or {_LOWEST_TEMPERATURE} and more")
    return temperature


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
