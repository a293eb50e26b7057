"""Splits that keep speakers and sessions together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.data.splits import group_clips

CLIPS = {
    "id": ["1", "2", "3", "4"],
    "speaker": ["ben + anna", "carl", "ben", "anna"],
    "speakers": [["ben", "anna"], ["carl"], [], None],
    "session": ["m1", "m1", None, None],
}


def test_units():
    """A speaker of a dialogue was in training and in evaluation."""
    assert group_clips(CLIPS, "clip") == ["1", "2", "3", "4"]
    assert group_clips(CLIPS, "session") == ["session m1", "session m1", "3", "4"]
    assert group_clips(CLIPS, "speaker") == ["anna", "carl", "anna", "anna"]


def test_units_that_cannot_be():
    """Clips without a speaker were taken for clips of one speaker."""
    with pytest.raises(ValueError, match=r"1 of 2 clips have no speaker.* by session or clip"):
        group_clips({"id": ["1", "2"], "speaker": ["anna", None]}, "speaker")
    with pytest.raises(ValueError, match="a split is 'word'; it must be one of 'clip', 'speaker', 'session'"):
        group_clips(CLIPS, "word")


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=1, max_size=12))
def test_no_speaker_is_in_two_groups(speakers):
    """Speakers who are connected over several dialogues were in two groups, or unconnected ones in one."""
    groups = group_clips({"id": list(map(str, range(len(speakers)))), "speakers": speakers}, "speaker")
    for name in "abcdefgh":
        assert len({group for group, names in zip(groups, speakers, strict=True) if name in names}) <= 1
    for group in groups:
        reached, rest = {group}, list(speakers)
        while near := [names for names in rest if reached & set(names)]:
            reached.update(*near)
            rest = [names for names in rest if names not in near]
        assert [bool(reached & set(names)) for names in speakers] == [other == group for other in groups]
