"""Settings that a caller of `generate()` may give for each sample of a batch: lists in the place of single values.

transformers knows one value for all. Here lists are taken out of the call before transformers sees it, and become rules
that see one sample's rows at a time. Knows nothing of what the rules do.

Legend: B batch, as long as the sequences to be returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor

from .logits_process import DiaPerSampleLogitsProcessor

__all__ = ["PER_SAMPLE", "SampleSettings", "take_lists"]

PER_SAMPLE = ("guidance_scale", "temperature", "top_k", "top_p", "max_new_tokens")


def take_lists(kwargs: dict[str, Any]) -> dict[str, list]:
    """Take the lists out of the arguments of a call, and leave single values that transformers can work with."""
    lists = {}
    for name in PER_SAMPLE:
        value = kwargs.get(name)
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            value = value.tolist()
        if isinstance(value, (list, tuple)):
            if not value:
                raise ValueError(f"`{name}` is an empty list; give one value for each sample, or one for all.")
            lists[name] = list(value)
            # There must be room for the longest; the rest is off until it is one sample's.
            kwargs[name] = max(value) if name == "max_new_tokens" else None
    return lists


class SampleSettings:
    """The settings of a call, each one value for all samples or a list.

    Args:
        generation_config (`GenerationConfig`): With the single values, and the lists in `per_sample`.
        batch_size (`int`): Sequences to be returned, B.
        num_channels (`int`): Channels.

    Raises:
        ValueError: If a list is not as long as the batch.
    """

    def __init__(self, generation_config: GenerationConfig, batch_size: int, num_channels: int) -> None:
        self.generation_config = generation_config
        self.batch_size = batch_size
        self.num_channels = num_channels
        repeats = generation_config.num_return_sequences or 1
        self.lists: dict[str, list] = {}
        for name, values in generation_config.per_sample.items():
            if len(values) * repeats != batch_size:
                raise ValueError(
                    f"`{name}` is a list of {len(values)}, but the batch has {batch_size // repeats} samples; give one "
                    "value for each sample, or one for all."
                )
            self.lists[name] = [value for value in values for _ in range(repeats)]

    def are_lists(self, *names: str) -> bool:
        """Whether any of these settings is given for each sample."""
        return any(name in self.lists for name in names)

    def of(self, name: str) -> list:
        """Return a setting's value for every sequence."""
        return self.lists.get(name, [getattr(self.generation_config, name)] * self.batch_size)

    def make_rule(self, make: Callable[..., LogitsProcessor], *names: str) -> LogitsProcessor:
        """Make one rule of these settings for all, or one for each value there is where they are lists."""
        if not self.are_lists(*names):
            return make(*(getattr(self.generation_config, name) for name in names))
        settings = list(zip(*(self.of(name) for name in names), strict=True))
        rules = {setting: make(*setting) for setting in dict.fromkeys(settings)}
        return DiaPerSampleLogitsProcessor([rules[setting] for setting in settings], self.num_channels)
