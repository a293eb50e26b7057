"""Audio of the model to bytes: speed, sampling rate, encoder.

Used by the bodies of responses and by the sentences of a WebSocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..audio.encoders import FORMATS, StreamEncoder
from ..audio.streams import StreamResampler, StreamTimeStretcher
from ..speech.timestamps import TimedText
from .requests import SpeechFields

__all__ = ["SpeechEncoding"]

_NOTHING = np.zeros(0, dtype=np.float32)
_CHEAP = ("pcm", "wav")  # formats whose encoding takes less time than the way to a thread and back
_WITH_LENGTH = ("wav", "flac")  # formats whose header has the number of samples


class SpeechEncoding:
    """Encode the chunks of one clip in the format, rate and speed that a request asks for.

    Args:
        fields (`SpeechFields`): Fields of the request.
        sampling_rate (`int`): Of the chunks, in hertz.

    Attributes:
        format (`str`): Name of the format.
        is_cheap (`bool`): Whether encoding takes less time than the way to a thread and back.
    """

    def __init__(self, fields: SpeechFields, sampling_rate: int) -> None:
        self.format, self._speed = fields.response_format, fields.speed
        self._rate = fields.rate(sampling_rate)
        self._stages: list[StreamTimeStretcher | StreamResampler] = []
        if fields.speed != 1:
            self._stages.append(StreamTimeStretcher(sampling_rate, fields.speed))
        if self._rate != sampling_rate:
            self._stages.append(StreamResampler(sampling_rate, self._rate))
        self._needs_length = self.format in _WITH_LENGTH and not fields.stream
        self._encoder = StreamEncoder(self.format, self._rate)
        self._kept: list[np.ndarray] = []
        self.is_cheap = self.format in _CHEAP and fields.speed == 1

    @property
    def sampling_rate(self) -> int:
        """Rate of the audio in hertz."""
        return self._encoder.sampling_rate

    def moved(self, times: Sequence[TimedText], seconds: float = 0.0) -> list[TimedText]:
        """Return times of the chunks as those of the decoded audio: at its speed, and after the delay of its format.

        Args:
            times (`Sequence[TimedText]`): Times of words or characters.
            seconds (`float`, defaults to 0.0): Where the chunks begin in them.
        """
        delay = FORMATS[self.format].delay / self.sampling_rate

        def move(time: float) -> float:
            return max(time - seconds, 0.0) / self._speed + delay

        return [replace(one, start=move(one.start), end=move(one.end)) for one in times]

    def add(self, chunk: np.ndarray) -> bytes:
        """Encode a chunk, `[N]`; nothing where the header needs the length of the whole."""
        for stage in self._stages:
            chunk = stage.process(chunk)
        return self._encode(chunk)

    def finish(self) -> bytes:
        """Encode the rest."""
        rest = _NOTHING
        for stage in self._stages:
            rest = np.concatenate([stage.process(rest), stage.finish()])
        last = self._encode(rest)
        if self._needs_length:  # its header has the number of samples
            audio = np.concatenate(self._kept)
            self._encoder = StreamEncoder(self.format, self._rate, num_samples=len(audio))
            last = self._encoder.encode(audio)
        return last + self._encoder.finish()

    async def encode(self, chunk: np.ndarray | None) -> bytes:
        """Encode a chunk, or the rest if it is `None`, in another thread where that takes long."""
        work, args = (self.finish, ()) if chunk is None else (self.add, (chunk,))
        return work(*args) if self.is_cheap else await asyncio.to_thread(work, *args)

    def _encode(self, samples: np.ndarray) -> bytes:
        if self._needs_length:
            self._kept.append(samples)
            return b""
        return self._encoder.encode(samples) if len(samples) else b""
