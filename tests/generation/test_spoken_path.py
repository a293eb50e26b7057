"""Alignment while a model speaks."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.generation import DiaCodesStreamer, find_path
from dia_hf.generation.alignment import PathSearch
from dia_hf.generation.spoken_path import PathFollower, SpokenWeights, audio_lag


def random_weights(num_frames, num_bytes, seed):
    """Weights that move through the text, with noise."""
    draw = np.random.default_rng(seed)
    places = np.linspace(0, num_bytes - 1, max(num_frames, 1))[:num_frames]
    logits = -0.5 * (np.arange(num_bytes) - places[:, None]) ** 2 + 2 * draw.standard_normal((num_frames, num_bytes))
    return torch.softmax(torch.from_numpy(logits).float(), -1)


@given(
    num_frames=st.integers(0, 30),
    num_bytes=st.integers(1, 12),
    lag=st.integers(0, 35),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_a_settled_byte_is_final_and_does_not_depend_on_calls(num_frames, num_bytes, lag, cuts, seed):
    """A word's time was taken back later, or depended on how many frames came at once."""
    weights = random_weights(num_frames, num_bytes, seed)
    is_pause = np.random.default_rng(seed).random(num_bytes) < 0.3
    edges = sorted({0, num_frames, *(min(cut, num_frames) for cut in cuts)})
    together, apart = (PathFollower(PathSearch(is_pause), lag) for _ in range(2))
    whole = together.add(weights)
    assert len(whole) == max(num_frames - lag, 0)
    parts = []
    for begin, end in itertools.pairwise(edges):
        parts += apart.add(weights[begin:end])
        assert len(parts) == max(end - lag, 0)
    assert parts == whole
    path = whole + together.finish()
    assert parts + apart.finish() == path
    assert len(path) == num_frames and path == sorted(path)
    if lag >= num_frames:
        assert path == find_path(weights, is_pause).tolist()


def test_a_path_as_it_was_earlier():
    """The path of the first frames read later ones, so that a settled byte depended on how many had come."""
    weights = random_weights(12, 6, 3)
    search = PathSearch([False] * 6)
    search.add(weights)
    for last in range(12):
        earlier = find_path(weights[: last + 1]).tolist()
        assert [search.place_at(frame, last) for frame in range(last + 1)] == earlier
    assert search.path(4).tolist() == earlier[4:]


def test_weights_of_spoken_frames():
    """Weights of the steps after the end of speech, in which only delayed channels are left, were those of frames."""
    spoken = SpokenWeights(eos_token_id=9)
    for step, (first, second) in enumerate([(1, 1), (9, 2), (8, 3), (8, 9), (8, 8)]):
        spoken.put_alignment(torch.full((2, 3), float(step)))
        spoken.put(torch.tensor([[first, 0], [second, 0]]))
        if step == 0:
            assert spoken.take(0)[:, 0].tolist() == [0] and not spoken.has_ended(0)
    assert spoken.take(0).shape[0] == 0 and spoken.has_ended(0)
    assert not spoken.has_ended(1)  # its weights have not been taken
    assert spoken.take(1)[:, 0].tolist() == [0, 1, 2] and spoken.has_ended(1)


def test_weights_are_optional():
    """A stream without recording waited for weights."""
    spoken = SpokenWeights(eos_token_id=9)
    spoken.put(torch.tensor([[1, 0]]))
    assert len(spoken.take()) == 0 and not spoken.has_ended()


@pytest.mark.parametrize("limit", [None, 30])
def test_a_streamer_has_the_weights_of_the_valid_frames(limit):
    """Frames and weights of a stream were shifted, or their numbers differed at a limit."""
    model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    inputs = DiaProcessor.from_pretrained(MINIATURE)("[S1] Hello, I am Dia.")
    options = {"do_sample": False, "return_alignment": True} | ({"max_new_tokens": limit} if limit else {})
    expected = model.generate(**inputs, **options).alignment[0]
    streamer = DiaCodesStreamer(model.config)
    num_frames = sum(map(len, streamer.listen(model.generate, **inputs, **options)))
    weights = streamer.alignment.take()
    assert len(weights) == num_frames and streamer.alignment.has_ended()
    torch.testing.assert_close(weights, expected[:num_frames])


def test_the_lag_is_that_of_the_audio():
    """Words came later than the audio that they are in."""
    from dia_hf import DiaAudioStreamer

    processor = DiaProcessor.from_pretrained(MINIATURE)
    streamer = DiaAudioStreamer(processor, first_chunk_frames=1)
    assert audio_lag(processor.config, processor.codec) == streamer.num_steps_before_sound - 2
