"""Continuous batching: finished sequences free their slot in the batch for queued requests, of any number of calls.

The host launches steps and counts them. It reads from the device every few frames only, and still stops at the right
frame: once channel 0 has ended, the slowest channel ends `max(delay_pattern)` frames later. Each sample has its own
length in the batch, so requests with different prompts, texts and limits share a batch without padding to the longest.

`generation/fast_path.py` makes the calls and receives the frames. `Engine` runs the scheduler in a thread for many
callers; otherwise each call has a scheduler of its own. This module reads neither logits nor text.

Legend: M requests of a call, B samples in the batch, S text bytes, T frames of the prompts, C channels, V vocabulary.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .async_reads import AsyncReads
from .decoder import FrameDecoder
from .memory import num_fitting
from .noise import ExponentialNoise
from .runners import EagerRunner, make_runner
from .sampling import NEVER, SamplingParams, SamplingSpec
from .step import FrameState, FrameView

__all__ = ["Call", "FrameScheduler", "RequestBatch"]

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


class Call:
    """The requests of one call, and their results.

    Args:
        spec (`SamplingSpec`): What its samples have in common.
        requests (`RequestBatch`): The requests.
        generator (`torch.Generator` or a sequence of M, *optional*): Source of randomness; the global generator unless
            given.
        on_frame (`Callable`, *optional*): Receives the tokens `[M, C]` of each new frame; all requests are then
            computed at once.
        on_weights (`Callable`, *optional*): With `on_frame` and `alignment_heads`, receives the mean weights `[M, S]`
            of the step before each frame.
        is_canceled (`Callable`, *optional*): Called before each step; `True` ends the call.
        max_batch_size (`int`, *optional*): Samples to compute at once.

    Attributes:
        generated (`dict[int, torch.LongTensor]`): New frames `[N, C]` of the requests that are complete.
        attention (`dict[int, torch.FloatTensor]`): With the `alignment_heads` of `spec`, their mean weights
            `[T + N - 1, S]` at each frame that was read, on the CPU.
        error (`Exception` or `None`): What ended the call.
    """

    def __init__(
        self,
        spec: SamplingSpec,
        requests: RequestBatch,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        on_frame: Callable[[torch.Tensor], None] | None = None,
        is_canceled: Callable[[], bool] | None = None,
        max_batch_size: int | None = None,
        on_weights: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        self.spec = spec
        self.requests = requests
        self.generator = generator
        self.on_frame = on_frame
        self.on_weights = on_weights
        self.is_canceled = is_canceled or (lambda: False)
        self.max_batch_size = len(requests) if on_frame is not None else max_batch_size
        self.waiting = deque(range(len(requests)))
        self.generated: dict[int, torch.Tensor] = {}
        self.attention: dict[int, torch.Tensor] = {}
        self.error: Exception | None = None
        self._is_done = threading.Event()
        self.num_frames = max(
            length + limit for length, limit in zip(requests.prompt_lengths, requests.max_new, strict=True)
        )
        self.num_bytes = max(requests.text_lengths)
        self.num_kept = requests.text_mask.sum(-1).tolist()

    @property
    def is_done(self) -> bool:
        """Whether the call has ended."""
        return self._is_done.is_set()

    def end(self, error: Exception | None = None) -> None:
        """Mark the call as ended; `error` is what ended it."""
        self.error = self.error or error
        self.waiting.clear()
        self._is_done.set()

    def wait(self) -> None:
        """Wait until another thread has ended the call."""
        self._is_done.wait()

    def results(self) -> list[torch.Tensor]:
        """Return the new frames `[N, C]` of each request; none of those that were queued at cancellation.

        Raises:
            Exception: What ended the call.
        """
        if self.error is not None:
            raise self.error
        nothing = self.requests.prompts[0, :0]
        return [self.generated.get(request, nothing) for request in range(len(self.requests))]


@dataclass
class _Slot:
    """Host-side state of one sample in the batch.

    Attributes:
        call (`Call`): The call.
        request (`int`): Index of the request in it.
        num_read (`int`): Frames in the cache.
        num_bytes, num_kept (`int`): Length of its text, and the number of bytes that are kept.
        num_new (`int`): New frames so far.
        stop (`int`): New frames after which it is complete, as far as the host knows.
    """

    call: Call
    request: int
    num_read: int
    num_bytes: int
    num_kept: int
    num_new: int
    stop: int


class FrameScheduler:
    """Runs calls on one batch; calls come and go between steps.

    Args:
        network (`FrameDecoder`): The weights.
        delay_pattern (`Sequence[int]` of length C): Frames of delay; channel 0 has none.
        compile_options (`dict`, *optional*): For `torch.compile`; `None` does not compile.
        num_frames (`int`, defaults to 0): Frames that caches have room for at least.
        spec (`SamplingSpec`, *optional*): Of the first call, with which all must be compatible.
        max_slots (`Callable`, *optional*): Returns, for this scheduler, the samples that may be computed at once; as
            many of each call as fit into free memory unless given.
    """

    def __init__(
        self,
        network: FrameDecoder,
        delay_pattern: Sequence[int],
        compile_options: dict[str, Any] | None = None,
        num_frames: int = 0,
        spec: SamplingSpec | None = None,
        max_slots: Callable[[FrameScheduler], int] | None = None,
    ) -> None:
        self.network = network
        self.delay_pattern = list(delay_pattern)
        self.compile_options = compile_options
        self.num_frames = num_frames
        self.max_slots = max_slots
        self._spec = spec  # of all calls that were taken
        self.calls: list[Call] = []
        self.slots: list[_Slot | None] = []
        self.runner: EagerRunner | None = None
        self.state: FrameState | None = None
        # Polled at least once within the delay, an end is known before the sample is complete.
        self.poll_interval = min(_POLL_INTERVAL, max(self.delay_pattern) + 1)
        self._is_async = network.device.type == "cuda"
        self._polls = AsyncReads(self._read_ends, max_pending=1 if self._is_async else 0)
        self._polled: deque[list[_Slot | None]] = deque()
        self._frames: dict[Call, AsyncReads] = {}
        self._weights: dict[Call, AsyncReads] = {}
        self._slot_index: dict[Call, torch.Tensor] = {}
        self._sharing_calls: list[Call] = []
        self._own_generators: list[tuple[int, torch.Generator]] = []
        self._noise: ExponentialNoise | None = None

    @property
    def num_active(self) -> int:
        """Samples in the batch."""
        return len(self._active())

    def takes(self, call: Call) -> bool:
        """Return whether a call can share the batch of this scheduler; if so, later calls must fit it as well."""
        if self._spec is None or not self._spec.is_compatible(call.spec):
            return False
        self._spec = self._spec.merged(call.spec)
        return True

    def fail(self, error: Exception) -> None:
        """End all calls with an error of the batch, which is not used again."""
        for call in self.calls:
            call.end(error)
        self.calls, self.slots, self.state = [], [], None
        self._frames.clear()
        self._weights.clear()
        self._polled.clear()
        self._polls = AsyncReads(self._read_ends, self._polls.max_pending)

    def add(self, call: Call) -> None:
        """Queue a call. Its `SamplingSpec` must be compatible with those of the calls that are there."""
        if call.max_batch_size is None:
            num_heads = len(call.spec.alignment_heads)
            size = self.network.bytes_of_sample(call.num_frames, call.num_bytes, call.spec.is_guided, num_heads)
            call.max_batch_size = num_fitting(size, self.network.device)
        call.max_batch_size = min(call.max_batch_size, len(call.requests))
        if call.on_frame is not None:
            pending = _POLL_INTERVAL if self._is_async else 0
            self._frames[call] = AsyncReads(lambda tokens: self._emit_frame(call, tokens), max_pending=pending)
            if (on_weights := call.on_weights) is not None:
                self._weights[call] = AsyncReads(lambda weights: self._emit(call, on_weights, weights), pending)
        self.calls.append(call)

    def run(self, call: Call) -> list[torch.Tensor]:
        """Run a call that is alone.

        Returns:
            `list[torch.LongTensor]`, each of shape `[N, C]`: New frames of each request.

        Raises:
            ValueError: If no token could be sampled, because logits were NaN or all tokens were masked.
        """
        self.add(call)
        while not call.is_done:
            self.advance()
        return call.results()

    @torch.inference_mode()
    def advance(self) -> None:
        """Remove what is complete, admit queued requests, and run steps up to the next poll."""
        self._refill()
        state = self.state
        if state is not None and (active := self._active()):
            for _ in range(min(self.poll_interval, *(slot.stop - slot.num_new for slot in active))):
                self._take_step(state)
                for call in self._slot_index:
                    if call in self._weights:
                        self._weights[call].send(self._all_weights(state, call))
                    if call in self._frames:
                        self._frames[call].send(self._all_tokens(state, call))
                if any(call.is_canceled() for call in self.calls):
                    break
            self._poll(state)

    # --- the batch ---

    def _active(self) -> list[_Slot]:
        return [slot for slot in self.slots if slot is not None]

    def _refill(self) -> None:
        """Remove complete samples and calls that have ended, and admit queued requests."""
        self._remove()
        self._admit()
        self._shrink()
        active = {slot.call for slot in self._active()}
        ended = [call for call in self.calls if call not in active and not call.waiting]
        if ended or not active:
            self._polls.flush()
        for call in ended:
            if call in self._frames:
                if call.error is None:
                    if call in self._weights:
                        self._weights[call].flush()
                    self._frames[call].flush()
                del self._frames[call]
                self._weights.pop(call, None)
            self.calls.remove(call)
            call.end()
        if not active:
            if any(call.error is not None for call in ended):  # the state is undefined and is not reused
                self.state = None
            self._release()
            self.slots = []

    def _remove(self) -> None:
        canceled = {call for call in self.calls if call.is_canceled()}
        if canceled:
            self._polls.flush()  # which frames there are follows from the ends
        for call in self.calls:
            if call.error is not None or call in canceled:
                call.waiting.clear()
        num_removed = 0
        for index, slot in enumerate(self.slots):
            if slot is None:
                continue
            if slot.call.error is not None or slot.call in canceled or slot.num_new >= slot.stop:
                assert self.state is not None
                if slot.call.error is None:
                    frames = self.state.new[index, : min(slot.num_new, slot.stop)]
                    slot.call.generated[slot.request] = frames.clone()
                    if slot.call.spec.alignment_heads:
                        num_read = slot.num_read - slot.num_new + len(frames)
                        weights = self.state.cache.attention[index, :num_read, :, : slot.num_bytes]
                        slot.call.attention[slot.request] = weights.mean(1).cpu()
                else:  # masked values are multiplied by a weight of 0, which would keep a NaN
                    self.state.clear(torch.tensor([index], device=self.network.device))
                self.slots[index] = None
                num_removed += 1
        if num_removed:
            self._index_slots()

    def _take_waiting(self) -> list[tuple[Call, list[int]]]:
        """Take queued requests, in the order of the calls, as many as may be computed now."""
        counts = Counter(slot.call for slot in self._active())
        room = len(self.slots) + sum(map(len, (call.requests for call in self.calls)))
        if self.max_slots is not None:
            room = self.max_slots(self) - counts.total()
        taken = []
        for call in self.calls:
            assert call.max_batch_size is not None
            number = min(room, call.max_batch_size - counts[call], len(call.waiting))
            if call.on_frame is not None and number < len(call.waiting):
                break  # a call that is streamed starts whole
            if number > 0:
                taken.append((call, [call.waiting.popleft() for _ in range(number)]))
                room -= number
        return taken

    def _admit(self) -> None:
        """Read the texts and prompts of queued requests, and give them slots."""
        for call, requests in self._take_waiting():
            self._use_spec(call.spec)
            try:
                prefilled, slots = self._prefill(call, requests)
                larger = self._enlarged(prefilled)
            except Exception as error:  # no memory for it, for example: the others go on
                call.error = error
                call.waiting.clear()
                continue
            self._insert(prefilled, slots, larger)

    def _use_spec(self, spec: SamplingSpec) -> None:
        """Have a runner whose spec covers another one."""
        kept, active = None, self._active()
        if self.runner is not None:
            if active:
                spec = self.runner.spec.merged(spec)
            if self.runner.spec == spec:
                return
            if active and self.state is not None:
                kept = self.runner.select(self.state, self._places())
            self._release()
        self.runner = make_runner(self.network, spec, self.compile_options)
        if kept is not None:
            self._adopt(replace(kept, cache=kept.cache.recording(spec.alignment_heads)), active)

    def _places(self) -> torch.Tensor:
        """Return the indices of the slots in use."""
        places = [index for index, slot in enumerate(self.slots) if slot is not None]
        return torch.tensor(places, device=self.network.device, dtype=torch.long)

    def _enlarged(self, prefilled: FrameState) -> FrameState | None:
        """Return the samples of the batch, with room for prefilled ones behind them; `None` if they fit into it."""
        state, runner = self.state, self.runner
        if state is None or runner is None:
            return None
        if self.slots.count(None) >= prefilled.num_samples and runner.holds(state, prefilled):
            return None
        if not self._active():
            self._release()
            return None
        places = self._places()
        places = torch.cat((places, places.new_zeros(prefilled.num_samples)))  # to be overwritten
        return runner.select(state, places).widened(prefilled)

    def _insert(self, prefilled: FrameState, slots: list[_Slot], larger: FrameState | None) -> None:
        """Give slots to prefilled samples, in the batch or in a larger one."""
        device = self.network.device
        if self.state is None:
            self._adopt(prefilled, slots)
        elif larger is not None:
            active = self._active()
            larger.copy_rows(prefilled, torch.arange(len(active), len(active) + len(slots), device=device))
            self._release()
            self._adopt(larger, [*active, *slots])
        else:
            free = [index for index, slot in enumerate(self.slots) if slot is None][: len(slots)]
            self.state.copy_rows(prefilled, torch.tensor(free, device=device))
            for index, slot in zip(free, slots, strict=True):
                self.slots[index] = slot
            self._index_slots()

    def _shrink(self) -> None:
        """Use a smaller batch if the samples fit into one."""
        if self.state is None or self.runner is None or not (active := self._active()):
            return
        if self.runner.num_slots(len(active)) < self.state.num_samples:
            smaller = self.runner.select(self.state, self._places())
            self._release()
            self._adopt(smaller, active)

    def _prefill(self, call: Call, admitted: list[int]) -> tuple[FrameState, list[_Slot]]:
        """Read the texts and prompts of some requests in a batch of their own."""
        requests, network, is_guided = call.requests, self.network, call.spec.is_guided
        device = network.device
        index = torch.tensor(admitted, device=device)
        lengths = torch.tensor([requests.prompt_lengths[request] for request in admitted], device=device)
        num_read = max(requests.prompt_lengths[request] for request in admitted)

        start = requests.prompts.shape[1] - lengths
        positions = (start[:, None] + torch.arange(num_read, device=device)).clamp(max=requests.prompts.shape[1] - 1)
        frames = requests.prompts[index].gather(1, positions[..., None].expand(-1, -1, requests.prompts.shape[2]))
        num_frames = max(call.num_frames, self.num_frames)
        assert self.runner is not None
        heads = self.runner.spec.alignment_heads
        cache = network.new_cache(len(admitted), is_guided, num_frames, call.num_bytes, heads)
        texts = sorted({requests.text_of[request] for request in admitted})
        network.read_text(
            cache,
            requests.text_ids[texts, : call.num_bytes],
            requests.text_mask[texts, : call.num_bytes],
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
            noise=self._new_noise(len(admitted)) if call.spec.do_sample else None,
            is_broken=torch.zeros(len(admitted), dtype=torch.bool, device=device),
        )
        slots = [
            _Slot(
                call=call,
                request=request,
                num_read=requests.prompt_lengths[request] - 1,
                num_bytes=requests.text_lengths[request],
                num_kept=call.num_kept[requests.text_of[request]],
                num_new=0,
                stop=requests.max_new[request],
            )
            for request in admitted
        ]
        return state, slots

    def _release(self) -> None:
        """Give the memory of the batch back, if there is one; once, also if what comes after it fails."""
        state, self.state = self.state, None
        if state is not None:
            assert self.runner is not None
            self.runner.release(state)

    def _adopt(self, state: FrameState, slots: Sequence[_Slot | None]) -> None:
        """Make these samples the batch."""
        assert self.runner is not None
        self.state = self.runner.adopt(state)
        self.slots = [*slots, *[None] * (self.state.num_samples - len(slots))]
        self._index_slots()

    def _index_slots(self) -> None:
        """Copy the mapping from slots to requests to the device, for each call."""
        taken: dict[Call, list[tuple[int, int]]] = {}
        for index, slot in enumerate(self.slots):
            if slot is not None:
                taken.setdefault(slot.call, []).append((index, slot.request))
        self._slot_index = {
            call: torch.tensor(pairs, device=self.network.device, dtype=torch.long).T for call, pairs in taken.items()
        }
        self._sharing_calls = [call for call in taken if not isinstance(call.generator, Sequence)]
        self._own_generators = [
            (index, call.generator[request])
            for call, pairs in taken.items()
            if isinstance(call.generator, Sequence)
            for index, request in pairs
        ]

    # --- the steps ---

    def _take_step(self, state: FrameState) -> None:
        assert self.runner is not None
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
        self._polls.send(torch.stack((state.end, state.is_broken)))

    def _read_ends(self, values: torch.Tensor) -> None:
        for slot, end, is_broken in zip(self._polled.popleft(), *values.tolist(), strict=True):
            if slot is None:
                continue
            if is_broken and slot.call.error is None:
                slot.call.error = ValueError(
                    "no token could be sampled: the logits hold NaN or infinity, or all codes of a channel were "
                    "masked. Check the weights and the dtype (float16 overflows at 65504); `top_k` may be too small."
                )
            if end != NEVER:
                slot.stop = min(slot.stop, end + max(self.delay_pattern) + 1)

    # --- streaming ---

    def _all_tokens(self, state: FrameState, call: Call) -> torch.Tensor:
        """Return the tokens of the last frame of a call's requests, `[M, C]`; padding for those that have ended."""
        tokens_of_all = state.tokens.new_full((len(call.requests), state.tokens.shape[1]), call.spec.pad_token_id)
        slots, requests = self._slot_index[call]
        return tokens_of_all.index_copy_(0, requests, state.tokens[slots])

    def _all_weights(self, state: FrameState, call: Call) -> torch.Tensor:
        """Return the weights of the last step of a call's requests, `[M, S]`; zeros for those that have ended."""
        weights_of_all = state.cache.attention.new_zeros(len(call.requests), call.num_bytes)
        slots, requests = self._slot_index[call]
        weights = state.cache.attention[slots, state.lengths[slots] - 1, :, : call.num_bytes]
        return weights_of_all.index_copy_(0, requests, weights.mean(1))

    def _emit_frame(self, call: Call, tokens: torch.Tensor) -> None:
        """Pass a frame to `on_frame`, except frames that were computed before the last end was known."""
        assert call.on_frame is not None
        if not (self._frames[call].max_pending and (tokens == call.spec.pad_token_id).all()):
            self._emit(call, call.on_frame, tokens)

    def _emit(self, call: Call, receive: Callable[[torch.Tensor], None], value: torch.Tensor) -> None:
        try:
            with torch.inference_mode(False):
                receive(value.clone())
        except Exception as error:  # of the consumer
            call.error = call.error or error

    # --- sampling noise ---

    def _new_noise(self, num_samples: int) -> torch.Tensor:
        config = self.network.config
        return torch.empty(num_samples, config.num_channels, config.vocab_size, device=self.network.device)

    def _fill_noise(self, noise: torch.Tensor) -> None:
        """Fill the noise in the reference path's order.

        One generator draws for all samples of a call, ended ones included; with one a sample, each draws its own.
        """
        if self._noise is None or self._noise.raw.shape != noise.shape:
            self._noise = ExponentialNoise(tuple(noise.shape), noise.device)
        drawn = self._noise
        for index, generator in self._own_generators:
            drawn.draw(drawn.raw[index], generator)
        for call in self._sharing_calls:
            assert call.max_batch_size is not None
            assert not isinstance(call.generator, Sequence)
            slots, requests = self._slot_index[call]
            is_alone, num_requests = len(self.calls) == 1, len(call.requests)
            if is_alone and (len(noise) == num_requests or call.max_batch_size < num_requests):
                drawn.draw(drawn.raw, call.generator)
            elif call.max_batch_size < num_requests:
                part = drawn.draw(drawn.raw.new_empty((len(slots), *noise.shape[1:])), call.generator)
                drawn.raw.index_copy_(0, slots, part)
            else:
                noise_of_all = drawn.draw(drawn.raw.new_empty((num_requests, *noise.shape[1:])), call.generator)
                drawn.raw.index_copy_(0, slots, noise_of_all[requests])
        drawn.copy_to(noise)
