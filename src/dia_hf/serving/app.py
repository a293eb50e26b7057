"""Routes of the server, with and without `/v1`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from ..speech.engine import SpeechEngine
from ..speech.live_timeline import Unit
from ..text_files import shortened
from .adapters import AdapterEngines, find_engine
from .body import SpeechResponse
from .captions import CaptionedSpeech, CharacterAlignment, Shape, split_output_format, subtitles_of
from .errors import ApiError, error_of
from .gate import Gate
from .metrics import Metrics
from .requests import (
    CaptionBody,
    ElevenLabsBody,
    SpeechBody,
    parse_json,
    parse_script_body,
    parse_speech_as,
    parse_subtitles,
    read_form,
    read_json,
)
from .scripts import describe_script
from .settings import ServerSettings, ServerStatus
from .speech_requests import SpeechRequests
from .voices import ServedVoices, VoiceInfo
from .websocket import SpeechSession

__all__ = ["create_app"]

_MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
_LARGE = 2**16  # bytes of JSON, a recording in base64; it is parsed in a thread
_EXPOSED = ("x-request-id", "x-seed", "x-sample-rate", "x-finish-reason", "x-input-tokens", "x-output-tokens")
_GET = ["GET", "HEAD"]
_SUBTITLES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
# Ends of ElevenLabs' routes, whether they stream, and whether they tell times.
_ELEVENLABS = (
    ("", False, False),
    ("/stream", True, False),
    ("/with-timestamps", False, True),
    ("/stream/with-timestamps", True, True),
)

_Body = TypeVar("_Body", SpeechBody, CaptionBody, ElevenLabsBody)


def create_app(
    engine: SpeechEngine | AdapterEngines,
    voices: ServedVoices,
    settings: ServerSettings | None = None,
    status: ServerStatus | None = None,
) -> FastAPI:
    """Create the ASGI app.

    Args:
        engine (`SpeechEngine` or `AdapterEngines`): The engine of all requests, or also those of adapters, which a
            request chooses by its `model`. The caller closes it.
        voices (`ServedVoices`): The voices on offer.
        settings (`ServerSettings`, *optional*): Settings; the defaults unless given.
        status (`ServerStatus`, *optional*): State, which the caller changes; ready unless given.

    Returns:
        `FastAPI`: The app.
    """
    settings, status = settings or ServerSettings(), status or ServerStatus()
    metrics = Metrics(engine)
    routes = _Routes(engine, voices, settings, status, metrics)
    app = FastAPI(title="dia-hf", version=version("dia-hf"), docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.metrics = metrics
    for prefix in ("", "/v1"):
        app.include_router(routes.router(), prefix=prefix)
    app.add_api_route("/v1", routes.show_root, methods=_GET)
    app.add_exception_handler(ApiError, _send_error)
    app.add_exception_handler(HTTPException, _send_error)
    app.add_middleware(Gate, settings=settings, status=status, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    return app


async def _send_error(request: Request, error: Exception) -> Response:
    return error_of(error, request.state.request_id).response()


class _Routes:
    """Handlers of the routes."""

    def __init__(
        self,
        engine: SpeechEngine | AdapterEngines,
        voices: ServedVoices,
        settings: ServerSettings,
        status: ServerStatus,
        metrics: Metrics,
    ) -> None:
        self.engine, self.voices, self.settings, self.status, self.metrics = engine, voices, settings, status, metrics
        self.created = int(time.time())
        adapters = engine.names if isinstance(engine, AdapterEngines) else ()
        self.models = tuple(dict.fromkeys((settings.model_name, *adapters, *_MODEL_ALIASES)))
        self.requests = SpeechRequests(voices, settings, engine.dia.processor.tokenizer)

    def router(self) -> APIRouter:
        """Return the routes; bodies are read by the handlers, with bounds, and not by FastAPI."""
        router = APIRouter()
        speech = {"content": {"application/json": {"schema": SpeechBody.model_json_schema()}}, "required": True}
        router.add_api_route("/audio/speech", self.speak, methods=["POST"], openapi_extra={"requestBody": speech})
        router.add_api_route("/dev/captioned_speech", self.speak_captioned, methods=["POST"])
        for path, is_streamed, is_timed in _ELEVENLABS:
            handler = self._aligned(is_streamed, is_timed)
            router.add_api_route(f"/text-to-speech/{{voice_id}}{path}", handler, methods=["POST"])
        router.add_api_route("/audio/script", self.check_script, methods=["POST"])
        router.add_api_route("/audio/subtitles", self.make_subtitles, methods=["POST"])
        router.add_api_websocket_route("/audio/speech/stream", self.stream)
        router.add_api_route("/audio/voices", self.list_or_add_voices, methods=[*_GET, "POST"])
        router.add_api_route("/audio/voices/{voice_id}", self.delete_voice, methods=["DELETE"])
        router.add_api_route("/audio/models", self.list_audio_models, methods=_GET)
        router.add_api_route("/models", self.list_models, methods=_GET)
        router.add_api_route("/models/{model_id:path}", self.show_model, methods=_GET)
        router.add_api_route("/health", self.show_health, methods=_GET)
        router.add_api_route("/ready", self.show_readiness, methods=_GET)
        router.add_api_route("/metrics", self.show_metrics, methods=_GET)
        router.add_api_route("/", self.show_root, methods=_GET)
        return router

    async def speak(self, request: Request) -> Response:
        """Generate speech."""
        return await self._respond(request, await self._read_speech(request, SpeechBody))

    async def speak_captioned(self, request: Request) -> Response:
        """Generate speech with the times of words, in the shape of Kokoro-FastAPI."""
        body = await self._read_speech(request, CaptionBody)
        unit: Unit | None = "word" if body.return_timestamps else None
        return await self._respond(request, body, CaptionedSpeech(body.response_format), unit)

    def _aligned(self, is_streamed: bool, is_timed: bool) -> Callable[[Request, str], Awaitable[Response]]:
        """Return the handler of a route of ElevenLabs."""

        async def speak_aligned(request: Request, voice_id: str) -> Response:
            """Generate speech, with the times of characters on some routes, in the shape of ElevenLabs."""
            output_format = request.query_params.get("output_format", "mp3_44100_128")
            body = await self._read_speech(request, ElevenLabsBody)
            body.response_format, body.sample_rate = split_output_format(output_format)
            body.voice, body.stream = voice_id, is_streamed
            if not is_timed:
                return await self._respond(request, body)
            return await self._respond(request, body, CharacterAlignment(body.input), "char")

        return speak_aligned

    async def _read_speech(self, request: Request, kind: type[_Body]) -> _Body:
        content = await read_json(request, self.settings)
        if len(content) < _LARGE:
            return parse_speech_as(kind, content, self.settings)
        return await asyncio.to_thread(parse_speech_as, kind, content, self.settings)

    async def _respond(
        self, request: Request, body: SpeechBody, shape: Shape | None = None, unit: Unit | None = None
    ) -> Response:
        text = self.requests.with_speaker(body.input.strip())
        voices = await self.requests.find_voices(body)
        speech = self.requests.make(body, text, voices, text, body.stream, unit, script=body.input)
        engine = await find_engine(self.engine, body.model)
        if speech.timestamps is not None:
            await self.requests.times.prepare(engine.dia)
        return SpeechResponse(request, body, speech, engine, self.settings, self.metrics, shape)

    async def check_script(self, request: Request) -> Response:
        """Check a text without generating: turns, issues with their places, chunks with estimated durations."""
        body = parse_script_body(await read_json(request, self.settings), self.settings)
        return JSONResponse(await asyncio.to_thread(describe_script, self.engine.dia, body.input))

    async def make_subtitles(self, request: Request) -> Response:
        """Make subtitles of words, such as those of a stream."""
        content = await read_json(request, self.settings)
        body = await asyncio.to_thread(parse_subtitles, content)
        subtitles = await asyncio.to_thread(subtitles_of, body)
        return Response(subtitles, media_type=f"{_SUBTITLES[body.response_format]}; charset=utf-8")

    async def stream(self, socket: WebSocket) -> None:
        """Generate speech of text that comes in pieces."""
        session = SpeechSession(socket, self.requests, self.engine, self.settings, self.metrics)
        self.status.sessions.add(session)
        await session.run()

    async def list_or_add_voices(self, request: Request) -> Response:
        """Do what the method says; with a route for each, `Allow` would have the methods of the first one only."""
        return await (self.add_voice(request) if request.method == "POST" else self.list_voices())

    async def list_voices(self) -> Response:
        """List voices, in the forms that clients expect: OpenAI's lists, and a list under `voices`."""
        infos = await asyncio.to_thread(self.voices.list)
        names = [{"id": info.id, "name": info.name} for info in infos]
        return JSONResponse({"object": "list", "data": [_voice(info) for info in infos], "voices": names})

    async def add_voice(self, request: Request) -> Response:
        """Save a voice from an uploaded recording."""
        if request.headers.get("content-type", "").startswith("application/json"):
            parse_json(await read_json(request, self.settings))
            raise ApiError(400, "voices are made of recordings here; send multipart/form-data with `audio_sample`.")
        form = await read_form(request, self.settings)
        try:
            sample = form.get("audio_sample")
            name, kind = _text_field(form, "name"), _text_field(form, "type")
            transcript, consent = _text_field(form, "transcript"), _text_field(form, "consent")
            if kind not in (None, "audio_sample"):
                message = f"`type` is {shortened(kind)}; voices are made of recordings here: give 'audio_sample'."
                raise ApiError(400, message, param="type", code="invalid_value")
            if not isinstance(sample, UploadFile):
                raise ApiError(400, "`audio_sample` is missing; send the recording as a file.", param="audio_sample")
            if not name:
                raise ApiError(400, "`name` is missing; give the voice a name.", param="name")
            content = await sample.read()
            if len(content) > self.settings.max_upload:
                message = f"the recording has {len(content):,} bytes; send at most {self.settings.max_upload:,}."
                raise ApiError(413, message, param="audio_sample", code="body_too_large")
            async with self.requests.recordings:
                info = await asyncio.to_thread(self.voices.add, name, content, sample.filename, transcript, consent)
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_value") from None
        finally:
            await form.close()
        return JSONResponse(_voice(info))

    async def delete_voice(self, voice_id: str) -> Response:
        """Delete a saved voice."""
        try:
            info = await asyncio.to_thread(self.voices.delete, voice_id)
        except KeyError as error:
            raise ApiError(404, f"{error.args[0]}; GET /v1/audio/voices lists them.", code="voice_not_found") from None
        return JSONResponse({"id": info.id, "deleted": True, "object": "audio.voice.deleted"})

    async def list_models(self) -> Response:
        """List the model, its adapters, and the names that clients of OpenAI's API ask for."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self.models]})

    async def list_audio_models(self) -> Response:
        """List models as Open WebUI asks for them."""
        return JSONResponse({"models": [{"id": name} for name in self.models]})

    async def show_model(self, model_id: str) -> Response:
        """Describe a model."""
        if model_id not in self.models:
            message = f"there is no model {model_id[:100]!r}; this server has {self.settings.model_name!r}."
            raise ApiError(404, message, param="model", code="model_not_found")
        return JSONResponse(self._model(model_id))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.created, "owned_by": "dia-hf"}

    async def show_health(self) -> Response:
        """Answer as long as the server is alive."""
        return JSONResponse({"status": "ok"})

    async def show_readiness(self) -> Response:
        """Answer with 200 when the warm-up is over and until the shutdown begins."""
        if self.status.is_draining:
            raise ApiError.draining()
        if not self.status.is_ready:
            raise ApiError.not_ready()
        return JSONResponse({"status": "ready"})

    async def show_metrics(self) -> Response:
        """Return the metrics in Prometheus' format."""
        return Response(await self.metrics.collect(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def show_root(self) -> Response:
        """Answer to clients that warm up their connection."""
        return JSONResponse({"name": "dia-hf", "speech": "/v1/audio/speech"})


def _text_field(form: FormData, name: str) -> str | None:
    """Return a field of a form; `None` if it is missing or empty."""
    value = form.get(name)
    if isinstance(value, UploadFile):
        raise ApiError(400, f"`{name}` is a file; send a text.", param=name, code="invalid_value")
    return value or None


def _voice(info: VoiceInfo) -> dict[str, Any]:
    described = {"id": info.id, "object": "audio.voice", "created_at": info.created_at}
    return {**described, "name": info.name, "type": info.type}
