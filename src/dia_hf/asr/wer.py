"""Words of texts, and word error rates: substitutions, deletions and insertions of a transcript."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from ..text_files import read_text

__all__ = ["WordErrors", "import_jiwer", "read_vocabulary", "vocabulary_of", "word_errors", "words_of"]

# What is not said: speaker tags, "(laughs)", and the "[Music]" of recognizers.
_NOT_SAID = re.compile(r"\[[^\]]*\]|\([^)]*\)")
_APOSTROPHES = re.compile(r"['’]")


def _spelled_words(text: str) -> list[str]:
    """Return the words that are heard of a text, with the apostrophes in them."""
    said = _APOSTROPHES.sub("'", _NOT_SAID.sub(" ", unicodedata.normalize("NFKC", text).casefold()))
    words = "".join(
        letter if letter == "'" or unicodedata.category(letter)[0] in "LMN" else " " for letter in said
    ).split()
    return [word for word in words if word.strip("'")]


def words_of(text: str) -> list[str]:
    """Return the words that are heard of a text: without tags, "(laughs)", punctuation and capitals.

    Example:
    ```python
    >>> from dia_hf.asr.wer import words_of
    >>> words_of("[S1] Well-known, isn't it? (laughs)")
    ['well', 'known', 'isnt', 'it']

    ```
    """
    return [word.replace("'", "") for word in _spelled_words(text)]


def vocabulary_of(texts: Iterable[str]) -> list[str]:
    """Return the words of some texts, each once, for a recognizer that is to know no others.

    Args:
        texts (`Iterable[str]`): What is to be said, with speaker tags.

    Returns:
        `list[str]`: In the order of the alphabet, with the apostrophes that tell "we'll" from "well".
    """
    return sorted({word for text in texts for word in _spelled_words(text)})


def read_vocabulary(file: str | os.PathLike) -> tuple[list[str], dict[str, str]]:
    """Read the words that a recognizer is to know, as `load_recognizer` takes them.

    Args:
        file (`str` or `os.PathLike`): UTF-8 text, a word a line, perhaps with its pronunciation: "dia D IY AH". Blank
            lines, and those that begin with "#", are passed over.

    Returns:
        `tuple[list[str], dict[str, str]]`: The words in the file's order, and the pronunciations that stand there.

    Raises:
        ValueError: If a word stands there twice, or the file is not in UTF-8.
        OSError: If there is no such file.
    """
    words: dict[str, str] = {}
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            word, *phones = line.split()
            if word in words:
                raise ValueError(f"{str(file)!r}, line {number}: {word!r} stands there twice; keep one.")
            words[word] = " ".join(phones)
    return list(words), {word: phones for word, phones in words.items() if phones}


@dataclass(frozen=True)
class WordErrors:
    """How what was heard differs from what was to be said.

    Args:
        substitutions (`int`): Words that were heard as others.
        deletions (`int`): Words that were not heard.
        insertions (`int`): Words that were heard beyond those.
        words (`int`): Words that were to be said.
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int

    @property
    def errors(self) -> int:
        """All that is wrong together."""
        return self.substitutions + self.deletions + self.insertions


def import_jiwer() -> ModuleType:
    """Import jiwer, which comes with an extra.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import jiwer
    except ImportError as error:
        raise ImportError(
            'word errors are counted by jiwer: `pip install "dia-hf[train]"` or `"dia-hf[evaluate]"` brings it.'
        ) from error
    return jiwer


def word_errors(said: str, heard: str) -> WordErrors:
    """Count the words that are wrong, missing or too many, in the alignment that has the fewest.

    Args:
        said (`str`): What was to be said, with speaker tags.
        heard (`str`): What a recognizer wrote down.

    Raises:
        ImportError: If jiwer is missing.

    Example:
    ```python
    >>> from dia_hf.asr.wer import word_errors
    >>> word_errors("[S1] One, two, three.", "one too three four")
    WordErrors(substitutions=1, deletions=0, insertions=1, words=3)

    ```
    """
    reference, hypothesis = words_of(said), words_of(heard)
    jiwer = import_jiwer()
    if not reference:  # of which jiwer makes an error
        return WordErrors(0, 0, len(hypothesis), 0)
    alignment = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return WordErrors(alignment.substitutions, alignment.deletions, alignment.insertions, len(reference))
