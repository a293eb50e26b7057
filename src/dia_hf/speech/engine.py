"""Text to speech for many callers at once: their requests share the model's batch and the codec's.

A request is a `Dialogue`: one chunk for a short text, a chain of chunks for a long one. Workers run the chunks by
`generate(engine=...)`, so that an `Engine` computes them together with those of other requests. Another thread decodes
the streams that are due, those first whose players run dry first, on a GPU many in one call of the codec.

Stands under the server, and under anything else that serves Dia in one process.

Legend: N samples, T frames, C channels.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from transformers.utils import logging

from ..engine import Engine, EngineError, QueueFullError
from ..generation import DiaCancelStoppingCriteria
from .dia import Dia
from .dialogue import Dialogue
from .handle import Mark, SpeechHandle, SpeechRequest, TextFrames
from .options import generate_options
from .text_stream import StreamedDialogue, TextStream

__all__ = ["SpeechEngine", "SpeechHandle", "SpeechRequest", "TextStream", "share_cores"]

logger = logging.get_logger(__name__)

# Frames to decode at once. On a CPU one stream, as several take as much longer.
_ROUND_FRAMES = {"cuda": 2048, "cpu": 1}
_MOST_RETRIES = 2  # Further attempts at a chunk whose length is implausible.


def share_cores(dia: Dia, num_cores: int | None = None) -> None:
    """Set PyTorch's threads for an engine on a CPU, where steps and codec run at the same time: half the cores each.

    Args:
        dia (`Dia`): Model of the engine; nothing is set if it is not on a CPU.
        num_cores (`int`, *optional*): Cores of this process; by default PyTorch's threads.
    """
    if dia.device.type == "cpu":
        torch.set_num_threads(max(1, (num_cores or torch.get_num_threads()) // 2))


class SpeechEngine:
    """Text to speech for many callers at once: continuous batching of the model, and of the codec.

    A request sounds as it would alone, if it has a seed: its parameters and random numbers do not depend on the batch
    (in lower precision than float64, rounding does). An error ends the request that caused it; the others go on.

    Args:
        dia (`Dia`): Model and processor.
        max_batch_size (`int`, defaults to 16): Chunks of text to generate at once.
        max_queue (`int`, *optional*): Requests that may wait for a slot; no limit unless given.
        engine (`Engine`, *optional*): Computes the chunks, with other calls; one of its own unless given.

    Attributes:
        dia, max_batch_size, max_queue: As given.

    Raises:
        ValueError: If a number is not above 0.

    Example:
    ```python
    >>> from dia_hf import Dia
    >>> from dia_hf.speech import SpeechEngine, SpeechRequest
    >>> with SpeechEngine(Dia.from_pretrained()) as engine:
    ...     handles = [engine.submit(SpeechRequest("[S1] Hello.", seed=seed, max_seconds=0.5)) for seed in range(3)]
    ...     [sum(len(chunk) for chunk in handle) for handle in handles]
    [7680, 7680, 7680]

    ```
    """

    def __init__(
        self, dia: Dia, max_batch_size: int = 16, max_queue: int | None = None, engine: Engine | None = None
    ) -> None:
        self.dia = dia
        self.max_batch_size = max_batch_size
        if max_queue is not None and max_queue < 1:
            raise ValueError(f"`max_queue` is {max_queue}; give at least 1.")
        self.max_queue = max_queue
        self._engine = engine or Engine(max_batch_size)
        self._owns_engine = engine is None
        self._changed = threading.Condition()
        self._waiting: deque[SpeechHandle] = deque()  # for a worker; those that have begun come first
        self._handles: list[SpeechHandle] = []  # that have begun and are not done
        self._is_closed = False
        self._seconds_to_next = 0.0  # until a stream that is due has been decoded, on average
        device = dia.processor.codec.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._round_frames = _ROUND_FRAMES.get(device.type, _ROUND_FRAMES["cpu"])
        # A few more than there are slots, so that the next calls are prepared when slots become free.
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(max_batch_size + 2)]
        self._threads = [*workers, threading.Thread(target=self._decode, name="dia-codec", daemon=True)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> SpeechEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether the threads of an engine that is not closed run; one that has ended would leave requests waiting."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def num_active(self) -> int:
        """Chunks of text in the batch."""
        return self._engine.num_active

    @property
    def num_queued(self) -> int:
        """Requests that wait for a slot, those among them that a worker prepares."""
        with self._changed:
            begun = sum(not (handle._is_complete or handle._is_parked) for handle in self._handles)
            new = sum(handle not in self._handles for handle in self._waiting)
            return max(begun + new - self.max_batch_size, 0)

    def submit(self, request: SpeechRequest, on_change: Callable[[], None] | None = None) -> SpeechHandle:
        """Queue a request.

        Args:
            request (`SpeechRequest`): The request.
            on_change (`Callable`, *optional*): Called in another thread when a chunk was added, and at the end.

        Returns:
            `SpeechHandle`: The chunks of audio, as they come.

        Raises:
            QueueFullError: If `max_queue` requests are waiting.
            EngineError: If the engine is closed.
            ValueError: If the text, a voice or an option is unusable.
        """
        return self._submit(request, on_change, self.max_queue)

    def _submit(
        self, request: SpeechRequest, on_change: Callable[[], None] | None = None, max_queue: int | None = None
    ) -> SpeechHandle:
        dia = self.dia
        sampling = (request.cfg_scale, request.temperature, request.top_p, request.cfg_filter_top_k)
        options: dict[str, Any] = {
            "seed": request.seed,
            "max_seconds": request.max_seconds,
            "options": generate_options(dia.device, *sampling),
            "engine": self._engine,
            "alignment_heads": None if request.timestamps is None else dia.alignment_heads(),
        }
        if isinstance(request.text, TextStream):
            dialogue: Dialogue = StreamedDialogue(dia.model, dia.processor, request.text, request.voices, **options)
        else:
            dialogue = Dialogue(dia.model, dia.processor, request.text, request.voices, **options)
        handle = SpeechHandle(request, dialogue, self, on_change)
        if isinstance(request.text, TextStream):
            request.text.bind(lambda: self._read(handle))
        try:
            self._queue(handle, max_queue)
        except Exception:
            if isinstance(request.text, TextStream):
                request.text.unbind()
            raise
        if isinstance(request.text, TextStream):
            self._read(handle)  # what was written in the meantime
        return handle

    def _queue(self, handle: SpeechHandle, max_queue: int | None) -> None:
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine is closed; make another one.")
            if max_queue is not None and self.num_queued >= max_queue:
                raise QueueFullError(f"{max_queue} requests (`max_queue`) are waiting already; try again later.")
            if handle.is_canceled:  # an error of the text, which its writer has added in the meantime
                return
            if handle._run.has_next:
                self._waiting.append(handle)
            else:
                handle._is_parked = True
                self._handles.append(handle)
            self._changed.notify_all()

    def warm_up(self, text: str = "[S1] Hello.", seconds: float = 1.0) -> None:
        """Generate a text in batches of 1, 2, 4, … `max_batch_size`, so that later requests find kernels and memory.

        Args:
            text (`str`): The text.
            seconds (`float`, defaults to 1.0): Its limit.
        """
        size = 1
        while True:
            requests = [SpeechRequest(text, seed=number, max_seconds=seconds) for number in range(size)]
            for handle in [self._submit(request) for request in requests]:
                for _ in handle:
                    pass
            if size == self.max_batch_size:
                return
            size = min(2 * size, self.max_batch_size)

    def close(self, timeout: float | None = None) -> None:
        """Refuse further requests, finish those that are there, and end the threads.

        Args:
            timeout (`float`, *optional*): Seconds after which requests are canceled; no limit unless given.
        """
        with self._changed:
            self._is_closed = True
            texts = [handle.request.text for handle in (*self._waiting, *self._handles)]
            self._changed.notify_all()
        for text in texts:
            if isinstance(text, TextStream):
                text.close()
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._handles), timeout)
            left = [*self._waiting, *self._handles]
        for handle in left:
            handle.cancel()
        for thread in self._threads:
            thread.join()
        if self._owns_engine:
            self._engine.close()

    def _cancel(self, handle: SpeechHandle) -> None:
        with self._changed:
            if handle in self._waiting or handle._is_parked or handle._is_complete:
                if handle in self._waiting:
                    self._waiting.remove(handle)
                self._finish(handle)
            self._changed.notify_all()

    def _unpark(self, handle: SpeechHandle) -> None:
        """Have the next chunk of the text generated, if it is there and the reader is not behind."""
        with self._changed:
            if not handle._is_parked or handle.is_canceled or handle.is_done:
                return
            if handle._run.is_complete:
                handle._is_parked, handle._is_complete = False, True
                self._changed.notify_all()
            elif handle._run.has_next and not handle.is_behind:
                handle._is_parked = False
                self._waiting.appendleft(handle)
                self._changed.notify_all()

    def _read(self, handle: SpeechHandle) -> None:
        """Read what was added to the text of a request."""
        dialogue = handle._run.dialogue
        assert isinstance(dialogue, StreamedDialogue)
        try:
            dialogue.update()
        except ValueError as error:  # the reader gets it
            handle.is_canceled = True
            self._finish(handle, error)
        else:
            self._unpark(handle)

    def _finish(self, handle: SpeechHandle, error: Exception | None = None) -> None:
        """End a request, and forget it."""
        with self._changed:
            if handle in self._handles:
                self._handles.remove(handle)
            self._changed.notify_all()
        if error is not None:
            handle._end("error", error)
        elif handle.is_canceled:
            handle._end("canceled")
        else:
            doubts = handle._run.find_doubts(handle._heard)
            is_cut = handle._run.is_cut or max(handle._run.num_frames, default=0) >= handle._run.dialogue.most_frames
            reason = "length" if is_cut else "implausible" if doubts else "stop"
            handle._end(reason, doubt="; ".join(doubts) or None)

    # --- workers: the calls of the model ---

    def _work(self) -> None:
        """Generate chunks of text until the engine is closed and nothing is left."""
        while self._work_once():  # in a method, whose return forgets the request
            pass

    def _work_once(self) -> bool:
        """Wait for a chunk of text, and generate it; return whether there was one."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or (self._is_closed and not self._handles))
            if not self._waiting:
                return False
            handle = self._waiting.popleft()
            if handle not in self._handles:
                self._handles.append(handle)
        try:
            self._generate_chunk(handle)
        except Exception as error:  # the reader gets it
            self._finish(handle, error)
        else:
            with self._changed:
                if handle.is_canceled:
                    self._finish(handle)
                else:
                    handle._is_parked = True
                    self._unpark(handle)
                    self._changed.notify_all()  # the frames of a chunk have ended
        return True

    def _generate_chunk(self, handle: SpeechHandle) -> None:
        """Generate the next chunk of a request, again if its length is implausible and nobody has heard it."""
        run, mark = handle._run, Mark(handle)
        for attempt in range(_MOST_RETRIES + 1):
            text, own = run.next_texts() if handle.timeline is not None else ("", "")
            frames = TextFrames(self.dia.model.config, lambda number: self._notice(handle, number), text, own)
            with handle._changed:
                handle._parts.append(frames)
            with self._changed:
                self._changed.notify_all()  # what the decoding thread waits for has changed
            call = run.next_call(attempt)
            cancel = DiaCancelStoppingCriteria(lambda: handle.is_canceled)
            tokens: Any = self.dia.model.generate(**call, streamer=frames, stopping_criteria=[cancel])
            if handle.timeline is not None:
                tokens = tokens.sequences
            if handle.is_canceled:
                return
            num_prompt = self.dia.processor.get_audio_prompt_len(call["decoder_attention_mask"])
            codes = self.dia.processor.extract_codes(tokens, num_prompt)[0]
            may_retry = handle.request.seed is None and attempt < _MOST_RETRIES and not run.would_cut(len(codes))
            doubt = run.find_chunk_doubt(run.index, len(codes)) if may_retry else None
            if doubt is None or not mark.rewind(handle, frames):
                run.add(codes)
                return
            handle.num_retries += 1
            logger.info("chunk %d is generated again: %s", run.index + 1, doubt)

    # --- the decoding thread ---

    def _notice(self, handle: SpeechHandle, number: int) -> None:
        """Wake the decoding thread if the frames of a part are as many as it waits for."""
        if number >= handle._wake_at:
            with self._changed:
                self._changed.notify_all()

    def _decode(self) -> None:
        """Decode what is due until the engine is closed and nothing is left."""
        while True:
            with self._changed:
                while True:
                    due, seconds = self._find_due()
                    if due:
                        break
                    if self._is_closed and not (self._waiting or self._handles):
                        return
                    self._changed.wait(seconds)
            begin = time.monotonic()
            num_decoded = self._decode_round(due)
            seconds_for_all = (time.monotonic() - begin) * len(due) / max(num_decoded, 1)
            self._seconds_to_next += 0.2 * (seconds_for_all - self._seconds_to_next)

    def _find_due(self) -> tuple[list[SpeechHandle], float | None]:
        """Return the handles to decode now, the most urgent first, or the seconds to wait for the next one."""
        due, seconds = [], math.inf
        for handle in self._handles:
            if handle.is_canceled:
                continue
            number, ahead = handle._num_ready(), handle._ahead
            wanted, limit = handle._wanted(ahead)
            if number >= wanted:
                due.append((ahead, handle))
            else:
                handle._wake_at = handle._num_complete() + wanted - number
                seconds = min(seconds, max(ahead - limit, 0.001) if number > 0 else math.inf)
        due.sort(key=lambda pair: pair[0])
        return [handle for _, handle in due], None if seconds == math.inf else seconds

    def _decode_round(self, due: list[SpeechHandle]) -> int:
        """Decode the next chunk of each of these, as many as the codec takes at once; return how many."""
        codec = self.dia.processor.codec
        chosen: list[SpeechHandle] = []
        counts: list[int] = []
        failed: list[tuple[SpeechHandle, Exception]] = []
        with ExitStack() as locks:
            for handle in due:
                if sum(counts) >= self._round_frames:
                    break
                locks.enter_context(handle._decoding)
                try:
                    handle._pull()
                except Exception as error:  # the reader gets it
                    failed.append((handle, error))
                    continue
                chosen.append(handle)
                counts.append(handle._num_next())
            if self._stream is not None:  # concurrently with the steps
                locks.enter_context(torch.cuda.stream(self._stream))
            try:
                waveforms: list[Any] = codec.pop_many([handle._clip for handle in chosen], counts)
            except Exception:  # of one clip, or of their number: each by itself
                waveforms = [self._pop(handle, number) for handle, number in zip(chosen, counts, strict=True)]
            for handle, number, waveform in zip(chosen, counts, waveforms, strict=True):
                if number > 0 and not isinstance(waveform, Exception):
                    handle._put(waveform.numpy(), number)
                    handle._next_frames = 2 * number
                handle._end_sentence()
        for handle, waveform in zip(chosen, waveforms, strict=True):
            if isinstance(waveform, Exception):
                failed.append((handle, waveform))
            elif handle._is_complete and handle._clip.is_closed and handle._clip.num_ready == 0:
                self._finish(handle)
        for handle, reason in failed:
            self._finish(handle, reason)
            handle.is_canceled = True
        return len(chosen)

    def _pop(self, handle: SpeechHandle, number: int) -> torch.Tensor | Exception:
        try:
            return handle._clip.pop(number)
        except Exception as error:  # the reader gets it
            return error
