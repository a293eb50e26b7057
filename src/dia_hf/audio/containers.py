"""Recordings of telephones, browsers and cameras: m4a, mp4, mov, 3gp, aac, amr, webm and mkv, decoded by PyAV.

libsndfile reads none of these. Called by `io.py`, and by a server for what libsndfile refuses. The content is not
trusted: only decoders of sound are opened, no other file is, and no more samples are decoded than its bytes can hold.

Legend: N samples.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .._extras import import_extra

__all__ = ["CONTAINER_SUFFIXES", "ContainerError", "container_seconds", "is_container", "read_container"]

CONTAINER_SUFFIXES = (".m4a", ".m4b", ".aac", ".mp4", ".mov", ".3gp", ".amr", ".webm", ".mkv")
"""Usual suffixes of the files; the content decides."""

_CODECS = (
    "aac", "aac_latm", "alac", "amrnb", "amrwb", "flac", "libopencore_amrnb", "libopencore_amrwb", "libopus",
    "libvorbis", "mp3", "mp3float", "opus", "pcm_alaw", "pcm_f32be", "pcm_f32le", "pcm_mulaw", "pcm_s16be", "pcm_s16le",
    "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_u8", "vorbis",
)  # fmt: skip
# FFmpeg recognizes playlists, too (HLS, ffconcat), and would open the files and addresses in them. It would also decode
# pictures, of any size, to find their format.
_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": "aac,amr,caf,flac,matroska,mov,mp3,ogg,wav",
    "codec_whitelist": ",".join(_CODECS),
}
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # that an mp4 or mov can begin with
_CAF_CODECS = (b"aac ", b"opus", b"samr")  # in caf, of which libsndfile reads PCM and ALAC
_MAX_CHANNELS = 8
_MAX_SAMPLES_PER_BYTE = 8192  # of a channel; Opus in silence has some 600, FLAC 4,700
_PADDING = 0.1  # seconds that an encoder adds at most at the end of an mp4, and its header leaves out
_SEEK_FROM, _SEEK_BEFORE = 30.0, 1.0  # seconds; decoders need some packets before a place


class ContainerError(ValueError):
    """Content that cannot be read; the text is the reason, without a name and an advice."""


class _Info(NamedTuple):
    """Length of a recording, and the time stamp of its first sample if those of all others follow from it."""

    num_samples: int
    rate: int
    first_stamp: int | None


def is_container(source: str | os.PathLike | bytes) -> bool:
    """Return whether a file, or its content, begins as one that PyAV reads and libsndfile does not."""
    if isinstance(source, bytes):
        return _is_container(io.BytesIO(source))
    if not os.path.isfile(source):
        return False
    with open(source, "rb") as file:
        return _is_container(file)


def _is_container(file: BinaryIO) -> bool:
    head = file.read(32)
    if head.startswith(b"ID3") and len(head) > 9:  # a tag, in front of aac as well as of mp3
        file.seek(10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)))
        head = file.read(2)
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS: like mp3, with the layer 0
        return True
    is_caf = head.startswith(b"caff") and head[28:32] in _CAF_CODECS
    return is_caf or head[4:8] in _BOXES or head.startswith((b"\x1aE\xdf\xa3", b"#!AMR", b"ADIF"))


@contextmanager
def _opened(source: str | os.PathLike | bytes) -> Iterator[tuple[Any, Any]]:
    """Yield the container and its first stream of sound; raise `ContainerError` for any fault of the content."""
    av = import_extra("av")
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        try:
            with av.open(file, options=_OPTIONS, metadata_errors="ignore") as container:
                if not container.streams.audio:
                    raise ContainerError("it has no sound")
                stream = container.streams.audio[0]
                name = getattr(stream.codec_context, "name", None)
                if name not in _CODECS:
                    raise ContainerError(f"its sound is in the codec {name}, which is not read here")
                yield container, stream
        except ContainerError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise ContainerError(getattr(error, "strerror", None) or str(error)) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # a seek before the beginning, by a damaged header
                raise
            raise ContainerError("its header is damaged") from error


def _frames(container: Any, stream: Any, num_bytes: int) -> Iterator[Any]:
    """Decode, and check the form of the first frame, the rate of all, and the number of samples."""
    num_samples, rate = 0, None
    for frame in container.decode(stream):
        if rate is None:
            rate = frame.sample_rate
            if len(frame.layout.channels) > _MAX_CHANNELS:
                raise ContainerError(f"it has {len(frame.layout.channels)} channels; at most {_MAX_CHANNELS} are read")
        if frame.sample_rate != rate:
            raise ContainerError(f"its sampling rate changes from {rate} to {frame.sample_rate} Hz")
        num_samples += frame.samples
        if num_samples > _MAX_SAMPLES_PER_BYTE * num_bytes:
            raise ContainerError(f"it has more samples than its {num_bytes} bytes can hold: it is damaged")
        yield frame


def _to_array(frame: Any) -> np.ndarray:
    """Return the samples of a frame as float32 `[channels, N]`."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.int16) - 128) * 256
    scale = -float(np.iinfo(samples.dtype).min) if samples.dtype.kind == "i" else 1.0
    return samples.astype(np.float32) / np.float32(scale)


def _as_first(frame: Any, first: Any) -> np.ndarray:
    """Return the samples of a frame in the channels of the first one: parametric stereo can begin later."""
    if len(frame.layout.channels) == len(first.layout.channels):
        return _to_array(frame)
    mixer = import_extra("av").AudioResampler("fltp", first.layout.name, first.sample_rate)
    return np.concatenate([_to_array(mixed) for mixed in mixer.resample(frame)], axis=1)


def _num_bytes(source: str | os.PathLike | bytes) -> int:
    return len(source) if isinstance(source, bytes) else os.path.getsize(source)


def _without_padding(container: Any, stream: Any, num_samples: int, rate: int) -> int:
    """Return the number of samples without the encoder's padding, which an mp4's header leaves out."""
    if "mov" not in container.format.name or not stream.duration:
        return num_samples
    declared = round(stream.duration * stream.time_base * rate)
    return declared if 0 <= num_samples - declared <= _PADDING * rate else num_samples


def _measure(source: str | os.PathLike | bytes) -> _Info:
    """Decode a recording to find its length; samples are not kept."""
    with _opened(source) as (container, stream):
        num_samples, rate, first_stamp = 0, 0, None
        is_regular = stream.time_base is not None
        for frame in _frames(container, stream, _num_bytes(source)):
            if not num_samples:
                rate, first_stamp = frame.sample_rate, frame.pts
                is_regular = is_regular and stream.time_base * rate <= 1  # webm has milliseconds
            if is_regular and None not in (frame.pts, first_stamp):
                is_regular = abs((frame.pts - first_stamp) * stream.time_base * rate - num_samples) < 1
            else:
                is_regular = False
            num_samples += frame.samples
        length = _without_padding(container, stream, num_samples, rate)
    return _Info(length, rate, first_stamp if is_regular else None)


@lru_cache(maxsize=64)
def _measure_file(path: str, num_bytes: int, changed: int) -> _Info:
    """Measure a file once for all of its segments; a changed size or modification time invalidates the cache."""
    return _measure(path)


def _info_of(source: str | os.PathLike | bytes) -> _Info:
    if isinstance(source, bytes):
        return _measure(source)
    status = os.stat(source)
    return _measure_file(os.path.abspath(source), status.st_size, status.st_mtime_ns)


def container_seconds(source: str | os.PathLike | bytes) -> float:
    """Return the duration of a recording by its samples, which are all decoded; the header's can be estimated.

    Raises:
        ContainerError: If it cannot be read.
        ImportError: If PyAV is not installed.
        OSError: If the file cannot be read.
    """
    info = _info_of(source)
    return info.num_samples / info.rate if info.rate else 0.0


def read_container(
    source: str | os.PathLike | bytes, begin: float = 0.0, end: float | None = None
) -> tuple[np.ndarray, int]:
    """Read the first sound track of a recording.

    What the encoder has put before the first sample is left out where the file tells how much that is: m4a, mp4 and
    webm do; aac and amr do not.

    Args:
        source (`str`, `os.PathLike` or `bytes`): The file, or its content.
        begin (`float`, defaults to 0.0): First second.
        end (`float`, *optional*): Last second; the end of the recording unless given, or if it ends before.

    Returns:
        `tuple[np.ndarray, int]`: Waveform `[channels, N]`, float32, and sampling rate in hertz.

    Raises:
        ContainerError: If it cannot be read.
        ImportError: If PyAV is not installed.
        OSError: If the file cannot be read.
    """
    if begin >= _SEEK_FROM and not isinstance(source, bytes):
        info = _info_of(source)
        if info.first_stamp is not None:
            found = _read(source, begin, end, info)
            if found is not None:
                return found
    found = _read(source, begin, end, None)
    assert found is not None
    return found


def _read(
    source: str | os.PathLike | bytes, begin: float, end: float | None, info: _Info | None
) -> tuple[np.ndarray, int] | None:
    """Decode from the beginning, or with `info` from a place before `begin`; return `None` if that is not found."""
    with _opened(source) as (container, stream):
        if info is not None:
            near = round(max(begin - _SEEK_BEFORE, 0) / stream.time_base) + info.first_stamp
            try:
                container.seek(near, stream=stream)
            except import_extra("av").FFmpegError:
                return None
        place = first = 0
        stop: float = math.inf
        parts: list[np.ndarray] = []
        first_frame: Any = None
        for frame in _frames(container, stream, _num_bytes(source)):
            if first_frame is None:
                first_frame, rate = frame, frame.sample_rate
                first = round(begin * rate)
                stop = math.inf if end is None else max(first, round(end * rate))
                if info is not None:
                    place = -1 if frame.pts is None else round((frame.pts - info.first_stamp) * stream.time_base * rate)
                    if not 0 <= place <= first - _SEEK_BEFORE / 2 * rate:
                        return None
                parts.append(np.zeros((len(frame.layout.channels), 0), np.float32))
            if place + frame.samples > first:
                parts.append(
                    _as_first(frame, first_frame)[:, max(first - place, 0) : int(min(stop - place, frame.samples))]
                )
            place += frame.samples
            if place >= stop:
                break
        else:
            if first_frame is None:
                return (np.zeros((1, 0), np.float32), stream.codec_context.sample_rate) if info is None else None
            place = _without_padding(container, stream, place, rate)
    return np.ascontiguousarray(np.concatenate(parts, axis=1)[:, : max(place - first, 0)]), rate
