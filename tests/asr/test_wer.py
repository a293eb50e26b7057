"""Words of a text, vocabularies and word errors."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.asr.wer import (
    _whisper_normalizer,
    align_words,
    english_words_of,
    read_vocabulary,
    vocabulary_of,
    word_errors,
    words_of,
)

SAID = st.lists(st.sampled_from(["one", "two", "three", "isn't"]), min_size=1, max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[S1] Hello, World! [S2] (laughs) Ha.", "hello world ha"),
        ("Well-known; isn't it? It’s 5 o'clock…", "well known isnt it its 5 oclock"),
        ("[Music] Grüße aus Straßburg — ﬁne", "grüsse aus strassburg fine"),
        ("(coughs) [S1] ' ’", ""),
    ],
)
def test_words(text, words):
    """Differences in spelling counted as word errors."""
    assert words_of(text) == words.split()


@given(st.text())
def test_words_of_anything(text):
    """Normalization was not idempotent, so that references and transcripts differed."""
    words = words_of(text)
    assert all(word and not word.isspace() for word in words)
    assert words_of(" ".join(words)) == words
    assert {plain for word in vocabulary_of([text]) for plain in words_of(word)} == set(words)


def test_the_vocabulary_keeps_apostrophes():
    """Without apostrophes "we'll" got the pronunciation of "well", which counted as a word error."""
    assert vocabulary_of(["[S1] We’ll see. (laughs)", "[S2] Well, we see!"]) == ["see", "we", "we'll", "well"]


def test_word_errors():
    """Deletions and insertions were exchanged."""
    counts = word_errors("[S1] One, two three. [S2] Four!", "ONE too four five six")
    assert (counts.substitutions, counts.deletions, counts.insertions, counts.words) == (3, 0, 1, 4)
    counts = word_errors("[S1] One, two three.", "three")
    assert (counts.substitutions, counts.deletions, counts.insertions, counts.words) == (0, 2, 0, 3)
    assert word_errors("One two.", "").deletions == 2
    assert word_errors("(laughs)", "ha ha").insertions == 2


@given(SAID, SAID)
def test_word_errors_of_anything(said, heard):
    """The alignment had more errors than needed, or none for different texts."""
    assert word_errors(said, f"[S1] {said.upper()}!").errors == 0
    counts, num_heard = word_errors(said, heard), len(words_of(heard))
    assert counts.words == len(words_of(said))
    assert counts.insertions - counts.deletions == num_heard - counts.words
    assert abs(num_heard - counts.words) <= counts.errors <= max(num_heard, counts.words)
    assert (counts.errors == 0) == (words_of(said) == words_of(heard))
    assert word_errors(heard, said).errors == counts.errors


def test_without_jiwer(monkeypatch):
    """The error did not name the extra of a missing package."""
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[train\]"` or `"dia-hf\[evaluate\]"'):
        word_errors("a", "a")


def test_a_vocabulary_is_read(tmp_path):
    """A comment, a blank line or a byte order mark became a word."""
    file = tmp_path / "words.txt"
    file.write_text("\ufeffHello\n\n  # names\nDia  D IY AH\nthere\n", "utf-8")
    assert read_vocabulary(file) == (["Hello", "Dia", "there"], {"Dia": "D IY AH"})
    file.write_text("one\n\none W AH N\n", "utf-8")
    with pytest.raises(ValueError, match=r"words.txt', line 3: 'one' occurs twice"):
        read_vocabulary(file)


def test_a_vocabulary_in_another_encoding(tmp_path):
    """The error did not name the file."""
    (tmp_path / "words.txt").write_bytes("Grüße\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"words\.txt' is not in UTF-8 .*cp1252.* save it as UTF-8"):
        read_vocabulary(tmp_path / "words.txt")


def test_whispers_normalizer():
    """Ways of writing the same words counted as errors of the model; a tag or a laugh was a word."""
    said = "[S1] Three dogs, Mr. Smith won't (laughs) [S2] colour it, hmm."
    heard = "3 dogs, Mister Smith will not color it."
    assert word_errors(said, heard, english_words_of).errors == 0
    assert word_errors(said, heard).errors > 3
    assert english_words_of("[S1] Uh, hmm.") == []


def test_without_whispers_normalizer(monkeypatch):
    """The missing package was not named."""
    _whisper_normalizer.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(ImportError, match=r"whisper_normalizer` cannot be imported .*dia-hf\[evaluate\]"):
        english_words_of("a")


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_an_alignment_has_the_counted_errors(said, heard):
    """A pair was missing or out of order, or was none of the alignment with the fewest errors."""
    pairs = align_words(said, heard)
    assert [place for place, _ in pairs if place is not None] == list(range(len(said)))
    assert [place for _, place in pairs if place is not None] == list(range(len(heard)))
    wrong = sum(first is None or second is None or said[first] != heard[second] for first, second in pairs)
    assert wrong == word_errors(" ".join(said), " ".join(heard)).errors
