"""Fields of a client's request to a request of the engine: text, voices, parameters."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from ..speech.handle import SpeechRequest
from ..speech.live_timeline import Unit
from ..speech.script import split_prefix
from ..speech.text_stream import TextStream
from ..speech.voices import Voice, voice_of_first_speaker
from ..text_files import shortened
from ..tokenization_dia import DiaTokenizer, speaker_tag
from .captions import TimestampModels
from .errors import ApiError
from .requests import SpeechFields
from .settings import ServerSettings
from .voices import ServedVoices

__all__ = ["SpeechRequests", "Voices"]

Voices = dict[str, Voice] | Voice | None


class SpeechRequests:
    """Maker of requests.

    Args:
        voices (`ServedVoices`): The voices on offer.
        settings (`ServerSettings`): Settings, with the limit of a recording.
        tokenizer (`DiaTokenizer`): The tokenizer.

    Attributes:
        times (`TimestampModels`): To be awaited before requests that ask for times.
    """

    def __init__(self, voices: ServedVoices, settings: ServerSettings, tokenizer: DiaTokenizer) -> None:
        self.voices, self.settings, self.tokenizer = voices, settings, tokenizer
        self.speaker_tokens: tuple[str, ...] = tuple(tokenizer.speaker_tokens)
        self.times = TimestampModels()
        # One recording at a time is made a voice: further ones wait here, and not in threads that others need.
        self.recordings = asyncio.Semaphore(1)

    def with_speaker(self, text: str) -> str:
        """Give a text that begins with no speaker's tag that of the first speaker, behind the tag of a language."""
        prefix, spoken = split_prefix(text, self.tokenizer.language_tokens)
        if spoken.lstrip().startswith(self.speaker_tokens):
            return text
        return " ".join([prefix] * bool(prefix) + [self.speaker_tokens[0], spoken.lstrip()])

    def check_text(self, text: str) -> None:
        """Check a piece of a text.

        Raises:
            ApiError: If it has control characters that the tokenizer refuses.
        """
        try:
            self.tokenizer.check_text(text)
        except ValueError as error:
            raise ApiError(400, str(error), param="text", code="invalid_value") from None

    async def find_voices(self, fields: SpeechFields) -> Voices:
        """Return the voices that a request names, or whose recording it has.

        Args:
            fields (`SpeechFields`): The fields.

        Raises:
            ApiError: If there is no such voice, or the recording cannot be used.
        """
        async with self.recordings if fields.audio_prompt is not None else nullcontext():
            return await asyncio.to_thread(self._find_voices, fields)

    def _find_voices(self, fields: SpeechFields) -> Voices:
        param = "voice"
        try:
            content = fields.prompt(self.settings.max_upload)
            if content is not None:
                param = "audio_prompt"
                return self.voices.from_recording(content, fields.audio_prompt_transcript)
            if fields.voices is None:
                return self.voices.resolve(fields.voice_name)
            param = "voices"
            named = {}
            for speaker, name in fields.voices.items():
                tag = speaker_tag(speaker)
                if tag not in self.speaker_tokens:
                    raise ValueError(
                        f"`voices` names the speaker {shortened(speaker)}; give some of "
                        f"{', '.join(token[1:-1] for token in self.speaker_tokens)}."
                    )
                if (voice := self.voices.resolve(name)) is not None:
                    named[tag] = voice
            return named or None
        except ValueError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from None

    def make(
        self,
        fields: SpeechFields,
        text: str | TextStream,
        voices: Voices,
        beginning: str,
        is_streamed: bool = True,
        timestamps: Unit | None = None,
        script: str | None = None,
    ) -> SpeechRequest:
        """Make a request.

        Args:
            fields (`SpeechFields`): The fields.
            text (`str` or `TextStream`): The text.
            voices (*optional*): From `find_voices`; one of a single speaker is given to the first speaker.
            beginning (`str`): The text as far as it is known, for the first speaker.
            is_streamed (`bool`, defaults to `True`): See `SpeechRequest`.
            timestamps (`str`, *optional*): See `SpeechRequest`; "word" unless given, if the fields ask for them.
            script (`str`, *optional*): See `SpeechRequest`.
        """
        if voices is not None and not isinstance(voices, dict):
            voices = voice_of_first_speaker(voices, beginning, self.speaker_tokens)
        return SpeechRequest(
            text,
            voices=voices,
            seed=fields.seed,
            cfg_scale=fields.cfg_scale,
            temperature=fields.temperature,
            top_p=fields.top_p,
            cfg_filter_top_k=fields.cfg_filter_top_k,
            max_seconds=fields.max_seconds,
            is_streamed=is_streamed,
            timestamps=timestamps or ("word" if fields.word_timestamps else None),
            script=script,
        )
