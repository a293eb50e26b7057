"""Reading of uploaded recordings: content of unknown origin, in formats that browsers and the OpenAI clients send.

libsndfile reads wav, flac, mp3, ogg and aiff; PyAV reads the others (webm, mp4, m4a, aac, amr), and what is damaged or
was streamed.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..audio.containers import read_container
from ..audio.io import FAR_BEYOND_FULL_SCALE, read_audio

__all__ = ["read_recording"]

_RATES = (1000, 192_000)
_MAX_CHANNELS = 8
# First bytes of what libsndfile may read. Its parsers of rare formats are not needed here.
_SOUNDFILE = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b"\xff")


def read_recording(content: bytes, max_seconds: float) -> tuple[np.ndarray, int]:
    """Read an uploaded recording; no more is decoded than is allowed, whatever its header claims.

    Args:
        content (`bytes`): Content of an audio file: wav, flac, mp3, ogg, aiff, webm, mp4 or aac.
        max_seconds (`float`): Longest recording to accept, in seconds.

    Returns:
        `tuple[np.ndarray, int]`: Waveform `[channels, N]`, float32, N at least 1, and sampling rate in hertz.

    Raises:
        ValueError: If it is no audio, damaged, empty or longer; has a rate outside 1 to 192 kHz, or more than 8
            channels; or has samples that are NaN, infinite or far beyond full scale.
    """
    try:
        if not content.startswith(_SOUNDFILE):
            raise ValueError("its first bytes are of no format that libsndfile reads")
        waveform, rate = _read_bounded(read_audio, content, max_seconds)
    except ValueError:
        try:
            waveform, rate = _read_bounded(read_container, content, max_seconds)
        except ValueError as error:
            raise ValueError(
                f"the recording of {len(content)} bytes cannot be read as audio ({error}); send wav, flac, mp3, ogg, "
                "webm, mp4 or aac."
            ) from error
    if waveform.size == 0:
        raise ValueError("the recording holds 0 samples; send one with speech in it.")
    if waveform.shape[-1] > max_seconds * rate:
        raise ValueError(f"the recording is longer than {max_seconds:g} s; cut it: 5 to 10 s work best.")
    peak = np.maximum(waveform.max(), -waveform.min())  # NaN if a sample is
    if not peak <= FAR_BEYOND_FULL_SCALE:
        raise ValueError(f"the recording goes up to {peak:g}, and full scale is 1; save it again as 16-bit wav.")
    return waveform, rate


def _read_bounded(read: Callable[..., Any], content: bytes, max_seconds: float) -> tuple[np.ndarray, int]:
    """Look at the beginning first: its form decides how much memory the rest takes."""
    beginning, rate = read(content, end=0)
    _check_form(rate, len(beginning))
    return read(content, end=max_seconds + 1)


def _check_form(rate: int, num_channels: int) -> None:
    low, high = _RATES
    if not low <= rate <= high:
        raise ValueError(f"the recording has {rate} Hz; send {low} to {high} Hz.")
    if num_channels > _MAX_CHANNELS:
        raise ValueError(f"the recording has {num_channels} channels; send at most {_MAX_CHANNELS}.")
