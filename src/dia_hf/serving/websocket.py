"""Text in pieces over a WebSocket, audio of each sentence back: `/audio/speech/stream`.

The messages have the names that vLLM-Omni and SGLang-Omni share. A client sends `session.config`, then for each
utterance any number of `input.text` and one `input.done`; `input.cancel` interrupts, `session.close` ends. For each
sentence it gets `audio.start`, binary messages, `audio.done`, and for each utterance `session.done`.

Two tasks: one reads messages, the other one speaks, so that an interruption and a disconnect are noticed at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..speech.engine import SpeechEngine, SpeechRequest, TextStream
from ..speech.timestamps import TimedText
from ..text_files import shortened
from .adapters import AdapterEngines, find_engine
from .body import usage_of
from .captions import describe_words
from .encoding import SpeechEncoding
from .errors import ApiError, error_of, log_error
from .metrics import Metrics
from .requests import SessionFields, parse_json, parse_session
from .settings import ServerSettings
from .speech_requests import SpeechRequests, Voices
from .utterance import HeardVoices, Utterance

__all__ = ["SpeechSession"]

logger = logging.getLogger(__name__)

_MOST_WAITING = 8  # utterances whose text has come while an earlier one is spoken
_POLICY, _INTERNAL, _RESTART = 1008, 1011, 1012  # codes of a close


class _EndError(Exception):
    """The end of a session, which the server closes.

    Args:
        code (`int`): Code of the close.
    """

    def __init__(self, code: int = 1000) -> None:
        super().__init__(code)
        self.code = code


class _SlowReaderError(WebSocketDisconnect):
    """A client that takes nothing."""


class SpeechSession:
    """One WebSocket, with any number of utterances.

    An utterance without voices goes on with those of the utterances before it.

    Args:
        socket (`WebSocket`): The WebSocket, not accepted yet.
        requests (`SpeechRequests`): Makes requests.
        engine (`SpeechEngine` or `AdapterEngines`): The engine.
        settings (`ServerSettings`): Settings.
        metrics (`Metrics`): Counts utterances.
    """

    def __init__(
        self,
        socket: WebSocket,
        requests: SpeechRequests,
        engine: SpeechEngine | AdapterEngines,
        settings: ServerSettings,
        metrics: Metrics,
    ) -> None:
        self.socket, self.requests, self.engine = socket, requests, engine
        self.settings, self.metrics = settings, metrics
        self.request_id: str = socket.state.request_id
        self._fields: SessionFields | None = None
        self._voices: Voices = None
        self._heard = HeardVoices()
        self._open: Utterance | None = None  # whose text is not complete
        self._utterances: list[Utterance] = []  # that are not over
        self._waiting: asyncio.Queue[tuple[Utterance, SessionFields, HeardVoices | None]] = asyncio.Queue()
        self._last_time = time.monotonic()  # of a message, or of the end of an utterance

    @property
    def is_speaking(self) -> bool:
        """Whether the audio of a text is not sent."""
        return any(utterance.handle is not None for utterance in self._utterances)

    async def run(self) -> None:
        """Serve the client until one of the two ends the session."""
        await self.socket.accept()
        tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._speak())]
        code: int | None = _INTERNAL
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except _EndError as end:
            code = end.code
        except _SlowReaderError:
            pass
        except WebSocketDisconnect:
            code = None
        finally:
            for utterance in self._utterances:
                utterance.cancel()
            self._utterances.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if code is not None:
                with suppress(WebSocketDisconnect, RuntimeError, asyncio.TimeoutError):
                    await asyncio.wait_for(self.socket.close(code), self.settings.io_timeout)

    # --- messages of the client ---

    async def _read(self) -> None:
        """Read messages until the session ends."""
        while True:
            try:
                message = await self._receive()
                await self._handle(message)
            except ApiError as error:
                await self.send_error(error)
                if self._fields is None:
                    raise _EndError(_POLICY) from None

    async def _receive(self) -> dict[str, Any]:
        """Return the next message."""
        while True:
            limit = self.settings.io_timeout if self._fields is None else self.settings.idle_timeout
            try:
                raw = await asyncio.wait_for(self.socket.receive(), limit)
            except asyncio.TimeoutError:
                is_working = any(utterance is not self._open for utterance in self._utterances)
                if is_working or time.monotonic() - self._last_time < limit:
                    continue
                await self.send_error(ApiError(408, f"no message has come for {limit:g} s.", code="timeout"))
                raise _EndError(_POLICY) from None
            if raw["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(raw["code"])
            self._last_time = time.monotonic()
            if raw.get("text") is None:
                raise ApiError(400, "the message is binary; send JSON as text.", code="invalid_value")
            message = parse_json(raw["text"].encode("utf-8", "surrogatepass"))
            if not isinstance(message, dict):
                raise ApiError(400, f"the message is {shortened(message)}; send a JSON object.")
            return message

    async def _handle(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "session.config":
            await self._configure(message)
        elif self._fields is None:
            text = f"the first message is {shortened(kind)}; send `session.config` first."
            raise ApiError(400, text, param="type")
        elif kind == "input.text":
            self._add_text(message.get("text"), self._fields)
        elif kind == "input.done":
            utterance = self._open or self._begin(self._fields)
            self._open = None
            utterance.close()
        elif kind == "input.cancel":
            self._open = None
            for utterance in self._utterances:
                utterance.cancel()
        elif kind == "session.close":
            raise _EndError
        else:
            known = "session.config, input.text, input.done, input.cancel, session.close"
            raise ApiError(400, f"`type` is {shortened(kind)}; send one of {known}.", param="type")

    async def _configure(self, message: dict[str, Any]) -> None:
        if self._open is not None:
            raise ApiError(400, "an utterance is not complete; send `input.done` before `session.config`.")
        fields = parse_session(message, self.settings)
        voices = await self.requests.find_voices(fields)
        try:
            engine = await find_engine(self.engine, fields.model)  # loaded ahead of the text
        except Exception as error:  # of an adapter's files
            log_error(error, self.request_id, self.settings.logs_texts)
            raise error_of(error, self.request_id) from error
        if fields.word_timestamps:
            await self.requests.times.prepare(engine.dia)
        self._fields, self._voices, self._heard = fields, voices, HeardVoices()
        await self.send(
            {
                "type": "session.configured",
                "session_id": self.request_id,
                "response_format": fields.response_format,
                "stream_audio": fields.stream_audio,
                "split_granularity": fields.split_granularity,
                "word_timestamps": fields.word_timestamps,
            }
        )

    def _add_text(self, text: Any, fields: SessionFields) -> None:
        if not isinstance(text, str):
            raise ApiError(400, f"`text` is {shortened(text)}; send a string.", param="text", code="invalid_value")
        self.requests.check_text(text)
        num_before = 0 if self._open is None else self._open.text.num_characters
        if num_before + len(text) > self.settings.max_input:
            message = f"the utterance has more than {self.settings.max_input:,} characters; send `input.done` earlier."
            raise ApiError(400, message, param="text", code="string_above_max_length")
        if text:
            self._open = self._open or self._begin(fields)
            with suppress(ValueError):  # closed by the engine's shutdown, which its audio tells
                self._open.write(text)

    def _begin(self, fields: SessionFields) -> Utterance:
        """Begin an utterance."""
        if len(self._utterances) > _MOST_WAITING:
            raise ApiError(429, f"{_MOST_WAITING} utterances are waiting already; wait for `session.done`.")
        voices, heard = self._voices, self._heard  # of these fields, which may change while the text waits

        async def make_request(text: TextStream) -> SpeechRequest:
            chosen = voices if voices is not None else dict(heard.voices) or None
            return self.requests.make(fields, text, chosen, text.sentences[0])

        utterance = Utterance(self.engine, make_request, fields.split_granularity, fields.language, fields.model)
        self._utterances.append(utterance)
        self._waiting.put_nowait((utterance, fields, heard if voices is None else None))
        return utterance

    # --- messages to the client ---

    async def _speak(self) -> None:
        """Speak one utterance after the other."""
        index = 0
        while True:
            utterance, fields, heard = await self._waiting.get()
            await _Speaker(self, utterance, fields, index).speak()
            self._utterances.remove(utterance)
            self._last_time = time.monotonic()
            if heard is not None and utterance.handle is not None:
                heard.add(utterance.handle)
            index += 1

    async def send_error(self, error: ApiError) -> None:
        """Send an error as a message."""
        told = error.content["error"]
        fields = {"message": told["message"], "error_type": told["type"], "param": told["param"], "code": told["code"]}
        await self.send({"type": "error", **{name: value for name, value in fields.items() if value is not None}})

    async def send(self, message: dict[str, Any] | bytes) -> None:
        """Send a message; give up if the client takes nothing."""
        is_binary = isinstance(message, bytes)
        send: Callable = self.socket.send_bytes if is_binary else self.socket.send_json
        try:
            await asyncio.wait_for(send(message), self.settings.io_timeout)
        except asyncio.TimeoutError:
            transport = self.socket.scope.get("state", {}).get("transport")
            if transport is not None:
                transport.abort()
            raise _SlowReaderError from None


class _Speaker:
    """The messages of one utterance.

    Args:
        session (`SpeechSession`): The session.
        utterance (`Utterance`): The utterance.
        fields (`SessionFields`): Its fields.
        index (`int`): Its index in the session.
    """

    def __init__(self, session: SpeechSession, utterance: Utterance, fields: SessionFields, index: int) -> None:
        self.session, self.utterance, self.fields = session, utterance, fields
        self.place = {"utterance_index": index}
        self.num_sentences = 0
        self._encoding: SpeechEncoding | None = None  # of a sentence that has begun
        self._kept: list[bytes] = []  # that is not sent, of a sentence that is sent as a whole
        self._times: list[TimedText] = []  # of the audio that is not sent
        self._num_bytes = 0  # that were sent

    async def speak(self) -> None:
        """Send the audio of all sentences, and the end."""
        session, utterance = self.session, self.utterance
        reason, failure = "error", None
        try:
            async for index, chunk, times in utterance.audio():
                await self._send_chunk(index, chunk, times)
            handle = utterance.handle
            reason = "canceled" if utterance.is_canceled else (handle and handle.finish_reason) or "stop"
        except _SlowReaderError:
            reason = "slow_reader"
            raise
        except (WebSocketDisconnect, asyncio.CancelledError):
            reason = "disconnected"
            raise
        except Exception as error:
            failure = error_of(error, session.request_id, is_checked=utterance.handle is not None)
            if failure.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log_error(error, session.request_id, session.settings.logs_texts)
        finally:
            utterance.cancel()
            self._record(reason)
        if failure is not None:
            await session.send_error(failure)
        if self._encoding is not None:
            await self._end_sentence(is_failed=failure is not None)
        await self._send_done(reason)
        if failure is not None and failure.code == "shutting_down":
            raise _EndError(_RESTART)

    async def _send_chunk(self, index: int, chunk: np.ndarray | None, times: Sequence[TimedText]) -> None:
        """Send a chunk of a sentence with the words that end in it, or its end."""
        if self._encoding is None:
            self._encoding = await asyncio.to_thread(SpeechEncoding, self.fields, self.session.engine.dia.sampling_rate)
            assert self.utterance.handle is not None
            message = {"type": "audio.start", **self.place, "sentence_index": index}
            message["sentence_text"] = self.utterance.handle.sentences[index]
            message |= {"format": self.fields.response_format, "sample_rate": self._encoding.sampling_rate}
            await self.session.send({**message, "channels": 1})
        self._times += self._encoding.moved(times, self._seconds_before(index))
        piece = await self._encoding.encode(chunk)
        self._kept.append(piece)
        if self.fields.stream_audio or chunk is None:
            content, self._kept = b"".join(self._kept), []
            if self._times:
                words, self._times = describe_words(self._times), []
                message = {"type": "audio.words", **self.place, "sentence_index": index}
                await self.session.send({**message, "words": words})
            if content:
                await self.session.send(content)
                self._num_bytes += len(content)
        if chunk is None:
            await self._end_sentence()

    def _seconds_before(self, index: int) -> float:
        """Return the seconds of audio before a sentence."""
        handle = self.utterance.handle
        assert handle is not None
        return handle.sentence_ends[index - 1] / self.session.engine.dia.sampling_rate if index else 0.0

    async def _end_sentence(self, is_failed: bool = False) -> None:
        message = {"type": "audio.done", **self.place, "sentence_index": self.num_sentences}
        await self.session.send({**message, "total_bytes": self._num_bytes, "error": is_failed})
        self.num_sentences += 1
        self._encoding, self._kept, self._num_bytes = None, [], 0

    async def _send_done(self, reason: str) -> None:
        message = {"type": "session.done", "session_id": self.session.request_id, **self.place}
        message |= {"total_sentences": self.num_sentences, "finish_reason": reason}
        if (handle := self.utterance.handle) is not None:
            message |= {"seed": handle.seed, "usage": usage_of(handle)}
            if handle.doubt is not None:
                message["doubt"] = handle.doubt
        await self.session.send(message)

    def _record(self, reason: str) -> None:
        utterance, session = self.utterance, self.session
        if utterance.handle is None:
            return
        duration = time.perf_counter() - utterance.begin
        format, seconds = self.fields.response_format, utterance.seconds
        session.metrics.record(utterance.handle, format, reason, duration, utterance.first_chunk, seconds)
        first = "" if utterance.first_chunk is None else f", first chunk after {utterance.first_chunk:.3f} s"
        text = f", {utterance.text.sentences!r}" if session.settings.logs_texts else ""
        logger.info(
            "%s speech: %s, %d characters in pieces, %.2f s of audio%s, end after %.3f s: %s%s",
            session.request_id,
            format,
            utterance.text.num_characters,
            seconds,
            first,
            duration,
            reason,
            text,
        )
