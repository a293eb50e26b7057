"""Encoders of audio streams: float32 chunks in, bytes out, in the formats of speech servers.

The bytes that an encoder returns for a chunk can be decoded at once. The samples that they lack, which follow with the
next chunk or at the end, and the decoded length of a stream of N samples, measured with libsndfile and libav:

| format | held back, at most | because of | decoded length |
|---|---|---|---|
| pcm, wav | nothing | | N |
| flac | 26 ms | an incomplete block | N |
| opus | 43 ms; 66 ms at 44.1 kHz, 87 at 22.05 | an incomplete frame, one page; resampling | N, at the encoder's rate |
| mp3 | 52 ms at 44.1 kHz, 44 at 24, 68 at 16 | an incomplete frame, the encoder delay | N + 1163 to N + 2303 |
| aac | 46 ms at 44.1 kHz, 84 at 24, 124 at 16 | an incomplete frame, the encoder delay | N + 1024 to N + 2047 |

wav, pcm and flac are lossless: decoded, they are the chunks at 16 bits (`dia_hf.audio.io.pcm16`). mp3, opus, aac and
flac need PyAV, of `pip install "dia-hf[serve]"`; wav and pcm do not.
"""

from __future__ import annotations

import struct
import weakref
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .._extras import import_extra
from .io import check_rate, pcm16
from .streams import StreamResampler, check_chunk

__all__ = ["FORMATS", "StreamEncoder", "StreamFormat"]

_UNKNOWN_SIZE = 0xFFFFFFFF
_WAV_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")


@dataclass(frozen=True)
class StreamFormat:
    """A format of a stream.

    Args:
        content_type (`str`): For the header of an HTTP response.
        suffix (`str`): Ending of a file.
        muxer, codec (`str`, *optional*): libav's names; PCM without them.
        sample_format (`str`, defaults to `"s16"`): libav's name of the samples that the codec takes.
        bit_rate (`int`, *optional*): In bits per second; lossless without it.
        muxer_options, codec_options (`tuple`): Names and values of libav's options.
        delay (`int`, defaults to 0): Samples of silence that decoders return before the audio, as they follow no
            header that tells them to leave these out.
    """

    content_type: str
    suffix: str
    muxer: str | None = None
    codec: str | None = None
    sample_format: str = "s16"
    bit_rate: int | None = None
    muxer_options: tuple[tuple[str, str], ...] = ()
    codec_options: tuple[tuple[str, str], ...] = ()
    delay: int = 0


FORMATS = {
    "mp3": StreamFormat(
        "audio/mpeg",
        ".mp3",
        "mp3",
        "libmp3lame",
        "fltp",
        128_000,
        # A header with the number of frames, and tags, would be written at the end.
        muxer_options=(("write_xing", "0"), ("id3v2_version", "0")),
        # The bit reservoir lets a frame begin in earlier ones, which are held back for it for 100 ms.
        codec_options=(("reservoir", "0"),),
        delay=1105,  # 576 of the encoder and 529 of decoders
    ),
    "opus": StreamFormat(
        "audio/ogg",
        ".opus",
        "ogg",
        "libopus",
        "flt",
        64_000,
        # Pages of one packet, in microseconds; libav's default is a second. Without a random number of the stream, the
        # same audio gives the same bytes.
        muxer_options=(("page_duration", "20000"), ("fflags", "+bitexact")),
    ),
    "aac": StreamFormat("audio/aac", ".aac", "adts", "aac", "fltp", 96_000, delay=1024),
    # Level 2 is the highest with short blocks: 26 ms instead of 105.
    "flac": StreamFormat(
        "audio/flac",
        ".flac",
        "flac",
        "flac",
        muxer_options=(("metadata_header_padding", "0"),),
        codec_options=(("compression_level", "2"),),
    ),
    "wav": StreamFormat("audio/wav", ".wav"),
    "pcm": StreamFormat("audio/pcm", ".pcm"),
}
"""Name of a format → content type, file suffix, and how it is made. pcm is 16-bit little-endian without a header."""


class StreamEncoder:
    """Encode a mono waveform that arrives in chunks; see the table above for what each format holds back.

    An encoder serves one waveform, in one thread at a time. Dropped before its end, it frees libav's memory at once.

    Args:
        format (`str`): A key of `FORMATS`.
        sampling_rate (`int`): Rate of the chunks in hertz.
        num_samples (`int`, *optional*): Number of all samples, if it is known: the headers of wav and flac then have
            it. Without it, the sizes of a wav are 0xFFFFFFFF, and the length of a flac is 0, which is "unknown".

    Attributes:
        sampling_rate (`int`): Rate of the encoded audio in hertz: the codec's lowest one that is not below that of the
            chunks, or its highest.
        content_type (`str`): For the header of an HTTP response.

    Raises:
        ImportError: If the format needs PyAV, and it is not installed.
        ValueError: If the format is unknown, or the rate is no whole number or out of range.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.encoders import StreamEncoder
    >>> encoder = StreamEncoder("wav", 44100)
    >>> parts = [encoder.encode(np.zeros(4410, dtype=np.float32)) for _ in range(3)]
    >>> [len(part) for part in parts], encoder.finish()
    ([8864, 8820, 8820], b'')

    ```
    """

    def __init__(self, format: str, sampling_rate: int, num_samples: int | None = None) -> None:
        if format not in FORMATS:
            raise ValueError(
                f"`format` is {format!r}, which is no known stream format; use one of {', '.join(FORMATS)}."
            )
        check_rate(sampling_rate)
        if sampling_rate != int(sampling_rate):
            raise ValueError(f"the sampling rate is {sampling_rate!r} Hz; a stream has whole numbers: resample first.")
        self._name = f"the {format} stream"
        self._num_samples, self._num_taken, self._num_given = num_samples, 0, 0
        self._is_finished = False
        self._format = FORMATS[format]
        self.content_type = self._format.content_type
        self.sampling_rate = int(sampling_rate)
        self._sink = _Sink()
        if self._format.codec is not None:
            self._open_libav()
            if format == "flac" and num_samples is not None:
                self._sink.set_flac_length(num_samples)
        elif format == "wav":
            self._sink.write(_wav_header(self.sampling_rate, num_samples))
        self._resampler = StreamResampler(int(sampling_rate), self.sampling_rate)

    def encode(self, chunk: np.ndarray) -> bytes:
        """Encode a chunk.

        Args:
            chunk (`np.ndarray` of shape `[N]`): float32 in [-1, 1], of any length, also none. Louder samples are
                clipped.

        Returns:
            `bytes`: All that is ready; the header comes first.

        Raises:
            ValueError: If the chunk has another form; samples are NaN, infinite or beyond
                ±`dia_hf.audio.io.FAR_BEYOND_FULL_SCALE`; or they are more than `num_samples`.
            RuntimeError: After `finish`.
        """
        self._check_open()
        chunk = check_chunk(chunk, self._name)
        self._num_taken += len(chunk)
        if self._num_samples is not None and self._num_taken > self._num_samples:
            raise ValueError(self._wrong_number())
        self._encode(self._resampler.process(chunk))
        return self._sink.take()

    def finish(self) -> bytes:
        """End the stream.

        Returns:
            `bytes`: The rest of the stream.

        Raises:
            ValueError: If there were fewer samples than `num_samples`.
            RuntimeError: If it was called before.
        """
        self._check_open()
        if self._num_samples is not None and self._num_taken != self._num_samples:
            raise ValueError(self._wrong_number())
        self._encode(self._resampler.finish())
        self._is_finished = True
        if self._format.codec is not None:
            self._container.mux(self._stream.encode(None))
            self._close()
        return self._sink.take()

    def _check_open(self) -> None:
        if self._is_finished:
            raise RuntimeError(f"{self._name} is finished; make an encoder for each stream.")

    def _wrong_number(self) -> str:
        return f"{self._name} has {self._num_taken} samples, and `num_samples` is {self._num_samples}; leave it out."

    def _encode(self, samples: np.ndarray) -> None:
        if not samples.size:
            return
        samples = pcm16(samples) if self._format.sample_format == "s16" else samples.clip(-1, 1)
        if self._format.codec is None:
            self._sink.write(samples.tobytes())
            return
        frame = self._av.AudioFrame.from_ndarray(samples[None], format=self._format.sample_format, layout="mono")
        frame.sample_rate, frame.time_base = self.sampling_rate, Fraction(1, self.sampling_rate)
        frame.pts, self._num_given = self._num_given, self._num_given + len(samples)
        self._container.mux(self._stream.encode(frame))

    def _open_libav(self) -> None:
        self._av = import_extra("av")
        made = self._format
        rates = self._av.Codec(made.codec, "w").audio_rates
        if rates:
            self.sampling_rate = min((rate for rate in rates if rate >= self.sampling_rate), default=max(rates))
        # The sink has no `seek`, so libav writes what can be streamed.
        self._container: Any = self._av.open(
            self._sink, "w", format=made.muxer, options={**dict(made.muxer_options), "flush_packets": "1"}
        )
        # PyAV's container and streams refer to each other: dropped, they would wait for the garbage collector.
        self._close = weakref.finalize(self, self._container.close)
        self._close.atexit = False
        self._stream: Any = self._container.add_stream(
            made.codec, rate=self.sampling_rate, options=dict(made.codec_options), layout="mono"
        )
        self._stream.codec_context.format = made.sample_format
        if made.bit_rate is not None:
            self._stream.bit_rate = made.bit_rate
        self._container.start_encoding()


class _Sink:
    """A file for libav to write to, whose content is taken away."""

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, content: bytes) -> int:
        self._content += content
        return len(content)

    def set_flac_length(self, num_samples: int) -> None:
        """Set the number of samples in the header, which libav would do at the end, with a seek."""
        if num_samples < 1 << 36:  # the last bits of 8 bytes, which are 0
            field = int.from_bytes(self._content[18:26], "big") | num_samples
            self._content[18:26] = field.to_bytes(8, "big")

    def take(self) -> bytes:
        content = bytes(self._content)
        self._content.clear()
        return content


def _wav_header(sampling_rate: int, num_samples: int | None) -> bytes:
    """Build the header of a mono wav of 16 bits; a size that is unknown, or too large for its field, is 0xFFFFFFFF."""
    num_bytes = _UNKNOWN_SIZE if num_samples is None else 2 * num_samples
    riff_size, data_size = min(num_bytes + _WAV_HEADER.size - 8, _UNKNOWN_SIZE), min(num_bytes, _UNKNOWN_SIZE)
    form = (1, 1, sampling_rate, 2 * sampling_rate, 2, 16)  # PCM, channels, rates, bytes and bits of a sample
    return _WAV_HEADER.pack(b"RIFF", riff_size, b"WAVE", b"fmt ", 16, *form, b"data", data_size)
