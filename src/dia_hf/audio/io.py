"""Audio files and sampling rates: reading, resampling, writing, and metadata inside a file on how it was made.

Waveforms are numpy arrays of float32 in [-1, 1], mono `[N]` or `[channels, N]`. This file does not depend on codecs
or models, nor on the content of metadata.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf
import soxr

from ..atomic_write import atomic_write
from ..text_files import shortened
from .containers import ContainerError, container_seconds, is_container, read_container

__all__ = [
    "AUDIO_FORMATS",
    "FAR_BEYOND_FULL_SCALE",
    "SAMPLING_RATES",
    "audio_format",
    "audio_seconds",
    "check_and_clip",
    "check_rate",
    "pcm16",
    "read_audio",
    "read_metadata",
    "resample",
    "write_audio",
]

AUDIO_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG"}
"""File ending → libsndfile's name of the format."""

FAR_BEYOND_FULL_SCALE = 10.0
"""Limit of samples whose full scale is 1: larger ones are integers without scaling."""

SAMPLING_RATES = (1000, 1_000_000)
"""The lowest and the highest sampling rate in hertz that is accepted."""

_SOFTWARE = "dia-hf"
# Beginning of a comment written here: a JSON object of one entry, the metadata.
_RECORD_BEGINS = f'{{"{_SOFTWARE}": '
_SAMPLES_PER_READ = 1 << 20  # of all channels
_UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's number of samples of a flac that was streamed
_BAD_SEEK = 39  # libsndfile's error code
# Samples to decode before a segment: the first frames of an mp3 after a seek depend on earlier ones.
_SAMPLES_BEFORE = 1 << 15
# Of a channel. The densest format is FLAC on silence, with some 4,700 samples a byte.
_MAX_SAMPLES_PER_BYTE = 8192


class _Content(io.BytesIO):
    """Content of a file. A seek before its beginning, by a damaged header, would make soundfile print a traceback."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with suppress(ValueError):
            return super().seek(offset, whence)
        return self.tell()


@contextmanager
def _held_interrupts() -> Iterator[list[Any]]:
    """Hold Control-C back to the end; yield the list that it is noted in.

    libsndfile reads and writes file objects by calling Python. soundfile 0.14 drops an exception in such a call, a
    KeyboardInterrupt among others; the audio then ends there, in some formats without an error.
    """
    pending: list[Any] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield pending
        return
    signal.signal(signal.SIGINT, lambda *received: pending.append(received))
    try:
        yield pending
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            before(*pending[0])


@contextmanager
def _reading(source: str | os.PathLike | bytes) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a source for soundfile, and the list of held interrupts; name the file in errors of reading."""
    if not isinstance(source, bytes) and not os.path.isfile(source):
        raise FileNotFoundError(f"there is no audio file at {shortened(str(source), 300)}.")
    try:
        with _held_interrupts() as interrupts:
            if isinstance(source, bytes):
                yield _Content(source), interrupts
            else:  # soundfile 0.14 refuses names that are not in UTF-8, unless they are bytes
                yield (source if sys.platform == "win32" else os.fsencode(source)), interrupts
    except sf.LibsndfileError as error:
        raise ValueError(
            f"{_name_of(source)} cannot be read as audio ({error.error_string.strip()}); give a wav, flac, mp3, ogg or "
            "m4a file."
        ) from error
    except ContainerError as error:
        raise ValueError(
            f"{_name_of(source)} cannot be read as audio ({error}); give a wav, flac, mp3, ogg or m4a file."
        ) from error
    except ImportError as error:
        raise ImportError(f"{_name_of(source)} is a file that PyAV reads: {error}") from error


def _name_of(source: str | os.PathLike | bytes) -> str:
    return f"a file of {len(source)} bytes" if isinstance(source, bytes) else repr(str(source))


def read_audio(
    source: str | os.PathLike | bytes, begin: float = 0.0, end: float | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file of any format that libsndfile knows (wav, flac, mp3, ogg with Vorbis or Opus, aiff, …).

    Recordings of telephones, browsers and cameras (m4a, mp4, mov, 3gp, aac, amr, webm, mkv) are decoded by PyAV; of
    several sound tracks, the first one is read.

    Args:
        source (`str`, `os.PathLike` or `bytes`): The file, or its content.
        begin (`float`, defaults to 0.0): First second.
        end (`float`, *optional*): Last second; the end of the file unless given, or if the file ends before.

    Returns:
        `tuple[np.ndarray, int]`: Waveform `[channels, N]`, float32, and sampling rate in hertz.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no audio, or its header claims more samples than a file of its size can hold.
        ImportError: If it is one for PyAV, which is not installed.
    """
    if is_container(source):
        with _reading(source):
            return read_container(source, begin, end)
    with _reading(source) as (file, interrupts), sf.SoundFile(file) as sound:
        num_bytes = len(source) if isinstance(source, bytes) else os.path.getsize(source)
        if sound.frames > _MAX_SAMPLES_PER_BYTE * num_bytes and sound.frames != _UNKNOWN_LENGTH:
            raise ValueError(
                f"{_name_of(source)} says that it has {sound.frames} samples, more than its {num_bytes} bytes can "
                "hold: its header is damaged; save it again."
            )
        first = min(round(begin * sound.samplerate), sound.frames)
        # Without a length, libsndfile cannot seek behind the end.
        unwanted = first if sound.frames == _UNKNOWN_LENGTH else min(first, _SAMPLES_BEFORE)
        if first > unwanted:
            sound.seek(first - unwanted)
        left = sound.frames if end is None else max(0, round(end * sound.samplerate) - first) + unwanted
        # In parts, so that memory is allocated for existing samples, not for those that the header claims.
        parts = [np.zeros((0, sound.channels), dtype=np.float32)]
        at_once = max(1, _SAMPLES_PER_READ // sound.channels)
        while not interrupts and len(part := _read_samples(sound, min(left, at_once))):
            parts.append(part)
            left -= len(part)
        sampling_rate = sound.samplerate
    return np.ascontiguousarray(np.concatenate(parts)[unwanted:].T), sampling_rate


def _read_samples(sound: sf.SoundFile, num_samples: int) -> np.ndarray:
    """Read the next samples `[N, channels]`, fewer at the end."""
    if sound.frames != _UNKNOWN_LENGTH:
        return sound.read(num_samples, dtype="float32", always_2d=True)
    # soundfile 0.14 seeks after each read, which fails at an end that libsndfile does not know, and drops the samples.
    part = np.full((num_samples, sound.channels), np.nan, dtype=np.float32)
    try:
        sound.read(out=part)
    except sf.LibsndfileError as error:
        if error.code != _BAD_SEEK:
            raise
    return part[~np.isnan(part[:, 0])]


def audio_seconds(source: str | os.PathLike | bytes) -> float:
    """Return the duration of an audio file in seconds by its header, or by its samples if it was streamed or is PyAV's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no audio.
        ImportError: If it is one for PyAV, which is not installed.
    """
    if is_container(source):
        with _reading(source):
            return container_seconds(source)
    with _reading(source) as (file, _), sf.SoundFile(file) as sound:
        num_samples, sampling_rate = sound.frames, sound.samplerate
    if num_samples == _UNKNOWN_LENGTH:
        num_samples = read_audio(source)[0].shape[1]
    return num_samples / sampling_rate


def resample(waveform: np.ndarray, sampling_rate: float, target_rate: float) -> np.ndarray:
    """Change the sampling rate with soxr at its "HQ" setting.

    Args:
        waveform (`np.ndarray` of shape `[N]`): Mono samples.
        sampling_rate (`int`): Rate of the waveform in hertz.
        target_rate (`int`): Rate of the result in hertz.

    Returns:
        `np.ndarray` of shape `[about N · target_rate / sampling_rate]`, float32; the input itself at equal rates. A
        few samples can become none.

    Raises:
        ValueError: If a rate is outside `SAMPLING_RATES`, or the waveform is not `[N]` or holds no floats.
    """
    check_rate(sampling_rate)
    check_rate(target_rate)
    if not isinstance(waveform, np.ndarray) or waveform.ndim != 1 or waveform.dtype.kind != "f":
        found = (
            f"{waveform.dtype} of the shape {list(waveform.shape)}"
            if isinstance(waveform, np.ndarray)
            else f"a {type(waveform).__name__}"
        )
        raise ValueError(
            f"what is to be resampled is {found}; give a numpy array of floats [samples], and channels one by one."
        )
    if sampling_rate == target_rate:
        return waveform
    samples = waveform.astype(np.float32, copy=False) if waveform.dtype.itemsize < 4 else waveform
    return soxr.resample(samples, sampling_rate, target_rate, quality="HQ").astype(np.float32, copy=False)


def check_rate(sampling_rate: float) -> None:
    """Raise `ValueError` if a sampling rate in hertz is outside `SAMPLING_RATES`, or no number."""
    low, high = SAMPLING_RATES
    is_number = isinstance(sampling_rate, (int, float, np.number)) and not isinstance(sampling_rate, bool)
    if not is_number or not low <= sampling_rate <= high:
        raise ValueError(
            f"the sampling rate is {sampling_rate!r} Hz; it must be a positive number from {low} to {high} Hz."
        )


def audio_format(path: str | os.PathLike) -> str:
    """Return libsndfile's name of the format for the ending of `path`.

    Raises:
        ValueError: If the ending is none of `AUDIO_FORMATS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in AUDIO_FORMATS:
        raise ValueError(
            f"{str(path)!r} ends in {suffix!r}, which is no known audio format; use one of {', '.join(AUDIO_FORMATS)}."
        )
    return AUDIO_FORMATS[suffix]


def write_audio(
    path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int, metadata: dict[str, Any] | None = None
) -> None:
    """Write a waveform to a file atomically; the ending chooses the format, missing folders are created.

    Args:
        path (`str` or `os.PathLike`): Ends in .wav (16-bit), .flac (16-bit), .mp3 or .ogg (Vorbis).
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): float32 in [-1, 1], at least one sample. Louder
            samples are clipped in every format; `dia_hf.audio.effects.limit_peak` scales instead. PCM of int16 or
            int32 is written unchanged.
        sampling_rate (`int`): In hertz.
        metadata (`dict`, *optional*): How the sound was made, for `read_metadata`: text, seed, model, or any JSON
            values (keys become strings, tuples lists). It is written to the file's comment.

    Raises:
        ValueError: If the ending is unknown; the waveform has no samples, another shape or dtype, or samples that
            are NaN, infinite or beyond ±`FAR_BEYOND_FULL_SCALE`; the format does not take the sampling rate; or the
            metadata is no JSON or longer than the format can hold (in flac 16 MiB).
        OSError: If the file cannot be written, as on a full disk; an existing file is left unchanged.

    Example:
    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from dia_hf.audio.io import read_metadata, write_audio
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/hello.mp3"
    ...     write_audio(path, np.zeros(44100, dtype=np.float32), 44100, metadata={"text": "[S1] Grüße!", "seed": 7})
    ...     read_metadata(path)
    {'text': '[S1] Grüße!', 'seed': 7}

    ```
    """
    file_format = audio_format(path)
    check_rate(sampling_rate)
    if sampling_rate != int(sampling_rate):
        raise ValueError(f"the sampling rate is {sampling_rate!r} Hz; a file holds whole numbers: resample first.")
    waveform = _writable(waveform, path)
    comment = None if metadata is None else _as_comment(metadata)
    try:
        encoded = _encode(waveform, sampling_rate, file_format, comment)
        # Libraries differ in the length of a comment, and some truncate silently.
        with _held_interrupts():
            whole = comment is None or _read_comment(io.BytesIO(encoded)) == comment
    except sf.LibsndfileError as error:
        load = "" if comment is None else f" with {len(comment)} bytes of metadata"
        raise ValueError(
            f"{str(path)!r} cannot be written as {file_format} at {sampling_rate} Hz{load} "
            f"({error.error_string.strip()})."
        ) from error
    if not whole:
        raise ValueError(f"{len(comment or '')} bytes of metadata do not fit into {str(path)!r}; shorten them.")
    with atomic_write(path) as beside:
        beside.write_bytes(encoded)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Read the `metadata` that `write_audio` wrote.

    Args:
        path (`str` or `os.PathLike`): An audio file of any format that `read_audio` reads.

    Returns:
        `dict`: Metadata; empty if the file has none, or only that of another program.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no audio, or another program has cut or changed its metadata.
    """
    if is_container(path):
        return {}
    with _reading(path), open(path, "rb") as file:
        comment = _read_comment(file)
    if not comment.startswith(_RECORD_BEGINS):
        return {}
    try:
        metadata = json.loads(comment)[_SOFTWARE]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the metadata of {str(path)!r} has been cut or changed since it was written.") from error
    return metadata


def _writable(waveform: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Return the samples in the form that encoders accept; raise `ValueError` if they are no sound."""
    if not isinstance(waveform, np.ndarray) or (
        waveform.dtype.kind != "f" and waveform.dtype not in (np.int16, np.int32)
    ):
        kind = waveform.dtype if isinstance(waveform, np.ndarray) else type(waveform).__name__
        raise ValueError(
            f"what is to be written to {str(path)!r} is of the type {kind}; give a numpy array of float32 in [-1, 1]."
        )
    if waveform.size == 0:
        raise ValueError(f"there are 0 samples to write to {str(path)!r}; a file needs at least one.")
    if waveform.ndim not in (1, 2) or len(waveform) > waveform.shape[-1]:
        raise ValueError(
            f"what is to be written to {str(path)!r} has the shape {list(waveform.shape)}; it is [samples] or "
            "[channels, samples]."
        )
    if waveform.dtype.kind != "f":
        return waveform
    return check_and_clip(waveform, repr(str(path)))


def check_and_clip(samples: np.ndarray, name: str) -> np.ndarray:
    """Return floats as float32 in [-1, 1]: slightly louder samples are clipped.

    Args:
        samples (`np.ndarray`): Floats of any shape, at least one.
        name (`str`): Destination of the samples, for the error.

    Raises:
        ValueError: If samples are NaN, infinite or beyond ±`FAR_BEYOND_FULL_SCALE`.
    """
    samples = samples.astype(np.float32, copy=False)
    highest = np.maximum(samples.max(), -samples.min())  # NaN if a sample is
    if not np.isfinite(highest):
        num_wrong = np.count_nonzero(~np.isfinite(samples))
        raise ValueError(f"{num_wrong} of {samples.size} samples for {name} are NaN or infinite; nothing was written.")
    if highest > FAR_BEYOND_FULL_SCALE:
        num_wrong = np.count_nonzero(np.abs(samples) > FAR_BEYOND_FULL_SCALE)
        raise ValueError(
            f"{num_wrong} of {samples.size} samples for {name} are beyond ±{FAR_BEYOND_FULL_SCALE:g} (the "
            f"largest is {highest:g}), and full scale is 1; divide what was integers by theirs, 32768 "
            "for int16. Nothing was written."
        )
    return samples.clip(-1, 1) if highest > 1 else samples


def pcm16(samples: np.ndarray) -> np.ndarray:
    """Convert floats to 16 bits, rounded to the nearest and clipped.

    libsndfile 1.2 rounds down where it writes floats to wav, which adds an offset of half a step, and to the nearest in
    flac; here all formats have the same samples.

    Args:
        samples (`np.ndarray`): float32, finite, of any shape.

    Returns:
        `np.ndarray` of the same shape: int16, little-endian.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf.audio.io import pcm16
    >>> pcm16(np.array([-1, -0.00001, 0, 0.5, 1], dtype=np.float32)).tolist()
    [-32768, 0, 0, 16384, 32767]

    ```
    """
    return np.rint(samples.astype(np.float64) * 2**15).clip(-(2**15), 2**15 - 1).astype("<i2")


def _as_comment(metadata: dict[str, Any]) -> str:
    """Write metadata as JSON in ASCII: other characters are lost in the comment of an mp3."""
    try:
        return json.dumps({_SOFTWARE: dict(metadata)}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`metadata` cannot be written as JSON ({error}); give a dict of strings, finite numbers, booleans, None, "
            "lists and dicts."
        ) from error


def _encode(waveform: np.ndarray, sampling_rate: int, file_format: str, comment: str | None) -> bytes:
    """Encode a whole file in memory: libsndfile does not always notice that a disk is full."""
    buffer = io.BytesIO()
    num_channels = 1 if waveform.ndim == 1 else len(waveform)
    if file_format in ("WAV", "FLAC") and waveform.dtype.kind == "f":
        waveform = pcm16(waveform)
    with (
        _held_interrupts() as interrupts,
        sf.SoundFile(buffer, "w", int(sampling_rate), num_channels, format=file_format) as sound,
    ):
        if comment is not None and file_format != "WAV":
            sound.comment, sound.software = comment, _SOFTWARE
        # In parts: libvorbis copies its input to the stack, and minutes at once crash the process.
        for start in range(0, waveform.shape[-1], 1 << 14):
            sound.write(waveform[..., start : start + (1 << 14)].T)
            if interrupts:
                break
    if comment is not None and file_format == "WAV":
        # libsndfile reads no comment above 2 kB, and writes none above 64 kB.
        entries = _chunk(b"ICMT", comment.encode() + b"\0") + _chunk(b"ISFT", _SOFTWARE.encode() + b"\0")
        buffer.seek(0, io.SEEK_END)
        buffer.write(_chunk(b"LIST", b"INFO" + entries))
        length = buffer.tell() - 8  # of everything after the length field
        buffer.seek(4)
        buffer.write(struct.pack("<I", length))
    return buffer.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    """Build a RIFF chunk: name, length, body, and a byte of padding where the length is odd."""
    return struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)


def _read_comment(file: BinaryIO) -> str:
    """Return the comment of an audio file, "" if there is none."""
    with sf.SoundFile(file) as sound:
        if not sound.format.startswith("WAV"):
            return sound.comment
    file.seek(12)  # past "RIFF", the length and "WAVE"
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"ICMT":
            return file.read(length).rstrip(b"\0").decode("utf-8", "replace")
        if name == b"LIST":
            file.seek(4, io.SEEK_CUR)  # a list contains chunks
        else:
            file.seek(length + length % 2, io.SEEK_CUR)
    return ""
