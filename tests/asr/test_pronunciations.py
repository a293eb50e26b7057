"""Pronunciations of the dictionary and of the user."""

import pytest

from dia_hf.asr.pronunciations import PronunciationDictionary


def test_a_given_pronunciation_replaces_the_dictionarys():
    """A user's own pronunciation was one of several, of which the dictionary's was recognized."""
    dictionary = PronunciationDictionary({"Read": "R EH D", "zorg": " Z  AO R G "})
    assert dictionary.find("read") == ["R EH D"] and dictionary.find("Zorg") == ["Z AO R G"]
    assert len(PronunciationDictionary().find("read")) == 2


def test_apostrophes():
    """The word "we'll" was pronounced as "well"; a word without its apostrophe was unknown."""
    dictionary = PronunciationDictionary()
    assert dictionary.find("we’ll") == dictionary.find("we'll") != dictionary.find("well")
    assert dictionary.find("didnt") == dictionary.find("didn't") != []


def test_unknown_words_are_all_named():
    """Only the first unknown word was named, or one was left out of the vocabulary."""
    dictionary = PronunciationDictionary()
    assert dictionary.find("grumpelfink") == []
    with pytest.raises(ValueError, match="does not have 'grumpelfink', 'zorg'"):
        dictionary.find_all(["hello", "grumpelfink", "zorg"])
    with pytest.raises(ValueError, match="is no single word"):
        dictionary.find("two words")
