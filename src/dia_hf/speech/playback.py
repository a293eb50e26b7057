"""Where a stream sounds: a player, or raw PCM on standard output.

Called by the command line with the chunks of `Dia.stream` or of a dialogue.

Legend: N samples.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

__all__ = ["import_sounddevice", "open_player", "open_stdout"]


def import_sounddevice() -> ModuleType:
    """Import `sounddevice`, which comes with an extra.

    Raises:
        ImportError: If it is not installed.
        OSError: If its library of the system, PortAudio, is missing.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise ImportError('live sound needs sounddevice: pip install "dia-hf[player]".') from error
    except OSError as error:  # on Linux, the package does not bring PortAudio
        raise OSError(f"there is nothing to play with here: {error}.") from error
    return sounddevice


@contextmanager
def open_player(sampling_rate: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Open the machine's player through `sounddevice`.

    Args:
        sampling_rate (`int`): In hertz.

    Yields:
        A function that plays samples, float32 `[N]`, and waits while the player is busy. The end of the block waits for
        what is still to be heard.

    Raises:
        ImportError: If `sounddevice` is not installed.
        OSError: If there is nothing to play with.
    """
    sounddevice = import_sounddevice()
    try:
        player = sounddevice.OutputStream(samplerate=sampling_rate, channels=1, dtype="float32")
    except sounddevice.PortAudioError as error:
        raise OSError(f"there is nothing to play with here: {error}.") from error
    with player:
        yield lambda samples: player.write(samples[:, None])


@contextmanager
def open_stdout() -> Iterator[Callable[[np.ndarray], None]]:
    """Open standard output for raw PCM: 16 bits, little-endian, mono.

    Yields:
        A function that writes samples, float32 `[N]` in [-1, 1].

    Raises:
        BrokenPipeError: If nobody reads any more.
    """

    def write(samples: np.ndarray) -> None:  # as libsndfile makes 16 bits of floats
        sys.stdout.buffer.write(np.floor(samples * np.float32(32768)).clip(-32768, 32767).astype("<i2").tobytes())
        sys.stdout.buffer.flush()

    try:
        yield write
    except BrokenPipeError as error:
        # Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise BrokenPipeError("nobody reads from standard output any more; the rest was not spoken.") from error
