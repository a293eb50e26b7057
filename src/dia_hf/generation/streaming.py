"""Streaming: codes and audio from a running call of `generate()`, for another thread to iterate over.

A streamer connects two threads: `generate()` puts tokens into it, and a consumer takes chunks out. The queue holds
codes, a few bytes a frame, so a slow consumer neither blocks generation nor loses data. The codec runs in the
consumer's thread.

The first chunk: frame t is complete when the slowest channel has been generated, `max(delay_pattern)` (15) frames
later; its samples are final when the codec's decoder has all frames of its lookahead (`Codec.decoder_margin`). So n
frames of audio need n + margin + 15 steps.

Legend: B batch, T frames, C channels, N samples of audio.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Generator
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import numpy as np
import torch
from transformers.generation import BaseStreamer

from ..configuration_dia import DiaConfig
from ..delay_pattern import valid_codes
from .spoken_path import SpokenWeights

__all__ = ["DiaAudioStreamer", "DiaCodesStreamer"]


class DiaCodesStreamer(BaseStreamer):
    """Streamer of codes with the delay reverted, in chunks, from one call of `generate()` in another thread.

    Chunks double in length from the first to `chunk_frames`: low latency first, then low overhead. Played at once, they
    leave no gap if frames are generated at twice real time; with both lengths equal, at real time.

    Args:
        config (`DiaConfig`): Delay pattern and token ids.
        first_chunk_frames (`int`, defaults to 1): Length of the first chunk in frames.
        chunk_frames (`int`, defaults to 64): Length of the later chunks in frames.
        timeout (`float`, *optional*): Seconds to wait for a chunk; no limit unless given.

    Attributes:
        alignment (`SpokenWeights`): With `return_alignment`, the mean weights of the alignment heads at the frames that
            are spoken, for the consumer to take.

    Raises:
        ValueError: If a length is below 1, or the later chunks are shorter than the first.

    Example:
    ```python
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.generation import DiaCodesStreamer
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    >>> inputs = DiaProcessor.from_pretrained(MINIATURE)("[S1] Hello.")
    >>> streamer = DiaCodesStreamer(model.config, chunk_frames=8)
    >>> chunks = streamer.listen(model.generate, **inputs, max_new_tokens=36, min_new_tokens=20)
    >>> [len(codes) for codes in chunks]
    [1, 2, 4, 8, 5]

    ```
    """

    def __init__(
        self,
        config: DiaConfig,
        first_chunk_frames: int = 1,
        chunk_frames: int = 64,
        timeout: float | None = None,
    ) -> None:
        if not 1 <= first_chunk_frames <= chunk_frames:
            raise ValueError(
                f"`first_chunk_frames` is {first_chunk_frames} and `chunk_frames` {chunk_frames}; the first must be at "
                "least 1 and at most the second."
            )
        self.config = config
        self.alignment = SpokenWeights(config.decoder_config.eos_token_id)
        self.chunk_frames = chunk_frames
        self.timeout = timeout
        self._next_frames = first_chunk_frames
        self._consuming = threading.RLock()
        # Between the threads, guarded by the condition:
        self._changed = threading.Condition()
        self._num_samples = 0  # set with the prompt
        self._delayed: list[torch.Tensor] = []  # tokens `[B, C]` of steps not consumed yet
        self._has_ended = False
        self._error: BaseException | None = None
        self.is_canceled = False

    # --- the generating thread ---

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt, `[B·C, T₀]`, at the first call, then the tokens of a frame, `[B·C]`."""
        num_channels = self.config.decoder_config.num_channels
        with self._changed:
            if self._has_ended:
                raise RuntimeError("this streamer was used by a call of `generate()`; make a new one for each call.")
            if self._num_samples == 0:
                self._num_samples = value.shape[0] // num_channels
            else:
                self._delayed.append(tokens := value.view(-1, num_channels))
                self.alignment.put(tokens)
            self._changed.notify_all()

    def put_alignment(self, weights: torch.Tensor) -> None:
        """Receive the mean weights `[B, S]` of the alignment heads of a step, before its tokens."""
        self.alignment.put_alignment(weights)

    def end(self) -> None:
        """Mark the end of the tokens."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Pass an exception of the generating thread to the consumer, which raises it after the earlier chunks."""
        with self._changed:
            self._error = error
        self.end()

    # --- the consuming thread ---

    def listen(self, generate: Callable[..., Any], **kwargs: Any) -> Generator[Any, None, None]:
        """Run `generate(**kwargs)` with this streamer in a thread of its own, and yield the chunks.

        Closing or dropping the iterator ends the thread.

        Args:
            generate (`Callable`): A model's `generate`.
            kwargs: Its arguments.

        Yields:
            Chunks, as `__next__` returns them.
        """

        def run() -> None:
            try:
                generate(**kwargs, streamer=self)
            except BaseException as error:
                self.fail(error)  # raised where the chunks are consumed

        def stop() -> None:
            self.cancel()
            thread.join()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        # An iterator that is still open at exit must not leave a thread in the middle of a step.
        atexit.register(stop)
        try:
            yield from self
        finally:
            atexit.unregister(stop)
            stop()

    def cancel(self) -> None:
        """End the iteration, and the call of `generate()` at its next step."""
        with self._changed:
            self.is_canceled = True
            self._changed.notify_all()

    def __enter__(self) -> DiaCodesStreamer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    def __iter__(self) -> DiaCodesStreamer:
        return self

    def __next__(self) -> Any:
        """Wait for the next chunk.

        Returns:
            `torch.LongTensor` of shape `[T, C]`; for a batch a list of B of them, of 0 frames where a sample has ended.

        Raises:
            StopIteration: At the end, or when canceled.
            TimeoutError: If no chunk came in time; the iteration can be continued.
            BaseException: The exception that ended the generating thread.
        """
        with self._consuming:
            codes = self._take(self._next_frames)
            if not any(len(clip) for clip in codes):
                self._finish()
            return self._as_chunk(codes)

    def _as_chunk(self, clips: list[Any]) -> Any:
        self._next_frames = min(2 * self._next_frames, self.chunk_frames)
        return clips[0] if len(clips) == 1 else clips

    def _finish(self) -> None:
        """Stop the iteration; raise the generating thread's error, once, if there is one."""
        error, self._error = self._error, None
        raise error if error is not None else StopIteration

    def _take(self, num_frames: int) -> list[torch.Tensor]:
        """Wait for a number of frames, or the end; return codes of each sample, fewer where it has ended."""
        pattern, decoder = self.config.delay_pattern, self.config.decoder_config
        num_steps = num_frames + self.config.max_delay
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: self._has_ended or self.is_canceled or len(self._delayed) >= num_steps,
                self.timeout,
            )
            if not in_time:
                raise TimeoutError(
                    f"no chunk within {self.timeout} s ({len(self._delayed)} frames wait for a chunk of {num_frames}); "
                    "is `generate()` running with this streamer? A larger `timeout` waits longer."
                )
            if self.is_canceled:
                raise StopIteration
            if self._num_samples == 0:  # failed before the prompt was put
                self._finish()
            is_last = self._has_ended and len(self._delayed) <= num_steps
            window = self._delayed[:num_steps]
            del self._delayed[: len(self._delayed) if is_last else num_frames]
        delayed = torch.stack(window, dim=1) if window else torch.zeros(self._num_samples, 0, len(pattern)).long()
        return valid_codes(delayed, pattern, decoder.eos_token_id, decoder.pad_token_id)


class DiaAudioStreamer(DiaCodesStreamer):
    """Streamer of waveforms, in chunks, from one call of `generate()` in another thread.

    The concatenated chunks of a sample equal the output of `DiaProcessor.batch_decode` (without the prompt).

    Args:
        processor (`DiaProcessor`): Processor with a codec.
        first_chunk_frames (`int`, defaults to 1): Length of the first chunk in frames.
        chunk_frames (`int`, defaults to 64): Length of the later chunks in frames (64: 0.74 s at 86.13 frames/s).
        timeout (`float`, *optional*): Seconds to wait for a chunk; no limit unless given.

    Attributes:
        sampling_rate (`int`): Sampling rate of the chunks in hertz.
        num_steps_before_sound (`int`): Steps of `generate()` after which the first chunk is ready.

    Raises:
        ValueError: If there is no codec; and as `DiaCodesStreamer` does.

    Example:
    ```python
    >>> from threading import Thread
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.generation import DiaAudioStreamer
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> streamer = DiaAudioStreamer(processor)
    >>> options = {**processor("[S1] Hello."), "max_new_tokens": 40, "min_new_tokens": 24, "streamer": streamer}
    >>> Thread(target=model.generate, kwargs=options).start()
    >>> sum(len(waveform) for waveform in streamer)
    15360

    ```
    """

    def __init__(
        self,
        processor: Any,
        first_chunk_frames: int = 1,
        chunk_frames: int = 64,
        timeout: float | None = None,
    ) -> None:
        super().__init__(processor.config, first_chunk_frames, chunk_frames, timeout)
        self.codec = processor.codec
        self.sampling_rate: int = self.codec.sampling_rate
        self.num_steps_before_sound = first_chunk_frames + self.codec.decoder_margin + self.config.max_delay
        device = self.codec.device
        self._queue = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._clips: list[Any] = []
        self._num_taken = 0
        self._num_sounded = 0

    def __next__(self) -> np.ndarray | list[np.ndarray]:
        """Wait for the next chunk.

        Returns:
            `np.ndarray` of shape `[N]`, float32; for a batch a list of B of them, of 0 samples where one has ended.

        Raises:
            StopIteration: At the end, or when canceled.
            TimeoutError: If no chunk came in time; the iteration can be continued.
            BaseException: The exception that ended the generating thread.
        """
        with self._consuming:
            if self.is_canceled:
                raise StopIteration
            num_missing = self._num_sounded + self._next_frames + self.codec.decoder_margin - self._num_taken
            if num_missing > 0:
                codes = self._take(num_missing)
                self._num_taken += num_missing
                self._clips = self._clips or [self.codec.stream() for _ in codes]
                for clip, new in zip(self._clips, codes, strict=True):
                    if len(new) > 0:
                        clip.push(new)
                    if len(new) < num_missing:
                        clip.close()
            lengths = [min(self._next_frames, clip.num_ready) for clip in self._clips]
            if not any(lengths):
                self._finish()
            self._num_sounded += self._next_frames
            # On a GPU the codec runs on a stream of its own, concurrently with the steps.
            with nullcontext() if self._queue is None else torch.cuda.stream(self._queue):
                waveforms = self.codec.pop_many(self._clips, lengths)
            return self._as_chunk([waveform.numpy() for waveform in waveforms])
