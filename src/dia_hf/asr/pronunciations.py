"""Pronunciations of words: those of pocketsphinx's dictionary of American English, and those that are given."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from .._extras import import_extra
from .wer import words_of

__all__ = ["PronunciationDictionary"]

_DICTIONARY = "en-us/cmudict-en-us.dict"


class PronunciationDictionary:
    """Pronunciations of words, in ARPAbet without stress.

    Args:
        given (`Mapping[str, str]`, *optional*): Pronunciations that replace those of the dictionary, or add to it:
            `{"dia": "D IY AH"}`.

    Raises:
        ValueError: If a key is no single word, or a pronunciation has unknown phones or none.
        ImportError: If pocketsphinx is missing: `pip install "dia-hf[evaluate]"`.

    Example:
    ```python
    >>> from dia_hf.asr.pronunciations import PronunciationDictionary
    >>> dictionary = PronunciationDictionary({"dia": "D IY AH"})
    >>> dictionary.find("Dia"), dictionary.find("hello"), dictionary.find("zorg")
    (['D IY AH'], ['HH AH L OW', 'HH EH L OW'], [])

    ```
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._known = _read_dictionary(import_extra("pocketsphinx").get_model_path(_DICTIONARY))
        phones = {phone for ways in self._known.values() for way in ways for phone in way.split()}
        self._given = {_single_word(word): " ".join(way.split()) for word, way in (given or {}).items()}
        for word, way in self._given.items():
            unknown = [phone for phone in way.split() if phone not in phones]
            if unknown or not way:
                which = f", in which {', '.join(map(repr, unknown))} is no phone" if unknown else ""
                raise ValueError(
                    f"the pronunciation of {word!r} is {way!r}{which}; write it with {' '.join(sorted(phones))}."
                )
        self._plain: dict[str, list[str]] = {}  # words may be given without their apostrophe
        for word, ways in self._known.items():
            if "'" in word:
                self._plain.setdefault(word.replace("'", ""), []).extend(ways)

    def find(self, spelled: str) -> list[str]:
        """Return all pronunciations of a word; none if it is unknown.

        Raises:
            ValueError: If it is no single word.
        """
        word = _single_word(spelled)
        if word in self._given:
            return [self._given[word]]
        own = unicodedata.normalize("NFKC", spelled).casefold().replace("’", "'")
        return self._known.get(own) or self._known.get(word) or self._plain.get(word) or []

    def find_all(self, words: Sequence[str]) -> dict[str, list[str]]:
        """Return all pronunciations of each word, keyed by its form in `words_of`.

        Raises:
            ValueError: If one is no single word, or unknown.
        """
        vocabulary: dict[str, dict[str, None]] = {}
        missing: list[str] = []
        for spelled in words:
            word = _single_word(spelled)
            if found := self.find(spelled):
                vocabulary.setdefault(word, {}).update(dict.fromkeys(found))
            else:
                missing.append(word)
        if missing:
            listed = ", ".join(map(repr, dict.fromkeys(missing)))
            raise ValueError(
                f"pocketsphinx's dictionary does not have {listed}; say how each is pronounced, in ARPAbet: "
                "`pronunciations={'dia': 'D IY AH'}` (--vocabulary: a line `dia D IY AH`)."
            )
        return {word: list(ways) for word, ways in vocabulary.items()}


def _read_dictionary(path: str) -> dict[str, list[str]]:
    """Read a dictionary: a word a line, then its phones; further pronunciations as "word(2)"."""
    known: dict[str, list[str]] = {}
    for line in Path(path).read_text("utf-8").splitlines():
        word, _, phones = line.partition(" ")
        known.setdefault(word.partition("(")[0], []).append(phones.strip())
    return known


def _single_word(spelled: str) -> str:
    words = words_of(spelled)
    if len(words) != 1:
        listed = f": {', '.join(words)}" if words else ""
        raise ValueError(f"{spelled!r} is no single word; it has {len(words)} words{listed}.")
    return words[0]
