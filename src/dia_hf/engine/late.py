"""Values on their way from the device to the host, read when they have arrived.

On a GPU each is copied behind the steps that made it, and handed on some steps later, in order; nobody waits unless the
host has run far ahead. On a CPU there is no way to go: they are handed on at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["LateReads"]


class LateReads:
    """A queue of small tensors between device and host.

    Args:
        receive (`Callable`): Gets each tensor, on the CPU, in the order in which they were sent.
        most_waiting (`int`, defaults to 0): Tensors that may be on their way before the host waits for the oldest;
            0 waits for each, which costs nothing where the tensors are on the CPU.
    """

    def __init__(self, receive: Callable[[torch.Tensor], None], most_waiting: int = 0) -> None:
        self.receive = receive
        self.most_waiting = most_waiting
        self._waiting: deque[tuple[torch.Tensor, Any]] = deque()

    def send(self, value: torch.Tensor) -> None:
        """Send a copy of a tensor on its way, and hand on what has arrived."""
        if value.device.type == "cuda":
            copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            copy.copy_(value, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        else:
            copy, arrived = value.clone() if value.device.type == "cpu" else value.cpu(), None
        self._waiting.append((copy, arrived))
        while self._waiting and (len(self._waiting) > self.most_waiting or self._has_arrived()):
            self._hand_on()

    def flush(self) -> None:
        """Wait for all that is on its way."""
        while self._waiting:
            self._hand_on()

    def _has_arrived(self) -> bool:
        event = self._waiting[0][1]
        return event is not None and event.query()

    def _hand_on(self) -> None:
        copy, event = self._waiting.popleft()
        if event is not None:
            event.synchronize()
        self.receive(copy)
