"""Each processor alone, on logits written by hand."""

import pytest
import torch
from transformers import LogitsProcessor
from transformers.generation.logits_process import (
    DiaClassifierFreeGuidanceLogitsProcessor as TheirGuidance,
)
from transformers.generation.logits_process import (
    DiaEOSChannelFilterLogitsProcessor as TheirChannelFilter,
)
from transformers.generation.logits_process import (
    DiaEOSDelayPatternLogitsProcessor as TheirDelayPattern,
)

from dia_hf.generation import (
    DiaClassifierFreeGuidanceLogitsProcessor,
    DiaConditionalLogitsProcessor,
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
    DiaEOSScaleLogitsProcessor,
    DiaForcedTokensLogitsProcessor,
    DiaGuidanceTopKLogitsProcessor,
    DiaPerSampleLogitsProcessor,
    DiaSeededSamplingLogitsProcessor,
)

INF = float("inf")
EOS, PAD, BOS = 3, 4, 5
NO_IDS = torch.zeros(1, 1, dtype=torch.long)


def equal(scores, rows):
    return torch.equal(scores, torch.tensor(rows))


def test_the_filter_keeps_what_may_be_said():
    """With a small `top_k` only special tokens were kept, and no token was left to sample."""
    cond = torch.tensor([[1.0, 2.0, 3.0, 9.0], [1.0, 2.0, 3.0, 9.0]])  # 2 ends; two channels of one sample
    filtered = DiaGuidanceTopKLogitsProcessor(1.0, 1, eos_token_id=2, num_channels=2)(
        NO_IDS, torch.cat([cond, 0 * cond])
    )
    assert (filtered > -float("inf")).tolist() == [[False, False, True, True], [False, True, False, True]]


def test_guidance_is_centered_on_the_conditional_logits():
    """Uncond + s·(cond − uncond), the usual form, is guidance of another strength."""
    scores = torch.tensor([[1.0, 2.0], [0.5, 4.0]])
    assert equal(DiaClassifierFreeGuidanceLogitsProcessor(2.0)(NO_IDS, scores), [[2.0, -2.0]])


@pytest.mark.parametrize("scale", [0.25, 1.5])
def test_guidance_takes_any_positive_scale(scale):
    """transformers refuses scales below 1, though the formula does not."""
    scores = torch.randn(8, 6)
    cond, uncond = scores.chunk(2)
    torch.testing.assert_close(
        DiaClassifierFreeGuidanceLogitsProcessor(scale)(NO_IDS, scores), cond + scale * cond - scale * uncond
    )


def test_guidance_top_k_keeps_conditional_scores():
    """Drawing from the guided logits is what the v0.1 release did; 0626 only filters by them."""
    cond = [5.0, 4.0, 3.0, 0.0]
    uncond = [9.0, 0.0, 0.0, 0.0]  # guided: -7, 16, 12, 0
    kept = DiaGuidanceTopKLogitsProcessor(3.0, 2)(NO_IDS, torch.tensor([cond, uncond]))
    assert equal(kept, [[-INF, 4.0, 3.0, -INF]])


def test_guidance_top_k_beyond_the_vocabulary():
    """`top_k=50`, transformers' default, raised in a vocabulary of fewer tokens."""
    scores = torch.randn(2, 4)
    assert torch.equal(DiaGuidanceTopKLogitsProcessor(3.0, 50)(NO_IDS, scores), scores[:1])


@pytest.mark.parametrize("top_k", [1, 7, 45])
def test_guidance_equals_transformers(top_k):
    """Random logits against the independent implementation."""
    scores, ids = torch.randn(36, 60), torch.zeros(18, 1, dtype=torch.long)
    assert torch.equal(DiaGuidanceTopKLogitsProcessor(3.0, top_k)(ids, scores), TheirGuidance(3.0, top_k)(ids, scores))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_guidance_scale_must_be_positive(scale):
    """A scale of 0 silently meant no guidance, a negative one the opposite of the text."""
    with pytest.raises(ValueError, match="above 0"):
        DiaClassifierFreeGuidanceLogitsProcessor(scale)


def test_top_k_must_be_positive():
    """`top_k=0` would keep nothing and make every row NaN."""
    with pytest.raises(ValueError, match="at least 1"):
        DiaGuidanceTopKLogitsProcessor(3.0, 0)


def test_channel_filter():
    """EOS is permitted in channel 0 only, and only as the argmax; other special tokens are masked."""
    scores = torch.tensor(
        [
            [1.0, 2.0, 0.0, 3.0, 9.0, 9.0],  # sample 0, channel 0: end is the best of what it may say
            [1.0, 2.0, 0.0, 3.0, 9.0, 9.0],
            [1.0, 4.0, 0.0, 3.0, 9.0, 9.0],  # sample 1, channel 0: a code is better
            [1.0, 4.0, 0.0, 3.0, 9.0, 9.0],
        ]
    )
    filtered = DiaEOSChannelFilterLogitsProcessor(2, EOS)(NO_IDS, scores)
    assert equal(
        filtered,
        [
            [-INF, -INF, -INF, 3.0, -INF, -INF],
            [1.0, 2.0, 0.0, -INF, -INF, -INF],
            [1.0, 4.0, 0.0, -INF, -INF, -INF],
            [1.0, 4.0, 0.0, -INF, -INF, -INF],
        ],
    )


def test_channel_filter_equals_transformers():
    """Random logits, ends among them, against the independent implementation."""
    scores, ids = torch.randn(90, 12), torch.zeros(90, 1, dtype=torch.long)
    scores[::9, 8] += 2
    expected = TheirChannelFilter(9, 8)(ids, scores.clone())
    assert torch.equal(DiaEOSChannelFilterLogitsProcessor(9, 8)(ids, scores), expected)
    assert 0 < (expected[::9, 8] > -INF).sum() < 10


def test_rules_leave_their_input_alone():
    """A rule that writes into the logits changes what `output_logits` returns."""
    scores = torch.randn(6, 7)
    before, ids = scores.clone(), torch.zeros(6, 4, dtype=torch.long)
    DiaEOSChannelFilterLogitsProcessor(3, EOS)(ids, scores)
    DiaEOSDelayPatternLogitsProcessor([0, 1, 2], EOS, max_length=7)(ids, scores)
    assert torch.equal(scores, before)


def test_scaled_end_of_speech():
    """v0.1 multiplies the logit, not the probability, and only channel 0's."""
    scores = torch.tensor([[1.0, 2.0, 0.0, 10.0, 0.0, 0.0]]).repeat(4, 1)
    scaled = DiaEOSScaleLogitsProcessor(2, EOS, 0.8)(NO_IDS, scores)
    assert scaled[:, EOS].tolist() == [8.0, 10.0, 8.0, 10.0]
    assert scores[0, EOS] == 10.0, "the input stays"


def speak(rule, first_channel_ends_at, num_frames, delay_pattern, length=0):
    """Run a processor frame by frame on scores for token 1, and EOS in channel 0 at one frame; return the frames."""
    ids = torch.ones(len(delay_pattern), length, dtype=torch.long)
    for frame in range(length, num_frames):
        scores = torch.tensor([[0.0, 1.0, 0.0, 0.5, -INF, -INF]]).repeat(len(delay_pattern), 1)
        scores[1:, EOS] = -INF
        if frame == first_channel_ends_at:
            scores[0] = torch.tensor([-INF, -INF, -INF, 0.5, -INF, -INF])
        ids = torch.cat([ids, rule(ids, scores).argmax(-1, keepdim=True)], dim=1)
    return (ids == EOS).int().tolist()


def test_delayed_end():
    """All channels ending at once loses the last frames of the slow ones."""
    ends = speak(DiaEOSDelayPatternLogitsProcessor([0, 2, 3], EOS), 1, 6, [0, 2, 3])
    assert ends == [[0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]


def test_end_in_time_for_the_limit():
    """A limit without a forced end truncates the slow channels."""
    ends = speak(DiaEOSDelayPatternLogitsProcessor([0, 2, 3], EOS, max_length=8), None, 8, [0, 2, 3])
    assert [row.index(1) for row in ends] == [4, 6, 7]


def test_an_end_inside_the_prompt_ends_nothing():
    """A prompt made of a whole utterance carries its end of speech; generation stopped before its first frame."""
    rule = DiaEOSDelayPatternLogitsProcessor([0, 1], EOS, begin_index=2)
    ids = torch.tensor([[1, EOS], [1, 1]])
    scores = torch.tensor([[0.0, 1.0, 0.0, 0.5, -INF, -INF]]).repeat(2, 1)
    assert torch.equal(rule(ids, scores), scores)


def test_a_rule_can_serve_twice():
    """State kept in a rule from one call made the next one end at its first frame."""
    rule = DiaEOSDelayPatternLogitsProcessor([0, 2, 3], EOS)
    first = speak(rule, 1, 6, [0, 2, 3])
    assert speak(rule, 1, 6, [0, 2, 3]) == first


@pytest.mark.parametrize("seed", range(5))
def test_delayed_end_equals_transformers(seed):
    """A batch ending at random frames against the independent implementation, step by step."""
    torch.manual_seed(seed)
    pattern, eos, batch_size = [0, 3, 1, 4], 8, 5
    ours = DiaEOSDelayPatternLogitsProcessor(pattern, eos, max_length=16)
    theirs = TheirDelayPattern(pattern, eos, max_generation_len=16)
    ids = torch.ones(batch_size * 4, 1, dtype=torch.long)
    for _ in range(15):
        scores = torch.randn(batch_size * 4, 11)
        scores[:, 9:] = -INF
        scores = DiaEOSChannelFilterLogitsProcessor(4, eos)(ids, scores)
        expected = theirs(ids, scores.clone())
        assert torch.equal(ours(ids, scores), expected)
        ids = torch.cat([ids, expected.argmax(-1, keepdim=True)], dim=1)


def test_forced_tokens():
    """A slow channel's beginning was predicted, though it is known."""
    given = torch.tensor([[[BOS, BOS], [2, BOS], [PAD, 1], [PAD, PAD]]])
    rule = DiaForcedTokensLogitsProcessor(given, PAD)
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]).repeat(2, 1)
    ids = torch.zeros(2, 2, dtype=torch.long)
    assert rule(ids, scores).argmax(-1).tolist() == [5, 1]
    assert torch.equal(rule(ids, scores)[0], scores[0])
    for length in (3, 4):
        assert torch.equal(rule(torch.zeros(2, length, dtype=torch.long), scores), scores)


def test_seeded_draw_equals_the_global_generator():
    """The same seed gave other codes by `generator=` than by `torch.manual_seed`."""
    scores = torch.randn(200, 30)
    torch.manual_seed(5)
    expected = torch.multinomial(scores.softmax(-1), 1)[:, 0]
    drawn = DiaSeededSamplingLogitsProcessor(torch.Generator().manual_seed(5))(NO_IDS, scores)
    assert torch.equal(drawn.argmax(-1), expected)
    assert torch.isfinite(drawn).sum() == 200


@pytest.mark.parametrize(
    "make_rule",
    [
        lambda: DiaClassifierFreeGuidanceLogitsProcessor(3.0),
        lambda: DiaGuidanceTopKLogitsProcessor(3.0, 3),
        lambda: DiaEOSChannelFilterLogitsProcessor(2, EOS),
        lambda: DiaEOSDelayPatternLogitsProcessor([0, 1], EOS, max_length=9, device="meta"),
        lambda: DiaEOSScaleLogitsProcessor(2, EOS, 0.8),
        lambda: DiaForcedTokensLogitsProcessor(torch.full((2, 9, 2), PAD, device="meta"), PAD),
    ],
    ids=["guidance", "top-k", "channel filter", "delayed end", "scaled end", "given"],
)
def test_no_rule_waits_for_the_device(make_rule, monkeypatch):
    """A read of the data, or a list copied to the device, synchronizes with the GPU at every frame.

    Tensors without data ("meta") permit only operations that do not read data.
    """
    rule = make_rule()
    rows = 8 if isinstance(rule, DiaClassifierFreeGuidanceLogitsProcessor) else 4
    ids, scores = torch.zeros(4, 3, dtype=torch.long, device="meta"), torch.zeros(rows, 6, device="meta")

    def refuse(*args, **kwargs):
        raise AssertionError("host data is sent to the device in every step")

    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refuse)
    assert rule(ids, scores).shape == (4, 6)


def test_no_guidance_beside_guided_neighbors():
    """A sample without guidance in a guided batch got the unconditional logits."""
    cond, uncond = torch.randn(4, 7), torch.randn(4, 7)
    assert torch.equal(DiaConditionalLogitsProcessor()(NO_IDS, torch.cat([cond, uncond])), cond)


class Look(LogitsProcessor):
    """Processor that adds a number and records its input."""

    def __init__(self, number):
        self.number = number
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append((input_ids.tolist(), scores.shape[0]))
        return scores[: len(input_ids)] + self.number


@pytest.mark.parametrize("halves", [1, 2])
def test_each_sample_its_own_rule(halves):
    """A processor for one sample received another's rows, or was called twice."""
    first, second = Look(10), Look(20)
    ids = torch.arange(6)[:, None]
    scores = torch.arange(6 * halves)[:, None].float()
    ruled = DiaPerSampleLogitsProcessor([first, second, first], num_channels=2)(ids, scores)
    assert ruled[:, 0].tolist() == [10, 11, 22, 23, 14, 15]
    assert first.seen == [([[0], [1], [4], [5]], 4 * halves)]
    assert second.seen == [([[2], [3]], 2 * halves)]


def test_limits_of_each_sample():
    """One limit for the batch lets the short requests run as long as the longest."""
    delays = [0, 2]
    rule = DiaEOSDelayPatternLogitsProcessor(delays, EOS, max_length=[6, 8, 20])
    for length in range(9):
        scores = rule(torch.zeros(6, length, dtype=torch.long), torch.zeros(6, EOS + 1))
        ended = [bool((scores[2 * b].argmax() == EOS) & torch.isinf(scores[2 * b, 0])) for b in range(3)]
        assert ended == [length == 3, length == 5, False]


def test_a_generator_for_each_sample():
    """A sample's draws depended on the number of samples before it."""
    scores = torch.randn(6, 30)

    def draw(seeds, rows):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return DiaSeededSamplingLogitsProcessor(generators, num_channels=2)(NO_IDS, rows).argmax(-1)

    together = draw([1, 2, 3], scores)
    for sample in range(3):
        alone = draw([sample + 1], scores[2 * sample : 2 * sample + 2])
        assert torch.equal(together[2 * sample : 2 * sample + 2], alone)
