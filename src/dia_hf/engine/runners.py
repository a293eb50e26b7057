"""Launching of steps: one operator after another, as a compiled function, or as a CUDA graph.

Compiled and captured steps need tensors of fixed shapes, and a graph also of fixed addresses. A batch then has one of a
few sizes, padded with copies of its first sample; lengths are rounded up, and the excess is masked; the memory, with
the graphs captured on it, is kept for the next call of the same size. Capturing a graph, once a size and length, takes
as long as a few steps.

Legend: B samples, L capacity in frames, S text bytes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import torch

from .decoder import FrameDecoder
from .sampling import SamplingSpec
from .step import FrameState, FrameView, take_step

__all__ = ["CompiledRunner", "CudaGraphRunner", "EagerRunner", "StaticRunner", "make_runner"]

_Step = Callable[[FrameDecoder, SamplingSpec, FrameState, FrameView], None]

_BYTES = 64  # Capacities of text are multiples of this, ...
_FRAMES = 256  # ... capacities of frames of this, and lengths in use powers of two times this.
_SPARE = 8  # Frames that no step reads: a length equal to the capacity would be compiled in as a constant.
_MOST_IDLE = 4  # Idle batches that are kept.


class EagerRunner:
    """Steps launched operator by operator, on batches and lengths as they are.

    Args:
        network (`FrameDecoder`): The weights.
        spec (`SamplingSpec`): Sampling parameters that the samples share.
    """

    spare_frames = 0  # of a cache, which no step reads

    def __init__(self, network: FrameDecoder, spec: SamplingSpec) -> None:
        self.network = network
        self.spec = spec

    def num_slots(self, num_samples: int) -> int:
        """Return the size of a batch for this number of samples."""
        return num_samples

    def adopt(self, state: FrameState) -> FrameState:
        """Return the samples in the memory that the steps need."""
        return state

    def take(self, state: FrameState, view: FrameView) -> None:
        """Run a step."""
        take_step(self.network, self.spec, state, view)

    def select(self, state: FrameState, samples: torch.Tensor) -> FrameState:
        """Copy some samples of a batch, by index."""
        return state.select(samples)

    def holds(self, state: FrameState, other: FrameState) -> bool:
        """Return whether samples of another state fit into the slots of a batch."""
        frames, *sizes = _capacities(state)
        usable = (frames - self.spare_frames, *sizes)
        return all(mine >= wanted for mine, wanted in zip(usable, _capacities(other), strict=True))

    def release(self, state: FrameState) -> None:
        """Return a batch that is no longer used."""


class _Size(NamedTuple):
    """Properties that two batches must share to use the same memory."""

    num_slots: int
    num_frames: int
    num_bytes: int
    num_new: int
    num_forced: int
    spec: SamplingSpec


class StaticRunner(EagerRunner):
    """Steps on batches of a few sizes with fixed addresses, by any step function.

    Args:
        network (`FrameDecoder`): The weights.
        spec (`SamplingSpec`): Sampling parameters that the samples share.
        step (`Callable`): Same signature as `take_step`, the default.
    """

    spare_frames = _SPARE

    def __init__(self, network: FrameDecoder, spec: SamplingSpec, step: _Step = take_step) -> None:
        super().__init__(network, spec)
        self.step = step

    def num_slots(self, num_samples: int) -> int:
        """Round up to the next power of two."""
        return 1 << (num_samples - 1).bit_length()

    def adopt(self, state: FrameState) -> FrameState:
        """Copy samples into a batch with fixed addresses: an idle one of this size if there is one."""
        size = _Size(
            self.num_slots(state.num_samples),
            _round_up(state.cache.keys[0].shape[2], _FRAMES) + _SPARE,
            _round_up(state.cache.text_mask.shape[-1], _BYTES),
            _round_up(state.new.shape[1], _FRAMES),
            max(state.forced.shape[1], 32),
            self.spec,
        )
        batch = _IDLE.take(self.network, size) or self._allocate(state, size)
        indices = torch.arange(size.num_slots, device=state.tokens.device)
        batch.is_broken.fill_(False)
        batch.delays.copy_(state.delays)
        batch.forced.fill_(self.spec.pad_token_id)
        batch.copy_rows(state.select(indices % state.num_samples), indices)
        return batch

    def _allocate(self, like: FrameState, size: _Size) -> FrameState:
        index = torch.arange(size.num_slots, device=like.tokens.device) % like.num_samples
        batch = like.select(index)
        sizes = size.num_slots, self.spec.is_guided, size.num_frames, size.num_bytes
        batch.cache = self.network.new_cache(*sizes, self.spec.alignment_heads)
        batch.new = batch.new.new_zeros(size.num_slots, size.num_new, batch.new.shape[2])
        batch.forced = batch.forced.new_zeros(size.num_slots, size.num_forced, batch.forced.shape[2])
        batch.is_broken, batch.delays = batch.is_broken.clone(), batch.delays.clone()
        batch.size = size
        return batch

    def take(self, state: FrameState, view: FrameView) -> None:
        """Run a step on the next rounded length, masked."""
        self.step(self.network, self.spec, state, self._round(state, view))

    def _round(self, state: FrameState, view: FrameView) -> FrameView:
        length = _FRAMES
        while length < len(view.axis):
            length *= 2
        length = min(length, state.cache.keys[0].shape[2] - _SPARE)
        return FrameView(self.network.axis[:length], state.cache.text_mask.shape[-1], True, True)

    def select(self, state: FrameState, samples: torch.Tensor) -> FrameState:
        """Copy some samples of a batch, without the spare frames."""
        selected = state.select(samples)
        for tensors in (selected.cache.keys, selected.cache.values):
            tensors[:] = [tensor[:, :, :-_SPARE] for tensor in tensors]
        selected.cache.attention = selected.cache.attention[:, :-_SPARE]
        return selected

    def release(self, state: FrameState) -> None:
        """Keep the batch for the next call."""
        _IDLE.give(self.network, state)


class CompiledRunner(StaticRunner):
    """Steps compiled by `torch.compile` into one graph for all lengths.

    Args:
        network (`FrameDecoder`): The weights.
        spec (`SamplingSpec`): Sampling parameters that the samples share.
        options (`dict`, *optional*): For `torch.compile`.
    """

    def __init__(self, network: FrameDecoder, spec: SamplingSpec, options: dict[str, Any] | None = None) -> None:
        super().__init__(network, spec, _compiled(network, spec, options or {}))

    def _round(self, state: FrameState, view: FrameView) -> FrameView:
        view = super()._round(state, view)
        torch._dynamo.mark_dynamic(view.axis, 0)
        return view


class CudaGraphRunner(StaticRunner):
    """Steps as CUDA graphs: one launch a step.

    Args:
        network, spec, step: See `StaticRunner`.
    """

    def take(self, state: FrameState, view: FrameView) -> None:
        """Replay the graph of the next rounded length; capture it first if there is none."""
        view = self._round(state, view)
        graph = state.graphs.get(len(view.axis))
        if graph is None:
            graph = state.graphs[len(view.axis)] = self._capture(state, view)
        graph.replay()

    def _capture(self, state: FrameState, view: FrameView) -> Any:
        """Capture a step after a warm-up on a side stream; the batch is restored."""
        changing = (state.tokens, state.lengths, state.num_new, state.end, state.is_broken)
        with _CAPTURING:
            before = [tensor.clone() for tensor in changing]
            stream = torch.cuda.Stream(self.network.device)
            stream.wait_stream(torch.cuda.current_stream(self.network.device))
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step(self.network, self.spec, state, view)
            torch.cuda.current_stream(self.network.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads, such as one that decodes audio, may run during the capture.
            pool = next((other.pool() for other in state.graphs.values()), None)
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                self.step(self.network, self.spec, state, view)
            for tensor, value in zip(changing, before, strict=True):
                tensor.copy_(value)
        return graph


def _capacities(state: FrameState) -> tuple[int, int, int, int]:
    """Return frames, bytes, new frames and frames of forced tokens that a state has room for."""
    return state.cache.keys[0].shape[2], state.cache.text_mask.shape[-1], state.new.shape[1], state.forced.shape[1]


def make_runner(network: FrameDecoder, spec: SamplingSpec, compile_options: dict[str, Any] | None) -> EagerRunner:
    """Choose the runner: graphs on CUDA, compiled if requested, else eager.

    Args:
        network (`FrameDecoder`): The weights.
        spec (`SamplingSpec`): Sampling parameters that the samples share.
        compile_options (`dict` or `None`): For `torch.compile`; `None` does not compile.
    """
    if network.device.type != "cuda":
        return EagerRunner(network, spec) if compile_options is None else CompiledRunner(network, spec, compile_options)
    if compile_options is None:
        return CudaGraphRunner(network, spec)
    return CudaGraphRunner(network, spec, _compiled(network, spec, compile_options))


def _compiled(network: FrameDecoder, spec: SamplingSpec, options: dict[str, Any]) -> _Step:
    """Compile a step for these weights and this spec, or return the one that exists."""
    with _COMPILING:
        steps = _COMPILED.setdefault(network, {})
        key = (spec, repr(options))
        if key not in steps:
            # torch.compile keeps at most eight programs a code object, so each key has a code object of its own.
            own = FunctionType(take_step.__code__.replace(), take_step.__globals__, "take_step")
            steps[key] = torch.compile(own, **options, fullgraph=True)
        return steps[key]


class _IdleBatches:
    """Batches that no call uses, longest idle first; a batch belongs to one call at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: weakref.WeakKeyDictionary[FrameDecoder, list[FrameState]] = weakref.WeakKeyDictionary()

    def take(self, network: FrameDecoder, size: _Size) -> FrameState | None:
        """Take a batch of this size, if there is one."""
        with self._lock:
            idle = self._of.get(network, [])
            found = next((batch for batch in idle if batch.size == size), None)
            if found is not None:
                idle[:] = [batch for batch in idle if batch is not found]
            return found

    def give(self, network: FrameDecoder, batch: FrameState) -> None:
        """Keep a batch; drop the one that has been idle longest if there are too many."""
        with self._lock:
            idle = self._of.setdefault(network, [])
            idle[:] = [*(one for one in idle if one is not batch), batch]
            del idle[:-_MOST_IDLE]


_IDLE = _IdleBatches()
_CAPTURING = threading.Lock()
_COMPILED: weakref.WeakKeyDictionary[FrameDecoder, dict[Any, _Step]] = weakref.WeakKeyDictionary()
_COMPILING = threading.Lock()


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
