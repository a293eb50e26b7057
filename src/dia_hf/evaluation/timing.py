"""Timing of speech: silence at its ends and inside, its pace, and whether it ends in the middle of a sound.

Sound and silence are told apart by loudness, as in `dia_hf.audio.effects.trim_silence`, relative to the loudest part of
the audio. Legend: N samples.
"""

from __future__ import annotations

import numpy as np

from .metrics import Measure

__all__ = ["measure_timing"]

_WINDOW = 0.01  # seconds
_SILENCE = -40.0  # dB relative to the loudest window
_FLOOR = 10 ** (-60 / 20)  # of full scale: audio without a louder window is silent
_PAUSE = 0.25  # seconds of silence: longer than the closure of a plosive
_END = 0.02  # seconds: a sound in all of the last windows is cut
_ABRUPT = -25.0  # dB relative to the loudest window, in the last `_END` seconds


def measure_timing(waveform: np.ndarray, sampling_rate: int, num_words: int) -> dict[str, Measure]:
    """Measure the timing of speech.

    Args:
        waveform (`np.ndarray` of shape `[N]`): Samples, float32 in [-1, 1].
        sampling_rate (`int`): In hertz.
        num_words (`int`): Words of its text.

    Returns:
        `dict[str, Measure]`: `silent`, and with a sound also `lead`, `tail`, `pace`, `pauses`, `longest_pause` and
        `abrupt`; see `METRICS`.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.evaluation.timing import measure_timing
    >>> sine = np.sin(np.arange(16000) / 5).astype(np.float32)
    >>> quiet = np.zeros(8000, np.float32)
    >>> measures = measure_timing(np.concatenate([quiet, sine, quiet, sine]), 16000, num_words=5)
    >>> [measures[name].value for name in ("lead", "longest_pause", "pace", "abrupt")]
    [0.5, 0.5, 2.0, 1.0]

    ```
    """
    size = max(1, round(_WINDOW * sampling_rate))
    whole = np.pad(np.nan_to_num(waveform.astype(np.float64)), (0, -len(waveform) % size))
    loudness = np.sqrt(np.square(whole).reshape(-1, size).mean(axis=1))
    loudest = loudness.max(initial=0.0)
    if loudest < _FLOOR:
        return {"silent": Measure(1)}
    sounding = np.flatnonzero(loudness > loudest * 10 ** (_SILENCE / 20))
    seconds = size / sampling_rate
    lead, end = sounding[0] * seconds, min((sounding[-1] + 1) * seconds, len(waveform) / sampling_rate)
    gaps = (np.diff(sounding) - 1) * seconds
    pauses = gaps[gaps >= _PAUSE]
    last = np.nan_to_num(waveform[-max(1, round(_END * sampling_rate)) :].astype(np.float64))
    is_abrupt = np.sqrt(np.square(last).mean()) > loudest * 10 ** (_ABRUPT / 20)
    return {
        "silent": Measure(0),
        "lead": Measure(float(lead)),
        "tail": Measure(float(len(waveform) / sampling_rate - end)),
        "pace": Measure(num_words, float(end - lead)),
        "pauses": Measure(len(pauses), float(end - lead)),
        "longest_pause": Measure(float(pauses.max(initial=0.0))),
        "abrupt": Measure(float(is_abrupt)),
    }
