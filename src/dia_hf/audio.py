"""Audio files and sampling rates: read, resample, write, and the record inside a file that says how it was made.

Waveforms are numpy arrays of float32 in [-1, 1], mono `[N]` or `[channels, N]`. Knows nothing of codecs or models, nor
of what a record says; called by the feature extractor, the processor and `speech/`.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf
import soxr

from .files import written_whole

__all__ = ["AUDIO_FORMATS", "audio_format", "read_audio", "read_metadata", "resample", "write_audio"]

AUDIO_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG"}
"""File ending → libsndfile's name of the format."""

_SOFTWARE = "dia-hf"
# A comment that begins like this is ours: a JSON object of one entry, which holds the metadata.
_RECORD_BEGINS = f'{{"{_SOFTWARE}": '


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Name the file in what goes wrong while it is read."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no audio file at {str(path)!r}.")
    try:
        yield
    except sf.LibsndfileError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as audio ({error.error_string.strip()}); give a wav, flac, mp3 or ogg file."
        ) from error


def read_audio(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Read an audio file of any format that libsndfile knows (wav, flac, mp3, ogg, aiff, …).

    Args:
        path (`str` or `os.PathLike`): The file.

    Returns:
        `tuple[np.ndarray, int]`: Waveform `[channels, N]`, float32, and sampling rate in hertz.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no audio.
    """
    with _reading(path):
        waveform, sampling_rate = sf.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(waveform.T), sampling_rate


def resample(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Change the sampling rate with soxr at its "HQ" setting.

    Args:
        waveform (`np.ndarray` of shape `[N]`): Mono samples.
        sampling_rate (`int`): Its rate in hertz.
        target_rate (`int`): The rate wanted, in hertz.

    Returns:
        `np.ndarray` of shape `[about N · target_rate / sampling_rate]`, float32; the input itself at equal rates.

    Raises:
        ValueError: If a rate is not positive.
    """
    if sampling_rate <= 0 or target_rate <= 0:
        raise ValueError(f"sampling rates are {sampling_rate} and {target_rate} Hz; they must be positive.")
    if sampling_rate == target_rate:
        return waveform
    return soxr.resample(waveform, sampling_rate, target_rate, quality="HQ").astype(np.float32, copy=False)


def audio_format(path: str | os.PathLike) -> str:
    """Return libsndfile's name for the format that the ending of `path` asks for.

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
    """Write a waveform to a file, whole or not at all; the format follows the ending, missing folders are made.

    Args:
        path (`str` or `os.PathLike`): Ends in .wav (16-bit), .flac (16-bit), .mp3 or .ogg (Vorbis).
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): float32 in [-1, 1]; louder samples are clipped by
            the 16-bit formats.
        sampling_rate (`int`): In hertz.
        metadata (`dict`, *optional*): How the sound was made, for `read_metadata`: text, seed, model, whatever JSON can
            carry, which turns keys into strings and tuples into lists. It stands in the file's comment.

    Raises:
        ValueError: If the ending is unknown, the format does not take the sampling rate, or the metadata is no JSON or
            longer than the format can hold (in flac 16 MiB).
        OSError: If the file cannot be written, as on a full disk. What was there before is still there.

    Example:
    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from dia_hf.audio import read_metadata, write_audio
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/hello.mp3"
    ...     write_audio(path, np.zeros(44100, dtype=np.float32), 44100, metadata={"text": "[S1] Grüße!", "seed": 7})
    ...     read_metadata(path)
    {'text': '[S1] Grüße!', 'seed': 7}

    ```
    """
    file_format = audio_format(path)
    comment = None if metadata is None else _as_comment(metadata)
    try:
        encoded = _encode(waveform, sampling_rate, file_format, comment)
        # Libraries differ in how much they hold, and some cut without a word.
        whole = comment is None or _read_comment(io.BytesIO(encoded)) == comment
    except sf.LibsndfileError as error:
        load = "" if comment is None else f" with {len(comment)} bytes of metadata"
        raise ValueError(
            f"{str(path)!r} cannot be written as {file_format} at {sampling_rate} Hz{load} "
            f"({error.error_string.strip()})."
        ) from error
    if not whole:
        raise ValueError(f"{len(comment or '')} bytes of metadata do not fit into {str(path)!r}; shorten them.")
    with written_whole(path) as beside:
        beside.write_bytes(encoded)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `write_audio` was given as `metadata`.

    Args:
        path (`str` or `os.PathLike`): An audio file of any format that `read_audio` reads.

    Returns:
        `dict`: The metadata; empty if the file has none, or only another program's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no audio, or another program has cut or changed its metadata.
    """
    with _reading(path), open(path, "rb") as file:
        comment = _read_comment(file)
    if not comment.startswith(_RECORD_BEGINS):
        return {}
    try:
        metadata = json.loads(comment)[_SOFTWARE]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the metadata of {str(path)!r} has been cut or changed since it was written.") from error
    return metadata


def _as_comment(metadata: dict[str, Any]) -> str:
    """Write metadata as JSON in ASCII: the comment of an mp3 garbles everything else."""
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
    with sf.SoundFile(buffer, "w", sampling_rate, num_channels, format=file_format) as sound:
        if comment is not None and file_format != "WAV":
            sound.comment, sound.software = comment, _SOFTWARE
        # In parts: libvorbis puts what it is given on the stack, and minutes in one go crash the process.
        for start in range(0, waveform.shape[-1], 1 << 14):
            sound.write(waveform[..., start : start + (1 << 14)].T)
    if comment is not None and file_format == "WAV":
        # libsndfile reads no comment above 2 kB, and writes none above 64.
        entries = _chunk(b"ICMT", comment.encode() + b"\0") + _chunk(b"ISFT", _SOFTWARE.encode() + b"\0")
        buffer.seek(0, io.SEEK_END)
        buffer.write(_chunk(b"LIST", b"INFO" + entries))
        length = buffer.tell() - 8  # of all that follows the length itself
        buffer.seek(4)
        buffer.write(struct.pack("<I", length))
    return buffer.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    """Make a RIFF chunk: name, length, body, and a byte of padding where the length is odd."""
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
            file.seek(4, io.SEEK_CUR)  # step in: what a list holds are chunks again
        else:
            file.seek(length + length % 2, io.SEEK_CUR)
    return ""
