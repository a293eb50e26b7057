"""Alignment of recordings and transcripts."""

import numpy as np
import pytest

from dia_hf import Dia

TEXT = "[S1] Good morning, father. [S2] One two three four."


@pytest.fixture(scope="module")
def dia():
    return Dia.from_pretrained()


@pytest.fixture(scope="module")
def speech(dia):
    return dia.generate(TEXT, temperature=0, return_codes=True, return_timestamps="word")


def test_times_are_those_of_speaking(dia, speech):
    """Teacher forcing read another frame than the step that spoke it."""
    _, codes, words = speech
    aligned = dia.align(TEXT, codes)
    assert [(word.text, word.start_char, word.speaker) for word in aligned] == [
        (word.text, word.start_char, word.speaker) for word in words
    ]
    for mine, theirs in zip(aligned, words, strict=True):
        assert mine.start == pytest.approx(theirs.start, abs=0.04)
        assert mine.end == pytest.approx(theirs.end, abs=0.04)
    assert all(word.evidence > 0 for word in aligned)


@pytest.mark.parametrize(
    ("transcript", "wrong"),
    [
        ("[S1] Good evening, father. [S2] One two three four.", {"evening,"}),
        ("[S1] Good morning, father. [S2] One three four.", {"three"}),
        ("[S1] Good morning, my father. [S2] One two three four.", {"my"}),
    ],
)
def test_wrong_words_have_no_evidence(dia, speech, transcript, wrong):
    """A word that is not in the recording, or before which one is missing, passed."""
    flagged = {word.text for word in dia.align(transcript, speech[1]) if word.evidence < 0}
    assert wrong <= flagged


def test_words_without_audio_are_told(dia, speech):
    """A transcript longer than the recording lost its last words without a word."""
    aligned = dia.align(TEXT + " Yes yes yes yes.", speech[1])
    assert len(aligned) == len(TEXT.split()) - 2 + 4
    assert sum(word.evidence < 0 for word in aligned) >= 2


def test_a_recording_is_aligned_through_the_codec(dia, speech):
    """Samples were taken for codes, or at another rate."""
    waveform, codes, _ = speech
    from_samples = dia.align(TEXT, waveform, dia.sampling_rate)
    for mine, theirs in zip(from_samples, dia.align(TEXT, codes), strict=True):
        assert mine.start == pytest.approx(theirs.start, abs=0.2)


def test_too_long_a_recording_is_refused(dia):
    """Positions beyond the trained ones gave times that meant nothing."""
    with pytest.raises(ValueError, match=r"the recording [\d.]+ s; one pass takes"):
        dia.align(TEXT, np.zeros(60 * dia.sampling_rate, dtype=np.float32), dia.sampling_rate)
