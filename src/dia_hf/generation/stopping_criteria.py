"""When a sample ends before it says so itself: at a criterion of the user's, or because nobody listens any more.

Called by `generate()` with rows flattened as the rules of `logits_process` see them: row b·C + c is channel c of
sample b.

Legend: B batch, C channels, N = B·C rows, L tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import StoppingCriteria

__all__ = ["DiaCancelStoppingCriteria", "DiaSampleStoppingCriteria"]


class DiaSampleStoppingCriteria(StoppingCriteria):
    """A criterion met in any channel ends the whole sample, and no other.

    Ended by itself, a channel would be padded while the others went on without it.

    Args:
        criterion (`StoppingCriteria`): Of the user's, on rows.
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
    """End every sample as soon as the caller says so, as a streamer does whose consumer has gone.

    Args:
        is_canceled (`Callable[[], bool]`): Asked once a step.
    """

    def __init__(self, is_canceled: Callable[[], bool]) -> None:
        self.is_canceled = is_canceled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Map token history `[N, L]` to rows that are done, bool `[N]`."""
        return torch.full((input_ids.shape[0],), self.is_canceled(), device=input_ids.device)
