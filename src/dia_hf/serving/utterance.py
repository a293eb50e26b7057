"""One utterance of a client that sends its text in pieces: the audio of its sentences, as it comes.

Between an event loop and the threads of the engine. Used by the WebSocket and by Wyoming.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress

import numpy as np

from ..speech.engine import SpeechEngine, SpeechHandle, SpeechRequest, TextStream
from ..speech.text_stream import SETTLE_SECONDS
from ..speech.timestamps import TimedText
from ..speech.voices import Voice
from .adapters import AdapterEngines, find_engine
from .errors import ApiError

__all__ = ["HeardVoices", "Utterance"]


class HeardVoices:
    """Voices of speakers that were given none, so that further utterances go on with them.

    Attributes:
        voices (`dict[str, Voice]`): Voice for each speaker's tag.
    """

    def __init__(self) -> None:
        self.voices: dict[str, Voice] = {}

    def add(self, handle: SpeechHandle) -> None:
        """Add the voices of a request that has ended, without those that were given to it."""
        given = handle.request.voices
        for speaker, voice in handle.kept_voices().items():
            if given is None or (isinstance(given, Mapping) and given.get(speaker) is self.voices.get(speaker)):
                self.voices[speaker] = voice


class Utterance:
    """Text that comes in pieces, and its audio. Its methods are called in one event loop.

    Args:
        engine (`SpeechEngine` or `AdapterEngines`): The engine. It gets the request with the first sentence, so that a
            client which sends nothing has no place in the queue.
        make_request (`Callable`): Makes the request of the text; awaited when the first sentence is there.
        split, language (`str`): See `TextStream`.
        model (`str`, defaults to `""`): Name of an adapter, or any other one for the base model. Its engine is found
            with the first sentence, because those of adapters come and go.

    Attributes:
        text (`TextStream`): The text.
        handle (`SpeechHandle`, *optional*): The request, from the first sentence on.
        first_chunk (`float`, *optional*): Seconds from the first sentence to its first audio.
        seconds (`float`): Seconds of audio that were yielded.
    """

    def __init__(
        self,
        engine: SpeechEngine | AdapterEngines,
        make_request: Callable[[TextStream], Awaitable[SpeechRequest]],
        split: str = "sentence",
        language: str = "en",
        model: str = "",
    ) -> None:
        self.text = TextStream(split, language)
        self.handle: SpeechHandle | None = None
        self.is_canceled = False
        self.begin = time.perf_counter()
        self.first_chunk: float | None = None
        self.seconds = 0.0
        self._engine, self._make_request, self._model = engine, make_request, model
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def write(self, piece: str) -> None:
        """Add a piece of the text; a sentence that ends with it counts after `SETTLE_SECONDS` without another one."""
        self._stop_timer()
        self.text.write(piece)
        if not self.text.is_settled:
            self._timer = self._loop.call_later(SETTLE_SECONDS, self._settle)
        self._changed.set()

    def close(self) -> None:
        """End the text."""
        self._stop_timer()
        self.text.close()
        self._changed.set()

    def cancel(self) -> None:
        """End the utterance; `audio` yields nothing more."""
        self.is_canceled = True
        self._stop_timer()
        if self.handle is not None:
            self.handle.cancel()
        self._changed.set()

    async def audio(self) -> AsyncIterator[tuple[int, np.ndarray | None, list[TimedText]]]:
        """Yield the index of a sentence with a chunk of its audio, `[N]`, or with `None` at its end.

        With a chunk come the words that end in it, if the request asks for times; they count from the beginning of the
        utterance's audio.

        Raises:
            ApiError: If the engine ended the request, because it was closed.
            Exception: Any error of the request.
        """
        while not (self.text.sentences or self.text.is_closed or self.is_canceled):
            await self._wait()
        if self.is_canceled or not self.text.sentences:
            return
        self.begin = time.perf_counter()
        request = await self._make_request(self.text)
        engine = await find_engine(self._engine, self._model)
        handle = await asyncio.to_thread(self._submit, engine, request)
        index = num_samples = 0
        while True:
            self._changed.clear()
            is_done = handle.is_done  # before `take`, which then returns all of the rest
            while not self.is_canceled:
                chunk = next(iter(handle.take(1)), None)
                times = handle.take_times()
                while index < len(handle.sentence_ends) and handle.sentence_ends[index] <= num_samples:
                    yield index, None, []
                    index += 1
                if chunk is None:
                    break
                num_samples += len(chunk)
                self._count(len(chunk))
                yield index, chunk, times
            if self.is_canceled:
                return
            if is_done:
                break
            await self._wait()
        if handle.error is not None:
            raise handle.error
        if handle.finish_reason == "canceled":  # by the engine, which is closed
            raise ApiError.draining()

    def _submit(self, engine: SpeechEngine, request: SpeechRequest) -> SpeechHandle:
        """Submit the request; in a thread, which outlasts the event loop's wait for it if a client goes meanwhile."""
        handle = self.handle = engine.submit(request, self._wake)
        if self.is_canceled:
            handle.cancel()
        return handle

    def _count(self, num_samples: int) -> None:
        if self.first_chunk is None:
            self.first_chunk = time.perf_counter() - self.begin
        self.seconds += num_samples / self._engine.dia.sampling_rate

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _wake(self) -> None:
        """Wake the event loop; in the engine's thread."""
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._changed.set)

    def _settle(self) -> None:
        self.text.settle()
        self._changed.set()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
