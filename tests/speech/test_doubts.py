"""Warnings for implausible audio."""

import random
import warnings

import numpy as np
import pytest

from dia_hf import Dia
from dia_hf.asr.wer import vocabulary_of
from dia_hf.bench.serving import SENTENCES
from dia_hf.speech import SpeechWarning
from dia_hf.speech.doubts import SpeechStats, find_doubt


@pytest.fixture(scope="module")
def miniature():
    return Dia.from_pretrained(device="cpu")


def listen(seconds, amplitude=0.3, chunk=777):
    heard = SpeechStats(16000)
    samples = (amplitude * np.sin(np.arange(int(16000 * seconds)) / 5)).astype(np.float32)
    for start in range(0, len(samples), chunk):
        heard.add(samples[start : start + chunk])
    return heard


@pytest.mark.parametrize(
    ("seconds", "amplitude", "expected", "prompt", "cut_at", "message"),
    [
        (0, 0.3, 2.0, 0, None, "the sound is empty"),
        (0.1, 1e-3, 2.0, 0, None, "is silent"),
        (0.1, 0.3, 2.0, 0, None, "words are missing"),
        (0.02, 0.3, 6.0, 5.0, None, "words are missing"),
        (6.1, 0.3, 120.0, 0, None, "6.1 s long without its silence; about 120.0 s are expected for its text"),
        (4.0, 0.3, 32.0, 0, "`max_seconds` (4): 1 of 8 chunks", r"cut at `max_seconds` \(4\): 1 of 8 chunks"),
        (20.0, 0.3, 1.0, 0, None, "something else"),
        (1.1, 0.3, 2.0, 0, None, None),
        (2.0, 0.3, 6.0, 4.0, None, None),
        (0.48, 0.3, 1 / 15, 0, None, None),
        (4.9, 0.3, 1.0, 0, None, None),
    ],
)
def test_what_is_told(seconds, amplitude, expected, prompt, cut_at, message):
    """0.1 s of near silence, 6.1 s for 300 words, and one of eight chunks were written without a warning."""
    doubt = find_doubt(listen(seconds, amplitude), expected, prompt, cut_at)
    if message is None:
        assert doubt is None
    else:
        with pytest.raises(SpeechWarning, match=message):
            raise SpeechWarning(doubt)


def test_the_miniature_is_not_doubted(miniature):
    """Correct speech caused a warning."""
    draw, words = random.Random(1), vocabulary_of(SENTENCES)
    texts = ["[S1] a", "[S1] I", "[S1] Hello, I am Dia. [S2] Welcome, Dia."]
    texts += ["[S1] " + " ".join(draw.choices(words, k=number)) + "." for number in [1] * 12 + [2] * 5 + [4, 7] * 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpeechWarning)
        miniature.generate(texts, seed=list(range(len(texts))))


@pytest.mark.parametrize("option", [{"max_seconds": 0.3}, {"max_tokens": 20}])
@pytest.mark.parametrize("way", ["generate", "stream", "list"])
def test_a_limit_is_named(miniature, option, way):
    """Audio cut in the middle of a word caused no warning."""
    text = ["[S1] Hello. [S2] Welcome, Dia."] * 2 if way == "list" else "[S1] Hello. [S2] Welcome, Dia."
    with pytest.warns(SpeechWarning, match=f"cut at `{next(iter(option))}`") as told:
        list((miniature.stream if way == "stream" else miniature.generate)(text, seed=1, **option))
    assert sum(one.category is SpeechWarning for one in told) == 1


def test_the_models_own_limit_is_told(checkpoint):
    """A model without EOS was cut at `max_length` without a warning."""
    with pytest.warns(SpeechWarning, match="cut at the checkpoint's `max_length`"):
        Dia.from_pretrained(checkpoint, device="cpu").generate("[S1] Hello, here is a longer text.", seed=1)


def test_a_dialogue_that_is_cut(miniature):
    """A script of eight chunks with a limit of 4 s gave 4 s without a warning."""
    script = " ".join(f"[S{1 + i % 2}] the boy and the girl drink milk in the garden." for i in range(8))
    dialogue = miniature.dialogue(script, seed=1, max_seconds=1, chunk_length_s=(2, 4))
    with pytest.warns(SpeechWarning, match=r"cut at `max_seconds` \(\S+\): 1 of 8 chunks"):
        dialogue.generate()
