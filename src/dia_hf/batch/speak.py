"""Rows to audio files, through a `SpeechEngine` whose batch is kept full.

Each row in work has a thread, which waits for its audio and writes it, so that neither the encoding nor a slow disk
stalls the engine. The same on one machine and in an actor of Ray (`ray.py`).

Legend: N samples.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from ..atomic_write import atomic_write
from ..audio.effects import change_speed, normalize_loudness
from ..audio.encoders import FORMATS, StreamEncoder
from ..audio.io import AUDIO_FORMATS, resample, write_audio
from ..engine import EngineError
from ..speech.engine import SpeechEngine, SpeechHandle, SpeechRequest
from ..text_files import first_line
from .rows import SAMPLING, BatchRow, BatchSettings, Failure, hash_of
from .voices import RowVoices

__all__ = ["Entry", "RowSpeaker", "seed_of"]


@dataclass(frozen=True)
class Entry:
    """A row of the manifest.

    Args:
        id (`str`): Id of the row.
        file_name (`str`): Path of the audio file, relative to the manifest.
        text (`str`): The text.
        seconds (`float`): Duration of the file.
        seed (`int`): Seed in use.
        attempts (`int`): Attempts that it took; above 1 where earlier ones were implausible.
        finish_reason (`str`): "stop"; "length" (cut at a limit); "implausible".
        doubt (`str`, *optional*): Why the audio is implausible or cut.
        sha256 (`str`): Hash of the file.
        digest (`str`): Hash of what the row asked for.
    """

    id: str
    file_name: str
    text: str
    seconds: float
    seed: int
    attempts: int
    finish_reason: str
    doubt: str | None
    sha256: str
    digest: str


class _UnusableError(Exception):
    """A row that cannot be spoken, for a reason of its own."""


class _Running:
    """Requests in the engine, to be canceled together."""

    def __init__(self) -> None:
        self._handles: set[SpeechHandle] = set()
        self._lock = threading.Lock()
        self._is_over = False

    @contextmanager
    def holding(self, handle: SpeechHandle) -> Iterator[SpeechHandle]:
        with self._lock:
            self._handles.add(handle)
            is_over = self._is_over
        if is_over:
            handle.cancel()
        try:
            yield handle
        finally:
            with self._lock:
                self._handles.discard(handle)

    def cancel(self) -> None:
        with self._lock:
            self._is_over, handles = True, list(self._handles)
        for handle in handles:
            handle.cancel()


def seed_of(seed: int, row_id: str, attempt: int = 0) -> int:
    """Derive the seed of a row from that of the run and its id: of 48 bits, which any program reads exactly.

    Args:
        seed (`int`): Seed of the run.
        row_id (`str`): Id of the row.
        attempt (`int`, defaults to 0): Number of earlier attempts.
    """
    name = f"{seed}/{attempt}/{row_id}" if attempt else f"{seed}/{row_id}"
    return int(hash_of(name)[:12], 16)


class RowSpeaker:
    """Speech for rows, written to files.

    Args:
        engine (`SpeechEngine`): The engine; its owner closes it.
        folder (`Path`): Output folder.
        settings (`BatchSettings`): Settings.
        voices (`RowVoices`): The voices.
    """

    def __init__(self, engine: SpeechEngine, folder: Path, settings: BatchSettings, voices: RowVoices) -> None:
        self.engine, self.folder, self.settings, self.voices = engine, folder, settings, voices
        # Twice the batch: while rows are encoded and written, others wait for a slot.
        self._num_in_work = 2 * engine.max_batch_size + 4

    def speak(self, rows: Iterable[tuple[BatchRow, str]]) -> Generator[Entry | Failure, None, None]:
        """Speak rows, and yield each when its file is written; an error of one of them is a `Failure`.

        Args:
            rows (`Iterable[tuple[BatchRow, str]]`): Rows, each with its digest; read as far as they are worked on.

        Raises:
            OSError: If a file cannot be written, as on a full disk.
            ImportError: If an option or the format needs a package that is not installed.
        """
        rows = iter(rows)
        finished: SimpleQueue[Future[Entry | Failure]] = SimpleQueue()
        running = _Running()
        num_in_work = 0
        pool = ThreadPoolExecutor(self._num_in_work, thread_name_prefix="dia-batch")
        try:
            while True:
                while num_in_work < self._num_in_work and (item := next(rows, None)) is not None:
                    pool.submit(self._speak_row, *item, running).add_done_callback(finished.put)
                    num_in_work += 1
                if num_in_work == 0:
                    return
                future = finished.get()
                num_in_work -= 1
                yield future.result()
        finally:
            running.cancel()  # nothing, unless it was interrupted
            pool.shutdown(cancel_futures=True)

    def _speak_row(self, row: BatchRow, digest: str, running: _Running) -> Entry | Failure:
        try:
            return self._write_row(row, digest, running)
        except (_UnusableError, ValueError) as error:
            return Failure(row.number, row.id, str(error))
        except (OSError, ImportError):  # of all rows: a full disk, a package that is not installed
            raise
        except Exception as error:
            return Failure(row.number, row.id, f"{type(error).__name__}: {first_line(error, 500)}", is_foreseen=False)

    def _write_row(self, row: BatchRow, digest: str, running: _Running) -> Entry:
        """Generate a row, again with another seed where its audio is implausible, and write its file."""
        try:
            voices = self.voices.load(row, self.engine.dia.processor)
        except OSError as error:
            raise _UnusableError(str(error)) from error
        num_attempts = 1 if row.seed is not None else 1 + self.settings.max_retries
        for attempt in range(num_attempts):
            seed = row.seed if row.seed is not None else seed_of(self.settings.seed, row.id, attempt)
            sampling = {name: row.options.get(name) for name in (*SAMPLING, "max_seconds")}
            request = SpeechRequest(row.text, voices, seed, is_streamed=False, **sampling)
            with running.holding(self.engine.submit(request)) as handle:
                chunks = list(handle)
            is_cut_by_model = handle.finish_reason == "length" and "max_seconds" not in row.options
            if handle.finish_reason != "implausible" and not is_cut_by_model:
                break
        if handle.finish_reason == "canceled":
            raise EngineError("the row was canceled")
        if not sum(map(len, chunks)):
            raise _UnusableError(f"{handle.doubt} (seed {seed}).")
        waveform, rate = self._finish_audio(np.concatenate(chunks), row)
        return Entry(
            id=row.id,
            file_name=row.file_name,
            text=row.text,
            seconds=round(len(waveform) / rate, 4),
            seed=seed,
            attempts=attempt + 1,
            finish_reason=str(handle.finish_reason),
            doubt=handle.doubt,
            sha256=self._write(row, waveform, rate, {"id": row.id, "text": row.text, "seed": seed}),
            digest=digest,
        )

    def _finish_audio(self, waveform: np.ndarray, row: BatchRow) -> tuple[np.ndarray, int]:
        """Change speed, loudness and sampling rate of a waveform `[N]`; return it with its rate."""
        own_rate = self.engine.dia.sampling_rate
        if "speed" in row.options:
            waveform = change_speed(waveform, own_rate, row.options["speed"])
        if "loudness" in row.options:
            waveform = normalize_loudness(waveform, own_rate, row.options["loudness"])
        rate = self.settings.sample_rate or own_rate
        return resample(waveform, own_rate, rate), rate

    def _write(self, row: BatchRow, waveform: np.ndarray, rate: int, metadata: dict[str, Any]) -> str:
        """Write the file of a row atomically; return its hash."""
        path = self.folder / row.file_name
        if FORMATS[self.settings.format].suffix in AUDIO_FORMATS:
            write_audio(path, waveform, rate, metadata)
        else:
            encoder = StreamEncoder(self.settings.format, rate, len(waveform))
            content = encoder.encode(waveform) + encoder.finish()
            with atomic_write(path) as beside:
                beside.write_bytes(content)
        return hashlib.sha256(path.read_bytes()).hexdigest()
