"""Changes of a waveform that arrives in chunks: sampling rate and speed.

The outputs of `process` and `finish`, concatenated, are the changed waveform. They do not depend on how the waveform is
split into chunks, except for rounding. Chunks are mono, float32 in [-1, 1]; the outputs of soxr and libav can exceed
that a little. An object serves one waveform, in one thread at a time.

Legend: N samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

import numpy as np
import soxr

from .._extras import import_extra
from .io import check_and_clip, check_rate

__all__ = ["StreamResampler", "StreamTimeStretcher", "check_chunk"]

_NOTHING = np.zeros(0, dtype=np.float32)


def check_chunk(chunk: np.ndarray, name: str = "a chunk") -> np.ndarray:
    """Return a chunk as contiguous float32 in [-1, 1]: slightly louder samples are clipped.

    Args:
        chunk (`np.ndarray` of shape `[N]`): Floats; N may be 0.
        name (`str`): Destination of the samples, for the error.

    Raises:
        ValueError: If it is no array of floats `[N]`, or samples are NaN, infinite or far beyond full scale.
    """
    if not isinstance(chunk, np.ndarray) or chunk.dtype.kind != "f" or chunk.ndim != 1:
        is_array = isinstance(chunk, np.ndarray)
        found = f"{chunk.dtype} of the shape {list(chunk.shape)}" if is_array else f"a {type(chunk).__name__}"
        raise ValueError(f"a chunk is {found}; give a mono numpy array [samples] of float32 in [-1, 1].")
    return np.ascontiguousarray(check_and_clip(chunk, name)) if chunk.size else _NOTHING


class _Stream(ABC):
    """Checks of chunks and of the order of calls, shared by the changes below."""

    _is_finished = False

    def process(self, chunk: np.ndarray) -> np.ndarray:
        """Add samples, and return the output that is ready.

        Args:
            chunk (`np.ndarray` of shape `[N]`): float32 in [-1, 1], of any length, also none.

        Returns:
            `np.ndarray` of shape `[M]`, float32; M may be 0.

        Raises:
            ValueError: If the chunk has another form, or samples are NaN, infinite or far beyond full scale.
            RuntimeError: After `finish`.
        """
        chunk = check_chunk(chunk)
        self._check_open()
        return self._process(chunk) if chunk.size else _NOTHING

    def finish(self) -> np.ndarray:
        """End the waveform, and return the rest of the output.

        Returns:
            `np.ndarray` of shape `[M]`, float32; M may be 0.

        Raises:
            RuntimeError: If it was called before.
        """
        self._check_open()
        self._is_finished = True
        return self._finish()

    def _check_open(self) -> None:
        if self._is_finished:
            raise RuntimeError(f"this {type(self).__name__} is finished; make one for each waveform.")

    @abstractmethod
    def _process(self, chunk: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _finish(self) -> np.ndarray: ...


class StreamResampler(_Stream):
    """Change the sampling rate of a waveform that arrives in chunks, with soxr at its "HQ" setting.

    The output is that of `dia_hf.audio.io.resample` on the whole waveform. soxr holds back up to 45 ms until `finish`.
    At equal rates, chunks pass unchanged.

    Args:
        sampling_rate (`int`): Rate of the chunks in hertz.
        target_rate (`int`): Rate of the output in hertz.

    Raises:
        ValueError: If a rate is outside `dia_hf.audio.io.SAMPLING_RATES`.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.streams import StreamResampler
    >>> resampler = StreamResampler(44100, 24000)
    >>> parts = [resampler.process(np.zeros(4410, dtype=np.float32)) for _ in range(10)]
    >>> sum(map(len, [*parts, resampler.finish()]))
    24000

    ```
    """

    def __init__(self, sampling_rate: int, target_rate: int) -> None:
        check_rate(sampling_rate)
        check_rate(target_rate)
        is_needed = sampling_rate != target_rate
        self._soxr = soxr.ResampleStream(sampling_rate, target_rate, 1, "float32", "HQ") if is_needed else None

    def _process(self, chunk: np.ndarray) -> np.ndarray:
        return chunk if self._soxr is None else self._soxr.resample_chunk(chunk)

    def _finish(self) -> np.ndarray:
        return _NOTHING if self._soxr is None else self._soxr.resample_chunk(_NOTHING, last=True)


class StreamTimeStretcher(_Stream):
    """Change the speed of a waveform that arrives in chunks at the same pitch, with libav's filter `atempo`.

    The output has N / speed samples, rounded. The filter needs 40 to 100 ms of the waveform before its first output,
    and holds back as much until `finish`; above speed 2, up to 300 ms. At speed 1, chunks pass unchanged.
    `dia_hf.audio.effects.change_speed` changes a whole waveform in better quality.

    Args:
        sampling_rate (`int`): In hertz.
        speed (`float`): From 0.25 to 4; 1.25 is a quarter faster.

    Raises:
        ImportError: If PyAV is not installed.
        ValueError: If rate or speed are out of range.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.streams import StreamTimeStretcher
    >>> stretcher = StreamTimeStretcher(44100, 1.25)
    >>> parts = [stretcher.process(np.zeros(4410, dtype=np.float32)) for _ in range(10)]
    >>> sum(map(len, [*parts, stretcher.finish()]))
    35280

    ```
    """

    def __init__(self, sampling_rate: int, speed: float) -> None:
        check_rate(sampling_rate)
        if not 0.25 <= speed <= 4:
            raise ValueError(f"`speed` is {speed!r}; it is from 0.25 (four times as slow) to 4 (four times as fast).")
        self._sampling_rate, self._speed = int(sampling_rate), float(speed)
        self._num_taken = self._num_given = 0
        self._graph: Any = None
        if speed == 1:
            return
        self._av = import_extra("av")
        self._time_base = Fraction(1, self._sampling_rate)
        self._graph = self._av.filter.Graph()
        node = self._graph.add_abuffer(
            format="flt", sample_rate=self._sampling_rate, layout="mono", time_base=self._time_base
        )
        # atempo goes down to 0.5, and above 2 it leaves out samples instead of blending them.
        num_filters = 1 if 0.5 <= speed <= 2 else 2
        names = ["atempo"] * num_filters + ["abuffersink"]
        for name, argument in zip(names, [repr(self._speed ** (1 / num_filters))] * num_filters + [None], strict=True):
            following = self._graph.add(name, argument)
            node.link_to(following)
            node = following
        self._graph.configure()

    def _process(self, chunk: np.ndarray) -> np.ndarray:
        if self._graph is None:
            return chunk
        self._push(chunk)
        self._num_taken += len(chunk)
        output = self._pull()
        self._num_given += len(output)
        return output

    def _finish(self) -> np.ndarray:
        if self._graph is None or not self._num_taken:
            return _NOTHING
        num_left = math.floor(self._num_taken / self._speed + 0.5) - self._num_given
        # atempo drops an incomplete last window, or all of a waveform that is shorter than one: silence completes it.
        self._push(np.zeros(self._sampling_rate // 2, dtype=np.float32))
        self._graph.push(None)
        output = self._pull()[:num_left]
        self._graph = None
        return output

    def _push(self, samples: np.ndarray) -> None:
        frame = self._av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = self._sampling_rate, self._time_base, self._num_taken
        self._graph.push(frame)

    def _pull(self) -> np.ndarray:
        parts = [_NOTHING]
        while True:
            try:
                parts.append(self._graph.pull().to_ndarray()[0])
            except (BlockingIOError, EOFError):
                return np.concatenate(parts)
