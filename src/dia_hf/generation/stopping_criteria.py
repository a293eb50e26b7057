"""Stopping criteria that end whole samples: the user's, and cancellation by a streamer.

The reference path calls them in transformers' loop, with rows flattened as in `logits_process`: row b·C + c is channel
c of sample b. The fast path supports cancellation only; another criterion makes the reference path run.

Legend: B batch, C channels, N = B·C rows, L tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria

__all__ = ["DiaCancelStoppingCriteria", "DiaSampleStoppingCriteria"]


class DiaSampleStoppingCriteria(StoppingCriteria):
    """End a whole sample where a criterion is met in any of its channels.

    transformers would pad the one channel and continue the others.

    Args:
        criterion (`StoppingCriteria`): The user's criterion, on rows.
        num_channels (`int`): Channels.
    """

    def __init__(self, criterion: StoppingCriteria, num_channels: int) -> None:
        self.criterion = criterion
        self.num_channels = num_channels

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Map token history `[N, L]` to rows that are done, bool `[N]`; a criterion may return one bool for all."""
        done = torch.as_tensor(self.criterion(input_ids, scores, **kwargs), device=input_ids.device)
        by_sample = done.expand(input_ids.shape[0]).unflatten(0, (-1, self.num_channels)).any(dim=1)
        return by_sample.repeat_interleave(self.num_channels)


class DiaCancelStoppingCriteria(StoppingCriteria):
    """End every sample on cancellation, for example by a streamer whose consumer has stopped.

    Args:
        is_canceled (`Callable[[], bool]`): Called once a step.
    """

    def __init__(self, is_canceled: Callable[[], bool]) -> None:
        self.is_canceled = is_canceled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Map token history `[N, L]` to rows that are done, bool `[N]`."""
        return torch.full((input_ids.shape[0],), self.is_canceled(), device=input_ids.device)
