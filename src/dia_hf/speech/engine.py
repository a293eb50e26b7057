"""Stand-in for the engine until it is merged: one thread for each request. Not for the main branch."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..engine import EngineError, QueueFullError
from .dia import Dia
from .voices import Voice


@dataclass(frozen=True)
class SpeechRequest:
    text: str
    voices: Mapping[str, Voice] | Voice | None = None
    seed: int | None = None
    cfg_scale: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    cfg_filter_top_k: int | None = None
    max_seconds: float | None = None
    is_streamed: bool = True


class SpeechHandle:
    def __init__(self, dialogue, seed, num_text_ids, on_change) -> None:
        self.dialogue, self.seed, self.num_text_ids, self.on_change = dialogue, seed, num_text_ids, on_change
        self.num_frames = self.num_retries = 0
        self.error: Exception | None = None
        self.finish_reason: str | None = None
        self.doubt = None
        self._chunks: list[np.ndarray] = []
        self._is_canceled = False
        self._condition = threading.Condition()

    @property
    def is_done(self) -> bool:
        return self.finish_reason is not None

    def take(self) -> list[np.ndarray]:
        with self._condition:
            taken, self._chunks = self._chunks, []
            return taken

    def cancel(self) -> None:
        self._is_canceled = True

    def __iter__(self):
        while True:
            with self._condition:
                while not self._chunks and not self.is_done:
                    self._condition.wait()
                chunks, self._chunks = self._chunks, []
                if not chunks:
                    if self.error:
                        raise self.error
                    return
            yield from chunks

    def _tell(self) -> None:
        with self._condition:
            self._condition.notify_all()
        if self.on_change:
            self.on_change()

    def _run(self, engine) -> None:
        reason = "stop"
        try:
            with engine._slots:
                engine.num_active += 1
                try:
                    for chunk in self.dialogue.stream():
                        if self._is_canceled:
                            reason = "canceled"
                            break
                        with self._condition:
                            self._chunks.append(chunk)
                        self.num_frames += len(chunk) // engine.dia.processor.codec.hop_length
                        self._tell()
                finally:
                    engine.num_active -= 1
        except Exception as error:
            self.error, reason = error, "error"
        with self._condition:
            self.finish_reason = reason
        engine._handles.discard(self)
        self._tell()


class SpeechEngine:
    def __init__(self, dia: Dia, max_batch_size: int = 16, max_queue: int | None = None) -> None:
        self.dia, self.max_batch_size, self.max_queue = dia, max_batch_size, max_queue
        self.num_active = 0
        self._handles: set[SpeechHandle] = set()
        self._slots = threading.Semaphore(max_batch_size)
        self._is_closed = False

    @property
    def num_queued(self) -> int:
        return len(self._handles) - self.num_active

    def submit(self, request: SpeechRequest, on_change: Callable[[], None] | None = None) -> SpeechHandle:
        if self._is_closed:
            raise EngineError("the engine is closed; make another one.")
        if self.max_queue is not None and self.num_queued >= self.max_queue:
            raise QueueFullError("full")
        seed = request.seed if request.seed is not None else secrets.randbits(31)
        dialogue = self.dia.dialogue(
            request.text,
            voices=request.voices,
            seed=seed,
            cfg_scale=request.cfg_scale,
            temperature=request.temperature,
            top_p=request.top_p,
            cfg_filter_top_k=request.cfg_filter_top_k,
            max_seconds=request.max_seconds,
        )
        handle = SpeechHandle(dialogue, seed, self.dia.processor.tokenizer.count_ids(request.text), on_change)
        handle.thread = threading.Thread(target=handle._run, args=(self,), daemon=True)
        self._handles.add(handle)
        handle.thread.start()
        return handle

    def close(self, timeout: float | None = None) -> None:
        self._is_closed = True
        for handle in list(self._handles):
            handle.thread.join(timeout)
        for handle in list(self._handles):
            handle.cancel()
