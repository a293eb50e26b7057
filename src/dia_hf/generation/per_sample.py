"""Sampling parameters that `generate()` accepts as one value for all samples or as a list of one value a sample.

transformers accepts single values. Lists are taken out of the call before transformers reads it. The reference path
then applies them as logits processors that see one sample's rows at a time (`SampleSettings.make_processor`); the fast
path reads the values (`SampleSettings.of`).

Legend: B batch: the number of returned sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..configuration_dia import DiaDecoderConfig
from .logits_process import (
    DiaClassifierFreeGuidanceLogitsProcessor,
    DiaConditionalLogitsProcessor,
    DiaGuidanceTopKLogitsProcessor,
    DiaPerSampleLogitsProcessor,
)

__all__ = ["GUIDANCE_OFF", "PER_SAMPLE", "SampleSettings", "make_guidance", "make_warpers", "take_lists"]

PER_SAMPLE = ("guidance_scale", "temperature", "top_k", "top_p", "max_new_tokens")
GUIDANCE_OFF = (None, 1)


def take_lists(kwargs: dict[str, Any]) -> dict[str, list]:
    """Take the lists out of the arguments of a call, and leave single values that transformers accepts."""
    lists = {}
    for name in PER_SAMPLE:
        value = kwargs.get(name)
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            value = value.tolist()
        if isinstance(value, (list, tuple)):
            if not value:
                raise ValueError(f"`{name}` is an empty list; give one value for each sample, or one for all.")
            lists[name] = list(value)
            # transformers allocates for the longest sample; the other parameters are applied per sample.
            kwargs[name] = max(value) if name == "max_new_tokens" else None
    return lists


class SampleSettings:
    """The sampling parameters of a call, as they are when this is made: one value for all samples, or a list.

    Args:
        generation_config (`GenerationConfig`): With the single values, and the lists in `per_sample`.
        batch_size (`int`): Number of returned sequences, B.
        num_channels (`int`): Channels.

    Raises:
        ValueError: If a list is not as long as the batch.
    """

    def __init__(self, generation_config: GenerationConfig, batch_size: int, num_channels: int) -> None:
        self.batch_size = batch_size
        self.num_channels = num_channels
        repeats = generation_config.num_return_sequences or 1
        self._lists = generation_config.per_sample
        self._values: dict[str, list] = {}
        for name in PER_SAMPLE:
            if (values := self._lists.get(name)) is None:
                self._values[name] = [getattr(generation_config, name)] * batch_size
                continue
            if len(values) * repeats != batch_size:
                raise ValueError(
                    f"`{name}` is a list of {len(values)}, but the batch has {batch_size // repeats} samples; give one "
                    "value for each sample, or one for all."
                )
            self._values[name] = [value for value in values for _ in range(repeats)]

    def are_lists(self, *names: str) -> bool:
        """Return whether any of these parameters was passed as a list."""
        return any(name in self._lists for name in names)

    def of(self, name: str) -> list:
        """Return a parameter's value for each of the B sequences."""
        return self._values[name]

    def make_processor(self, make: Callable[..., LogitsProcessor], *names: str) -> LogitsProcessor:
        """Make one processor for all samples, or one for each distinct value where parameters are lists."""
        if not self.are_lists(*names):
            return make(*(self.of(name)[0] for name in names))
        settings = list(zip(*(self.of(name) for name in names), strict=True))
        processors = {setting: make(*setting) for setting in dict.fromkeys(settings)}
        return DiaPerSampleLogitsProcessor([processors[setting] for setting in settings], self.num_channels)


def make_guidance(
    decoder: DiaDecoderConfig, sample_from_guided: bool, scale: float | None, top_k: int | None
) -> LogitsProcessor:
    """Make the processor that combines conditional and unconditional logits."""
    if scale in GUIDANCE_OFF:
        return DiaConditionalLogitsProcessor()
    if top_k and not sample_from_guided:
        return DiaGuidanceTopKLogitsProcessor(scale, top_k, decoder.eos_token_id, decoder.num_channels)
    return DiaClassifierFreeGuidanceLogitsProcessor(scale)


def make_warpers(temperature: float | None, top_k: int | None, top_p: float | None) -> LogitsProcessorList:
    """Make transformers' warpers, under its conditions and in its order."""
    warpers = LogitsProcessorList()
    if temperature not in (None, 1):
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers
