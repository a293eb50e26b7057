"""Text and duration that all client scripts share, on the standard library alone: they run in other environments."""

from __future__ import annotations

import array
import sys

TEXT = "[S1] Hello, I am Dia. [S2] Welcome, Dia."
SECONDS = 2.95  # of the miniature, more or less by the seed
TOLERANCE = 0.4  # covers seeds, and the padding of mp3 and aac; a wrong sampling rate is off by 0.9 s or more


def report(name: str, pcm: bytes, sampling_rate: int, seconds: float = SECONDS, tolerance: float = TOLERANCE) -> None:
    """Check that audio has the expected duration and is not silent, and print one line.

    Args:
        name: Of the check, for the line.
        pcm: Signed 16-bit little-endian mono.
        sampling_rate: That the client assumes, in hertz.
        seconds: Expected duration.
        tolerance: In seconds.
    """
    samples = array.array("h", pcm)
    if sys.byteorder == "big":
        samples.byteswap()
    duration = len(samples) / sampling_rate
    peak = max(map(abs, samples), default=0) / 32768
    assert abs(duration - seconds) <= tolerance, f"{name}: {duration:.2f} s of audio, expected {seconds:.2f} s"
    assert peak > 0.05, f"{name}: the audio is silent, its peak is {peak:.4f}"
    print(f"{name}: {duration:.2f} s", flush=True)
