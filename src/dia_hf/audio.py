"""Audio files and sampling rates: read, resample, write.

Waveforms are numpy arrays of float32 in [-1, 1], mono `[N]` or `[channels, N]`. Knows nothing of codecs or models;
called by the feature extractor, the processor and `speech/`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

__all__ = ["AUDIO_FORMATS", "audio_format", "read_audio", "resample", "write_audio"]

AUDIO_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG"}
"""File ending → libsndfile's name of the format."""


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
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no audio file at {str(path)!r}.")
    try:
        waveform, sampling_rate = sf.read(path, dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as audio ({error.error_string.strip()}); give a wav, flac, mp3 or ogg file."
        ) from error
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


def write_audio(path: str | os.PathLike, waveform: np.ndarray, sampling_rate: int) -> None:
    """Write a waveform to a file, whole or not at all; the format follows the ending, missing folders are made.

    Args:
        path (`str` or `os.PathLike`): Ends in .wav (16-bit), .flac (16-bit), .mp3 or .ogg (Vorbis).
        waveform (`np.ndarray` of shape `[N]` or `[channels, N]`): float32 in [-1, 1]; louder samples are clipped by
            the 16-bit formats.
        sampling_rate (`int`): In hertz.

    Raises:
        ValueError: If the ending is unknown, or the format does not take the sampling rate.
    """
    file_format = audio_format(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and then moved, so that a full disk or a crash leaves neither half a file nor a lost one.
    handle, beside = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        sf.write(beside, waveform.T, sampling_rate, format=file_format)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)
        os.replace(beside, path)
    except sf.LibsndfileError as error:
        raise ValueError(
            f"{str(path)!r} cannot be written as {file_format} at {sampling_rate} Hz ({error.error_string.strip()})."
        ) from error
    finally:
        Path(beside).unlink(missing_ok=True)
