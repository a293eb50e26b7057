"""The fast loop: requests go into a batch, step after step is taken, and who has ended makes room for who waits.

The host launches steps and counts them. It looks at the device every few frames only, and still stops at the right one:
once channel 0 has ended, the slowest channel ends `max(delay_pattern)` frames later, which is known that long before.
Each sample stands in the batch at its own length, so that requests of any kind share it, none padded to the longest.

Knows nothing of logits, of text or of `generate()`, which makes the requests and takes the frames back.

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

_FRAMES_BETWEEN_LOOKS = 8


@dataclass
class RequestBatch:
    """What is to be said, request by request.

    Attributes:
        text_ids, text_mask (`torch.LongTensor` of shape `[texts, S]`): Bytes, and 1 where they count.
        text_of (`list[int]` of length M): Which text a request says.
        text_lengths (`list[int]` of length M): Bytes up to the last that counts.
        prompts (`torch.LongTensor` of shape `[M, T, C]`): Delayed frames that the network may read, at least one each,
            aligned on the right.
        prompt_lengths (`list[int]` of length M): How many of them are the request's.
        forced (`torch.LongTensor` of shape `[M, G, C]`): See `SamplingSpec.complete`.
        params (`SamplingParams`): Of the M requests.
        max_new (`list[int]` of length M): New frames after which a request is cut off, ended or not.
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
    """What the host knows of one sample of the batch.

    Attributes:
        request (`int`): Which it is.
        num_read (`int`): Frames in the cache.
        num_bytes, num_kept (`int`): Length of its text, and how many of the bytes count.
        num_new (`int`): New frames so far.
        stop (`int`): New frames at which it is complete, as far as is known.
    """

    request: int
    num_read: int
    num_bytes: int
    num_kept: int
    num_new: int
    stop: int


class FrameScheduler:
    """One call: all requests, from the first frame to the last.

    Args:
        steps (`EagerRunner`): How steps are launched; with network and spec.
        delay_pattern (`Sequence[int]` of length C): Frames of delay; channel 0 has none.
        requests (`RequestBatch`): What is to be said.
        max_batch_size (`int`, *optional*): Samples to compute at once; as many as fit into free memory unless given.
        generator (`torch.Generator` or a sequence of M, *optional*): Where draws come from; the global generator unless
            given.
        on_frame (`Callable`, *optional*): Gets the tokens `[M, C]` of each new frame; all requests are then computed at
            once.
        is_canceled (`Callable`, *optional*): Asked before each step whether to stop.
    """

    def __init__(
        self,
        steps: EagerRunner,
        delay_pattern: Sequence[int],
        requests: RequestBatch,
        max_batch_size: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        on_frame: Callable[[torch.Tensor], None] | None = None,
        is_canceled: Callable[[], bool] | None = None,
    ) -> None:
        self.steps = steps
        self.network = steps.network
        self.spec = steps.spec
        self.delay_pattern = list(delay_pattern)
        self.requests = requests
        self.generator = generator
        self.on_frame = on_frame
        self.is_canceled = is_canceled or (lambda: False)
        self.waiting = deque(range(len(requests)))
        self.places: list[_Slot | None] = []
        self.spoken: dict[int, torch.Tensor] = {}
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
        # An end is seen before the sample is complete if nobody looks away for longer than the delay.
        self.frames_between_looks = min(_FRAMES_BETWEEN_LOOKS, max(self.delay_pattern) + 1)
        is_late = self.network.device.type == "cuda"
        self._looks = AsyncReads(self._see_ends, most_waiting=1 if is_late else 0)
        self._frames = AsyncReads(self._hand_on_frame, most_waiting=_FRAMES_BETWEEN_LOOKS if is_late else 0)
        self._looked_at: deque[list[_Slot | None]] = deque()

    @torch.inference_mode()
    def run(self) -> list[torch.Tensor]:
        """Say everything.

        Returns:
            `list[torch.LongTensor]`, each of shape `[N, C]`: The new frames of each request, as many as it has.

        Raises:
            ValueError: If there was nothing to draw from, because logits were NaN or all tokens were ruled out.
        """
        arrived, places = self._arrive(self._take_waiting(self.max_batch_size))
        state = self._settle(arrived, places)
        while self._speaking() and not self.is_canceled():
            for _ in range(self._num_steps_to_next_look()):
                self._take_step(state)
                if self.on_frame is not None:
                    self._frames.send(self._everyone(state))
                if self.is_canceled():
                    break
            self._look(state)
            state = self._make_room(state)
        self._looks.flush()
        self._frames.flush()
        for index, place in enumerate(self.places):
            if place is not None:
                self._collect(state, index, place)
        self.steps.release(state)  # not after an error: who knows what is in it
        nothing = state.new[0, :0].clone()  # of those that still wait when everything is canceled
        return [self.spoken.get(request, nothing) for request in range(len(self.requests))]

    # --- the batch ---

    def _speaking(self) -> list[_Slot]:
        return [place for place in self.places if place is not None]

    def _take_waiting(self, number: int) -> list[int]:
        return [self.waiting.popleft() for _ in range(min(number, len(self.waiting)))]

    def _arrive(self, arrivals: list[int]) -> tuple[FrameState, list[_Slot]]:
        """Read the texts and prompts of some requests, in a batch of their own."""
        requests, network, is_guided = self.requests, self.network, self.spec.is_guided
        device = network.device
        index = torch.tensor(arrivals, device=device)
        lengths = torch.tensor([requests.prompt_lengths[request] for request in arrivals], device=device)
        num_read = max(requests.prompt_lengths[request] for request in arrivals)
        num_bytes = max(requests.text_lengths)

        start = requests.prompts.shape[1] - lengths
        slots = (start[:, None] + torch.arange(num_read, device=device)).clamp(max=requests.prompts.shape[1] - 1)
        frames = requests.prompts[index].gather(1, slots[..., None].expand(-1, -1, requests.prompts.shape[2]))
        cache = network.new_cache(len(arrivals), is_guided, self.num_frames, num_bytes)
        texts = sorted({requests.text_of[request] for request in arrivals})
        network.read_text(
            cache,
            requests.text_ids[texts, :num_bytes],
            requests.text_mask[texts, :num_bytes],
            torch.tensor([texts.index(requests.text_of[request]) for request in arrivals], device=device),
        )
        if num_read > 1:
            network.read_frames(cache, frames[:, :-1], is_guided)
        new_shape = (len(arrivals), max(requests.max_new), frames.shape[2])
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
            noise=self._new_noise(len(arrivals)) if self.spec.do_sample else None,
            is_broken=torch.zeros((), dtype=torch.bool, device=device),
        )
        places = [
            _Slot(
                request=request,
                num_read=requests.prompt_lengths[request] - 1,
                num_bytes=requests.text_lengths[request],
                num_kept=self._num_kept[requests.text_of[request]],
                num_new=0,
                stop=requests.max_new[request],
            )
            for request in arrivals
        ]
        return state, places

    def _settle(self, state: FrameState, places: Sequence[_Slot | None]) -> FrameState:
        """Let samples be the batch."""
        state = self.steps.adopt(state)
        self.places = [*places, *[None] * (state.num_samples - len(places))]
        self._note_places()
        return state

    def _note_places(self) -> None:
        """Note on the device who is in the batch, and where."""
        taken = [(index, place.request) for index, place in enumerate(self.places) if place is not None]
        self._in_batch = torch.tensor(taken, device=self.network.device, dtype=torch.long).view(-1, 2).T

    def _make_room(self, state: FrameState) -> FrameState:
        """Take the samples that are complete out of the batch, and let waiting requests in."""
        complete = []
        for index, place in enumerate(self.places):
            if place is not None and place.num_new >= place.stop:
                self._collect(state, index, place)
                self.places[index] = None
                complete.append(index)
        if not complete:
            return state
        if arrivals := self._take_waiting(len(complete)):
            arrived, places = self._arrive(arrivals)
            state.copy_rows(arrived, torch.tensor(complete[: len(arrivals)], device=self.network.device))
            for index, place in zip(complete, places, strict=False):
                self.places[index] = place
        staying = [index for index, place in enumerate(self.places) if place is not None]
        if staying and self.steps.num_places(len(staying)) < state.num_samples:
            smaller = state.select(torch.tensor(staying, device=self.network.device))
            self.steps.release(state)
            return self._settle(smaller, [self.places[index] for index in staying])
        self._note_places()
        return state

    def _collect(self, state: FrameState, index: int, place: _Slot) -> None:
        self.spoken[place.request] = state.new[index, : min(place.num_new, place.stop)].clone()

    # --- the steps ---

    def _num_steps_to_next_look(self) -> int:
        return min(self.frames_between_looks, *(place.stop - place.num_new for place in self._speaking()))

    def _take_step(self, state: FrameState) -> None:
        if state.noise is not None:
            self._fill_noise(state.noise)
        speaking = self._speaking()
        read = [place.num_read for place in speaking]
        num_bytes = max(place.num_bytes for place in speaking)
        is_text_ragged = any(place.num_kept < num_bytes for place in speaking)
        view = FrameView(self.network.axis[: max(read) + 1], num_bytes, min(read) < max(read), is_text_ragged)
        self.steps.take(state, view)
        for place in speaking:
            place.num_read += 1
            place.num_new += 1

    def _look(self, state: FrameState) -> None:
        """Ask the device, once, who has ended."""
        self._looked_at.append(list(self.places))
        self._looks.send(torch.cat((state.end, state.is_broken[None])))

    def _see_ends(self, seen: torch.Tensor) -> None:
        *ends, is_broken = seen.tolist()
        if is_broken:
            raise ValueError(
                "there was no token to draw: the logits hold NaN or infinity, or the spec left a channel no code. Are "
                "the weights sound, and is the dtype wide enough for them (float16 ends at 65504)? `top_k` may be too "
                "small, too."
            )
        for place, end in zip(self._looked_at.popleft(), ends, strict=True):
            if place is not None and end != NEVER:
                place.stop = min(place.stop, end + max(self.delay_pattern) + 1)

    # --- the frames, for a listener ---

    def _everyone(self, state: FrameState) -> torch.Tensor:
        """The tokens of the last frame of all requests, `[M, C]`; padding for those that have ended."""
        everyone = state.tokens.new_full((len(self.requests), state.tokens.shape[1]), self.spec.pad_token_id)
        places, requests = self._in_batch
        return everyone.index_copy_(0, requests, state.tokens[places])

    def _hand_on_frame(self, tokens: torch.Tensor) -> None:
        """Hand on a frame; none that was taken before the last end had been seen."""
        assert self.on_frame is not None
        if not (self._frames.most_waiting and (tokens == self.spec.pad_token_id).all()):
            with torch.inference_mode(False):
                self.on_frame(tokens.clone())

    # --- the draws ---

    def _new_noise(self, num_samples: int) -> torch.Tensor:
        config = self.network.config
        return torch.empty(num_samples, config.num_channels, config.vocab_size, device=self.network.device)

    def _fill_noise(self, noise: torch.Tensor) -> None:
        """Draw as the slow loop does: for all samples of the call, also those that have ended, or for each its own."""
        if isinstance(self.generator, Sequence):
            for place, rows in zip(self.places, noise, strict=True):
                if place is not None:
                    rows.exponential_(generator=self.generator[place.request])
        elif len(noise) == len(self.requests) or self.max_batch_size < len(self.requests):
            noise.exponential_(generator=self.generator)
        else:
            everyone = self._new_noise(len(self.requests)).exponential_(generator=self.generator)
            places, requests = self._in_batch
            noise.index_copy_(0, places, everyone[requests])


class AsyncReads:
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
