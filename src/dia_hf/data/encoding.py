"""Encoding of audio to cached codes: reading, loudness normalization, trimming, checks against the text, the codec.

Runs in one process, several, or actors of Ray. The codes of a clip are cached in a file named by the hash of its audio
and of the settings, so that no clip is encoded twice. Knows nothing of tables and reports; called by `prepare.py`.

Legend: N samples, T frames, C codebooks.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from ..atomic_write import atomic_write
from ..audio.codec import as_codec
from ..audio.effects import measure_loudness, normalize_loudness, trim_silence
from ..feature_extraction_dia import DiaFeatureExtractor
from ..ray_cluster import cluster, resources_of
from .clips import digest_audio, read_clip
from .config import PrepareConfig
from .rows import Row, RowError

__all__ = ["Cache", "Pending", "Recording", "encode_rows"]

_VERSION = 2  # of the audio processing: a change invalidates all cached codes
_CLIPS_PER_JOB = 16
_FRAMES_PER_CHUNK_ON_GPU = 4096  # 8 GB with the published codec, by the estimate in `DacCodec`
_SILENT = -60.0  # dBFS: a clip that never exceeds this has no speech
_LOUDNESS_SECONDS = 0.4  # minimum duration for a loudness by BS.1770
_FULL_SCALE = 0.999  # a sample counts as clipped from this amplitude


@dataclass(frozen=True)
class Pending:
    """Row with a valid text, to be encoded."""

    position: int
    row: Row
    text: str
    num_characters: int


@dataclass(frozen=True)
class Recording:
    """Properties of a clip's audio; its codes are in the cache."""

    key: str
    seconds: float
    seconds_before: float
    sampling_rate: int
    loudness: float | None
    clipped: float  # share of clipped samples
    is_new: bool = False


class Cache:
    """Cache of codes and recordings, one file per clip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> Recording | None:
        """Return the cached recording of a key, or `None`."""
        try:
            with safe_open(self._path(key), framework="np") as file:
                return Recording(key, **json.loads((file.metadata() or {})["recording"]))
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # a damaged file counts as missing

    def read_codes(self, key: str) -> np.ndarray:
        """Return the cached codes, int16 `[T, C]`."""
        with safe_open(self._path(key), framework="np") as file:
            return file.get_tensor("codes")

    def put(self, recording: Recording, codes: np.ndarray) -> None:
        """Cache a recording and its codes."""
        found = {name: value for name, value in asdict(recording).items() if name not in ("key", "is_new")}
        with atomic_write(self._path(recording.key)) as beside:
            beside.write_bytes(to_safetensors({"codes": codes}, {"recording": json.dumps(found)}))


class _Encoder:
    """Encoder of rows to cached codes; new clips are encoded in one batch."""

    def __init__(
        self, model: Any, extractor: DiaFeatureExtractor, settings: PrepareConfig, cache: Path, device: str | None
    ) -> None:
        current = next(model.parameters()).device
        wanted = current if device is None else torch.device(device)
        if wanted.type != current.type or wanted.index not in (None, current.index):
            model = copy.deepcopy(model).to(wanted)  # the caller's model keeps its device
        options = {} if wanted.type == "cpu" else {"max_frames_per_batch": _FRAMES_PER_CHUNK_ON_GPU}
        self._codec = as_codec(model, **options)
        self._extractor = extractor
        self._settings = settings
        self._cache = Cache(cache)
        done = [_VERSION, settings.loudness, settings.keep_silence]
        self._salt = f"{json.dumps(done)} {self._codec.fingerprint} {self._codec.sampling_rate}".encode()

    def __call__(self, rows: Sequence[tuple[Any, int]]) -> list[Recording | RowError]:
        """Encode rows, each given as its audio and the number of characters of its text."""
        found: list[Recording | RowError] = []
        new: list[tuple[int, torch.Tensor]] = []
        for audio, num_characters in rows:
            try:
                key = hashlib.blake2b(self._salt + digest_audio(audio), digest_size=20).hexdigest()
                cached = self._cache.get(key)
                recording, waveform = self._read(key, audio) if cached is None else (cached, None)
                self._check(recording.seconds, num_characters)
                if waveform is not None:
                    new.append((len(found), torch.from_numpy(np.ascontiguousarray(waveform))))
                found.append(recording)
            except RowError as error:
                found.append(error)
        for (position, _), codes in zip(new, self._codec.encode([waveform for _, waveform in new]), strict=True):
            encoded = found[position]
            assert isinstance(encoded, Recording)
            self._cache.put(encoded, codes.numpy().astype(np.int16))
        return found

    def _read(self, key: str, audio: Any) -> tuple[Recording, np.ndarray]:
        """Read, resample, normalize and trim a clip."""
        settings, rate = self._settings, self._extractor.sampling_rate
        # Up to half of a clip may be silence; a longer file is not read.
        unread = None if settings.max_seconds is None else 2 * settings.max_seconds
        samples, own_rate = read_clip(audio, unread)
        if samples.size == 0:
            raise RowError("unreadable_audio", "the audio has 0 samples.")
        if samples.dtype.kind == "f" and not np.isfinite(samples).all():
            count = np.count_nonzero(~np.isfinite(samples))
            raise RowError("nan", f"{count} of {samples.size} samples are NaN or infinite.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about samples beyond full scale, which the report counts
                (recorded,) = self._extractor.load_waveforms([{"array": samples, "sampling_rate": own_rate}])
        except (ValueError, RuntimeError) as error:
            raise RowError("unreadable_audio", str(error)) from error
        if trim_silence(recorded, rate, _SILENT).size == 0:
            raise RowError("silent", f"the clip of {len(recorded) / rate:.1f} s is silent (below {_SILENT:.0f} dBFS).")
        waveform, loudness = recorded, None
        if settings.loudness is not None and len(recorded) >= _LOUDNESS_SECONDS * rate:
            measured = measure_loudness(recorded, rate)
            loudness = round(measured, 2) if math.isfinite(measured) else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about peaks that limit the gain
                waveform = normalize_loudness(recorded, rate, settings.loudness)
        if settings.keep_silence is not None:
            waveform = trim_silence(waveform, rate, keep=settings.keep_silence)
        if waveform.size == 0:
            raise RowError("silent", f"the clip of {len(recorded) / rate:.1f} s is silent.")
        full = np.iinfo(samples.dtype).max if samples.dtype.kind == "i" else 1.0
        clipped = float(np.mean(np.abs(samples.astype(np.float64)) >= _FULL_SCALE * full))
        seconds, before = len(waveform) / rate, len(recorded) / rate
        return Recording(key, seconds, before, own_rate, loudness, clipped, is_new=True), waveform

    def _check(self, seconds: float, num_characters: int) -> None:
        settings = self._settings
        if seconds < settings.min_seconds:
            raise RowError("too_short", f"the clip lasts {seconds:.2f} s; the minimum is {settings.min_seconds} s.")
        if settings.max_seconds is not None and seconds > settings.max_seconds:
            raise RowError(
                "too_long",
                f"the clip lasts {seconds:.1f} s; the maximum is {settings.max_seconds} s: split it at pauses.",
            )
        speed = num_characters / seconds
        low, high = settings.min_characters_per_second, settings.max_characters_per_second
        if not low <= speed <= high:
            code = "text_too_short_for_audio" if speed < low else "text_too_long_for_audio"
            raise RowError(
                code,
                f"{num_characters} characters in {seconds:.1f} s are {speed:.1f} per second, outside of {low:g} to "
                f"{high:g}; check that the transcript belongs to this clip.",
            )


# Globals of a pool's process: its encoder, and the event that cancels queued jobs.
_encoder: _Encoder | None = None
_is_over: Any = None


def _begin_process(is_over: Any, model: Path, *arguments: Any) -> None:
    global _encoder, _is_over
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main process stops the others
    threading.Thread(target=_exit_with_main, daemon=True).start()
    torch.set_num_threads(1)
    _encoder, _is_over = _Encoder(pickle.loads(model.read_bytes()), *arguments), is_over


def _exit_with_main() -> None:
    """Exit when the main process has ended: if it is killed, it cannot stop the others."""
    main = multiprocessing.parent_process()
    assert main is not None
    main.join()
    os._exit(1)


def _encode_in_process(rows: Sequence[tuple[Any, int]]) -> list[Recording | RowError]:
    assert _encoder is not None
    return [] if _is_over.is_set() else _encoder(rows)


class _Actor:
    """Actor of Ray: an encoder."""

    def __init__(self, num_threads: int, model: bytes, *arguments: Any) -> None:
        torch.set_num_threads(num_threads)
        self._encoder = _Encoder(pickle.loads(model), *arguments)

    def encode(self, rows: Sequence[tuple[Any, int]]) -> list[Recording | RowError]:
        return self._encoder(rows)


def encode_rows(
    pending: Iterator[Pending], num_proc: int, use_ray: bool, model: Any, *arguments: Any
) -> Iterator[tuple[Pending, Recording | RowError]]:
    """Encode pending rows in their order, in this process, in `num_proc` others, or in as many actors of Ray."""
    jobs = iter(lambda: list(islice(pending, _CLIPS_PER_JOB)), [])

    def rows_of(job: Sequence[Pending]) -> list[tuple[Any, int]]:
        return [(item.row.audio, item.num_characters) for item in job]

    if use_ray:
        yield from _encode_on_ray(jobs, rows_of, num_proc, model, *arguments)
        return
    if num_proc == 1:
        encoder = _Encoder(model, *arguments)
        for job in jobs:
            yield from zip(job, encoder(rows_of(job)), strict=True)
        return
    context = multiprocessing.get_context("spawn")  # fork breaks CUDA and torch's threads
    is_over = context.Event()
    with tempfile.TemporaryDirectory() as folder:
        # The codec is passed as a file: torch takes a file descriptor per tensor, and writing to the pipe of a process
        # that dies at its start blocks forever.
        file = Path(folder, "codec.pickle")
        file.write_bytes(pickle.dumps(model))
        pool = ProcessPoolExecutor(num_proc, context, _begin_process, (is_over, file, *arguments))
        running: deque[tuple[list[Pending], Future]] = deque()
        try:
            for job in jobs:
                running.append((job, pool.submit(_encode_in_process, rows_of(job))))
                if len(running) > 2 * num_proc:
                    done, future = running.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in running:
                yield from zip(done, future.result(), strict=True)
        except BrokenProcessPool as error:
            raise OSError(
                f"one of the {num_proc} processes has died: it ran out of memory (use fewer processes), or the script "
                'does not call this under `if __name__ == "__main__":`. Clips encoded so far are kept.'
            ) from error
        finally:
            is_over.set()  # jobs that a process has taken cannot be canceled
            pool.shutdown(wait=True, cancel_futures=True)


def _encode_on_ray(
    jobs: Iterator[list[Pending]], rows_of: Callable[[list[Pending]], Any], num_actors: int, model: Any, *arguments: Any
) -> Iterator[tuple[Pending, Recording | RowError]]:
    """Encode jobs in actors, each in its turn, as processes share them."""
    with cluster() as ray:
        _, resources = resources_of(ray, num_actors, arguments[-1])
        content, actor_class = ray.put(pickle.dumps(model)), ray.remote(**resources)(_Actor)
        actors = [actor_class.remote(resources["num_cpus"], content, *arguments) for _ in range(num_actors)]
        running: deque[tuple[list[Pending], Any]] = deque()
        for job, actor in zip(jobs, itertools.cycle(actors), strict=False):
            running.append((job, actor.encode.remote(rows_of(job))))
            if len(running) > 2 * num_actors:
                done, result = running.popleft()
                yield from zip(done, ray.get(result), strict=True)
        for done, result in running:
            yield from zip(done, ray.get(result), strict=True)
