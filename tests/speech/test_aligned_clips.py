"""Clips of the sentences of an aligned recording."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf.speech.align import AlignedWord
from dia_hf.speech.aligned_clips import cut_clips, fits


def aligned(texts, speaker="[S1]", start=1.0, seconds=0.5, gap=0.1, evidence=5.0):
    words, place = [], 0
    for text in texts.split():
        words.append(AlignedWord(text, start, start + seconds, place, place + len(text), speaker, evidence))
        start, place = start + seconds + gap, place + len(text) + 1
    return words


def test_sentences_are_joined_up_to_a_duration():
    """A clip was longer than asked for, or a sentence cut in two."""
    words = aligned("One two. Three four five. Six.")
    clips, doubtful = cut_clips(words, 10.0, max_seconds=3.5)
    assert [clip.text for clip in clips] == ["[S1] One two. Three four five.", "[S1] Six."]
    assert (clips[0].start, clips[0].end) == (pytest.approx(0.75), pytest.approx(3.95))
    assert clips[0].evidence == 25 and not doubtful


def test_a_sentence_that_does_not_fit_is_left_out():
    """A wrong sentence was trained on; or those beside it were one clip, with its audio in the middle."""
    words = [
        *aligned("One two."),
        *aligned("Wrong words.", start=3.0, evidence=-5.0),
        *aligned("Three four.", start=5.0),
    ]
    clips, doubtful = cut_clips(words, 10.0)
    assert [clip.text for clip in clips] == ["[S1] One two.", "[S1] Three four."]
    assert [clip.text for clip in doubtful] == ["[S1] Wrong words."]


def test_turns_keep_their_tags():
    """A clip of two speakers had the tag of the first only."""
    words = [*aligned("Yes."), *aligned("No", "[S2]", start=2.0), *aligned("no.", "[S2]", start=2.6)]
    assert cut_clips(words, 4.0)[0][0].text == "[S1] Yes. [S2] No no."


def test_words_without_frames_do_not_fit():
    """A sentence that is not in the recording had no evidence against it, and counted as right."""
    words = [AlignedWord(text, 3.0, 3.0, 0, 1, None, -float("inf")) for text in "abc"]
    assert not fits(words)
    assert not fits([*aligned("One"), *words])


@given(
    lengths=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.booleans(), st.floats(-5, 5)), max_size=20),
    longest=st.floats(0.5, 8),
)
@settings(max_examples=100)
def test_clips_are_in_order_within_the_recording(lengths, longest):
    """Clips overlapped, went beyond the recording, or lost a sentence."""
    words, reached = [], 0.0
    for place, (gap, duration, is_end, evidence) in enumerate(lengths):
        start = reached + gap
        reached = start + duration
        words.append(AlignedWord("w." if is_end else "w", start, reached, 3 * place, 3 * place + 2, None, evidence))
    clips, doubtful = cut_clips(words, reached + 0.1, longest)
    both = sorted([*clips, *doubtful], key=lambda clip: (clip.start, clip.end))
    assert sum(len(clip.text.split()) for clip in both) == len(words)
    for before, after in itertools.pairwise(both):
        assert before.end <= after.start + 1e-9
    assert all(0 <= clip.start <= clip.end <= reached + 0.1 + 1e-9 for clip in both)
