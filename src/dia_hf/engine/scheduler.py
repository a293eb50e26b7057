"""Continuous batching: finished sequences free their slot in the batch for queued requests.

The host launches steps and counts them. It reads from the device every few frames only, and still stops at the right
frame: once channel 0 has ended, the slowest channel ends `max(delay_pattern)` frames later. Each sample has its own
length in the batch, so requests with different prompts, texts and limits share a batch without padding to the longest.

`generation/fast_path.py` makes the requests and receives the frames. This module reads neither logits nor text.

Legend: M requests, B samples in the batch, S text bytes, T frames of the prompts, C channels, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .memory import num_fitting
from .runners import EagerRunner
from .sampling import NEVER, SamplingParams
from .step import FrameState, FrameView

__all__ = ["AsyncReads", "FrameScheduler", "RequestBatch"]

_POLL_INTERVAL = 8


@dataclass
class RequestBatch:
    """The requests of one call.

    Attributes:
        text_ids, text_mask (`torch.LongTensor` of shape `[texts, S]`): Bytes, and 1 = keep.
        text_of (`list[int]` of length M): Index of each request's text.
        text_lengths (`list[int]` of length M): Bytes up to the last that is kept.
        prompts (`torch.LongTensor` of shape `[M, T, C]`): Complete delayed frames, at least one each, padded on the
            left.
        prompt_lengths (`list[int]` of length M): Number of each request's prompt frames.
        forced (`torch.LongTensor` of shape `[M, G, C]`): Forced tokens; see `SamplingSpec.complete`.
        params (`SamplingParams`): Of the M requests.
        max_new (`list[int]` of length M): New frames after which a request stops, ended or not.
    """

    text_ids: torch.Tensor
    text_mask: torch.Tensor
    text_of: list[int]
    text_lengths: list[int]
    prompts: torch.Tensor
    prompt_lengths: list[int]
    forced: torch.Tensor
    params: SamplingParams
    max_new: list[int]

    def __len__(self) -> int:
        return len(self.text_of)


@dataclass
class _Slot:
    """Host-side state of one sample in the batch.

    Attributes:
        request (`int`): Index of the request.
        num_read (`int`): Frames in the cache.
        num_bytes, num_kept (`int`): Length of its text, and the number of bytes that are kept.
        num_new (`int`): New frames so far.
        stop (`int`): New frames after which it is complete, as far as the host knows.
    """

    request: int
    num_read: int
    num_bytes: int
    num_kept: int
    num_new: int
    stop: int


class FrameScheduler:
    """Scheduler of one call: runs all requests from the first frame to the last.

    Args:
        runner (`EagerRunner`): Launches steps; holds the decoder and the `SamplingSpec`.
        delay_pattern (`Sequence[int]` of length C): Frames of delay; channel 0 has none.
        requests (`RequestBatch`): The requests.
        max_batch_size (`int`, *optional*): Samples to compute at once; as many as fit into free memory unless given.
        generator (`torch.Generator` or a sequence of M, *optional*): Source of randomness; the global generator unless
            given.
        on_frame (`Callable`, *optional*): Receives the tokens `[M, C]` of each new frame; all requests are then
            computed at once.
        is_canceled (`Callable`, *optional*): Called before each step; `True` stops.
    """

    def __init__(
        self,
        runner: EagerRunner,
        delay_pattern: Sequence[int],
        requests: RequestBatch,
        max_batch_size: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        on_frame: Callable[[torch.Tensor], None] | None = None,
        is_canceled: Callable[[], bool] | None = None,
    ) -> None:
        self.runner = runner
        self.network = runner.network
        self.spec = runner.spec
        self.delay_pattern = list(delay_pattern)
        self.requests = requests
        self.generator = generator
        self.on_frame = on_frame
        self.is_canceled = is_canceled or (lambda: False)
        self.waiting = deque(range(len(requests)))
        self.slots: list[_Slot | None] = []
        self.generated: dict[int, torch.Tensor] = {}
        self._num_kept = requests.text_mask.sum(-1).tolist()
        self.num_frames = max(
            length + limit for length, limit in zip(requests.prompt_lengths, requests.max_new, strict=True)
        )
        if on_frame is not None:
            max_batch_size = len(requests)
        elif max_batch_size is None:
            size = self.network.bytes_of_sample(self.num_frames, max(requests.text_lengths), self.spec.is_guided)
            max_batch_size = num_fitting(size, self.network.device)
        self.max_batch_size = min(max_batch_size, len(requests))
        # Polled at least once within the delay, an end is known before the sample is complete.
        self.poll_interval = min(_POLL_INTERVAL, max(self.delay_pattern) + 1)
        is_async = self.network.device.type == "cuda"
        self._polls = AsyncReads(self._read_ends, max_pending=1 if is_async else 0)
        self._frames = AsyncReads(self._emit_frame, max_pending=_POLL_INTERVAL if is_async else 0)
        self._polled: deque[list[_Slot | None]] = deque()

    @torch.inference_mode()
    def run(self) -> list[torch.Tensor]:
        """Run all requests.

        Returns:
            `list[torch.LongTensor]`, each of shape `[N, C]`: New frames of each request.

        Raises:
            ValueError: If no token could be sampled, because logits were NaN or all tokens were masked.
        """
        prefilled, slots = self._prefill(self._pop_waiting(self.max_batch_size))
        state = self._adopt(prefilled, slots)
        while self._active() and not self.is_canceled():
            for _ in range(self._num_steps_to_next_poll()):
                self._take_step(state)
                if self.on_frame is not None:
                    self._frames.send(self._all_tokens(state))
                if self.is_canceled():
                    break
            self._poll(state)
            state = self._refill(state)
        self._polls.flush()
        self._frames.flush()
        for index, slot in enumerate(self.slots):
            if slot is not None:
                self._collect(state, index, slot)
        self.runner.release(state)  # after an error the state is undefined and is not reused
        nothing = state.new[0, :0].clone()  # of requests that were still queued at cancellation
        return [self.generated.get(request, nothing) for request in range(len(self.requests))]

    # --- the batch ---

    def _active(self) -> list[_Slot]:
        return [slot for slot in self.slots if slot is not None]

    def _pop_waiting(self, number: int) -> list[int]:
        return [self.waiting.popleft() for _ in range(min(number, len(self.waiting)))]

    def _prefill(self, admitted: list[int]) -> tuple[FrameState, list[_Slot]]:
        """Read the texts and prompts of some requests in a batch of their own."""
        requests, network, is_guided = self.requests, self.network, self.spec.is_guided
        device = network.device
        index = torch.tensor(admitted, device=device)
        lengths = torch.tensor([requests.prompt_lengths[request] for request in admitted], device=device)
        num_read = max(requests.prompt_lengths[request] for request in admitted)
        num_bytes = max(requests.text_lengths)

        start = requests.prompts.shape[1] - lengths
        positions = (start[:, None] + torch.arange(num_read, device=device)).clamp(max=requests.prompts.shape[1] - 1)
        frames = requests.prompts[index].gather(1, positions[..., None].expand(-1, -1, requests.prompts.shape[2]))
        cache = network.new_cache(len(admitted), is_guided, self.num_frames, num_bytes)
        texts = sorted({requests.text_of[request] for request in admitted})
        network.read_text(
            cache,
            requests.text_ids[texts, :num_bytes],
            requests.text_mask[texts, :num_bytes],
            torch.tensor([texts.index(requests.text_of[request]) for request in admitted], device=device),
        )
        if num_read > 1:
            network.read_frames(cache, frames[:, :-1], is_guided)
        new_shape = (len(admitted), max(requests.max_new), frames.shape[2])
        state = FrameState(
            cache=cache,
            params=requests.params.select(index),
            forced=requests.forced[index],
            delays=torch.tensor(self.delay_pattern, device=device),
            tokens=requests.prompts[index, -1],
            lengths=(lengths - 1).repeat(2 if is_guided else 1),
            num_new=torch.zeros_like(lengths),
            end=torch.full_like(lengths, NEVER),
            new=torch.zeros(new_shape, dtype=torch.long, device=device),
            noise=self._new_noise(len(admitted)) if self.spec.do_sample else None,
            is_broken=torch.zeros((), dtype=torch.bool, device=device),
        )
        slots = [
            _Slot(
                request=request,
                num_read=requests.prompt_lengths[request] - 1,
                num_bytes=requests.text_lengths[request],
                num_kept=self._num_kept[requests.text_of[request]],
                num_new=0,
                stop=requests.max_new[request],
            )
            for request in admitted
        ]
        return state, slots

    def _adopt(self, state: FrameState, slots: Sequence[_Slot | None]) -> FrameState:
        """Make these samples the batch."""
        state = self.runner.adopt(state)
        self.slots = [*slots, *[None] * (state.num_samples - len(slots))]
        self._index_slots()
        return state

    def _index_slots(self) -> None:
        """Copy the mapping from slots to requests to the device."""
        taken = [(index, slot.request) for index, slot in enumerate(self.slots) if slot is not None]
        self._slot_index = torch.tensor(taken, device=self.network.device, dtype=torch.long).view(-1, 2).T

    def _refill(self, state: FrameState) -> FrameState:
        """Remove complete samples from the batch, and admit queued requests."""
        complete = []
        for index, slot in enumerate(self.slots):
            if slot is not None and slot.num_new >= slot.stop:
                self._collect(state, index, slot)
                self.slots[index] = None
                complete.append(index)
        if not complete:
            return state
        if admitted := self._pop_waiting(len(complete)):
            prefilled, slots = self._prefill(admitted)
            state.copy_rows(prefilled, torch.tensor(complete[: len(admitted)], device=self.network.device))
            for index, slot in zip(complete, slots, strict=False):
                self.slots[index] = slot
        staying = [index for index, slot in enumerate(self.slots) if slot is not None]
        if staying and self.runner.num_slots(len(staying)) < state.num_samples:
            smaller = state.select(torch.tensor(staying, device=self.network.device))
            self.runner.release(state)
            return self._adopt(smaller, [self.slots[index] for index in staying])
        self._index_slots()
        return state

    def _collect(self, state: FrameState, index: int, slot: _Slot) -> None:
        self.generated[slot.request] = state.new[index, : min(slot.num_new, slot.stop)].clone()

    # --- the steps ---

    def _num_steps_to_next_poll(self) -> int:
        return min(self.poll_interval, *(slot.stop - slot.num_new for slot in self._active()))

    def _take_step(self, state: FrameState) -> None:
        if state.noise is not None:
            self._fill_noise(state.noise)
        active = self._active()
        read = [slot.num_read for slot in active]
        num_bytes = max(slot.num_bytes for slot in active)
        is_text_ragged = any(slot.num_kept < num_bytes for slot in active)
        view = FrameView(self.network.axis[: max(read) + 1], num_bytes, min(read) < max(read), is_text_ragged)
        self.runner.take(state, view)
        for slot in active:
            slot.num_read += 1
            slot.num_new += 1

    def _poll(self, state: FrameState) -> None:
        """Start an asynchronous read of the ends of all samples."""
        self._polled.append(list(self.slots))
        self._polls.send(torch.cat((state.end, state.is_broken[None])))

    def _read_ends(self, values: torch.Tensor) -> None:
        *ends, is_broken = values.tolist()
        if is_broken:
            raise ValueError(
                "no token could be sampled: the logits hold NaN or infinity, or all codes of a channel were masked. "
                "Check the weights and the dtype (float16 overflows at 65504); `top_k` may be too small."
            )
        for slot, end in zip(self._polled.popleft(), ends, strict=True):
            if slot is not None and end != NEVER:
                slot.stop = min(slot.stop, end + max(self.delay_pattern) + 1)

    # --- streaming ---

    def _all_tokens(self, state: FrameState) -> torch.Tensor:
        """Return the tokens of the last frame of all requests, `[M, C]`; padding for those that have ended."""
        tokens_of_all = state.tokens.new_full((len(self.requests), state.tokens.shape[1]), self.spec.pad_token_id)
        slots, requests = self._slot_index
        return tokens_of_all.index_copy_(0, requests, state.tokens[slots])

    def _emit_frame(self, tokens: torch.Tensor) -> None:
        """Pass a frame to `on_frame`, except frames that were computed before the last end was known."""
        assert self.on_frame is not None
        if not (self._frames.max_pending and (tokens == self.spec.pad_token_id).all()):
            with torch.inference_mode(False):
                self.on_frame(tokens.clone())

    # --- sampling noise ---

    def _new_noise(self, num_samples: int) -> torch.Tensor:
        config = self.network.config
        return torch.empty(num_samples, config.num_channels, config.vocab_size, device=self.network.device)

    def _fill_noise(self, noise: torch.Tensor) -> None:
        """Fill the noise in the reference path's order.

        One generator draws for all samples of the call, ended ones included; with one a sample, each draws its own.
        """
        if isinstance(self.generator, Sequence):
            for slot, rows in zip(self.slots, noise, strict=True):
                if slot is not None:
                    rows.exponential_(generator=self.generator[slot.request])
        elif len(noise) == len(self.requests) or self.max_batch_size < len(self.requests):
            noise.exponential_(generator=self.generator)
        else:
            noise_of_all = self._new_noise(len(self.requests)).exponential_(generator=self.generator)
            slots, requests = self._slot_index
            noise.index_copy_(0, slots, noise_of_all[requests])


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
