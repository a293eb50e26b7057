"""Progress bar of generation, in seconds of audio."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm
from transformers.generation import BaseStreamer

__all__ = ["SpokenSeconds", "spoken_bar"]


def spoken_bar(max_seconds: float | None, is_shown: bool) -> tqdm:
    """Create a bar that counts seconds of audio, up to `max_seconds` if there is a limit."""
    spoken = "{n:.1f}" + ("" if max_seconds is None else f"/{max_seconds:.1f}")
    return tqdm(
        desc="speaking",
        total=max_seconds,
        unit="s",
        disable=not is_shown,
        bar_format="{desc}: " + spoken + " s of audio [{elapsed}]",
    )


class SpokenSeconds(BaseStreamer):
    """Streamer that advances a bar by the duration of a frame for each completed frame.

    Args:
        bar (`tqdm`): From `spoken_bar`.
        frame_rate (`float`): Frames a second.
        max_delay (`int`): Largest delay of a channel in frames.
    """

    def __init__(self, bar: tqdm, frame_rate: float, max_delay: int) -> None:
        self.bar = bar
        self.seconds_per_frame = 1 / frame_rate
        self.puts_without_frame = 1 + max_delay  # the prompt, then the steps before the first complete frame

    def put(self, value: torch.Tensor) -> None:
        """Count the tokens of a step."""
        if self.puts_without_frame > 0:
            self.puts_without_frame -= 1
        else:
            self.bar.update(self.seconds_per_frame)

    def end(self) -> None:
        """Nothing to do."""
