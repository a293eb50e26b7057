"""Turns and voices: who says each turn, and cpWER."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.asr.recognizers import HeardWord
from dia_hf.asr.wer import word_errors, words_of
from dia_hf.evaluation.metrics import Measure
from dia_hf.evaluation.speakers import (
    attribute,
    count_cpwer,
    measure_speakers,
    split_turns,
    voices_of_turns,
    words_by_transcript,
)

LOW, HIGH = np.array([1.0, 0.1]) / np.hypot(1, 0.1), np.array([0.1, 1.0]) / np.hypot(1, 0.1)
VOICES = {"[S1]": LOW, "[S2]": HIGH}
TURNS = split_turns("[S1] One two. [S2] Three. [S1] Four. [S2] Five six.")


def test_turns():
    """A turn of tags alone was judged, two of a speaker were two, or text before the first tag was lost."""
    turns = split_turns("Well. [S1] Hello [S2] (laughs) [S1] There. [S2] Bye!")
    assert [(turn.speaker, turn.words) for turn in turns] == [("[S1]", ["well", "hello", "there"]), ("[S2]", ["bye"])]
    assert [(turn.speaker, turn.words) for turn in split_turns("Hello.")] == [("[S1]", ["hello"])]
    assert [turn.speaker for turn in split_turns("[S2] Hello. [S1] Hi.")] == ["[S2]", "[S1]"]


def test_times_of_a_transcript():
    """A wrong word shifted the times of all after it; a word of two had one time for half of it."""
    heard = [HeardWord("One", 0, 1), HeardWord("ate", 1, 2), HeardWord("well-known,", 3, 4)]
    times = words_by_transcript(["one", "eight", "well", "known", "now"], heard)
    assert times == [(0, 1), (1, 2), (3, 4), (3, 4), None]
    assert words_by_transcript(["one"], []) == [None]


def test_the_speaker_of_each_turn():
    """The nearest voice was the farthest, or a turn without audio was right."""
    assert attribute(TURNS, [LOW, HIGH, HIGH, None], VOICES) == ["[S1]", "[S2]", "[S2]", None]
    measures = measure_speakers(TURNS, [LOW, HIGH, HIGH, None], VOICES)
    assert measures["attribution"] == Measure(2, 4)
    assert measures["sim"].weight == 3 and measures["sim"].total == pytest.approx(2 + float(LOW @ HIGH))


def test_without_voices_turns_are_compared_with_each_other():
    """A turn was compared with itself, and always right."""
    assert attribute(TURNS, [LOW, HIGH, LOW, HIGH], None) == ["[S1]", "[S2]", "[S1]", "[S2]"]
    assert "sim" not in measure_speakers(TURNS, [LOW, HIGH, LOW, HIGH], None)
    swapped = measure_speakers(TURNS, [LOW, HIGH, HIGH, LOW], None)
    assert swapped["attribution"].total == 0
    short = split_turns("[S1] One. [S2] Two.")  # nothing to compare with
    assert measure_speakers(short, [LOW, HIGH], None) == {}


def test_one_voice_has_no_attribution():
    """A text of one speaker raised the mean of the dialogues."""
    one = split_turns("[S1] One.")
    assert measure_speakers(one, [LOW], {"[S1]": LOW}) == {"sim": Measure(pytest.approx(1), 1)}
    assert measure_speakers(one, [HIGH], VOICES)["attribution"] == Measure(0, 1)


def test_the_voice_of_turns():
    """A speaker without audio had the voice of another one, or of no length."""
    voices = voices_of_turns(TURNS, [LOW, None, 3 * LOW, None])
    assert list(voices) == ["[S1]"] and np.linalg.norm(voices["[S1]"]) == pytest.approx(1)


def cpwer_by_permutations(texts, transcripts):
    """The definition: the fewest errors over all ways to pair speakers and voices."""
    size = max(len(texts), len(transcripts))
    texts, transcripts = texts + [""] * (size - len(texts)), transcripts + [""] * (size - len(transcripts))
    return min(
        sum(word_errors(text, own).errors for text, own in zip(texts, order, strict=True))
        for order in itertools.permutations(transcripts)
    )


TEXTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join)
SPOKEN = st.lists(st.tuples(st.sampled_from(["[S1]", "[S2]", None]), TEXTS), min_size=1, max_size=4)


@given(SPOKEN)
def test_cpwer_of_right_words_in_any_voice(spoken):
    """The words were given to the wrong voice, or speakers and voices were not paired for the fewest errors."""
    script = " ".join(f"[S{place % 2 + 1}] {text}" for place, (_, text) in enumerate(spoken))
    turns, chosen = split_turns(script), [speaker for speaker, _ in spoken]
    texts, transcripts = {}, {}
    for turn, voice in zip(turns, chosen, strict=True):
        texts.setdefault(turn.speaker, []).append(turn.text)
        transcripts.setdefault(voice, []).append(turn.text)
    said, heard = ([" ".join(some) for some in found.values()] for found in (texts, transcripts))
    measure = count_cpwer(turns, chosen, " ".join(turn.text for turn in turns), words_of)
    assert measure == Measure(cpwer_by_permutations(said, heard), sum(len(text.split()) for text in said))


@given(SPOKEN, SPOKEN)
def test_cpwer_is_that_of_meeteval(spoken, others):
    """The errors were others than those of meeteval, which speech separation is compared by."""
    meeteval = pytest.importorskip("meeteval")
    said, heard = ([text for _, text in some] for some in (spoken, others))
    theirs = meeteval.wer.cp_word_error_rate(said, heard)
    assert (cpwer_by_permutations(said, heard), sum(len(text.split()) for text in said)) == (
        theirs.errors,
        theirs.length,
    )


def test_cpwer_of_a_swapped_turn_and_a_wrong_word():
    """An inserted word was lost, or a turn in the wrong voice counted once instead of as deleted and inserted."""
    right = ["[S1]", "[S2]", "[S1]", "[S2]"]
    said = "one two three four five six"
    assert count_cpwer(TURNS, right, said, words_of) == Measure(0, 6)
    assert count_cpwer(TURNS, right, "well one too three four five six", words_of) == Measure(2, 6)
    assert count_cpwer(TURNS, ["[S1]", "[S2]", "[S2]", "[S2]"], said, words_of) == Measure(2, 6)
    assert count_cpwer(TURNS, ["[S2]", "[S1]", "[S2]", "[S1]"], said, words_of) == Measure(0, 6)
    assert count_cpwer(TURNS, right, "", words_of) == Measure(6, 6)
