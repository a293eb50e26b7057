"""Speech by the Wyoming protocol, which Home Assistant speaks, over the `wyoming` package.

A client describes a text at once (`synthesize`), or in pieces: `synthesize-start`, `synthesize-chunk`, …,
`synthesize-stop`. Each is answered by `audio-start`, `audio-chunk`, …, `audio-stop`, and one in pieces by
`synthesize-stopped` after it. Between start and stop, Home Assistant also sends the whole text by `synthesize`, for
servers that know no pieces; it is ignored here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any
from weakref import WeakSet

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from ..audio.io import pcm16
from ..speech.engine import SpeechEngine, SpeechRequest, TextStream
from ..text_files import shortened
from .errors import ApiError, error_of, log_error
from .requests import SpeechFields
from .settings import ServerSettings
from .speech_requests import SpeechRequests
from .utterance import HeardVoices, Utterance
from .voices import ServedVoices

__all__ = ["WyomingServer"]

logger = logging.getLogger(__name__)

_DEFAULT = "default"  # the model's own voice
_MAX_EVENT = 2**20  # bytes
_LINGER = 5.0  # seconds that a client has to close the connection after an error
_MOST_WAITING = 8  # utterances of a connection whose text has come while an earlier one is spoken
_ATTRIBUTION = Attribution("dia_hf", "https://huggingface.co/nari-labs/Dia-1.6B-0626")


class WyomingServer:
    """Server of the Wyoming protocol.

    Texts for which no voice is named are spoken by the voices of the first ones.

    Args:
        engine (`SpeechEngine`): The engine. The caller closes it.
        voices (`ServedVoices`): The voices on offer: saved ones, and "default", the model's own.
        settings (`ServerSettings`): Settings; keys and origins are not part of the protocol.
        language (`str`, defaults to `"en"`): Language of the model, as clients list it, and for splitting sentences.
        voice (`str`, *optional*): Voice of texts for which none is named.

    Raises:
        ValueError: If there is no such voice.
    """

    def __init__(
        self,
        engine: SpeechEngine,
        voices: ServedVoices,
        settings: ServerSettings,
        language: str = "en",
        voice: str | None = None,
    ) -> None:
        self.engine, self.voices, self.settings = engine, voices, settings
        self.language, self.voice = language, voice
        voices.resolve(voice)
        self.requests = SpeechRequests(voices, settings, engine.dia.processor.tokenizer)
        self.heard = HeardVoices()
        self._stop = asyncio.Event()

    async def run(self, uri: str, shutdown_timeout: float = 30.0, on_open: Callable[[], None] | None = None) -> None:
        """Serve until `stop`; then finish what is being spoken.

        Args:
            uri (`str`): "tcp://127.0.0.1:10200", or "unix://" and a path.
            shutdown_timeout (`float`, defaults to 30.0): Seconds for what is being spoken to be finished.
            on_open (`Callable`, *optional*): Called when the server listens.

        Raises:
            OSError: If the address cannot be listened on.
        """
        server, handlers = AsyncServer.from_uri(uri), WeakSet[_Handler]()

        def make_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Handler:
            handler = _Handler(reader, writer, self)
            handlers.add(handler)
            return handler

        try:
            await server.start(make_handler)
        except OSError as error:
            raise OSError(f"{uri} cannot be listened on ({error.strerror or error}); give another `--uri`.") from error
        if on_open is not None:
            on_open()
        await self._stop.wait()
        logger.info("shutting down: what is being spoken is finished within %g s", shutdown_timeout)
        end = time.monotonic() + shutdown_timeout
        await asyncio.to_thread(self.engine.close, shutdown_timeout)
        while any(handler.is_speaking for handler in handlers) and time.monotonic() < end:
            await asyncio.sleep(0.02)  # until clients have read the rest
        await server.stop()

    def stop(self) -> None:
        """Begin the shutdown; in the event loop."""
        self._stop.set()

    def describe(self) -> Info:
        """Describe the voices."""
        known = {info.name: self._speakers(info.name) for info in self.voices.list() if info.type == "audio_sample"}
        model, number = self.settings.model_name, version("dia-hf")
        voices = [
            TtsVoice(
                name=name,
                attribution=_ATTRIBUTION,
                installed=True,
                description=name,
                version=None,
                languages=[self.language],
                speakers=[TtsVoiceSpeaker(speaker) for speaker in speakers] if len(speakers) > 1 else None,
            )
            for name, speakers in {_DEFAULT: [], **known}.items()
        ]
        program = TtsProgram(
            name="dia-hf",
            attribution=_ATTRIBUTION,
            installed=True,
            description=f"dia_hf: {model}",
            version=number,
            voices=voices,
            supports_synthesize_streaming=True,
        )
        return Info(tts=[program])

    def _speakers(self, name: str) -> list[str]:
        voice = self.voices.resolve(name)
        return [] if voice is None else [tag[1:-1] for tag in voice.speakers]


class _BoundedReader:
    """Reader of a connection that refuses events which are too large.

    Args:
        reader (`asyncio.StreamReader`): The reader.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.readline, self._reader = reader.readline, reader

    async def readexactly(self, number: int) -> bytes:
        """Read bytes."""
        if number > _MAX_EVENT:
            raise ValueError(f"an event has {number:,} bytes; {_MAX_EVENT:,} are the most.")
        return await self._reader.readexactly(number)

    def feed_eof(self) -> None:
        """End the connection's input."""
        self._reader.feed_eof()


class _Handler(AsyncEventHandler):
    """One connection. Events are read while an utterance is spoken, so that a disconnect is noticed at once.

    Args:
        reader, writer: The connection.
        server (`WyomingServer`): The server.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: WyomingServer) -> None:
        super().__init__(_BoundedReader(reader), writer)  # type: ignore[arg-type]
        self.server = server
        self._open: Utterance | None = None  # whose text comes in pieces
        self._waiting: asyncio.Queue[tuple[Utterance, bool]] = asyncio.Queue()
        self._utterances: list[Utterance] = []  # that are not over
        self._speaking = asyncio.ensure_future(self._speak())
        self._is_over = False  # after an error

    @property
    def is_speaking(self) -> bool:
        """Whether the audio of a text is not sent."""
        return not self._is_over and any(utterance.handle is not None for utterance in self._utterances)

    async def run(self) -> None:
        """Handle events until one side closes the connection."""
        try:
            await super().run()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        except Exception as error:  # of an event that is no JSON object, or lacks a field
            logger.warning("a connection sent a damaged event (%s) and is closed", type(error).__name__)

    async def disconnect(self) -> None:
        """Free the places of a client that has gone."""
        for utterance in self._utterances:
            utterance.cancel()
        self._utterances.clear()
        self._speaking.cancel()
        await asyncio.gather(self._speaking, return_exceptions=True)

    async def handle_event(self, event: Event) -> bool:
        """Handle an event; return whether the connection stays open."""
        if self._is_over:
            return True  # until the client closes the connection
        try:
            if Describe.is_type(event.type):
                await self._write(await asyncio.to_thread(self.server.describe))
            elif Ping.is_type(event.type):
                await self._write(Pong(Ping.from_event(event).text))
            elif SynthesizeStart.is_type(event.type):
                start = SynthesizeStart.from_event(event)
                if self._open is not None:
                    raise ApiError(400, "a text is not complete; send `synthesize-stop` before `synthesize-start`.")
                self._open = self._begin(start.voice, start.text_format, is_in_pieces=True)
            elif SynthesizeChunk.is_type(event.type):
                self._add_text(SynthesizeChunk.from_event(event).text)
            elif SynthesizeStop.is_type(event.type) and self._open is not None:
                self._open.close()
                self._open = None
            elif Synthesize.is_type(event.type) and self._open is None:
                whole = Synthesize.from_event(event)
                utterance = self._begin(whole.voice, whole.text_format, is_in_pieces=False)
                self._write_text(utterance, whole.text)
                utterance.close()
        except ApiError as error:
            await self.disconnect()
            await self._end(Error(error.message, error.code))
        return True

    def _begin(self, voice: SynthesizeVoice | None, text_format: Any, is_in_pieces: bool) -> Utterance:
        """Begin an utterance."""
        if len(self._utterances) > _MOST_WAITING:
            raise ApiError(429, f"{_MOST_WAITING} texts are waiting already; wait for `audio-stop`.")
        if text_format is not None and getattr(text_format, "value", text_format) != "text":
            raise ApiError(400, f"the text is {shortened(text_format)}; send plain text.", code="invalid_value")
        server, voice = self.server, voice or SynthesizeVoice()
        name, speaker = voice.name or server.voice, f"[{voice.speaker}]" if voice.speaker else None
        if speaker not in (None, *server.requests.speaker_tokens):
            known = ", ".join(token[1:-1] for token in server.requests.speaker_tokens)
            raise ApiError(400, f"`speaker` is {shortened(voice.speaker)}; give one of {known}.", code="invalid_value")

        async def make_request(text: TextStream) -> SpeechRequest:
            fields = SpeechFields.model_validate({"voice": name, "max_seconds": server.settings.max_seconds})
            voices = await server.requests.find_voices(fields)
            if voices is None:
                voices = dict(server.heard.voices) or None
            return server.requests.make(fields, text, voices, text.sentences[0])

        split = "sentence" if is_in_pieces else "none"
        utterance = Utterance(server.engine, make_request, split, server.language)
        if speaker is not None:
            self._write_text(utterance, f"{speaker} ")
        self._utterances.append(utterance)
        self._waiting.put_nowait((utterance, is_in_pieces))
        return utterance

    def _add_text(self, text: str) -> None:
        if self._open is None:
            raise ApiError(400, "a piece of a text has no beginning; send `synthesize-start` first.")
        self._write_text(self._open, text)

    def _write_text(self, utterance: Utterance, text: str) -> None:
        self.server.requests.check_text(text)
        if utterance.text.num_characters + len(text) > self.server.settings.max_input:
            limit = self.server.settings.max_input
            raise ApiError(400, f"the text has more than {limit:,} characters; send less.")
        with suppress(ValueError):  # closed by the engine's shutdown
            utterance.write(text)

    async def _speak(self) -> None:
        """Speak one utterance after the other."""
        while True:
            utterance, is_in_pieces = await self._waiting.get()
            try:
                await self._send_audio(utterance)
                if is_in_pieces:
                    await self._write(SynthesizeStopped())
            except Exception as error:
                await self._fail(error, utterance)
                return
            self._utterances.remove(utterance)

    async def _send_audio(self, utterance: Utterance) -> None:
        """Send the audio of an utterance."""
        server, reason = self.server, "disconnected"
        rate = server.engine.dia.sampling_rate
        form = {"rate": rate, "width": 2, "channels": 1}
        is_begun = False
        try:
            async for _, chunk, _ in utterance.audio():
                if not is_begun:
                    await self._write(AudioStart(**form))
                    is_begun = True
                if chunk is not None:
                    await self._write(AudioChunk(audio=pcm16(chunk).tobytes(), **form))
            reason = (utterance.handle and utterance.handle.finish_reason) or "stop"
        except Exception as error:
            reason = "slow_reader" if isinstance(error, asyncio.TimeoutError) else "error"
            raise
        finally:
            utterance.cancel()
            self._log(utterance, reason)
        if utterance.handle is not None:
            server.heard.add(utterance.handle)
        if not is_begun:  # a text without words
            await self._write(AudioStart(**form))
        await self._write(AudioStop())

    async def _fail(self, error: Exception, utterance: Utterance) -> None:
        """Tell an error of an utterance."""
        if isinstance(error, OSError | asyncio.TimeoutError):
            self.writer.close()
            return
        translated = error_of(error, hex(id(self)), is_checked=utterance.handle is not None)
        if translated.status == 500:
            log_error(error, hex(id(self)), self.server.settings.logs_texts)
        for other in self._utterances:
            other.cancel()
        await self._end(Error(translated.message, translated.code))

    async def _end(self, error: Error) -> None:
        """Tell an error, and end the connection: Home Assistant ignores errors, and would wait for the end.

        What the client still sends is read for a while: TCP answers unread data with a reset, and the client would lose
        the error that is on its way.
        """
        self._is_over = True
        with suppress(OSError, asyncio.TimeoutError):
            await self._write(error)
            self.writer.write_eof()
        asyncio.get_running_loop().call_later(_LINGER, self.writer.close)

    async def _write(self, message: Eventable) -> None:
        """Send an event; give up if the client takes nothing."""
        try:
            await asyncio.wait_for(self.write_event(message.event()), self.server.settings.io_timeout)
        except asyncio.TimeoutError:
            self.writer.transport.abort()
            raise

    def _log(self, utterance: Utterance, reason: str) -> None:
        first = "" if utterance.first_chunk is None else f", first chunk after {utterance.first_chunk:.3f} s"
        logger.info(
            "speech: wyoming, %d characters, %.2f s of audio%s, end after %.3f s: %s%s",
            utterance.text.num_characters,
            utterance.seconds,
            first,
            time.perf_counter() - utterance.begin,
            reason,
            f", {utterance.text.sentences!r}" if self.server.settings.logs_texts else "",
        )
