"""Outputs of a stream: an audio player, or raw PCM on standard output.

Called by the command line with the audio chunks of `Dia.stream` or of a dialogue.

Legend: N samples.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from .._extras import import_extra
from ..audio.io import pcm16

__all__ = ["import_sounddevice", "open_player", "open_stdout"]


def import_sounddevice() -> ModuleType:
    """Import `sounddevice`, which comes with an extra.

    Raises:
        ImportError: If it is not installed.
        OSError: If its library of the system, PortAudio, is missing.
    """
    try:
        return import_extra("sounddevice")
    except OSError as error:  # on Linux, the package does not bring PortAudio
        raise OSError(
            f"there is no audio output: {error}; on Debian, `apt install libportaudio2` brings it."
        ) from error


@contextmanager
def open_player(sampling_rate: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Open the default audio output through `sounddevice`.

    Args:
        sampling_rate (`int`): In hertz.

    Yields:
        A function that plays samples, float32 `[N]`, and blocks while the buffer is full. The end of the block waits
        for the rest to be played.

    Raises:
        ImportError: If `sounddevice` is not installed.
        OSError: If there is no audio output.
    """
    sounddevice = import_sounddevice()
    try:
        player = sounddevice.OutputStream(samplerate=sampling_rate, channels=1, dtype="float32")
    except sounddevice.PortAudioError as error:
        raise OSError(f"there is no audio output: {error}.") from error
    with player:
        yield lambda samples: player.write(samples[:, None])


@contextmanager
def open_stdout() -> Iterator[Callable[[np.ndarray], None]]:
    """Open standard output for raw PCM: 16 bits, little-endian, mono.

    Yields:
        A function that writes samples, float32 `[N]` in [-1, 1].

    Raises:
        BrokenPipeError: If the reader has closed the pipe.
    """

    def write(samples: np.ndarray) -> None:
        sys.stdout.buffer.write(pcm16(samples).tobytes())
        sys.stdout.buffer.flush()

    try:
        yield write
    except BrokenPipeError as error:
        # Otherwise Python reports the error again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError("the reader of standard output has closed it; the rest was not generated.") from error
