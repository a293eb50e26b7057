"""Audio as the body of a response: streamed, as server-sent events, as JSON with times, or whole.

The status line is sent when the first chunk is there, so that an error before it has a status of its own. After it, an
error is an event, and a stream of raw audio breaks off: it must not look complete. A client that disconnects, or that
takes nothing for a while, frees its place in the batch.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..audio.encoders import FORMATS
from ..speech.engine import SpeechEngine, SpeechHandle, SpeechRequest
from ..speech.timestamps import TimedText
from .captions import Shape, describe_words
from .encoding import SpeechEncoding
from .errors import ApiError, error_of, log_error
from .metrics import Metrics
from .requests import SpeechBody
from .settings import ServerSettings

__all__ = ["SpeechResponse", "usage_of"]

logger = logging.getLogger(__name__)

_Pieces = AsyncIterator[tuple[bytes, list[TimedText]]]  # encoded audio, and the words that end in it

_SLICE = 2**16  # bytes of a whole body in a write, each of which waits until the one before has left


class _BrokenError(Exception):
    """A response that cannot be completed.

    Args:
        reason (`str`): Reason, for log and metrics.
        drops_buffer (`bool`, defaults to `False`): Whether written bytes that have not left are dropped.
    """

    def __init__(self, reason: str, drops_buffer: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.drops_buffer = reason, drops_buffer


class SpeechResponse(Response):
    """Response with the audio of one request.

    Args:
        request (`Request`): The HTTP request.
        body (`SpeechBody`): Its body.
        speech (`SpeechRequest`): Request for the engine.
        engine (`SpeechEngine`): The engine.
        settings (`ServerSettings`): Settings.
        metrics (`Metrics`): Counts the end.
        shape (`Shape`, *optional*): Shape of JSON with times; a line for each part of a stream, or one object.

    Calling it raises `ApiError` if there is an error before the first chunk.
    """

    def __init__(
        self,
        request: Request,
        body: SpeechBody,
        speech: SpeechRequest,
        engine: SpeechEngine,
        settings: ServerSettings,
        metrics: Metrics,
        shape: Shape | None = None,
    ) -> None:
        self.shape = shape
        self.body_fields, self.speech, self.engine = body, speech, engine
        self.settings, self.metrics = settings, metrics
        self.request_id: str = request.state.request_id
        self.begin = time.perf_counter()
        self.sampling_rate = engine.dia.sampling_rate
        self.first_chunk: float | None = None
        self.seconds = 0.0
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Submit the request, and send its audio."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def on_change() -> None:  # in the engine's thread
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(changed.set)

        try:
            handle = await asyncio.to_thread(self.engine.submit, self.speech, on_change)
        except Exception as error:
            raise self._api_error(error, is_checked=False) from error
        leaving = asyncio.ensure_future(_disconnect(receive))
        sending = asyncio.ensure_future(self._send(handle, changed, _with_timeout(send, self.settings.io_timeout)))
        reason = "canceled"
        try:
            await asyncio.wait({leaving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
                reason = handle.finish_reason or "canceled"
            else:
                reason = "disconnected"
        except ApiError:
            reason = _reason_of_error(handle)
            raise
        except _BrokenError as error:
            reason = error.reason
            transport = scope.get("state", {}).get("transport")
            if error.drops_buffer and transport is not None:
                transport.abort()
        finally:
            handle.cancel()
            self._record(handle, reason)  # before the next place where this can be canceled, once more
            for task in (leaving, sending):
                task.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)

    async def _send(self, handle: SpeechHandle, changed: asyncio.Event, send: Callable) -> None:
        """Wait for audio, and send it."""
        chunks = self._chunks(handle, changed)
        first = await anext(chunks, None)
        if first is None:
            try:
                self._check_end(handle)
            except Exception as error:
                raise self._api_error(error) from error
            message = (
                f"the model generated no audio ({handle.doubt or handle.finish_reason}); send another seed or text."
            )
            raise ApiError(500, message, code="no_audio")
        encoding = await asyncio.to_thread(SpeechEncoding, self.body_fields, self.sampling_rate)
        pieces = self._pieces(handle, encoding, first, chunks)
        if self.shape is not None and self.body_fields.stream:
            await self._send_lines(handle, encoding, pieces, self.shape, send)
        elif self.shape is not None:
            await self._send_object(handle, encoding, pieces, self.shape, send)
        elif self.body_fields.stream_format == "sse":
            await self._send_events(handle, encoding, pieces, send)
        elif self.body_fields.stream:
            await self._send_stream(handle, encoding, pieces, send)
        else:
            await self._send_whole(handle, encoding, pieces, send)

    async def _send_stream(
        self, handle: SpeechHandle, encoding: SpeechEncoding, pieces: _Pieces, send: Callable
    ) -> None:
        await send(_start(FORMATS[encoding.format].content_type, self._speech_headers(handle, encoding)))
        try:
            async for piece, _ in pieces:
                if piece:
                    await send(_part(piece))
        except _BrokenError:
            raise
        except Exception as error:
            self._api_error(error)  # for the log
            raise _BrokenError(_reason_of_error(handle)) from error
        await send(_part(b"", is_last=True))

    async def _send_lines(
        self, handle: SpeechHandle, encoding: SpeechEncoding, pieces: _Pieces, shape: Shape, send: Callable
    ) -> None:
        """Send a line of JSON for each part. After an error the stream breaks off, as raw audio does."""
        await send(_start("application/x-ndjson", self._speech_headers(handle, encoding)))
        try:
            async for piece, times in pieces:
                await send(_part(_line(shape.add(piece, times, is_last=False))))
        except _BrokenError:
            raise
        except Exception as error:
            self._api_error(error)  # for the log
            raise _BrokenError(_reason_of_error(handle)) from error
        await send(_part(_line(shape.add(b"", [], is_last=True)), is_last=True))

    async def _send_object(
        self, handle: SpeechHandle, encoding: SpeechEncoding, pieces: _Pieces, shape: Shape, send: Callable
    ) -> None:
        content, times = await self._gather(pieces)
        body = _line(shape.add(content, times, is_last=True))
        await self._send_content(body, "application/json", self._whole_headers(handle, encoding), send)

    async def _send_events(
        self, handle: SpeechHandle, encoding: SpeechEncoding, pieces: _Pieces, send: Callable
    ) -> None:
        headers = {**self._speech_headers(handle, encoding), "cache-control": "no-cache"}
        await send(_start("text/event-stream", headers))
        progress = None
        try:
            async for piece, times in pieces:
                if self.body_fields.progress and progress != handle.progress:
                    progress = handle.progress
                    chunk, num_chunks = progress
                    told = {"type": "speech.audio.progress", "chunk": chunk, "num_chunks": num_chunks}
                    await send(_part(_event(told)))
                if times:
                    await send(_part(_event({"type": "speech.audio.words", "words": describe_words(times)})))
                if piece:
                    audio = base64.b64encode(piece).decode("ascii")
                    await send(_part(_event({"type": "speech.audio.delta", "audio": audio})))
            done: dict[str, Any] = {"type": "speech.audio.done", "usage": usage_of(handle)}
            done |= {"finish_reason": handle.finish_reason, "seed": handle.seed}
            if handle.doubt is not None:
                done["doubt"] = handle.doubt
        except _BrokenError:
            raise
        except Exception as error:
            # Clients that ignore this event (LiveKit agents 1.8.9) would take the audio before it for all of it; but
            # where a connection breaks off, browsers lose the last event. Those that ask for progress read all events.
            last = _event({"type": "error", **self._api_error(error).content})
            await send(_part(last, is_last=self.body_fields.progress))
            raise _BrokenError(_reason_of_error(handle)) from error
        await send(_part(_event(done), is_last=True))

    async def _send_whole(
        self, handle: SpeechHandle, encoding: SpeechEncoding, pieces: _Pieces, send: Callable
    ) -> None:
        content, _ = await self._gather(pieces)
        headers = self._whole_headers(handle, encoding)
        await self._send_content(content, FORMATS[encoding.format].content_type, headers, send)

    async def _gather(self, pieces: _Pieces) -> tuple[bytes, list[TimedText]]:
        """Return all audio and all times."""
        content, all_times = [], []
        try:
            async for piece, times in pieces:
                content.append(piece)
                all_times += times
        except Exception as error:
            raise self._api_error(error) from error
        return b"".join(content), all_times

    def _whole_headers(self, handle: SpeechHandle, encoding: SpeechEncoding) -> dict[str, str]:
        usage = usage_of(handle)
        return {
            **self._speech_headers(handle, encoding),
            "x-finish-reason": handle.finish_reason or "",
            "x-input-tokens": str(usage["input_tokens"]),
            "x-output-tokens": str(usage["output_tokens"]),
        }

    async def _send_content(self, content: bytes, content_type: str, headers: dict[str, str], send: Callable) -> None:
        await send(_start(content_type, {**headers, "content-length": str(len(content))}))
        for begin in range(0, max(len(content), 1), _SLICE):
            await send(_part(content[begin : begin + _SLICE], is_last=begin + _SLICE >= len(content)))

    async def _chunks(self, handle: SpeechHandle, changed: asyncio.Event) -> AsyncIterator[np.ndarray]:
        """Yield chunks as they come, those that are there together as one."""
        while True:
            changed.clear()
            is_done = handle.is_done  # before `take`, which then returns all of the rest
            if taken := [chunk for chunk in handle.take() if len(chunk)]:
                if self.first_chunk is None:
                    self.first_chunk = time.perf_counter() - self.begin
                chunk = taken[0] if len(taken) == 1 else np.concatenate(taken)
                self.seconds += len(chunk) / self.sampling_rate
                yield chunk
            elif is_done:
                return
            else:
                await changed.wait()

    async def _pieces(
        self, handle: SpeechHandle, encoding: SpeechEncoding, first: np.ndarray, chunks: AsyncIterator[np.ndarray]
    ) -> _Pieces:
        """Yield encoded audio with its times; raise where the request ended with an error."""
        times = encoding.moved(handle.take_times())  # of the chunks that were taken
        yield await encoding.encode(first), times
        async for chunk in chunks:
            times = encoding.moved(handle.take_times())
            yield await encoding.encode(chunk), times
        self._check_end(handle)
        yield await encoding.encode(None), encoding.moved(handle.take_times())

    def _check_end(self, handle: SpeechHandle) -> None:
        if handle.error is not None:
            raise handle.error
        if handle.finish_reason == "canceled":  # by the engine, which is closed
            raise ApiError.draining()

    def _api_error(self, error: Exception, is_checked: bool = True) -> ApiError:
        """Translate an error, and log it unless it is the client's."""
        translated = error_of(error, self.request_id, is_checked)
        if translated.status == HTTPStatus.INTERNAL_SERVER_ERROR and translated is not error:
            log_error(error, self.request_id, self.settings.logs_texts)
        return translated

    def _speech_headers(self, handle: SpeechHandle, encoding: SpeechEncoding) -> dict[str, str]:
        return {
            "x-seed": str(handle.seed),
            "x-sample-rate": str(encoding.sampling_rate),
            "x-accel-buffering": "no",
        }

    def _record(self, handle: SpeechHandle, reason: str) -> None:
        duration = time.perf_counter() - self.begin
        format = self.body_fields.response_format
        self.metrics.record(handle, format, reason, duration, self.first_chunk, self.seconds)
        logger.info(
            "%s speech: %s, %d characters, %.2f s of audio%s, end after %.3f s: %s%s%s",
            self.request_id,
            format,
            len(self.body_fields.input),
            self.seconds,
            "" if self.first_chunk is None else f", first chunk after {self.first_chunk:.3f} s",
            duration,
            reason,
            f", {handle.num_retries} retries" if handle.num_retries else "",
            f", {self.body_fields.input!r}" if self.settings.logs_texts else "",
        )


def _reason_of_error(handle: SpeechHandle) -> str:
    """Return the reason that is counted where an error is sent: an encoder may fail after a request that did not."""
    return handle.finish_reason if handle.finish_reason in ("canceled", "implausible") else "error"


async def _disconnect(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_timeout(send: Send, timeout: float) -> Send:
    """Return a `send` that raises where the client takes nothing for a while."""

    async def bounded(message: Message) -> None:
        try:
            await asyncio.wait_for(send(message), timeout)
        except asyncio.TimeoutError:
            raise _BrokenError("slow_reader", drops_buffer=True) from None

    return bounded


def _start(content_type: str, headers: dict[str, str]) -> Message:
    pairs = {"content-type": content_type, **headers}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs.items()]
    return {"type": "http.response.start", "status": 200, "headers": encoded}


def _part(content: bytes, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": not is_last}


def _line(content: dict[str, Any] | None) -> bytes:
    return b"" if content is None else f"{json.dumps(content, ensure_ascii=False)}\n".encode()


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def usage_of(handle: SpeechHandle) -> dict[str, int]:
    """Return the counts of a request: ids of its text, frames of its audio."""
    counts = {"input_tokens": handle.num_text_ids, "output_tokens": handle.num_frames}
    return {**counts, "total_tokens": sum(counts.values())}
