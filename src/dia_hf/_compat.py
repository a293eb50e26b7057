"""Differences between the transformers releases that this package supports, in one place.

transformers 5.24 renamed the keys and values of earlier positions from `past_key_values` to `cache`: as an argument of
networks and of `generate()`, and as a field of outputs. The networks here name it `cache`; this file accepts either
name, and `CACHE_NAME` is the name that the installed release uses.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import transformers
from transformers.modeling_outputs import Seq2SeqLMOutput

__all__ = ["CACHE_NAME", "CACHE_NAMES", "network_arguments", "rename_cache"]

CACHE_NAMES = ("cache", "past_key_values")

CACHE_NAME = next(field.name for field in fields(Seq2SeqLMOutput) if field.name in CACHE_NAMES)

# Arguments that transformers passes through a network by keyword: for recorded outputs, attention kernels and its
# debugger.
_PASSED_ON = frozenset(
    {"output_attentions", "output_hidden_states", "return_dict", "use_cache"}
    | {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "is_causal"}
    | {"debug_io", "debug_io_dir", "prune_layers"}
)


def rename_cache(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    """Copy keyword arguments, with a cache of either name under the given one.

    Args:
        arguments (`dict[str, Any]`): Keyword arguments.
        name (`str`): `"cache"` or `"past_key_values"`.

    Returns:
        `dict[str, Any]`: With at most that one of the two names.

    Raises:
        ValueError: If two different caches are given.
    """
    renamed = {key: value for key, value in arguments.items() if key not in CACHE_NAMES}
    caches = [arguments[key] for key in CACHE_NAMES if arguments.get(key) is not None]
    if caches and caches[0] is not caches[-1]:
        raise ValueError("`cache` and `past_key_values` are two names of one argument; give one of them.")
    if caches:
        renamed[name] = caches[0]
    return renamed


def network_arguments(forward: Callable) -> Callable:
    """Decorate a `forward` whose argument is `cache`: accept either name of it, and refuse unknown arguments.

    A release of transformers that passes the cache under a third name would otherwise lose it among the keyword
    arguments, and each position would attend only to itself. The signature shows the name that the installed release
    uses, because `generate()` and `Trainer` read it. Unknown arguments that are `None` are left out: PEFT passes some.

    Args:
        forward (`Callable`): A method of a network.

    Returns:
        `Callable`: The method, which raises `TypeError` for unknown arguments and `ValueError` for two caches.
    """
    signature = inspect.signature(forward)
    known = _PASSED_ON | set(signature.parameters)

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "past_key_values" in kwargs:
            kwargs = rename_cache(kwargs, "cache")
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            wrong = [name for name in unknown if kwargs[name] is not None]
            if wrong:
                raise TypeError(
                    f"{type(self).__name__} does not know the arguments {wrong}; it takes {sorted(known - {'self'})}. "
                    f"If transformers passed them, its version {transformers.__version__} is newer than this version "
                    "of dia_hf supports: upgrade dia_hf, or install an older transformers."
                )
            kwargs = {name: value for name, value in kwargs.items() if name in known}
        return forward(self, *args, **kwargs)

    parameters = [
        parameter.replace(name=CACHE_NAME) if name == "cache" else parameter
        for name, parameter in signature.parameters.items()
    ]
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper
