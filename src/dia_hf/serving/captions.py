"""Word and character times in the shapes that clients know: OpenAI's, Kokoro-FastAPI's and ElevenLabs'.

Times are those of the audio that is sent, `SpeechEncoding.moved`; places are characters (code points) of the text as it
was sent. `TimestampModels` has the alignment heads of a model found, once.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from ..audio.encoders import FORMATS
from ..speech.dia import Dia
from ..speech.options import LIMITS
from ..speech.subtitles import format_subtitles
from ..speech.timestamps import TimedText
from .errors import ApiError
from .requests import SubtitlesBody

__all__ = [
    "CaptionedSpeech",
    "CharacterAlignment",
    "Shape",
    "TimestampModels",
    "describe_words",
    "split_output_format",
    "subtitles_of",
]

_OUTPUT_FORMAT = re.compile(r"(mp3|pcm|opus|wav)_(\d{4,6})(?:_\d{2,3})?", re.ASCII)


def describe_words(words: Sequence[TimedText]) -> list[dict[str, Any]]:
    """Return words as OpenAI's transcriptions have them (`word`, `start`, `end`), with place and speaker."""
    return [
        {
            "word": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "start_char": word.start_char,
            "end_char": word.end_char,
            "speaker": word.speaker,
        }
        for word in words
    ]


class Shape(Protocol):
    """A JSON object for audio with its times: one for the whole, or one a line for each part of a stream."""

    def add(self, audio: bytes, times: Sequence[TimedText], is_last: bool) -> dict[str, Any] | None:
        """Return the object of the next part of the audio, with the times that end in it; `None` if it has nothing."""
        ...


class CaptionedSpeech:
    """Shape of Kokoro-FastAPI's `/dev/captioned_speech`.

    Args:
        response_format (`str`): Format of the audio.
    """

    def __init__(self, response_format: str) -> None:
        self._content_type = FORMATS[response_format].content_type

    def add(self, audio: bytes, times: Sequence[TimedText], is_last: bool) -> dict[str, Any] | None:
        """Return the object of the next part; `timestamps` has the words that end in it."""
        if not audio and not times:
            return None
        words = [
            {"word": word.text, "start_time": round(word.start, 3), "end_time": round(word.end, 3)} for word in times
        ]
        encoded = base64.b64encode(audio).decode("ascii")
        return {"audio": encoded, "audio_format": self._content_type, "timestamps": words}


class CharacterAlignment:
    """Shape of ElevenLabs' `with-timestamps`: every character of the text once, in order, with its time.

    Characters without a time, such as white space and tags, have the end of the one before, and the last of them lasts
    until the next one begins.

    Args:
        text (`str`): The text as it was sent.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._num_told = 0
        self._end = 0.0

    def add(self, audio: bytes, times: Sequence[TimedText], is_last: bool) -> dict[str, Any] | None:
        """Return the object of the next part; `alignment` has the characters up to the last one that ends in it."""
        found = self._align(times, is_last)
        if not audio and found is None:
            return None
        encoded = base64.b64encode(audio).decode("ascii")
        return {"audio_base64": encoded, "alignment": found, "normalized_alignment": found}

    def _align(self, times: Sequence[TimedText], is_last: bool) -> dict[str, list[Any]] | None:
        begin, starts, ends = self._num_told, [], []
        for one in times:
            num_between = one.start_char - self._num_told
            starts += [self._end] * num_between
            ends += [self._end] * num_between
            start = max(one.start, self._end)
            if num_between:
                ends[-1] = start
            self._end = max(one.end, start)
            starts.append(start)
            ends.append(self._end)
            self._num_told = one.end_char
        if is_last:
            num_left = len(self._text) - self._num_told
            starts += [self._end] * num_left
            ends += [self._end] * num_left
            self._num_told = len(self._text)
        if not starts:
            return None
        return {
            "characters": list(self._text[begin : self._num_told]),
            "character_start_times_seconds": [round(time, 3) for time in starts],
            "character_end_times_seconds": [round(time, 3) for time in ends],
        }


def subtitles_of(body: SubtitlesBody) -> str:
    """Return the subtitles of words, see `format_subtitles`."""
    words = [TimedText(one.word, one.start, one.end, one.start_char, one.end_char, one.speaker) for one in body.words]
    return format_subtitles(words, f".{body.response_format}")


def split_output_format(name: str) -> tuple[str, int]:
    """Return format and sampling rate of ElevenLabs' `output_format`, such as "mp3_44100_128"; the bit rate is ours.

    Raises:
        ApiError: If it is another one.
    """
    match = _OUTPUT_FORMAT.fullmatch(name)
    if match is None:
        known = "mp3_44100_128, opus_48000_64, pcm_24000, wav_44100"
        message = f"`output_format` is {name[:100]!r}; give one such as {known}."
        raise ApiError(400, message, param="output_format", code="invalid_value")
    rate, limits = int(match[2]), LIMITS["sample_rate"]
    if not limits["ge"] <= rate <= limits["le"]:
        message = f"`output_format` is {name!r}; give a rate from {limits['ge']:,} to {limits['le']:,} hertz."
        raise ApiError(400, message, param="output_format", code="invalid_value")
    return match[1], rate


class TimestampModels:
    """The models that have been asked for times. One without alignment heads has them found in speech of its own.

    That takes as long as four sentences, once; requests that need no times go on meanwhile.
    """

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Dia, asyncio.Future[str | None]] = WeakKeyDictionary()  # why there are none

    async def prepare(self, dia: Dia) -> None:
        """Wait until the heads of a model are known.

        Raises:
            ApiError: If no head follows the text.
        """
        if dia not in self._found:
            self._found[dia] = asyncio.ensure_future(asyncio.to_thread(_find_heads, dia))
        reason = await asyncio.shield(self._found[dia])  # which goes on if this client leaves
        if reason is not None:
            message = f"this model has no times of words: {reason}"
            raise ApiError(400, message, param="word_timestamps", code="no_timestamps")


def _find_heads(dia: Dia) -> str | None:
    """Have the heads of a model found; return why there are none."""
    try:
        dia.alignment_heads()
    except ValueError as error:
        return str(error)
    return None
