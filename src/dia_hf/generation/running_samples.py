"""Reference path: drop samples that have ended from the network's batch.

By default `generate()` runs on the fast path, where `engine/scheduler.py` does this. transformers' loop feeds and pads
ended rows until the last one has ended. Here the history keeps all rows, and only what is passed to the network
shrinks: frames, masks, encoder states and the cache. The state belongs to one call of `generate()`.

Legend: B batch, T frames, C channels, R running samples, N = B·C rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, LogitsProcessor
from transformers.modeling_outputs import BaseModelOutput

__all__ = ["DiaRunningSamplesLogitsProcessor", "RunningSamples"]


class RunningSamples:
    """The samples of a call that have not ended.

    Args:
        num_channels (`int`): Channels.
        slowest_channel (`int`): The channel that ends last.
        end_token_ids (`tuple[int, ...]`): Tokens after which that channel has ended: end of speech, padding.
        is_guided (`bool`): Whether the network's batch is doubled, conditional samples first.

    Attributes:
        samples (`torch.LongTensor` of shape `[R]` or `None`): Their indices in the batch; `None` while all run.
    """

    def __init__(
        self, num_channels: int, slowest_channel: int, end_token_ids: tuple[int, ...], is_guided: bool
    ) -> None:
        self.num_channels = num_channels
        self.slowest_channel = slowest_channel
        self.end_token_ids = end_token_ids
        self.is_guided = is_guided
        self.samples: torch.Tensor | None = None
        self._kept: dict[str, Any] = {}

    def rows_in_network(self, samples: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Return the rows of samples in the network's batch, which guidance doubles."""
        return torch.cat([samples, samples + batch_size]) if self.is_guided else samples

    def drop_ended(self, frames: torch.Tensor, cache: EncoderDecoderCache | None) -> None:
        """Find ended samples in the frames so far, `[B, T, C]`, and shrink the cache to the others."""
        if len(frames) == 1 or (cache is not None and not isinstance(cache.self_attention_cache, DynamicCache)):
            return  # nothing to drop, so no synchronization; a static cache keeps its shape
        last = frames[:, -1, self.slowest_channel]
        has_ended = torch.stack([last == token for token in self.end_token_ids]).any(dim=0)
        before = self.samples if self.samples is not None else torch.arange(len(frames), device=frames.device)
        is_running = ~has_ended[before]
        if is_running.all() or not is_running.any():
            return
        if cache is not None:
            cache.batch_select_indices(self.rows_in_network(is_running.nonzero().flatten(), len(before)))
        self.samples = before[is_running]
        self._kept = {}

    def select(self, frames: torch.Tensor, model_kwargs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Select the running samples from frames `[B, T, C]` and the network's other inputs.

        Masks and positions of frames have a row a sample; encoder outputs have a row of the network's batch.
        """
        if self.samples is None:
            return frames, model_kwargs
        network = self.rows_in_network(self.samples, len(frames))
        selected = dict(model_kwargs)
        for name in ("decoder_attention_mask", "decoder_position_ids"):
            if selected.get(name) is not None:
                selected[name] = selected[name][self.samples]
        if not self._kept:
            self._kept = {"encoder_outputs": BaseModelOutput(model_kwargs["encoder_outputs"][0][network])}
            if model_kwargs.get("attention_mask") is not None:
                self._kept["attention_mask"] = model_kwargs["attention_mask"][network]
        return frames[self.samples], selected | self._kept


class DiaRunningSamplesLogitsProcessor(LogitsProcessor):
    """Scatter the running samples' scores to all rows; ended samples get zeros, and are padded.

    Args:
        running (`RunningSamples`): Of this call.
    """

    def __init__(self, running: RunningSamples) -> None:
        self.running = running

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[R·C, V]` to `[N, V]`; under guidance `[2·R·C, V]` to `[2·N, V]`."""
        running = self.running
        if running.samples is None:
            return scores
        batch_size = input_ids.shape[0] // running.num_channels
        by_sample = scores.unflatten(0, (-1, running.num_channels))
        scores_of_all = by_sample.new_zeros(batch_size * (2 if running.is_guided else 1), *by_sample.shape[1:])
        scores_of_all[running.rows_in_network(running.samples, batch_size)] = by_sample
        return scores_of_all.flatten(0, 1)
