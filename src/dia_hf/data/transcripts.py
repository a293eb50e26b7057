"""Normalization of transcripts for the tokenizer: speaker and language tags, whitespace, Unicode NFC.

Rejects values that are not transcripts. Knows nothing of audio; called by `prepare.py`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from ..tokenization_dia import SPEAKER_TAG, DiaTokenizer
from .clips import AUDIO_SUFFIXES
from .config import TAG, PrepareConfig
from .rows import RowError, is_missing

__all__ = ["TAG_HINT", "Texts"]

TAG_HINT = "declare it: `extra_tags` (--extra-tag)"
_LEADING_TAG = re.compile(r"(\[[^\[\]\s]+\]) ?")
# Speaker labels of other programs; without brackets only at the begin of a turn.
_LIKE_SPEAKER_TAG = re.compile(
    r"\[\s*(?:speaker|spk|s)[ _-]?\d+\s*\]:?|(?:^|(?<=[.!?…\"”’] ))(?:speaker|spk|s)[ _-]?\d+ ?:", re.IGNORECASE
)
_NUMBER = re.compile(r"[\d\s.,:;%/+-]*\d[\d\s.,:;%/+-]*")


class Texts:
    """Normalizer of transcripts; language tags are declared as they appear.

    Attributes:
        tokenizer (`DiaTokenizer`): Tokenizer with all tags that were declared.
    """

    def __init__(self, tokenizer: DiaTokenizer, settings: PrepareConfig) -> None:
        self._speaker_tags = settings.speaker_tags
        self.tokenizer = tokenizer.with_tags(settings.extra_tags, settings.speaker_tags.values())
        for speaker, tag in self._speaker_tags.items():
            if tag not in self.tags:
                raise ValueError(
                    f"`speaker_tags` gives {speaker!r} the tag {tag!r}, but the tags are {', '.join(self.tags)}; "
                    f"{TAG_HINT}."
                )

    @property
    def tags(self) -> list[str]:
        """All tags, speakers first."""
        return [*self.tokenizer.speaker_tokens, *self.tokenizer.language_tokens]

    def _declare(self, tag: str) -> None:
        if tag not in self.tags:
            self.tokenizer = self.tokenizer.with_tags([tag])

    def make(self, raw: Any, speaker: str | None, language: str | None) -> str:
        """Return the text with its tags in Unicode NFC, with each run of whitespace replaced by a space."""
        if isinstance(raw, RowError):
            raise raw
        if is_missing(raw):
            raise RowError("empty_text", "the transcript is empty.")
        if isinstance(raw, (int, float)) or (isinstance(raw, str) and _NUMBER.fullmatch(raw.strip())):
            raise RowError(
                "text_is_number",
                f"the transcript is the number {str(raw).strip()}; name the text column, or spell the number out.",
            )
        if not isinstance(raw, str):
            raise RowError("text_not_string", f"the transcript is a {type(raw).__name__}; it must be a string.")
        text = " ".join(unicodedata.normalize("NFC", raw).split())
        if text.lower().endswith(AUDIO_SUFFIXES) and (" " not in text or re.search(r"[/\\]", text)):
            raise RowError("text_is_path", f"the transcript is a file name, {text!r}; name the text column.")
        tags = TAG.findall(text)
        for tag in tags:
            if SPEAKER_TAG.fullmatch(tag) and tag not in self.tags:
                raise RowError("unknown_tag", f"{tag} is not one of {', '.join(self.tags)}; {TAG_HINT}.")
        for found in (match[0] for match in _LIKE_SPEAKER_TAG.finditer(text)):
            if found.removesuffix(":") not in self.tags:
                raise RowError("unknown_tag", self._explain_tag(found))
        if not any(map(str.isalnum, self._without_tags(text))):  # but marks, "♪", or what cannot be seen
            raise RowError("empty_text", f"the transcript {text!r} has no words.")
        if language is not None:
            tag = language if TAG.fullmatch(language) else f"[{language}]"
            if not TAG.fullmatch(tag):
                raise RowError("unknown_language", f"the language is {language!r}; it must be one word, such as 'nl'.")
            self._declare(tag)
            text = text if tag in tags else f"{tag} {text}"
        if not any(tag in self.tokenizer.speaker_tokens for tag in tags):
            # After language tags and the like at the beginning.
            begin = 0
            while (match := _LEADING_TAG.match(text, begin)) and match[1] in self.tokenizer.language_tokens:
                begin = match.end()
            text = f"{text[:begin]}{self._tag_of(speaker)} {text[begin:]}"
        self._check(text)
        return text

    def _explain_tag(self, found: str) -> str:
        if (tag := found.upper()) in self.tags:
            return f"{found} would be read as letters; speaker tags are in upper case: write {tag}."
        return (
            f"{found!r} would be read as letters; replace it with one of {', '.join(self.tags)}, or put the speaker "
            "into a separate column and use `speaker_tags` (--speaker-tag)."
        )

    def _tag_of(self, speaker: str | None) -> str:
        if not self._speaker_tags:
            return self.tokenizer.speaker_tokens[0]
        if speaker is None or speaker not in self._speaker_tags:
            raise RowError(
                "speaker_without_tag",
                f"the speaker {speaker!r} has no tag; only {', '.join(map(repr, self._speaker_tags))} have one. Give "
                "each speaker a tag: `speaker_tags` (--speaker-tag).",
            )
        return self._speaker_tags[speaker]

    def _check(self, text: str) -> None:
        ids = {*self.tokenizer.speaker_ids.values(), *self.tokenizer.language_ids.values()}
        for character in text:
            # The lowest bytes are padding and tags; lone surrogates cannot be encoded in UTF-8.
            if (
                ord(character) < 9
                or (ord(character) < 128 and ord(character) in ids)
                or unicodedata.category(character) == "Cs"
            ):
                raise RowError("unreadable_text", f"the transcript contains the character U+{ord(character):04X}.")
        length, most = len(self.tokenizer.tokenize(text)), self.tokenizer.model_max_length
        if length > most:
            raise RowError(
                "text_too_long",
                f"the transcript has {length} ids (UTF-8 bytes, a tag counting as one); at most {most}.",
            )

    def num_characters(self, text: str) -> int:
        """Count the characters without tags and leading or trailing whitespace."""
        return len(" ".join(self._without_tags(text).split()))

    def _without_tags(self, text: str) -> str:
        for tag in self.tags:
            text = text.replace(tag, " ")
        return text
