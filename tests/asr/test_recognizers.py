"""Words, word errors, and deterministic recognizers."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.asr import recognizers
from dia_hf.asr.recognizers import load_recognizer
from dia_hf.asr.wer import read_vocabulary, vocabulary_of, word_errors, words_of

RATE = 16000
NUMBERS = ["one", "two", "three", "four", "five", "hello"]
SAID = st.lists(st.sampled_from(["one", "two", "three", "isn't"]), min_size=1, max_size=8).map(" ".join)


def make_sounds():
    """Bursts of tones in decreasing noise; pocketsphinx recognizes words in one of them."""
    draw, time = np.random.default_rng(0), np.arange(RATE) / RATE
    sounds = []
    for place in range(4):
        pitch = 100 + 20 * place
        buzz = sum(np.sin(2 * np.pi * pitch * k * time) * draw.uniform() for k in range(1, 30))
        noise = 10.0 ** -(place + 2) * draw.normal(size=RATE)
        sounds.append((0.05 * buzz * np.sin(2 * np.pi * 3 * time).clip(0) + noise).astype(np.float32))
    return sounds


# --- words


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


# --- pocketsphinx


def test_what_was_heard_before_does_not_matter():
    """The noise estimate carried over, so that transcripts depended on the order of sentences."""
    recognizer, sounds = load_recognizer("pocketsphinx", NUMBERS), make_sounds()
    heard = [recognizer.transcribe(sound, RATE) for sound in sounds]
    assert any(heard)
    assert [recognizer.transcribe(sound, RATE) for sound in reversed(sounds)] == heard[::-1]
    alone = load_recognizer("pocketsphinx", NUMBERS)
    assert alone.transcribe(sounds[0], RATE) == heard[0]


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


def test_only_the_vocabulary_is_heard():
    """The recognizer's own language model recognized words outside the vocabulary."""
    recognizer = load_recognizer("pocketsphinx", NUMBERS)
    heard = {word for sound in make_sounds() for word in recognizer.transcribe(sound, RATE).split()}
    assert heard and heard <= set(NUMBERS)


@pytest.mark.parametrize("num_samples", [0, 1, 100, 410, 900, RATE])
def test_silence(num_samples):
    """The features of zeros were NaN, and the transcript changed between calls."""
    recognizer = load_recognizer("pocketsphinx", NUMBERS)
    assert recognizer.transcribe(np.zeros(num_samples, np.float32), RATE) == ""


@pytest.mark.parametrize("num_samples", [1, 100, 410, 600])
def test_less_than_a_word(num_samples, tone):
    """Empty audio raised an error."""
    recognizer = load_recognizer("pocketsphinx", NUMBERS)
    assert recognizer.transcribe(tone(1, RATE)[1000 : 1000 + num_samples], RATE) == ""


def test_another_rate(tone):
    """Audio at 48 kHz was passed to a recognizer of 16 kHz without resampling."""
    recognizer = load_recognizer("pocketsphinx", NUMBERS)
    recognizer.transcribe(tone(1, 48000), 48000)
    assert abs(recognizer._decoder.n_frames() - 100) <= 2, "a hundred a second"


def test_pronunciations():
    """A word with another pronunciation than the dictionary's was never recognized."""
    given = {"Zorg": "Z AO R G", "two": "T  AH"}
    recognizer = load_recognizer(
        "pocketsphinx", ["zorg", "two", "isnt", "Isn't", "well", "we’ll", "read", "a", "a"], given
    )
    look_up = recognizer._decoder.lookup_word
    assert look_up("zorg") == "Z AO R G"
    assert look_up("two") == "T AH" and look_up("two(2)") is None, "the given one is the only one"
    assert look_up("isnt") == "IH Z AH N T", "as it is written without the apostrophe"
    assert {look_up(name) for name in ("well", "well(2)", "well(3)")} == {"W EH L", "W IY L", "W IH L"}
    assert {look_up("read"), look_up("read(2)")} == {"R EH D", "R IY D"}
    assert {look_up("a"), look_up("a(2)"), look_up("a(3)")} == {"AH", "EY", None}


@pytest.mark.parametrize(
    ("words", "pronunciations", "message"),
    [
        (None, None, "give a list of the words"),
        ([], None, "give a list of the words"),
        ("one", None, "give a list of the words"),
        (["one", "zorg", "blorf", "zorg"], None, "does not have 'zorg', 'blorf'; say how"),
        (["one two"], None, "'one two' is no single word; it has 2 words: one, two"),
        (["[S1]"], None, "is no single word; it has 0 words."),
        (["zorg"], {"zorg": "Z AO1 R G"}, "'AO1' is no phone; write it with AA AE"),
        (["zorg"], {"zorg": " "}, "is ''; write it with"),
    ],
)
def test_what_cannot_be_heard(words, pronunciations, message):
    """The error of pocketsphinx names neither the word nor a remedy."""
    with pytest.raises(ValueError, match=message):
        load_recognizer("pocketsphinx", words, pronunciations)


def test_without_pocketsphinx(monkeypatch):
    """The error did not name the extra of a missing package."""
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[evaluate\]"'):
        load_recognizer("pocketsphinx", NUMBERS)


# --- transformers; with a real model in tests/speech/test_voices.py


def test_a_model_of_transformers(monkeypatch, tone):
    """It got audio at another rate, or empty audio, which raised an error."""
    loaded, heard = [], []

    def load(task, model, device):
        loaded.append((task, model, device))
        recognize = SimpleNamespace(feature_extractor=SimpleNamespace(sampling_rate=8000))
        return type("Pipeline", (SimpleNamespace,), {"__call__": lambda self, waveform: listen(waveform)})(
            **vars(recognize)
        )

    def listen(waveform):
        heard.append(len(waveform))
        return {"text": " Hello. "}

    monkeypatch.setattr(transformers, "pipeline", load)
    monkeypatch.setattr(recognizers, "check_model", lambda name: None)  # it is on no disk and no Hub
    recognizer = load_recognizer("any/recognizer", device="cuda:1")
    assert loaded == [("automatic-speech-recognition", "any/recognizer", "cuda:1")]
    assert recognizer.sampling_rate == 8000
    assert recognizer.transcribe(tone(1, RATE), RATE) == "Hello."
    assert recognizer.transcribe(np.zeros(0, np.float32), RATE) == ""
    assert heard == [8000]


def test_words_for_a_model_that_knows_its_own():
    """A vocabulary was silently ignored."""
    with pytest.raises(ValueError, match=r"'any/recognizer' has a vocabulary of its own"):
        load_recognizer("any/recognizer", ["one"])
