"""Text that comes in pieces, such as the tokens of a language model: its sentences, as soon as they are complete.

`SentenceSplitter` finds them, `TextStream` hands them from the thread that writes to the engine, and `StreamedDialogue`
makes each one a chunk of its own. So the chunks, and with a seed the audio, depend on the text and not on its pace.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from sentencex import segment

from ..text_files import shortened
from ..tokenization_dia import SPEAKER_TAG
from .dialogue import Dialogue
from .script import estimate_seconds, parse_part, split_prefix

__all__ = ["SETTLE_SECONDS", "SPLITS", "SentenceSplitter", "StreamedDialogue", "TextStream"]

SPLITS = ("sentence", "clause", "none")

SETTLE_SECONDS = 0.25
"""Seconds without a further piece after which writers call `TextStream.settle`."""

_PROBE = "Xyz"  # stands for the text to come; a name, as after "Dr."
_CLOSING = "\"'”’»)」』）"
_WIDE_END = re.compile(f"[。！？｡．][{_CLOSING}]*$")  # of a sentence that no space follows
_CLAUSE_END = re.compile(rf"[,;:،؛…–—][{_CLOSING}]*\s$")
_LAST_CLAUSE = re.compile(rf".*[,;:،؛…–—][{_CLOSING}]*\s", re.DOTALL)
_OPEN = re.compile(r"[(\[](?!\s)[^()\[\]]{0,60}$")  # an open bracket, which is no face such as :(
_TAG = re.compile(r"\[[^\[\]\s]*\]")  # of a speaker, a language, a style
_LAST_TAG = re.compile(f"{SPEAKER_TAG.pattern}$")
_SHORTEST_CLAUSE = 1.0  # seconds; shorter ones stay with the next
_LONGEST = 15.0  # seconds after which text without an end is cut
_LONGEST_NUMBERS = 200  # characters after which text without letters is cut


class SentenceSplitter:
    """Split text that comes in pieces into sentences.

    How the text is cut into pieces makes no difference. A sentence is complete at the white space after its end, or at
    the tag of the next speaker. Sentences without letters, such as "1.", stay with the next. Text of more than 15 s
    without an end is cut after a clause or a word.

    Args:
        split (`str`, defaults to `"sentence"`): "sentence"; "clause": also after commas and the like, if the clause
            takes a second or more; "none": the whole text is one, at its end.
        language (`str`, defaults to `"en"`): Language code for `sentencex`.

    Attributes:
        sources (`list[str]`): The sentences that are complete, as they were written; joined, they are the text.

    Raises:
        ValueError: If `split` is unknown.

    Example:
    ```python
    >>> from dia_hf.speech.text_stream import SentenceSplitter
    >>> splitter = SentenceSplitter()
    >>> splitter.feed("Dr. Smith is in. He a"), splitter.feed("sks for you. "), splitter.flush()
    (['Dr. Smith is in.'], ['He asks for you.'], [])

    ```
    """

    def __init__(self, split: str = "sentence", language: str = "en") -> None:
        if split not in SPLITS:
            raise ValueError(f"`split` is {shortened(split)}; give one of {', '.join(SPLITS)}.")
        self.split, self.language = split, language
        self.sources: list[str] = []
        self._text = ""  # that is in no sentence yet

    @property
    def is_empty(self) -> bool:
        """Whether no words are left that are in no sentence yet."""
        return not _has_words(self._text)

    def feed(self, piece: str) -> list[str]:
        """Add a piece of the text.

        Args:
            piece (`str`): Any part of it, of any length.

        Returns:
            `list[str]`: The sentences that are complete now, with single spaces.
        """
        sentences = []
        for character in piece:
            before, self._text = self._text, self._text + character
            if self.split == "none":
                continue
            if character.isspace():
                end = self._end_at_space()
            elif character == "]" and (tag := _LAST_TAG.search(self._text)):
                end = tag.start()
            else:
                end = len(before) if character not in _CLOSING and _WIDE_END.search(before) else 0
            if end and (_has_letters(self._text[:end]) or end == len(self._text) > _LONGEST_NUMBERS):
                sentences.append(self._cut(end))
        return sentences

    def settle(self) -> list[str]:
        """Take the end of a sentence at the end of the text as one, because nothing has followed for a while."""
        if self.split == "none" or not _has_letters(self._text) or not self._is_end(f"{self._text.rstrip()} "):
            return []
        return self.flush()

    def flush(self) -> list[str]:
        """Return the rest, if there are words in it, as the last sentence."""
        if not _has_words(self._text):
            self._text = ""
            return []
        return [self._cut(len(self._text))]

    def _cut(self, end: int) -> str:
        """Take a sentence of this length from the text; return it with single spaces."""
        self.sources.append(self._text[:end])
        self._text = self._text[end:]
        return " ".join(self.sources[-1].split())

    def _end_at_space(self) -> int:
        """Return the length of the sentence at the beginning, 0 if it is not complete at this white space."""
        if not _has_words(self._text):
            return 0
        if len(self._text) > _LONGEST_NUMBERS and not _has_letters(self._text):
            return len(self._text)
        if self._is_end(self._text):
            return len(self._text)
        seconds = estimate_seconds(_TAG.sub("", self._text))
        if self.split == "clause" and seconds >= _SHORTEST_CLAUSE and _CLAUSE_END.search(self._text):
            return len(self._text)
        if seconds > _LONGEST:
            clauses = _LAST_CLAUSE.match(self._text)
            return clauses.end() if clauses is not None else len(self._text)
        return 0

    def _is_end(self, text: str) -> bool:
        """Return whether a sentence ends with the white space at the end of a text."""
        return not _OPEN.search(text) and segment(self.language, text + _PROBE)[-1] == _PROBE


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, _TAG.sub("", text)))


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, _TAG.sub("", text)))


class TextStream:
    """Text of a `SpeechRequest` that comes in pieces, written by any thread.

    Args:
        split, language (*optional*): See `SentenceSplitter`.

    Attributes:
        sentences (`list[str]`): The sentences that are complete.
        sources (`list[str]`): These sentences as they were written; joined, they are the text.
        num_characters (`int`): Characters that were written.
        is_closed (`bool`): Whether the text is complete.

    Raises:
        ValueError: If `split` is unknown.

    Example:
    ```python
    >>> from dia_hf import Dia
    >>> from dia_hf.speech import SpeechEngine, SpeechRequest, TextStream
    >>> text = TextStream()
    >>> with SpeechEngine(Dia.from_pretrained()) as engine:
    ...     handle = engine.submit(SpeechRequest(text, seed=7))
    ...     text.write("Hello, I am Dia. ")
    ...     first = next(handle)  # the sound of the first sentence, before the second is written
    ...     text.write("Welcome.")
    ...     text.close()
    ...     rest = sum(len(chunk) for chunk in handle)
    >>> text.sentences
    ['Hello, I am Dia.', 'Welcome.']

    ```
    """

    def __init__(self, split: str = "sentence", language: str = "en") -> None:
        self.sentences: list[str] = []
        self.num_characters = 0
        self.is_closed = False
        self._splitter = SentenceSplitter(split, language)
        self._changed: Callable[[], None] | None = None
        self._lock = threading.RLock()

    @property
    def sources(self) -> list[str]:
        """The sentences that are complete, as they were written."""
        return self._splitter.sources

    @property
    def is_settled(self) -> bool:
        """Whether all words are in sentences that are complete."""
        return self._splitter.is_empty

    def write(self, piece: str) -> None:
        """Add a piece of the text.

        Args:
            piece (`str`): Any part of it, of any length.

        Raises:
            TypeError: If it is no string.
            ValueError: If the text is closed.
        """
        if not isinstance(piece, str):
            raise TypeError(f"a piece of the text is {shortened(piece)}; give strings.")
        with self._lock:
            if self.is_closed:
                raise ValueError("the text is closed; begin another one: `TextStream()`.")
            self.num_characters += len(piece)
            self._add(self._splitter.feed(piece))

    def settle(self) -> None:
        """Take the end of a sentence at the end of the text as one, because nothing has followed for a while."""
        with self._lock:
            self._add(self._splitter.settle())

    def close(self) -> None:
        """End the text; the rest of it is the last sentence."""
        with self._lock:
            if not self.is_closed:
                rest = self._splitter.flush()
                self.sentences += rest
                self.is_closed = True
                self._tell()

    def _add(self, sentences: list[str]) -> None:
        if sentences:
            self.sentences += sentences
            self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def bind(self, changed: Callable[[], None]) -> None:
        """Give the text to a request, which the engine does.

        Args:
            changed (`Callable`): Called in the writer's thread when sentences were added, and at the end.

        Raises:
            ValueError: If it has been given to another one.
        """
        with self._lock:
            if self._changed is not None:
                raise ValueError("the text belongs to another request; make a `TextStream` for each.")
            self._changed = changed

    def unbind(self) -> None:
        """Take the text back from a request that was refused."""
        with self._lock:
            self._changed = None


class StreamedDialogue(Dialogue):
    """Dialogue whose chunks come while it is generated: the sentences of a `TextStream`.

    A sentence without a tag is spoken by the speaker before, the first one by the first speaker. Each sentence is a
    clip of its own, so that all of it can be heard before the next one is there.

    Args:
        model, processor, voices, seed, max_seconds, options, engine: See `Dialogue`.
        text (`TextStream`): The text.

    Raises:
        ValueError: As `Dialogue` does; for a text that is not empty yet, by `update`.
    """

    is_open = True
    min_prompt_seconds = 5.0

    def __init__(self, model: Any, processor: Any, text: TextStream, voices: Any = None, **options: Any) -> None:
        self.text = text
        self._num_taken = self._num_read = 0  # sentences; those whose sources were taken
        self._lock = threading.Lock()
        super().__init__(model, processor, "", voices, **options)

    def _read_script(self, script: str, voices: Any, chunk_length_s: tuple[float, float], language: str) -> None:
        self.voices, self._given_voices = self._take_voices(voices), voices
        self._chunk_length_s, self._language = chunk_length_s, language
        self._speaker = self.speaker_tokens[0]
        self.update()

    def update(self) -> None:
        """Add the sentences that have come.

        Raises:
            ValueError: If one has control characters that mean a tag, or a closed text has no words.
        """
        with self._lock:
            is_closed = self.text.is_closed  # before the sentences, as none comes after it
            while self._num_taken < len(self.text.sentences):
                self._take(self.text.sentences[self._num_taken])
                self._num_taken += 1
            if is_closed and not self.chunks:
                raise ValueError("the text is empty; give a text, such as '[S1] Hello. [S2] Hi!'.")
            self.is_open = not is_closed

    def take_sources(self) -> list[str]:
        """Return the sentences as they were written, without those that were returned before."""
        with self._lock:
            begin, self._num_read = self._num_read, self._num_taken
            return self.text.sources[begin : self._num_read]

    def _take(self, sentence: str) -> None:
        self.processor.tokenizer.check_text(sentence)
        if not self.chunks:
            self.prefix, _ = split_prefix(sentence, self.language_tokens)
            self.voices = self._take_voices(self._given_voices)
        turns = parse_part(sentence, self.speaker_tokens, self.language_tokens, self.prefix, self._speaker)
        self._speaker = turns[-1].speaker
        self._add_chunks(self._plan(turns, self._chunk_length_s, self._language))
