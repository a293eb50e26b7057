"""Bodies of requests: read with a bound and a time limit, parsed and checked.

Known fields are checked, unknown ones are ignored, because clients send fields of other servers. A field that is null
counts as absent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any, Literal, NoReturn, TypeVar

from fastapi import Request
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from starlette.datastructures import FormData
from starlette.types import Message, Receive

from ..audio.encoders import FORMATS
from ..speech.options import LIMITS, check_temperature
from ..text_files import is_deep
from ..tokenization_dia import SPEAKER_TAG
from .errors import ApiError, field_error
from .settings import ServerSettings

__all__ = [
    "CaptionBody",
    "ElevenLabsBody",
    "ScriptBody",
    "SessionFields",
    "SpeechBody",
    "SpeechFields",
    "SubtitlesBody",
    "parse_json",
    "parse_script_body",
    "parse_session",
    "parse_speech",
    "parse_speech_as",
    "parse_subtitles",
    "read_form",
    "read_json",
]

_MAX_JSON = 2**20  # bytes, without a recording
_MAX_FORM_FIELD = 2**16  # bytes
_MAX_SECONDS = 1e6  # of a subtitle
_PCM_RATE = 24_000  # hertz; clients of OpenAI's API play raw PCM at this rate


class _VoiceId(BaseModel):
    id: str


def _bounded_field(name: str, default: Any = None) -> Any:
    return Field(default, **LIMITS[name])


class SpeechFields(BaseModel):
    """Fields of a request, without its text: OpenAI's, then ours.

    `instructions` has no effect. Either `audio_prompt` (base64 of a recording) with `audio_prompt_transcript`, or
    `voices` (a voice for each speaker, `{"S1": "anna", "S2": "ben"}`), is used instead of `voice`.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str = ""
    voice: str | _VoiceId | None = None
    instructions: str = ""
    response_format: str = "mp3"
    speed: float = _bounded_field("speed", 1.0)
    stream_format: Literal["audio", "sse"] = "audio"

    stream: bool = True
    voices: dict[str, str] | None = None
    audio_prompt: str | None = None
    audio_prompt_transcript: str | None = None
    seed: int | None = _bounded_field("seed")
    cfg_scale: float | None = _bounded_field("cfg_scale")
    temperature: float | None = _bounded_field("temperature")
    top_p: float | None = _bounded_field("top_p")
    cfg_filter_top_k: int | None = _bounded_field("cfg_filter_top_k")
    max_seconds: float | None = _bounded_field("max_seconds")
    sample_rate: int | None = _bounded_field("sample_rate")
    word_timestamps: bool = False

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {name: value for name, value in content.items() if value is not None}

    @field_validator("response_format")
    @classmethod
    def _check_format(cls, name: str) -> str:
        if name.lower() not in FORMATS:
            raise ValueError(f"give one of {', '.join(FORMATS)}")
        return name.lower()

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, temperature: float) -> float:
        return check_temperature(temperature)

    @property
    def voice_name(self) -> str | None:
        """Name or id of the voice."""
        return self.voice.id if isinstance(self.voice, _VoiceId) else self.voice

    def rate(self, sampling_rate: int) -> int:
        """Return the rate of the audio in hertz: 24 kHz for pcm and the model's for all others, unless given."""
        return self.sample_rate or (_PCM_RATE if self.response_format == "pcm" else sampling_rate)

    def prompt(self, max_upload: int) -> bytes | None:
        """Return the recording of `audio_prompt`; `None` without one.

        Raises:
            ApiError: If it is no base64, or larger than `max_upload` bytes.
        """
        if self.audio_prompt is None:
            return None
        encoded = self.audio_prompt.partition(",")[2] if self.audio_prompt[:5] == "data:" else self.audio_prompt
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            message = f"`audio_prompt` is no base64 ({error}); give the content of an audio file in base64."
            raise ApiError(400, message, param="audio_prompt", code="invalid_value") from None
        if len(content) > max_upload:
            raise _too_large(max_upload)
        return content


class SpeechBody(SpeechFields):
    """Body of `POST /audio/speech`."""

    input: str
    progress: bool = False

    @field_validator("input")
    @classmethod
    def _check_input(cls, text: str) -> str:
        if not SPEAKER_TAG.sub("", text).strip():
            raise ValueError("there are no words in it")
        return text

    @field_validator("word_timestamps")
    @classmethod
    def _check_word_timestamps(cls, is_wanted: bool, info: ValidationInfo) -> bool:
        if is_wanted and info.data.get("stream_format") != "sse":
            raise ValueError('raw audio has no room for times; give `stream_format` "sse"')
        return is_wanted


class CaptionBody(SpeechBody):
    """Body of `POST /dev/captioned_speech`, whose shape is Kokoro-FastAPI's, with the fields of `SpeechBody`."""

    return_timestamps: bool = True
    stream_format: Literal["audio"] = "audio"


class _VoiceSettings(BaseModel):
    """`voice_settings` of ElevenLabs; the others have no effect."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    speed: float | None = _bounded_field("speed")


class ElevenLabsBody(SpeechBody):
    """Body of `POST /text-to-speech/{voice}`, whose names are ElevenLabs', with the other fields of `SpeechBody`."""

    input: str = Field(validation_alias="text")
    model: str = Field("", validation_alias=AliasChoices("model_id", "model"))
    stream_format: Literal["audio"] = "audio"
    voice_settings: _VoiceSettings | None = None

    @model_validator(mode="after")
    def _set_speed(self) -> ElevenLabsBody:
        if self.voice_settings is not None and self.voice_settings.speed is not None:
            self.speed = self.voice_settings.speed
        return self


class SessionFields(SpeechFields):
    """Fields of `session.config` of a WebSocket, whose names vLLM-Omni and SGLang-Omni share, and those of a body.

    `stream_audio` is used instead of `stream`: whether the audio of a sentence comes in several messages.
    """

    voice: str | _VoiceId | None = Field(None, validation_alias=AliasChoices("voice", "speaker"))
    response_format: str = "wav"
    stream_audio: bool = False
    split_granularity: Literal["sentence", "clause", "none"] = "sentence"
    language: str = Field("en", max_length=64)

    @model_validator(mode="after")
    def _set_stream(self) -> SessionFields:
        self.stream = self.stream_audio
        return self


class ScriptBody(BaseModel):
    """Body of `POST /audio/script`: a text as in `SpeechBody`, which may be empty here."""

    model_config = ConfigDict(extra="ignore")

    input: str


class _SubtitleWord(BaseModel):
    """A word as the events of a stream have it."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    word: str = Field(pattern=r"^\S+$", max_length=1000)
    start: float = Field(ge=0, le=_MAX_SECONDS)
    end: float = Field(ge=0, le=_MAX_SECONDS)
    start_char: int = Field(ge=0)
    end_char: int = Field(ge=0)
    speaker: str | None = Field(None, pattern=r"^[^\s<>&]+$", max_length=64)


class SubtitlesBody(BaseModel):
    """Body of `POST /audio/subtitles`: words in order, as the events of a stream have them."""

    model_config = ConfigDict(extra="ignore")

    words: list[_SubtitleWord]
    response_format: Literal["srt", "vtt"] = "srt"

    @field_validator("words")
    @classmethod
    def _check_words(cls, words: list[_SubtitleWord]) -> list[_SubtitleWord]:
        times = [time for word in words for time in (word.start, word.end)]
        if times != sorted(times):
            raise ValueError("a word ends before it begins, or before the one before it; give them in order")
        return words


_Speech = TypeVar("_Speech", SpeechBody, CaptionBody, ElevenLabsBody)
_Body = TypeVar("_Body", SpeechBody, CaptionBody, ElevenLabsBody, ScriptBody)


def _too_large(limit: int) -> ApiError:
    message = f"the body or its recording has more than {limit:,} bytes; send less."
    # The connection stays open, and the rest is read and dropped: closed with bytes unread, it would be reset, and the
    # client would not see the error.
    return ApiError(413, message, code="body_too_large")


def _bounded(receive: Receive, limit: int, timeout: float) -> Receive:
    """Return a `receive` that raises where the body is too large or does not come."""
    num_bytes = 0

    async def bounded() -> Message:
        nonlocal num_bytes
        try:
            message = await asyncio.wait_for(receive(), timeout)
        except asyncio.TimeoutError:
            text = f"nothing of the body has come for {timeout:g} s; send the request again."
            raise ApiError(408, text, code="timeout", headers={"connection": "close"}) from None
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise _too_large(limit)
        return message

    return bounded


def _with_bound(request: Request, limit: int, timeout: float) -> Request:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)
    return Request(request.scope, _bounded(request.receive, limit, timeout))


async def read_json(request: Request, settings: ServerSettings) -> bytes:
    """Read a body of JSON, with room for a recording in base64.

    Raises:
        ApiError: If its type is another one, it is too large, or it does not come.
        ClientDisconnect: If the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        # Pages of any origin may send other types without asking (CORS).
        raise ApiError(415, f"the body is {kind[:100]!r}; send JSON with `Content-Type: application/json`.")
    limit = _MAX_JSON + settings.max_upload * 4 // 3
    return await _with_bound(request, limit, settings.io_timeout).body()


async def read_form(request: Request, settings: ServerSettings) -> FormData:
    """Read a body of multipart form data with at most one file; the caller closes it.

    Raises:
        ApiError: If its type is another one, it is damaged, too large, or does not come.
        ClientDisconnect: If the client has gone.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(415, f"the body is {kind[:100]!r}; send multipart/form-data, with the recording as a file.")
    bounded = _with_bound(request, settings.max_upload + _MAX_JSON, settings.io_timeout)
    try:
        return await bounded.form(max_files=1, max_fields=20, max_part_size=_MAX_FORM_FIELD)
    except (ValueError, LookupError) as error:  # of the parser, of names of encodings
        raise ApiError(400, f"the form is damaged ({type(error).__name__}); send multipart/form-data.") from None


def parse_json(content: bytes) -> Any:
    """Parse JSON in UTF-8, as standardized: without NaN and Infinity, at most 60 levels deep.

    Raises:
        ApiError: If it is none.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number in JSON")

    try:
        parsed = json.loads(content.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not in UTF-8 (at byte {error.start}); send JSON in UTF-8.") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply; send a flat JSON object.") from None
    except ValueError as error:
        reason = str(error).partition(";")[0]  # without advice for programs, about numbers of 4,300 digits
        raise ApiError(400, f"the body is no JSON ({reason}); send a JSON object.") from None
    if is_deep(parsed):
        raise ApiError(400, "the body is nested too deeply; send a flat JSON object.")
    if b"\\u" in content:
        try:
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            message = (
                "the body has half of a surrogate pair (such as \\ud83d alone), which is no character; send the whole."
            )
            raise ApiError(400, message) from None
    return parsed


def parse_speech(content: bytes, settings: ServerSettings) -> SpeechBody:
    """Parse and check a body of `POST /audio/speech`; see `parse_speech_as`."""
    return parse_speech_as(SpeechBody, content, settings)


def parse_speech_as(kind: type[_Speech], content: bytes, settings: ServerSettings) -> _Speech:
    """Parse and check a body of a route that answers with speech.

    Args:
        kind (`type`): Its class.
        content (`bytes`): The body.
        settings (`ServerSettings`): With the limits of `input` and `max_seconds`.

    Raises:
        ApiError: If it is no JSON object, or a field is wrong; it names the field.
    """
    body = _validate(kind, content, settings)
    _limit_seconds(body, settings)
    return body


def parse_session(message: dict[str, Any], settings: ServerSettings) -> SessionFields:
    """Check the message `session.config`, whose fields may be in an object `session`.

    Args:
        message (`dict`): The message.
        settings (`ServerSettings`): With the limit of `max_seconds`.

    Raises:
        ApiError: If a field is wrong; it names the field.
    """
    try:
        fields = SessionFields.model_validate(message if message.get("session") is None else message["session"])
    except ValidationError as error:
        raise field_error(error) from None
    _limit_seconds(fields, settings)
    return fields


def _limit_seconds(fields: SpeechFields, settings: ServerSettings) -> None:
    if settings.max_seconds is None:
        return
    if fields.max_seconds is not None and fields.max_seconds > settings.max_seconds:
        message = f"`max_seconds` is {fields.max_seconds:g}; this server generates at most {settings.max_seconds:g} s."
        raise ApiError(400, message, param="max_seconds", code="invalid_value")
    fields.max_seconds = fields.max_seconds or settings.max_seconds


def parse_subtitles(content: bytes) -> SubtitlesBody:
    """Parse and check a body of `POST /audio/subtitles`.

    Args:
        content (`bytes`): The body.

    Raises:
        ApiError: If it is no JSON object, or a field is wrong; it names the field.
    """
    try:
        return SubtitlesBody.model_validate(parse_json(content))
    except ValidationError as error:
        raise field_error(error) from None


def parse_script_body(content: bytes, settings: ServerSettings) -> ScriptBody:
    """Parse and check a body of `POST /audio/script`.

    Args:
        content (`bytes`): The body.
        settings (`ServerSettings`): With the limit of `input`.

    Raises:
        ApiError: If it is no JSON object, or `input` is missing, no text or too long.
    """
    return _validate(ScriptBody, content, settings)


def _validate(kind: type[_Body], content: bytes, settings: ServerSettings) -> _Body:
    try:
        body = kind.model_validate(parse_json(content))
    except ValidationError as error:
        raise field_error(error) from None
    if len(body.input) > settings.max_input:
        name = str(kind.model_fields["input"].validation_alias or "input")
        message = f"`{name}` has {len(body.input):,} characters; give at most {settings.max_input:,}."
        raise ApiError(400, message, param=name, code="string_above_max_length")
    return body
