"""Forced alignment of known words with a recording."""

import numpy as np
import pytest

from dia_hf import Dia
from dia_hf.asr.alignment import Aligner
from dia_hf.asr.wer import spelled_words

TEXT = "[S1] Good morning, father. [S2] I will eat soup. [S1] No."


@pytest.fixture(scope="module")
def speech():
    """A dialogue of the miniature, where its own alignment has each word, and its rate."""
    dia = Dia.from_pretrained(compute_dtype="float32", device="cpu")
    waveform, words = dia.generate(TEXT, temperature=0, cfg_scale=1, return_timestamps="word")
    return waveform, words, dia.sampling_rate


def test_the_words_are_where_the_model_says_them(speech):
    """The times were of another word, another rate, or in frames."""
    waveform, words, rate = speech
    found = Aligner().align(spelled_words(TEXT), waveform, rate)
    assert len(found) == len(words) and all(found)
    apart = [abs(start - word.start) for word, (start, _) in zip(words, found, strict=True)]
    assert np.median(apart) < 0.05 and max(apart) < 0.15  # a word takes as long
    times = [time for span in found for time in span]
    assert times == sorted(times) and times[-1] == pytest.approx(words[-1].end, abs=0.25)


def test_the_last_word_is_not_lost(speech):
    """The best path over pocketsphinx's lattice ended before the last word."""
    waveform, words, rate = speech
    end = round((words[-1].end + 0.02) * rate)
    assert Aligner().align(spelled_words(TEXT), waveform[:end], rate)[-1] is not None


def test_an_unknown_word_has_no_time(speech):
    """A name that the dictionary lacks ended the evaluation, or took the time of the word beside it."""
    waveform, _, rate = speech
    aligner = Aligner({"zorg": "Z AO R G"})
    assert aligner.knows("zorg") and aligner.knows("we'll") and not aligner.knows("grumpelfink")
    found = aligner.align(["good", "grumpelfink", *spelled_words(TEXT)[1:]], waveform, rate)
    assert found[1] is None and found[0] and all(found[2:])


def test_earlier_calls_do_not_matter(speech, tone):
    """The estimate of the noise carried over from the sentence before."""
    waveform, _, rate = speech
    aligner, words = Aligner(), spelled_words(TEXT)
    first = aligner.align(words, waveform, rate)
    aligner.align(["hello"], tone(1, rate), rate)
    assert aligner.align(words, waveform, rate) == first == Aligner().align(words, waveform, rate)


@pytest.mark.parametrize("num_samples", [0, 1, 300, 16000])
def test_nothing_to_align(num_samples):
    """Silence, or no audio at all, was an error or had words."""
    assert Aligner().align(["hello", "there"], np.zeros(num_samples, np.float32), 16000) == [None, None]
    assert Aligner().align([], np.ones(num_samples, np.float32), 16000) == []


def test_audio_shorter_than_its_words(tone):
    """Words in more audio than there is had times beyond its end."""
    found = Aligner().align(["hello"] * 20, tone(0.2, 16000), 16000)
    assert all(time is None or time[1] <= 0.2 for time in found)


def test_a_wrong_pronunciation():
    """A typing error in a pronunciation was found in the middle of an evaluation."""
    with pytest.raises(ValueError, match="'QQ' is no phone"):
        Aligner({"zorg": "Z QQ"})
