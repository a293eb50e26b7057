"""Alignment of recordings and transcripts."""

import numpy as np
import pytest
import torch

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


SENTENCES = [
    "[S1] Hello, I am Dia. [S2] Good morning, father.",
    "[S1] One two three four five six seven.",
    "[S2] Sunday, Monday, Tuesday, Wednesday.",
    "[S1] Nine ten eleven twelve. The cat and the dog.",
    "[S2] Welcome, Dia. [S1] Good evening, mother.",
]


@pytest.fixture(scope="module")
def long_speech(dia):
    """Sentences one after the other: codes, text, and the true times of the words."""
    codes, times, begin = [], [], 0.0
    for sentence in SENTENCES:
        _, one, words = dia.generate(sentence, temperature=0, return_codes=True, return_timestamps="word")
        codes.append(one)
        times += [(word.start + begin, word.end + begin) for word in words]
        begin += len(one) / dia.processor.codec.frame_rate
    return torch.cat(codes), "\n\n".join(SENTENCES), times


def test_a_long_recording_is_aligned_in_windows(dia, long_speech):
    """A recording of more than one pass was refused; or all after a window that began within a word drifted."""
    codes, text, times = long_speech
    words = dia.align(text, codes, chunk_length_s=5)
    assert [word.text for word in words] == [word for word in text.split() if word not in ("[S1]", "[S2]")]
    assert all(text[word.start_char : word.end_char] == word.text for word in words)
    assert [word.speaker for word in words if word.text in ("Sunday,", "Good")] == ["[S2]", "[S2]", "[S1]"]
    errors = [
        abs(a - b)
        for word, time in zip(words, times, strict=True)
        for a, b in zip((word.start, word.end), time, strict=True)
    ]
    assert np.median(errors) < 0.035
    assert max(errors) < 0.4
    assert sum(word.evidence > 0 for word in words) > 0.85 * len(words)


def test_a_transcript_that_is_too_long_is_aligned_to_its_end(dia, long_speech):
    """Words after the end of the recording were lost, or the search for their place never ended."""
    codes, text, _ = long_speech
    words = dia.align(text + " Yes no yes no." * 30, codes, chunk_length_s=5)
    assert len(words) == len(text.split()) - text.count("[S") + 120
    assert sum(word.evidence < 0 for word in words[-110:]) > 80


def test_a_recording_without_its_transcript_ends(dia):
    """Windows in which nothing of the text is said came to no end."""
    noise = np.random.default_rng(0).normal(0, 0.1, 12 * dia.sampling_rate).astype(np.float32)
    words = dia.align(TEXT, noise, dia.sampling_rate, chunk_length_s=3)
    assert len(words) == len(TEXT.split()) - 2


def test_windows_that_a_model_cannot_read_are_refused(dia):
    """Positions beyond the trained ones gave times that meant nothing."""
    with pytest.raises(ValueError, match=r"`chunk_length_s` is 60; this model reads windows of 2 to"):
        dia.align(TEXT, np.zeros(1000, dtype=np.float32), dia.sampling_rate, chunk_length_s=60)
