"""Copies of small tensors from device to host that nobody waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["AsyncReads"]


class AsyncReads:
    """A queue of asynchronous copies of small tensors from device to host.

    Args:
        receive (`Callable`): Receives each tensor, on the CPU, in the order in which they were sent.
        max_pending (`int`, defaults to 0): Copies that may be in flight before the host waits for the oldest; with 0
            the host waits for each, which costs nothing where the tensors are on the CPU.
    """

    def __init__(self, receive: Callable[[torch.Tensor], None], max_pending: int = 0) -> None:
        self.receive = receive
        self.max_pending = max_pending
        self._pending: deque[tuple[torch.Tensor, Any]] = deque()

    def send(self, value: torch.Tensor) -> None:
        """Start a copy of a tensor, and deliver the copies that have arrived."""
        if value.device.type == "cuda":
            copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            copy.copy_(value, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            copy, arrived = value.clone() if value.device.type == "cpu" else value.cpu(), None
        self._pending.append((copy, arrived))
        while self._pending and (len(self._pending) > self.max_pending or self._has_arrived()):
            self._deliver()

    def flush(self) -> None:
        """Wait for all copies, and deliver them."""
        while self._pending:
            self._deliver()

    def _has_arrived(self) -> bool:
        event = self._pending[0][1]
        return event is not None and event.query()

    def _deliver(self) -> None:
        copy, event = self._pending.popleft()
        if event is not None:
            event.synchronize()
        self.receive(copy)
