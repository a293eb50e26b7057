"""The progress bar of speech: seconds of audio against seconds of waiting."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm
from transformers.generation import BaseStreamer

__all__ = ["SpokenSeconds", "spoken_bar"]


def spoken_bar(max_seconds: float | None, is_shown: bool) -> tqdm:
    """Make a bar that counts seconds of audio, up to `max_seconds` where there is a limit."""
    spoken = "{n:.1f}" + ("" if max_seconds is None else f"/{max_seconds:.1f}")
    return tqdm(
        desc="speaking",
        total=max_seconds,
        unit="s",
        disable=not is_shown,
        bar_format="{desc}: " + spoken + " s of audio [{elapsed}]",
    )


class SpokenSeconds(BaseStreamer):
    """A streamer that moves a bar by one frame's duration for each frame that a step completes.

    Args:
        bar (`tqdm`): From `spoken_bar`.
        frame_rate (`float`): Frames a second.
        max_delay (`int`): Frames by which the slowest channel lags behind.
    """

    def __init__(self, bar: tqdm, frame_rate: float, max_delay: int) -> None:
        self.bar = bar
        self.seconds_per_frame = 1 / frame_rate
        self.puts_without_frame = 1 + max_delay  # the prompt, then steps until the slowest channel has spoken

    def put(self, value: torch.Tensor) -> None:
        """Count a step's tokens."""
        if self.puts_without_frame > 0:
            self.puts_without_frame -= 1
        else:
            self.bar.update(self.seconds_per_frame)

    def end(self) -> None:
        """Nothing is held back."""
