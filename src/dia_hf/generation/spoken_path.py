"""Alignment while a model speaks: the byte of each frame, a fixed number of frames later.

The audio of a frame is complete `audio_lag` frames after channel 0 of it: the other channels are delayed, and the
codec's decoder reads later frames. By then the weights of as many later frames are known. `PathFollower` uses them: it
settles the byte of a frame `audio_lag` frames later, once and for all, so that no word is known later than its audio.

Legend: B samples, T frames, C channels, S text bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from ..configuration_dia import DiaConfig
from .alignment import PathSearch

__all__ = ["PathFollower", "SpokenWeights", "audio_lag"]


def audio_lag(config: DiaConfig, codec: Any) -> int:
    """Return the frames after which the audio of a frame is complete.

    Args:
        config (`DiaConfig`): The delay pattern.
        codec (`Codec`): The codec.
    """
    return config.max_delay + codec.decoder_margin - 1


class PathFollower:
    """Search for the byte that each frame speaks, which settles the bytes of earlier frames.

    The byte of frame t is that of the most probable path through frame t + lag, but not before the byte of frame t - 1.
    So the result does not depend on how frames are split into calls. With a lag of all frames it is `find_path`.

    Args:
        search (`PathSearch`): Search of the most probable path.
        lag (`int`): Later frames that are known when a frame is settled.
    """

    def __init__(self, search: PathSearch, lag: int) -> None:
        self._search, self._lag = search, lag
        self._num_added = self._num_settled = self._place = 0

    def add(self, weights: torch.Tensor) -> list[int]:
        """Add frames.

        Args:
            weights (`torch.Tensor` of shape `[T, S]`): Mean weights of the alignment heads.

        Returns:
            `list[int]`: The bytes of the next frames that are settled now, which do not decrease.
        """
        self._search.add(weights)
        self._num_added += len(weights)
        settled = []
        while self._num_settled + self._lag < self._num_added:
            settled += self._settle([self._search.place_at(self._num_settled, self._num_settled + self._lag)])
        return settled

    def finish(self) -> list[int]:
        """Return the bytes of all remaining frames."""
        return self._settle(self._search.path(self._num_settled).tolist())

    def _settle(self, places: list[int]) -> list[int]:
        settled = []
        for place in places:
            self._place = max(self._place, place)
            settled.append(self._place)
        self._num_settled += len(settled)
        return settled


class SpokenWeights:
    """Mean weights of the alignment heads at the frames that a running call speaks: those before channel 0 ends.

    A streamer receives the weights of a step, and then its tokens, in the generating thread; another one takes them.

    Args:
        eos_token_id (`int`): End of speech in channel 0.
    """

    def __init__(self, eos_token_id: int) -> None:
        self._eos_token_id = eos_token_id
        self._weights: deque[torch.Tensor] = deque()  # [B, S] of each step
        self._tokens: deque[list[int]] = deque()  # of channel 0, B of each step
        self._taken: dict[int, list[torch.Tensor]] = {}
        self._ended: set[int] = set()

    def put_alignment(self, weights: torch.Tensor) -> None:
        """Receive the weights of a step, `[B, S]`."""
        self._weights.append(weights)

    def put(self, tokens: torch.Tensor) -> None:
        """Receive the tokens of a step, `[B, C]`; ignored where no weights come."""
        if self._weights:
            self._tokens.append(tokens[:, 0].tolist())

    def take(self, sample: int = 0) -> torch.Tensor:
        """Return the weights `[T, S]` of a sample at the next frames; T is 0 if there are none."""
        while self._tokens:
            for index, (token, row) in enumerate(zip(self._tokens.popleft(), self._weights.popleft(), strict=True)):
                if token == self._eos_token_id:
                    self._ended.add(index)
                if index not in self._ended:
                    self._taken.setdefault(index, []).append(row)
        rows = self._taken.pop(sample, [])
        return torch.stack(rows) if rows else torch.zeros(0, 0)

    def has_ended(self, sample: int = 0) -> bool:
        """Return whether the weights of all frames of a sample were taken, as its speech has ended."""
        return sample in self._ended and sample not in self._taken
