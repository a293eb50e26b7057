"""Audio effects: loudness, peak, speed, and trimming of silence.

Waveforms are numpy arrays of float32 in [-1, 1], mono `[N]` or `[channels, N]`. A waveform that is too short or too
silent for an effect is returned unchanged, with a warning instead of an error, so that generated audio is not lost.
Loudness and speed need the packages of `pip install "dia-hf[audio]"`. This file does not depend on files, codecs or
models.

Legend: N samples.
"""

from __future__ import annotations

import math
import warnings
from types import ModuleType

import numpy as np

from .._extras import import_extra

__all__ = ["change_speed", "find_sound", "limit_peak", "measure_loudness", "normalize_loudness", "trim_silence"]

_LOUDNESS_BLOCK = 0.4  # seconds: the shortest that BS.1770 measures
_SHORTEST_STRETCH = 0.1  # seconds: a shorter waveform fits into Rubber Band's window, and most of it is lost
_SILENCE_WINDOW = 0.01  # seconds


def measure_loudness(waveform: np.ndarray, sampling_rate: int) -> float:
    """Measure the integrated loudness by ITU-R BS.1770-4, with pyloudnorm.

    Pauses do not count: blocks below -70 LUFS, and those 10 LU below the mean of the others, are left out. Channels add
    up, as in the standard: the same signal on two channels is 3 LU louder than on one.

    Args:
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): At least 0.4 s; up to five channels, in the order
            left, right, center, left and right surround.
        sampling_rate (`int`): In hertz, at least 8,000.

    Returns:
        `float`: Loudness in LUFS; `-inf` if the whole waveform is below -70 LUFS.

    Raises:
        ImportError: If pyloudnorm is not installed.
        ValueError: If the waveform is shorter, has more channels or another shape, or the rate is lower.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.effects import measure_loudness
    >>> sine = np.sin(2 * np.pi * 997 * np.arange(48000) / 48000).astype(np.float32)
    >>> round(measure_loudness(sine, 48000), 2)
    -3.01

    ```
    """
    pyloudnorm = import_extra("pyloudnorm")
    seconds = _seconds(waveform, sampling_rate)
    _peak(waveform)
    return _measure(pyloudnorm, waveform, sampling_rate, seconds)


def _measure(pyloudnorm: ModuleType, waveform: np.ndarray, sampling_rate: int, seconds: float) -> float:
    """Measure the loudness of a checked waveform."""
    if sampling_rate < 8000:
        raise ValueError(f"`sampling_rate` is {sampling_rate} Hz; loudness is measured at 8000 Hz and above.")
    if seconds < _LOUDNESS_BLOCK:
        raise ValueError(f"{seconds:.3f} s are too short for loudness, which needs {_LOUDNESS_BLOCK} s.")
    if waveform.ndim == 2 and len(waveform) > 5:
        raise ValueError(f"the waveform has {len(waveform)} channels; loudness is defined for 5 at most.")
    # Blocks begin every 0.1 s. pyloudnorm pads an incomplete last block with silence; the standard leaves it
    # out.
    num_tenths = 10 * waveform.shape[-1] // sampling_rate
    whole = waveform[..., : math.ceil(num_tenths * sampling_rate / 10)].astype(np.float64)
    # pyloudnorm's filters named "DeMan" are those of the standard; its default ones measure 0.04 LU less.
    return float(pyloudnorm.Meter(sampling_rate, filter_class="DeMan").integrated_loudness(whole.T))


def normalize_loudness(waveform: np.ndarray, sampling_rate: int, target: float, peak: float = -1.0) -> np.ndarray:
    """Scale a waveform to a loudness, within a limit of its peaks.

    Args:
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): As `measure_loudness` takes it. If it is shorter or
            silent, it is returned unchanged, with a warning.
        sampling_rate (`int`): In hertz, at least 8,000.
        target (`float`): Integrated loudness in LUFS, from -70 to 0: -16 is usual for podcasts, -23 for broadcast.
        peak (`float`, defaults to -1.0): Limit of all samples in dBFS, at most 0. Where the target would exceed
            it, the gain is reduced, and a warning names the loudness that is reached instead.

    Returns:
        `np.ndarray` of the same shape and dtype.

    Raises:
        ImportError: If pyloudnorm is not installed.
        ValueError: If target, peak, rate or the shape of the waveform are out of range.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.effects import measure_loudness, normalize_loudness
    >>> sine = np.sin(2 * np.pi * 997 * np.arange(48000) / 48000).astype(np.float32)
    >>> round(measure_loudness(normalize_loudness(sine, 48000, -16), 48000), 2)
    -16.0

    ```
    """
    if not -70 <= target <= 0:
        raise ValueError(f"`target` is {target} LUFS; it is between -70 and 0, such as -16 for podcasts.")
    limit = _amplitude(peak)
    seconds, highest = _seconds(waveform, sampling_rate), _peak(waveform)
    if seconds < _LOUDNESS_BLOCK:
        warnings.warn(
            f"{seconds:.3f} s are too short for loudness, which needs {_LOUDNESS_BLOCK} s; they are left unchanged.",
            stacklevel=2,
        )
        return waveform
    loudness = _measure(import_extra("pyloudnorm"), waveform, sampling_rate, seconds)
    if loudness == -math.inf:
        warnings.warn("the waveform is silent (below -70 LUFS throughout); it is left unchanged.", stacklevel=2)
        return waveform
    gain = float(10 ** ((target - loudness) / 20))
    if gain * highest > limit:
        gain = limit / highest
        warnings.warn(
            f"{target} LUFS would lift the peak above {peak} dBFS; the loudness is "
            f"{loudness + 20 * math.log10(gain):.1f} LUFS instead.",
            stacklevel=2,
        )
    return waveform * gain


def limit_peak(waveform: np.ndarray, peak: float) -> np.ndarray:
    """Scale a waveform down so that no sample exceeds a peak; never up.

    Args:
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): Of any length.
        peak (`float`): In dBFS, at most 0.

    Returns:
        `np.ndarray` of the same shape and dtype; the input itself if it is quiet enough.

    Raises:
        ValueError: If the peak is above 0 dBFS, or the waveform has another form.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.effects import limit_peak
    >>> limit_peak(np.array([2.0, -1.0]), -6.0206).round(3)
    array([ 0.5 , -0.25])

    ```
    """
    limit = _amplitude(peak)
    _check_form(waveform)
    highest = _peak(waveform)
    return waveform if highest <= limit else waveform * (limit / highest)


def change_speed(waveform: np.ndarray, sampling_rate: int, speed: float) -> np.ndarray:
    """Change the speed at the same pitch, with Rubber Band through pedalboard.

    Peaks may rise a little, and the first and last 20 ms fade: set the loudness afterwards.

    Args:
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): Below 0.1 s it is returned unchanged, with a warning.
        sampling_rate (`int`): In hertz.
        speed (`float`): From 0.5 to 2; 1.25 is a quarter faster.

    Returns:
        `np.ndarray` with as many channels and N / speed samples, float32; the input itself at speed 1.

    Raises:
        ImportError: If pedalboard is not installed.
        ValueError: If speed, rate or the shape of the waveform are out of range.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.effects import change_speed
    >>> change_speed(np.ones(44100, dtype=np.float32), 44100, 1.25).shape
    (35280,)

    ```
    """
    if not 0.5 <= speed <= 2:
        raise ValueError(f"`speed` is {speed}; it is between 0.5 (half as fast) and 2 (twice as fast).")
    seconds = _seconds(waveform, sampling_rate)
    _peak(waveform)
    if speed == 1:
        return waveform
    pedalboard = import_extra("pedalboard")
    if seconds < _SHORTEST_STRETCH:
        warnings.warn(
            f"{seconds:.3f} s are too short to change speed, which needs {_SHORTEST_STRETCH} s; they stay unchanged.",
            stacklevel=2,
        )
        return waveform
    stretched = pedalboard.time_stretch(np.atleast_2d(waveform).astype(np.float32), sampling_rate, speed)
    return stretched.reshape(*waveform.shape[:-1], -1)


def trim_silence(waveform: np.ndarray, sampling_rate: int, threshold: float = -50.0, keep: float = 0.05) -> np.ndarray:
    """Trim silence at both ends; pauses inside are kept.

    Silence is where the level (RMS over 10 ms around their mean, of the loudest channel) is below a threshold. The
    threshold is absolute: relative to its own peak, a recording of hiss would never be silent. The mean is subtracted
    because a constant offset, as of cheap microphones, is inaudible.

    Args:
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): Of any length.
        sampling_rate (`int`): In hertz.
        threshold (`float`, defaults to -50.0): In dBFS, at most 0. For a quiet recording, lower it or set the loudness
            first.
        keep (`float`, defaults to 0.05): Seconds of silence to keep before and after, as far as there are as many:
            soft beginnings and ends of words are below the threshold.

    Returns:
        `np.ndarray`: A view of the remaining samples, of shape `[M]` or `[channels, M]`. If the whole waveform is
        silent, `size` is 0.

    Raises:
        ValueError: If threshold, keep, rate or the shape of the waveform are out of range.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.effects import trim_silence
    >>> second = np.sin(np.arange(16000) / 10, dtype=np.float32)
    >>> trim_silence(np.concatenate([0 * second, second, 0 * second]), 16000).size / 16000
    1.1
    >>> trim_silence(0 * second, 16000).size
    0

    ```
    """
    if not 0 <= keep < math.inf:
        raise ValueError(f"`keep` is {keep} s; it must be 0 or more.")
    begin, end = find_sound(waveform, sampling_rate, threshold)
    margin = round(keep * sampling_rate) if end > begin else 0
    return waveform[..., max(0, begin - margin) : end + margin]


def find_sound(waveform: np.ndarray, sampling_rate: int, threshold: float = -50.0) -> tuple[int, int]:
    """Find the part of a waveform without the silence at both ends, as `trim_silence` defines it.

    Args:
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): Of any length.
        sampling_rate (`int`): In hertz.
        threshold (`float`, defaults to -50.0): In dBFS, at most 0.

    Returns:
        `tuple[int, int]`: First sample, and the one after the last, in steps of 10 ms; `(0, 0)` if all is silent.

    Raises:
        ValueError: If threshold, rate or the shape of the waveform are out of range.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.effects import find_sound
    >>> second = np.sin(np.arange(16000) / 10, dtype=np.float32)
    >>> find_sound(np.concatenate([0 * second, second, 0 * second]), 16000)
    (16000, 32000)

    ```
    """
    level = _amplitude(threshold, "threshold")
    if _seconds(waveform, sampling_rate) == 0:
        return 0, 0
    num_samples = waveform.shape[-1]
    window = max(1, round(_SILENCE_WINDOW * sampling_rate))
    starts = np.arange(0, num_samples, window)
    samples = np.atleast_2d(waveform)
    lengths = np.diff(starts, append=num_samples)
    means = np.add.reduceat(samples, starts, axis=-1, dtype=np.float64) / lengths
    _check_finite(means)
    squares = np.square(samples - np.repeat(means, lengths, axis=-1))
    loud = np.flatnonzero((np.add.reduceat(squares, starts, axis=-1) / lengths).max(axis=0) >= level**2)
    if not loud.size:
        return 0, 0
    return int(loud[0]) * window, min(num_samples, (int(loud[-1]) + 1) * window)


def _amplitude(decibels: float, name: str = "peak") -> float:
    """Convert a level in dBFS to an amplitude: 0 dBFS is 1."""
    if not -math.inf < decibels <= 0:
        raise ValueError(f"`{name}` is {decibels} dBFS; it is 0 (full scale) or below.")
    return float(10 ** (decibels / 20))


def _seconds(waveform: np.ndarray, sampling_rate: int) -> float:
    """Return the duration of a waveform; checks its shape, not its samples."""
    _check_form(waveform)
    if sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` is {sampling_rate} Hz; it must be positive.")
    return waveform.shape[-1] / sampling_rate


def _check_form(waveform: np.ndarray) -> None:
    if not isinstance(waveform, np.ndarray) or not np.issubdtype(waveform.dtype, np.floating):
        kind = waveform.dtype if isinstance(waveform, np.ndarray) else type(waveform).__name__
        raise ValueError(f"a waveform of type {kind} is no numpy array of float32 in [-1, 1].")
    if waveform.ndim not in (1, 2) or len(waveform) > waveform.shape[-1] > 0:
        raise ValueError(f"a waveform has shape [N] or [channels, N], not {list(waveform.shape)}.")


def _peak(waveform: np.ndarray) -> float:
    """Return the largest amplitude, and check in the same scan that all samples are finite."""
    highest = np.maximum(waveform.max(initial=0), -waveform.min(initial=0))
    _check_finite(highest)
    return float(highest)


def _check_finite(result: np.ndarray) -> None:
    """Raise `ValueError` if a result shows that a sample was NaN or infinite."""
    if not np.isfinite(result).all():
        raise ValueError("the waveform has samples that are NaN or infinite.")
