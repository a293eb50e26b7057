"""Words of texts, and word error rates: substitutions, deletions and insertions of a transcript.

Two normalizers make words of a text: "words" for closed vocabularies, in any language, and Whisper's "english" for
recognizers that write numbers in digits, abbreviations and British spelling as they like.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .._extras import import_extra
from ..text_files import read_text

__all__ = [
    "NORMALIZERS",
    "WordErrors",
    "align_words",
    "english_words_of",
    "read_vocabulary",
    "spelled_words",
    "vocabulary_of",
    "word_errors",
    "words_of",
]

# Text that is not spoken: speaker tags, "(laughs)", and "[Music]" of recognizers.
_NOT_SAID = re.compile(r"\[[^\]]*\]|\([^)]*\)")
_APOSTROPHES = re.compile(r"['’]")


def spelled_words(text: str) -> list[str]:
    """Return the spoken words of a text, with their apostrophes; see `words_of`."""
    said = _APOSTROPHES.sub("'", _NOT_SAID.sub(" ", unicodedata.normalize("NFKC", text).casefold()))
    words = "".join(
        letter if letter == "'" or unicodedata.category(letter)[0] in "LMN" else " " for letter in said
    ).split()
    return [word for word in words if word.strip("'")]


def words_of(text: str) -> list[str]:
    """Return the spoken words of a text: without tags, "(laughs)", punctuation and capitals.

    Example:
    ```python
    >>> from dia_hf.asr.wer import words_of
    >>> words_of("[S1] Well-known, isn't it? (laughs)")
    ['well', 'known', 'isnt', 'it']

    ```
    """
    return [word.replace("'", "") for word in spelled_words(text)]


@functools.cache
def _whisper_normalizer() -> Callable[[str], str]:
    normalize = import_extra("whisper_normalizer.english").EnglishTextNormalizer()
    return normalize


def english_words_of(text: str) -> list[str]:
    """Return the words of an English text as Whisper's `EnglishTextNormalizer` writes them.

    Numbers become digits, contractions and titles are written out, American spelling replaces British, and "hmm", "uh"
    and the like are left out, as are tags and what is in brackets.

    Raises:
        ImportError: If whisper-normalizer is missing.

    Example:
    ```python
    >>> from dia_hf.asr.wer import english_words_of
    >>> english_words_of("[S1] Twenty dogs, Mr. Smith? [S2] They won't! (laughs)")
    ['20', 'dogs', 'mister', 'smith', 'they', 'will', 'not']

    ```
    """
    return _whisper_normalizer()(_NOT_SAID.sub(" ", text)).split()


NORMALIZERS: dict[str, Callable[[str], list[str]]] = {"words": words_of, "english": english_words_of}
"""Normalizers by name."""


def vocabulary_of(texts: Iterable[str]) -> list[str]:
    """Return the words of some texts, each once, as the vocabulary of a recognizer.

    Args:
        texts (`Iterable[str]`): Texts with speaker tags.

    Returns:
        `list[str]`: In alphabetical order, with apostrophes, which distinguish "we'll" from "well".
    """
    return sorted({word for text in texts for word in spelled_words(text)})


def read_vocabulary(file: str | os.PathLike) -> tuple[list[str], dict[str, str]]:
    """Read the vocabulary of a recognizer from a file, in the form of `load_recognizer`.

    Args:
        file (`str` or `os.PathLike`): UTF-8 text, one word a line, optionally with its pronunciation: "dia D IY AH".
            Blank lines, and those that begin with "#", are ignored.

    Returns:
        `tuple[list[str], dict[str, str]]`: The words in the order of the file, and their pronunciations.

    Raises:
        ValueError: If a word occurs twice, or the file is not in UTF-8.
        OSError: If there is no such file.
    """
    words: dict[str, str] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            word, *phones = line.split()
            if word in words:
                raise ValueError(f"{str(file)!r}, line {number}: {word!r} occurs twice; keep one.")
            words[word] = " ".join(phones)
    return list(words), {word: phones for word, phones in words.items() if phones}


@dataclass(frozen=True)
class WordErrors:
    """Word errors of a transcript.

    Args:
        substitutions (`int`): Words recognized as others.
        deletions (`int`): Words not recognized.
        insertions (`int`): Additional words in the transcript.
        words (`int`): Words of the reference.
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        """Sum of all errors."""
        return self.substitutions + self.deletions + self.insertions


def align_words(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Align two lists of words with the fewest errors.

    Args:
        reference, hypothesis (`Sequence[str]`): Words without white space.

    Returns:
        `list[tuple[int | None, int | None]]`: Places of words that belong together, in order; `None` instead of the
        place in `hypothesis` of a deleted word, and of that in `reference` of an inserted one.

    Raises:
        ImportError: If jiwer is missing.

    Example:
    ```python
    >>> from dia_hf.asr.wer import align_words
    >>> align_words(["one", "two", "three", "four"], ["one", "three", "four", "five"])
    [(0, 0), (1, None), (2, 1), (3, 2), (None, 3)]

    ```
    """
    jiwer = import_extra("jiwer")
    if not reference:  # jiwer raises for an empty reference
        return [(None, place) for place in range(len(hypothesis))]
    pairs: list[tuple[int | None, int | None]] = []
    for part in jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]:
        said: Iterable[int | None] = range(part.ref_start_idx, part.ref_end_idx)
        heard: Iterable[int | None] = range(part.hyp_start_idx, part.hyp_end_idx)
        if part.type == "delete":
            heard = [None] * (part.ref_end_idx - part.ref_start_idx)
        elif part.type == "insert":
            said = [None] * (part.hyp_end_idx - part.hyp_start_idx)
        pairs += zip(said, heard, strict=True)
    return pairs


def word_errors(said: str, heard: str, words: Callable[[str], list[str]] = words_of) -> WordErrors:
    """Count substitutions, deletions and insertions in the alignment with the fewest errors.

    Args:
        said (`str`): Reference text, with speaker tags.
        heard (`str`): Transcript of a recognizer.
        words (`Callable`, defaults to `words_of`): Normalizer of both, one of `NORMALIZERS`.

    Raises:
        ImportError: If jiwer is missing, or whisper-normalizer for `english_words_of`.

    Example:
    ```python
    >>> from dia_hf.asr.wer import word_errors
    >>> word_errors("[S1] One, two, three.", "one too three four")
    WordErrors(substitutions=1, deletions=0, insertions=1, words=3)

    ```
    """
    reference, hypothesis = words(said), words(heard)
    jiwer = import_extra("jiwer")
    if not reference:  # jiwer raises for an empty reference
        return WordErrors(0, 0, len(hypothesis), 0)
    alignment = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return WordErrors(alignment.substitutions, alignment.deletions, alignment.insertions, len(reference))
