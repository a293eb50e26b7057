"""One loop for all callers: the calls of many threads share batches, and come and go between steps.

A thread runs schedulers. Each has one batch, for calls whose samples can be computed together and whose caches are of
about the same size, so that one long request does not size the caches of all. `generate(engine=...)` submits its call
and waits for it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .decoder import FrameDecoder
from .scheduler import Call, FrameScheduler

__all__ = ["Engine", "EngineError", "QueueFullError"]

_SMALLEST_CAPACITY = 512  # Frames; the capacities of caches are powers of two times this.


class EngineError(RuntimeError):
    """A call that the engine does not take, because its queue is full or it is closed."""


class QueueFullError(EngineError):
    """A call that the engine does not take, because as many as it may hold are waiting."""


class Engine:
    """Continuous batching over calls: the `engine` of `generate()` in any number of threads.

    A request has the codes that it would have alone, if it has a generator of its own: its parameters and random
    numbers do not depend on the batch (in lower precision, rounding may depend on the size of the batch). An error ends
    the call that caused it; the others go on.

    Args:
        max_batch_size (`int`, defaults to 16): Samples to compute at once.
        max_queue (`int`, *optional*): Calls that may wait for the batch; no limit unless given.

    Raises:
        ValueError: If a number is not above 0.

    Example:
    ```python
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.engine import Engine
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> def generate(text):
    ...     return model.generate(**processor(text=[text]), engine=engine, max_new_tokens=30).shape
    >>> with Engine(max_batch_size=8) as engine, ThreadPoolExecutor() as threads:
    ...     list(threads.map(generate, ["[S1] Hello.", "[S2] Welcome, Dia."]))
    [torch.Size([1, 31, 9]), torch.Size([1, 31, 9])]

    ```
    """

    def __init__(self, max_batch_size: int = 16, max_queue: int | None = None) -> None:
        for name, value in (("max_batch_size", max_batch_size), ("max_queue", max_queue)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; give at least 1.")
        self.max_batch_size = max_batch_size
        self.max_queue = max_queue
        self._condition = threading.Condition()
        self._submitted: list[tuple[FrameScheduler, Call]] = []
        self._schedulers: list[FrameScheduler] = []
        self._order: WeakKeyDictionary[Call, int] = WeakKeyDictionary()
        self._numbers = itertools.count()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the calls that are there, refuse further ones, and end the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()

    @property
    def num_active(self) -> int:
        """Samples in the batches."""
        return sum(scheduler.num_active for scheduler in list(self._schedulers))

    @property
    def num_queued(self) -> int:
        """Calls of which no sample is in a batch yet."""
        with self._condition:
            return self._num_queued()

    def run(
        self, network: FrameDecoder, delay_pattern: Sequence[int], call: Call, compile_options: dict[str, Any] | None
    ) -> list[torch.Tensor]:
        """Run a call among others.

        Args:
            network, delay_pattern, compile_options: See `FrameScheduler`.
            call (`Call`): The call. `on_frame` and `is_canceled` are called in the engine's thread.

        Returns:
            `list[torch.LongTensor]`, each of shape `[N, C]`: New frames of each request.

        Raises:
            QueueFullError: If the queue is full.
            EngineError: If the engine is closed.
            ValueError: If a streamed call has more requests than `max_batch_size`, or no token could be sampled.
        """
        if call.on_frame is not None and len(call.requests) > self.max_batch_size:
            raise ValueError(
                f"a call that is streamed has {len(call.requests)} samples, but the engine's `max_batch_size` is "
                f"{self.max_batch_size}, and a stream needs all of them at once; give fewer texts, or a larger batch."
            )
        call.max_batch_size = min(call.max_batch_size or len(call.requests), self.max_batch_size)
        with self._condition:
            if self._is_closed:
                raise EngineError("the engine is closed; make another one.")
            if self.max_queue is not None and self._num_queued() >= self.max_queue:
                raise QueueFullError(f"{self.max_queue} calls (`max_queue`) are waiting already; try again later.")
            self._submitted.append((self._find_scheduler(network, delay_pattern, call, compile_options), call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="dia-engine", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        try:
            call.wait()
        except BaseException:  # Control-C in the caller's thread
            call.is_canceled = lambda: True
            raise
        return call.results()

    def _num_queued(self) -> int:
        queued = [call for _, call in self._submitted]
        for scheduler in self._schedulers:
            queued += [call for call in list(scheduler.calls) if len(call.waiting) == len(call.requests)]
        return len(queued)

    def _find_scheduler(
        self, network: FrameDecoder, delay_pattern: Sequence[int], call: Call, options: dict[str, Any] | None
    ) -> FrameScheduler:
        """Return the scheduler of calls of this kind; a new one if there is none."""
        capacity = _SMALLEST_CAPACITY
        while capacity < call.num_frames:
            capacity *= 2
        wanted = (network, list(delay_pattern), options, capacity)
        for scheduler in (*self._schedulers, *(scheduler for scheduler, _ in self._submitted)):
            found = (scheduler.network, scheduler.delay_pattern, scheduler.compile_options, scheduler.num_frames)
            if found == wanted and scheduler.takes(call):
                return scheduler
        return FrameScheduler(network, delay_pattern, options, capacity, call.spec, self._num_slots)

    def _num_slots(self, scheduler: FrameScheduler) -> int:
        """Return the slots that a scheduler may have now: it admits nothing while an older call waits elsewhere."""
        waiting = [(self._order[call], one) for one in self._schedulers for call in one.calls if call.waiting]
        if waiting and min(waiting, key=lambda pair: pair[0])[1] is not scheduler:
            return scheduler.num_active
        return self.max_batch_size - sum(other.num_active for other in self._schedulers if other is not scheduler)

    def _work(self) -> None:
        """Run until the engine is closed and nothing is left."""
        while True:
            with self._condition:
                while not self._submitted and not self._schedulers:
                    if self._is_closed:
                        return
                    self._condition.wait()
            self._advance()  # in a method, whose return forgets the calls

    def _advance(self) -> None:
        """Add the calls that have come, and run each batch up to its next poll."""
        with self._condition:
            for scheduler, call in self._submitted:
                if scheduler not in self._schedulers:
                    self._schedulers.append(scheduler)
                scheduler.add(call)
                self._order[call] = next(self._numbers)
            self._submitted.clear()
        for scheduler in self._schedulers:
            try:
                scheduler.advance()
            except Exception as error:  # of the batch, not of one call: the callers get it
                scheduler.fail(error)
        with self._condition:
            self._schedulers = [scheduler for scheduler in self._schedulers if scheduler.calls]
