import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.delay_pattern import apply_delay, num_prompt_frames, num_valid_frames, revert_delay, valid_codes

BOS, PAD = 26, 25

delay_patterns = st.lists(st.integers(0, 7), min_size=1, max_size=5)


def loop_apply(codes, delay_pattern):
    """The definition, slot by slot."""
    batch_size, num_frames, num_channels = codes.shape
    delayed = torch.full((batch_size, num_frames + max(delay_pattern), num_channels), PAD)
    for sample in range(batch_size):
        for channel, delay in enumerate(delay_pattern):
            for frame in range(delay):
                delayed[sample, frame, channel] = BOS
            for frame in range(num_frames):
                delayed[sample, frame + delay, channel] = codes[sample, frame, channel]
    return delayed


def draw_codes(delay_pattern, num_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 20, (2, num_frames, len(delay_pattern)), generator=generator)


@given(delay_patterns, st.integers(1, 12), st.integers(0, 1000))
def test_apply_is_its_definition(delay_pattern, num_frames, seed):
    """Vectorized indices that were off by one at an edge went unnoticed with one delay pattern."""
    codes = draw_codes(delay_pattern, num_frames, seed)
    assert torch.equal(apply_delay(codes, delay_pattern, BOS, PAD), loop_apply(codes, delay_pattern))


@given(delay_patterns, st.integers(1, 12), st.integers(0, 1000))
def test_revert_inverts_apply(delay_pattern, num_frames, seed):
    """The last `delay` codes of each channel were lost on the way back."""
    codes = draw_codes(delay_pattern, num_frames, seed)
    assert torch.equal(revert_delay(apply_delay(codes, delay_pattern, BOS, PAD), delay_pattern), codes)


@given(delay_patterns, st.integers(1, 12))
def test_given_frames_are_those_the_fastest_channel_fills(delay_pattern, num_frames):
    """A frame with an unfilled slot was fed to the network, with padding where it expects codes."""
    delayed = apply_delay(draw_codes(delay_pattern, num_frames), delay_pattern, BOS, PAD)
    assert num_prompt_frames(delayed, PAD) == num_frames + min(delay_pattern)


def test_dtype_and_device_stay():
    """int32 inputs came back as int64, unlike transformers' processor."""
    codes = torch.zeros(1, 3, 2, dtype=torch.int32)
    assert apply_delay(codes, [0, 1], BOS, PAD).dtype == torch.int32
    assert revert_delay(codes, [0, 1]).dtype == torch.int32


def test_too_short_for_any_frame():
    """Fewer frames than the delay made a negative length instead of none."""
    assert revert_delay(torch.zeros(2, 3, 2, dtype=torch.long), [0, 5]).shape == (2, 0, 2)


@pytest.mark.parametrize("shape", [(3, 2), (1, 3, 3)])
def test_wrong_shape(shape):
    """Codes with channels first were read as frames."""
    with pytest.raises(ValueError, match="one channel for each entry"):
        apply_delay(torch.zeros(shape, dtype=torch.long), [0, 1], BOS, PAD)


@pytest.mark.parametrize("codes", [[[[1]]], torch.zeros(1, 3, 2), None])
def test_no_tensor_of_codes(codes):
    """A list, or floats, ended in an AttributeError, or in an index of the wrong dtype."""
    with pytest.raises(TypeError, match=r"expected an integer torch.Tensor \[batch, frames, 2\]"):
        revert_delay(codes, [0, 1])


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(0, 12),
    st.one_of(st.none(), st.integers(0, 25)),
)
def test_spoken_frames_are_those_complete_before_the_end(pattern, num_frames, num_cut, stopped_at):
    """Frames with padding or EOS in them reached the codec, or the last complete one was lost."""
    pattern = [0, *pattern]
    eos, pad, num_steps = 100, 101, num_frames + 1 + max(pattern)
    delayed = torch.full((1, num_steps, len(pattern)), pad)
    for channel, delay in enumerate(pattern):
        delayed[0, : delay + num_frames, channel] = 5
        delayed[0, delay + num_frames, channel] = eos
    delayed = delayed[:, : max(num_steps - num_cut, 0)]
    if stopped_at is not None:
        delayed[:, stopped_at:] = pad
    expected = 0
    for frame in range(delayed.shape[1]):
        ends = [frame + delay for delay in pattern]
        is_complete = all(end < delayed.shape[1] for end in ends)
        if not is_complete or any(delayed[0, end, c] != 5 for c, end in enumerate(ends)):
            break
        expected += 1
    assert num_valid_frames(delayed, pattern, eos, pad).tolist() == [expected]


@given(delay_patterns, st.lists(st.integers(0, 8), min_size=1, max_size=4))
def test_valid_codes_are_each_rows_frames(pattern, lengths):
    """Delays were reverted in four places; a row cut at another row's EOS loses or gains frames."""
    pattern = [0, *pattern]
    eos, num_frames = 30, max(lengths) + 1
    codes = torch.randint(0, 20, (len(lengths), num_frames, len(pattern)))
    for row, length in zip(codes, lengths, strict=True):
        row[length:] = PAD
        row[length] = eos
    delayed = apply_delay(codes, pattern, BOS, PAD)
    for clip, row, length in zip(valid_codes(delayed, pattern, eos, PAD), codes, lengths, strict=True):
        assert torch.equal(clip, row[:length])
