"""Clips: the audio of a row as a path, bytes, samples or a segment; found, read and hashed.

Samples are read only when asked for. Knows nothing of tables and columns; called by `sources.py`, `encoding.py` and
`dia_hf.evaluation`.

Legend: N samples.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.containers import CONTAINER_SUFFIXES
from ..audio.io import audio_seconds, read_audio, resample
from .rows import RowError, is_missing, quote
from .segments import Mix, Segment, find_segment, locate

__all__ = ["AUDIO_SUFFIXES", "clip_seconds", "digest_audio", "file_of", "find_audio", "find_clip", "read_clip"]

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".au", ".caf", ".w64", *CONTAINER_SUFFIXES,
)  # fmt: skip
"""Suffixes of audio files, and of files with a sound track."""

_PLACES = ("wavs", "wav", "clips")  # folders of LJSpeech, similar corpora and Common Voice


def file_of(audio: Any) -> str | None:
    """Return the path of a row's audio, where it has one; of a mix, that of its first part."""
    if isinstance(audio, Mix):
        audio = audio.parts[0]
    if isinstance(audio, Segment):
        audio = audio.audio
    return audio if isinstance(audio, str) else None


def find_clip(value: Any, folder: Path, record: Mapping[str, Any], root: Path | None = None) -> Any:
    """Return the audio of a row, as `find_audio` does, or the `Segment` of it that the row's other cells define.

    Args:
        value: Audio cell of the row.
        folder (`Path`): Folder that relative paths start from.
        record (`Mapping[str, Any]`): The other cells, by column.
        root (`Path`, *optional*): As in `find_audio`.

    Raises:
        RowError: As `find_audio` and `find_segment`.
    """
    return find_segment(find_audio(value, folder, root), record)


def find_audio(value: Any, folder: Path, root: Path | None = None) -> Any:
    """Return the audio of a cell: the path of an existing file, bytes, or a dictionary of `array` and `sampling_rate`.

    Args:
        value: Audio cell of the row.
        folder (`Path`): Folder that relative paths start from.
        root (`Path`, *optional*): Folder of the recordings that is tried before `folder`. Of an absolute path that is
            not there, the longest end that is below it counts.

    Raises:
        RowError: "missing_audio", "missing_file", "audio_not_path" or "unreadable_audio".
    """
    if hasattr(value, "get_all_samples"):  # torchcodec's decoder
        samples = value.get_all_samples()
        value = {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}
    if isinstance(value, Mapping) and not is_missing(value.get("bytes")):
        value = value["bytes"]
    elif isinstance(value, Mapping) and value.get("array") is not None:
        rate = value.get("sampling_rate")
        if not isinstance(rate, (int, float, np.number)) or not 0 < rate < float("inf"):
            raise RowError("unreadable_audio", f"the sampling rate of the samples is {rate!r}; it must be above 0.")
        try:
            array = np.asarray(value["array"])
        except ValueError as error:
            raise RowError("unreadable_audio", f"the samples are not an array ({error}).") from error
        if array.dtype.kind not in "fiu":
            raise RowError("unreadable_audio", f"the samples have the dtype {array.dtype}; it must be numeric.")
        return {"array": array, "sampling_rate": int(rate)}
    elif isinstance(value, Mapping):
        value = value.get("path")
    if is_missing(value):
        raise RowError("missing_audio", "the row has no audio.")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise RowError("audio_not_path", f"{quote(value)} is not a path to an audio file.")
    return _find_file(os.fspath(value), folder, root)


def _find_file(written: str, folder: Path, root: Path | None, is_literal: bool = True) -> str:
    name = written.strip()
    has_suffix = name.lower().endswith(AUDIO_SUFFIXES)
    candidates: list[Path] = []
    for base in (folder,) if root is None else (root, folder):
        candidates += [base / name, base / written]
        if "\\" in name:  # a table made under Windows
            candidates.append(base / name.replace("\\", "/"))
        if has_suffix:
            candidates += [base / place / name for place in _PLACES]
        else:  # LJSpeech lists ids without a suffix
            candidates += [
                base / place / f"{name}{suffix}" for place in ("", *_PLACES) for suffix in AUDIO_SUFFIXES[:4]
            ]
    parts = name.replace("\\", "/").split("/")
    if root is not None and (parts[0] == "" or re.fullmatch(r"[A-Za-z]:", parts[0])):  # of another machine
        candidates += [root.joinpath(*parts[first:]) for first in range(1, min(len(parts), 64))]
    for path in candidates:
        if os.path.isfile(path):
            return str(path)
    # Archives made under macOS have "é" as two characters; what is typed elsewhere, as one.
    for form in ("NFC", "NFD") if is_literal else ():
        other = unicodedata.normalize(form, written)
        if other != written:
            with suppress(RowError):
                return _find_file(other, folder, root, is_literal=False)
    if has_suffix or not re.search(r"\s", name):
        places = ", ".join(_PLACES[:-1]) + f" or {_PLACES[-1]}"
        raise RowError("missing_file", f"there is no file {str(candidates[0])!r}, nor in a folder {places} there.")
    raise RowError("audio_not_path", f"{quote(name)} is not a path to an audio file.")


def read_clip(audio: Any, max_seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Read the samples of a row's audio; for a segment, only its own samples.

    Args:
        audio: Audio as in `Row.audio`.
        max_seconds (`float`, *optional*): Longer clips are refused, files by their header without being read.

    Returns:
        `tuple[np.ndarray, int]`: Samples and their sampling rate in hertz. Samples of a file are float32
        `[channels, N]`; samples of an array are returned unchanged.

    Raises:
        RowError: "missing_file", "unreadable_audio", "too_long" or "unclear_segment".
    """
    if isinstance(audio, RowError):
        raise audio
    if isinstance(audio, Mix):
        return _read_mix(audio, max_seconds)
    begin, end = 0.0, None
    recording = audio.audio if isinstance(audio, Segment) else audio
    try:
        if isinstance(audio, Segment):
            begin, end = locate(audio, _seconds_of(recording))
        if max_seconds is not None:
            _check_seconds((_seconds_of(recording) if end is None else end) - begin, max_seconds)
        if not isinstance(recording, dict):
            return read_audio(recording, begin, end)
    except FileNotFoundError as error:
        raise RowError("missing_file", str(error)) from error
    except RowError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise RowError("unreadable_audio", str(error)) from error
    samples, sampling_rate = recording["array"], recording["sampling_rate"]
    if isinstance(audio, Segment) and samples.ndim:
        first, last = round(begin * sampling_rate), None if end is None else round(end * sampling_rate)
        samples = samples.take(range(*slice(first, last).indices(max(samples.shape))), int(np.argmax(samples.shape)))
    return samples, sampling_rate


def _read_mix(mix: Mix, max_seconds: float | None) -> tuple[np.ndarray, int]:
    """Read the parts of a mix as mono at the sampling rate of the first, each added at its time."""
    placed: list[tuple[int, np.ndarray]] = []
    rate = 0
    for part, begin in zip(mix.parts, mix.begins, strict=True):
        samples, own_rate = read_clip(part, max_seconds)
        if samples.ndim == 2:
            samples = samples.mean(axis=int(np.argmin(samples.shape)), dtype=np.float32)
        if samples.ndim != 1:
            raise RowError("unreadable_audio", f"the samples have the shape {list(samples.shape)}.")
        if samples.dtype.kind != "f":
            samples = samples / np.float32(np.iinfo(samples.dtype).max)
        rate = rate or own_rate
        try:
            placed.append((round(begin * rate), resample(samples, own_rate, rate)))
        except ValueError as error:
            raise RowError("unreadable_audio", str(error)) from error
        _check_seconds(begin + len(samples) / own_rate, max_seconds)
    mixed = np.zeros(max(first + len(samples) for first, samples in placed), dtype=np.float32)
    for first, samples in placed:
        mixed[first : first + len(samples)] += samples
    return mixed, rate


def clip_seconds(audio: Any) -> float:
    """Return the duration of a row's audio in seconds by its header and its segment, without reading the samples.

    Raises:
        RowError: "missing_file", "unreadable_audio" or "unclear_segment".
    """
    try:
        if not isinstance(audio, Segment):
            return _seconds_of(audio)
        seconds = _seconds_of(audio.audio)
        begin, end = locate(audio, seconds)
        return (seconds if end is None else end) - begin
    except FileNotFoundError as error:
        raise RowError("missing_file", str(error)) from error
    except RowError:
        raise
    except (OSError, ValueError) as error:
        raise RowError("unreadable_audio", str(error)) from error


def _seconds_of(recording: Any) -> float:
    if isinstance(recording, dict):
        return max(recording["array"].shape, default=0) / recording["sampling_rate"]
    return audio_seconds(recording)


def _check_seconds(seconds: float, max_seconds: float | None) -> None:
    if max_seconds is not None and seconds > max_seconds:
        raise RowError(
            "too_long", f"the clip lasts {seconds:.1f} s; at most {max_seconds:g} s are read: split it at pauses."
        )


def digest_audio(audio: Any) -> bytes:
    """Return a hash of a row's audio by content: a file's bytes, or samples and their rate, and the segment.

    Raises:
        RowError: "missing_file" or "unreadable_audio".
    """
    if isinstance(audio, RowError):
        raise audio
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(audio, Segment):
        recording = audio.audio
        is_file = isinstance(recording, str)
        digest.update(
            _digest_file(os.path.abspath(recording), *_stamp(recording)) if is_file else digest_audio(recording)
        )
        digest.update(f"{audio.begin} {audio.duration}".encode())
    elif isinstance(audio, Mix):
        for part, begin in zip(audio.parts, audio.begins, strict=True):
            digest.update(digest_audio(part) + f" {begin} ".encode())
    elif isinstance(audio, dict):
        array = np.ascontiguousarray(audio["array"])
        digest.update(f"{array.dtype} {array.shape} {audio['sampling_rate']}".encode())
        digest.update(array.tobytes())
    elif isinstance(audio, bytes):
        digest.update(audio)
    else:
        try:
            with open(audio, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except FileNotFoundError as error:
            raise RowError("missing_file", f"there is no file {audio!r}.") from error
        except OSError as error:
            raise RowError("unreadable_audio", f"{audio!r} cannot be read ({error.strerror}).") from error
    return digest.digest()


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _digest_file(path: str, num_bytes: int, changed: int) -> bytes:
    """Hash a file once for all of its segments; a changed size or modification time invalidates the cache."""
    return digest_audio(path)
