"""`SamplingSpec` and `take_step` against the reference path's processors and transformers' warpers, sample by sample.

Where two tokens are so close that rounding decides, either is right; such rows are left out.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList, MinNewTokensLengthLogitsProcessor

from dia_hf import DiaConfig, native
from dia_hf.engine.sampling import NEVER, SamplingSpec
from dia_hf.engine.step import FrameState, FrameView, take_step
from dia_hf.generation.fast_path import DiaCall, FrameCall
from dia_hf.generation.logits_process import (
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
    DiaEOSScaleLogitsProcessor,
    DiaForcedTokensLogitsProcessor,
)
from dia_hf.generation.per_sample import SampleSettings, make_guidance, make_warpers

V, EOS, PAD = 23, 19, 20
WAYS = [False, True] if native.library() is not None else [False]
both_ways = pytest.mark.parametrize("is_native", WAYS, ids=["PyTorch", "C++"][: len(WAYS)])
CLOSE = 1e-4


def make_config(delay_pattern, vocab_size=V, eos_token_id=EOS):
    decoder = {
        "num_channels": len(delay_pattern),
        "vocab_size": vocab_size,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id + 1,
        "bos_token_id": eos_token_id + 2,
    }
    return DiaConfig(decoder_config=decoder, delay_pattern=list(delay_pattern))


def make_rules(wanted, delay_pattern=(0, 1, 2), **options):
    """Translate sampling parameters as a call of `generate()` does."""
    names = ("guidance_scale", "temperature", "top_k", "top_p", "max_new_tokens")
    options = {
        "do_sample": True,
        "sample_from_guided": False,
        "eos_logit_scale": 1.0,
        "return_alignment": False,
    } | options
    minimum = options.pop("min_frames", 0)
    generation_config = GenerationConfig(do_sample=options["do_sample"])
    for name, value in options.items():
        setattr(generation_config, name, value)
    generation_config.per_sample = {name: [one.get(name) for one in wanted] for name in names}
    call = DiaCall(
        input_ids=torch.zeros(len(wanted), 1, dtype=torch.long),
        attention_mask=None,
        encode=None,
        is_guided=any(one["guidance_scale"] not in (None, 1) for one in wanted),
        brings_cache=False,
        settings=SampleSettings(generation_config, len(wanted), len(delay_pattern)),
    )
    processors = LogitsProcessorList([MinNewTokensLengthLogitsProcessor(1, minimum, EOS)] if minimum else [])
    model = SimpleNamespace(config=make_config(delay_pattern))
    frame_call = FrameCall(model, call, processors, [], generation_config, None, {})
    limits = [one.get("max_new_tokens", 1000) for one in wanted]
    return frame_call._make_sampling(limits, torch.device("cpu"))


def oracle_scores(logits, one, num_new, is_guided, num_channels, **options):
    """Compute the reference path's scores `[C, V]` of one sample's logits `[1 or 2, C, V]`."""
    rules = LogitsProcessorList()
    if is_guided:
        decoder = make_config(range(num_channels)).decoder_config
        rules.append(
            make_guidance(decoder, options.get("sample_from_guided", False), one["guidance_scale"], one["top_k"])
        )
    if options.get("min_frames"):
        rules.append(MinNewTokensLengthLogitsProcessor(1, options["min_frames"], EOS))
    if options.get("eos_logit_scale", 1.0) != 1:
        rules.append(DiaEOSScaleLogitsProcessor(num_channels, EOS, options["eos_logit_scale"]))
    rules.append(DiaEOSChannelFilterLogitsProcessor(num_channels, EOS))
    if options.get("do_sample", True):
        rules.extend(make_warpers(one["temperature"], one["top_k"], one["top_p"]))
    history = torch.zeros(num_channels, 1 + num_new, dtype=torch.long)
    return rules(history, logits.flatten(0, 1))


def is_clear(logits, one, is_guided, options):
    """Return whether the candidates of each channel do not depend on rounding, `[C]`."""
    if not is_guided or one["guidance_scale"] in (None, 1) or not one["top_k"] or one["top_k"] >= V:
        return torch.ones(logits.shape[1], dtype=torch.bool)
    cond, uncond = logits
    ranked = (cond + one["guidance_scale"] * (cond - uncond)).sort(descending=True).values
    return ranked[:, one["top_k"] - 1] - ranked[:, one["top_k"]] > CLOSE


sample_settings = st.fixed_dictionaries(
    {
        "guidance_scale": st.sampled_from([None, 1, 0.5, 1.5, 3.0]),
        "temperature": st.sampled_from([None, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([None, 0, 1, 2, 5, 12, V, 100]),
        "top_p": st.sampled_from([None, 0.0, 0.2, 0.8, 0.95, 1.0]),
    }
)
call_settings = st.fixed_dictionaries(
    {
        "sample_from_guided": st.booleans(),
        "eos_logit_scale": st.sampled_from([1.0, 0.8, 1.5]),
        "min_frames": st.sampled_from([0, 3]),
    }
)
ENDS = ("as drawn", "best", "second", "a tie with the best", "far behind")


def draw_logits(seed, rows, num_channels, end, special, grid):
    """Draw logits `[rows, C, V]` with a given rank of channel 0's EOS, and special tokens on top if requested."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, num_channels, V, generator=generator)
    if grid:
        logits = (logits * 4).round() / 4
    best = logits[..., :EOS].amax(-1)
    second = logits[..., :EOS].topk(2).values.mean(-1)
    place = {"best": best + 1, "second": second, "a tie with the best": best, "far behind": best - 20}
    if end in place:
        logits[..., EOS] = place[end]
    if special:
        logits[..., PAD] = best + 5
    return logits


def choose(rules, frame_settings, logits, num_new, noise, is_native):
    """Chosen tokens `[B, C]`, whether channel 0 ends `[B]`, and each best logit `[B, C]`, which the operator keeps."""
    if not is_native:
        return rules.choose(logits, frame_settings, num_new, noise)
    num_samples, num_channels = len(num_new), logits.shape[1]
    delays = list(range(num_channels))
    state = make_state(rules, frame_settings, free_slots(num_samples, num_channels), delays, 9, noise)
    state.num_new.copy_(num_new)
    take_step(Script(logits[None], is_native=True), rules, state, VIEW)
    return state.tokens, state.end == num_new, None


def noise_like(seed, *shape):
    return torch.empty(shape).exponential_(generator=torch.Generator().manual_seed(seed))


@both_ways
@given(
    wanted=st.lists(sample_settings, min_size=1, max_size=4),
    options=call_settings,
    seed=st.integers(0, 2**31),
    end=st.sampled_from(ENDS),
    special=st.booleans(),
    num_channels=st.sampled_from([1, 3]),
)
@settings(max_examples=150)
def test_greedy_choices_are_the_reference_paths(is_native, wanted, options, seed, end, special, num_channels):
    """A rule applied in another order, to another sample, or with another end of channel 0."""
    options = options | {"do_sample": False}
    rules, frame_settings = make_rules(wanted, range(num_channels), **options)
    logits = draw_logits(seed, (1 + rules.is_guided) * len(wanted), num_channels, end, special, grid=False)
    num_new = torch.arange(len(wanted)) + 1
    chosen, ends, best = choose(rules, frame_settings, logits, num_new, None, is_native)
    for index, one in enumerate(wanted):
        own = logits[index :: len(wanted)]
        scores = oracle_scores(own, one, index + 1, rules.is_guided, num_channels, **options)
        clear = is_clear(own, one, rules.is_guided, options)
        assert torch.equal(chosen[index][clear], scores.argmax(-1)[clear])
        if clear[0]:
            assert ends[index] == (scores[0].argmax() == EOS)
        if is_native:
            continue
        has_choice = scores.isfinite().any(-1)
        has_choice[0] &= not ends[index]
        torch.testing.assert_close(best[index][has_choice & clear], scores.amax(-1)[has_choice & clear])


@both_ways
@given(
    wanted=st.lists(sample_settings, min_size=1, max_size=4),
    options=call_settings,
    seed=st.integers(0, 2**31),
    end=st.sampled_from(ENDS),
    special=st.booleans(),
)
@settings(max_examples=150)
def test_draws_are_the_reference_paths(is_native, wanted, options, seed, end, special):
    """With the same noise, the argmax of p / q was computed from another p than the reference path's."""
    rules, frame_settings = make_rules(wanted, **options)
    logits = draw_logits(seed, (1 + rules.is_guided) * len(wanted), 3, end, special, grid=False)
    noise = noise_like(seed, len(wanted), 3, V)
    chosen, _, _ = choose(rules, frame_settings, logits, torch.arange(len(wanted)) + 1, noise, is_native)
    for index, one in enumerate(wanted):
        own = logits[index :: len(wanted)]
        scores = oracle_scores(own, one, index + 1, rules.is_guided, 3, **options)
        ratios = scores.softmax(-1) / noise[index]
        first, second = ratios.topk(2).values.T
        clear = is_clear(own, one, rules.is_guided, options) & (first > second * (1 + CLOSE)) & (first > 0)
        assert torch.equal(chosen[index][clear], ratios.argmax(-1)[clear])


@both_ways
@given(
    wanted=sample_settings,
    num_samples=st.integers(1, 3),
    options=call_settings,
    do_sample=st.booleans(),
    seed=st.integers(0, 2**31),
    end=st.sampled_from(ENDS),
    special=st.booleans(),
)
@settings(max_examples=150)
def test_ties_are_broken_as_in_the_reference_path(
    is_native, wanted, num_samples, options, do_sample, seed, end, special
):
    """Logits of bfloat16 weights tie often: EOS against an equal code, or the last of equals chosen."""
    options = options | {"do_sample": do_sample}
    wanted = [wanted] * num_samples
    rules, frame_settings = make_rules(wanted, **options)
    if rules.any_filters or is_native:  # which of equals are in the nucleus is anybody's guess
        wanted = [one | {"top_p": None} for one in wanted]
        rules, frame_settings = make_rules(wanted, **options)
    logits = draw_logits(seed, (1 + rules.is_guided) * num_samples, 3, end, special, grid=True)
    noise = noise_like(seed, num_samples, 3, V)
    chosen, _, _ = choose(rules, frame_settings, logits, torch.full((num_samples,), 4), noise, is_native)
    for index, one in enumerate(wanted):
        scores = oracle_scores(logits[index::num_samples], one, 4, rules.is_guided, 3, **options)
        has_choice = scores.isfinite().any(-1)
        if is_native:  # nor which of equals are candidates
            has_choice &= is_clear(logits[index::num_samples], one, rules.is_guided, options)
        expected = (scores.softmax(-1) / noise[index] if do_sample else scores).argmax(-1)
        assert torch.equal(chosen[index][has_choice], expected[has_choice])


@given(
    wanted=st.lists(sample_settings, min_size=1, max_size=4),
    options=call_settings,
    do_sample=st.booleans(),
    seed=st.integers(0, 2**31),
    end=st.sampled_from(ENDS),
)
@settings(max_examples=75)
@example(
    wanted=[{"guidance_scale": 2.0, "temperature": None, "top_k": 1, "top_p": None}]
    + 2 * [{"guidance_scale": 2.0, "temperature": None, "top_k": 7, "top_p": None}],
    options={"eos_logit_scale": 1.0, "min_frames": 0},
    do_sample=True,
    seed=202,
    end="as drawn",
)
def test_candidates_are_the_general_rules(wanted, options, do_sample, seed, end):
    """The shortcut over candidates only, for batches where all samples filter, chose other tokens."""
    options = options | {"do_sample": do_sample, "sample_from_guided": False, "return_alignment": False}
    wanted = [one | {"guidance_scale": one["guidance_scale"] or 2.0, "top_k": one["top_k"] or 7} for one in wanted]
    wanted = [one | {"guidance_scale": 2.0 if one["guidance_scale"] == 1 else one["guidance_scale"]} for one in wanted]
    rules, frame_settings = make_rules(wanted, **options)
    assert rules.all_filter
    logits = draw_logits(seed, 2 * len(wanted), 3, end, False, grid=False)
    noise = noise_like(seed, len(wanted), 3, V)
    answers = [
        one.choose(logits, frame_settings, torch.full((len(wanted),), 4), noise)
        for one in (rules, replace(rules, all_filter=False), replace(rules, all_filter=False, same_top_k=False))
    ]
    for other in answers[1:]:
        (tokens, ends, best), (other_tokens, other_ends, other_best) = answers[0], other
        torch.testing.assert_close(best, other_best)
        assert torch.equal(ends, other_ends)
        has_choice = best.isfinite()
        has_choice[:, 0] |= ends
        assert torch.equal(tokens[has_choice], other_tokens[has_choice])


@both_ways
@pytest.mark.parametrize("scale", [None, 2.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("neighbor", [None, 2.0], ids=["beside unguided", "beside guided"])
def test_draws_follow_the_distribution(is_native, scale, neighbor):
    """Noise used twice, or for another token, biases the draw (chi-square over 20,000 draws)."""
    one = {"guidance_scale": scale, "temperature": 1.3, "top_k": 9, "top_p": 0.9}
    other = {"guidance_scale": neighbor, "temperature": 0.7, "top_k": 4, "top_p": None}
    num_draws = 10_000
    rules, frame_settings = make_rules([one, other])
    everyone = torch.arange(2).repeat_interleave(num_draws)
    own = draw_logits(0, 2 * (1 + rules.is_guided), 3, "far behind", False, grid=False)
    logits = torch.cat([half[everyone] for half in own.split(2)])
    noise = noise_like(1, 2 * num_draws, 3, V)
    chosen, _, _ = choose(
        rules, frame_settings.select(everyone), logits, torch.full((2 * num_draws,), 4), noise, is_native
    )
    for index, wanted in enumerate((one, other)):
        scores = oracle_scores(own[index::2], wanted, 4, rules.is_guided, 3)
        for channel, expected in enumerate(scores.softmax(-1).double() * num_draws):
            mine = chosen[index * num_draws : (index + 1) * num_draws, channel]
            counts = mine.bincount(minlength=V).double()
            assert not counts[expected == 0].any()
            kept = expected > 0
            freedom = int(kept.sum()) - 1
            statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
            assert statistic < freedom + 5 * max(2 * freedom, 1) ** 0.5


@both_ways
@pytest.mark.parametrize("scale", [None, 2.0], ids=["all tokens", "candidates"])
@pytest.mark.parametrize(("top_p", "num_kept"), [(0.5, 2), (0.75, 3), (1.0, 4), (0.0, 1)])
def test_the_edge_of_the_nucleus(is_native, scale, top_p, num_kept):
    """A cumulative probability that is reached exactly, by ties, admitted one token too many."""
    one = {"guidance_scale": scale, "temperature": None, "top_k": 9 if scale else None, "top_p": top_p}
    rules, frame_settings = make_rules([one, one | {"top_p": 0.9}])
    frame_settings = frame_settings.select(torch.zeros(V, dtype=torch.long))
    logits = torch.full((1 + rules.is_guided, 3, V), -200.0)
    logits[..., 3:7] = 1.0
    scores = oracle_scores(logits, one, 0, rules.is_guided, 3)
    assert scores.softmax(-1).gt(0).sum(-1).tolist() == [num_kept] * 3
    # Each sample's noise favors another token so much that it is drawn if it can be.
    noise = torch.full((V, 3, V), 1e9)
    noise[torch.arange(V), :, torch.arange(V)] = 1e-9
    logits = logits.repeat_interleave(V, dim=0)
    chosen, _, _ = choose(rules, frame_settings, logits, torch.zeros(V, dtype=torch.long), noise, is_native)
    drawn = (chosen == torch.arange(V)[:, None]).sum(0)
    assert drawn.tolist() == [num_kept] * 3


class Script:
    """Network substitute: the logits of frame n are `frames[n]`, `[R, C, V]`."""

    def __init__(self, frames, is_native=False):
        self.frames = frames
        self.num_steps = 0
        self.native = is_native or None

    def step(self, cache, tokens, lengths, *view):
        self.num_steps += 1
        return self.frames[self.num_steps - 1].clone()


def make_state(rules, frame_settings, given, delays, num_frames, noise=None):
    num_samples, _, num_channels = given.shape
    return FrameState(
        cache=SimpleNamespace(keys=[torch.zeros(1, 1, num_frames + 5, 1)]),
        params=frame_settings,
        forced=given,
        delays=torch.tensor(delays),
        tokens=torch.zeros(num_samples, num_channels, dtype=torch.long),
        lengths=torch.zeros((1 + rules.is_guided) * num_samples, dtype=torch.long),
        num_new=torch.zeros(num_samples, dtype=torch.long),
        end=torch.full((num_samples,), NEVER),
        new=torch.zeros(num_samples, num_frames, num_channels, dtype=torch.long),
        noise=noise,
        is_broken=torch.zeros(num_samples, dtype=torch.bool),
    )


VIEW = FrameView(torch.arange(1), 1, False, False)


def free_slots(num_samples, num_channels):
    return torch.full((num_samples, 1, num_channels), PAD)


@both_ways
@given(
    delays=st.lists(st.integers(0, 5), min_size=0, max_size=3).map(lambda delays: [0, *delays]),
    num_samples=st.integers(1, 3),
    num_forced=st.integers(0, 5),
    limits=st.lists(st.integers(1, 14), min_size=3, max_size=3),
    min_frames=st.sampled_from([0, 4]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150)
def test_frames_are_completed_as_in_the_reference_path(
    is_native, delays, num_samples, num_forced, limits, min_frames, seed
):
    """An EOS a frame late, twice, over a forced token, or in the frame after the limit."""
    draw = torch.Generator().manual_seed(seed)
    num_channels, num_frames, limits = len(delays), max(limits[:num_samples]), limits[:num_samples]
    wanted = [{"guidance_scale": None, "top_k": None, "top_p": None, "temperature": None} for _ in limits]
    wanted = [one | {"max_new_tokens": limit} for one, limit in zip(wanted, limits, strict=True)]
    rules, frame_settings = make_rules(wanted, delays, do_sample=False, min_frames=min_frames)
    script = torch.randn(num_frames, num_samples, num_channels, V, generator=draw)
    script[:, :, 0, EOS] += 1.5 * torch.rand(num_frames, num_samples, generator=draw)
    # Slots are given in slow channels, for fewer frames than these are delayed.
    slots = torch.full((num_samples, num_forced + 1, num_channels), PAD)
    for channel, delay in enumerate(delays):
        slots[:, : min(delay, num_forced), channel] = torch.randint(0, EOS, (num_samples, 1), generator=draw)

    state = make_state(rules, frame_settings, slots, delays, num_frames)
    network = Script(script, is_native)
    for _ in range(num_frames):
        take_step(network, rules, state, VIEW)

    processors = LogitsProcessorList([MinNewTokensLengthLogitsProcessor(1, min_frames, EOS)] if min_frames else [])
    processors.append(DiaEOSChannelFilterLogitsProcessor(num_channels, EOS))
    processors.append(DiaEOSDelayPatternLogitsProcessor(delays, EOS, [1 + limit for limit in limits], begin_index=1))
    before = slots.new_zeros(num_samples, 1, num_channels)
    processors.append(DiaForcedTokensLogitsProcessor(torch.cat((before, slots), dim=1), PAD))
    history = torch.zeros(num_samples * num_channels, 1, dtype=torch.long)
    has_ended = torch.zeros(num_samples * num_channels, dtype=torch.bool)
    for frame in script:
        tokens = processors(history, frame.flatten(0, 1)).argmax(-1).masked_fill(has_ended, PAD)
        has_ended |= tokens == EOS
        history = torch.cat((history, tokens[:, None]), dim=1)
    expected = history[:, 1:].unflatten(0, (num_samples, num_channels)).transpose(1, 2)
    for mine, theirs, limit in zip(state.new, expected, limits, strict=True):
        assert torch.equal(mine[:limit], theirs[:limit])
    assert torch.equal(state.tokens, state.new[:, -1])


@both_ways
def test_a_sample_carried_on_writes_into_its_own_places(is_native):
    """Steps beyond the capacity write into a neighbor, or fail later on a GPU."""
    rules, frame_settings = make_rules([{"guidance_scale": None, "top_k": None, "top_p": None, "temperature": None}])
    rules = replace(rules, do_sample=False)
    state = make_state(rules, frame_settings, free_slots(1, 3), [0, 1, 2], 2)
    network = Script(torch.randn(20, 1, 3, V, generator=torch.Generator().manual_seed(0)), is_native)
    for _ in range(20):
        take_step(network, rules, state, VIEW)
    assert state.lengths.tolist() == [6]
    assert state.num_new.tolist() == [20]
    assert torch.equal(state.new[:, -1], state.tokens)


def take_one_step(is_native, frame, forced=None, end=NEVER, num_new=None, delays=(0, 1, 2), **wanted):
    """Run a step of one sample that predicts `frame`; return its tokens and whether it is broken."""
    one = {"guidance_scale": 2.0, "top_k": 1, "top_p": None, "temperature": None} | wanted
    rules, frame_settings = make_rules([one], delays)
    forced = free_slots(1, len(delays)) if forced is None else forced
    noise = noise_like(0, 1, len(delays), V)
    state = make_state(rules, frame_settings, forced, list(delays), 9, noise)
    state.end.fill_(end)
    state.num_new.fill_(num_new or (0 if end == NEVER else end + 1))
    rows = 2 if rules.is_guided else 1
    take_step(Script(frame.expand(1, rows, *frame.shape), is_native), rules, state, VIEW)
    return state.tokens[0].tolist(), bool(state.is_broken.any())


def best_tokens(*tokens):
    """Make logits `[C, V]` with these best tokens."""
    return 5 * torch.nn.functional.one_hot(torch.tensor(tokens), V).float()


@both_ways
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("channel", [0, 2])
def test_what_cannot_be_drawn_from_is_noted(is_native, value, top_k, scale, channel):
    """Overflowed weights generated noise without an error; the reference path raises."""
    frame = torch.randn(3, V, generator=torch.Generator().manual_seed(0))
    assert not take_one_step(is_native, frame, guidance_scale=scale, top_k=top_k)[1]
    frame[channel, 4] = value
    _, is_broken = take_one_step(is_native, frame, guidance_scale=scale, top_k=top_k)
    assert is_broken


@both_ways
def test_a_step_that_was_broken_stays_noted(is_native):
    """The host polls every few steps, and missed a step that was broken in between."""
    one = {"guidance_scale": None, "top_k": None, "top_p": None, "temperature": None}
    rules, frame_settings = make_rules([one])
    state = make_state(rules, frame_settings, free_slots(1, 3), [0, 1, 2], 9, noise_like(0, 1, 3, V))
    frames = torch.zeros(2, 1, 3, V)
    frames[0, 0, 1] = float("nan")
    network = Script(frames, is_native)
    for _ in range(2):
        take_step(network, rules, state, VIEW)
    assert state.is_broken.any()


@both_ways
def test_a_filter_leaves_a_code(is_native):
    """A filter of one token that kept a special token failed for most texts."""
    frame = best_tokens(3, 3, PAD)
    frame[2, 7] = 2.0
    assert take_one_step(is_native, frame) == ([3, 3, 7], False)


@both_ways
def test_an_end_is_something_to_draw(is_native):
    """With `top_k=1`, EOS is the only candidate, and every end was an error."""
    assert take_one_step(is_native, best_tokens(EOS, 3, 3)) == ([EOS, 3, 3], False)


@both_ways
def test_a_given_slot_needs_no_draw(is_native):
    """With `top_k=1`, a model that predicts the forced beginning of speech failed at the first step."""
    given = torch.cat((free_slots(1, 3), free_slots(1, 3)), dim=1)
    given[0, 0, 1:] = EOS + 2
    assert take_one_step(is_native, best_tokens(3, EOS + 2, EOS + 2), given) == ([3, EOS + 2, EOS + 2], False)


@both_ways
def test_a_delayed_end_needs_no_draw(is_native):
    """With `top_k=1`, a channel with a delayed end failed because no code was left."""
    assert take_one_step(is_native, best_tokens(3, EOS, 3), end=0) == ([PAD, EOS, 3], False)


@both_ways
def test_a_sample_that_has_ended_needs_no_draw(is_native):
    """An ended sample that stays in the batch until the host polls made the call fail."""
    assert take_one_step(is_native, best_tokens(PAD, PAD, PAD), num_new=12, end=4) == ([PAD, PAD, PAD], False)


@both_ways
@pytest.mark.parametrize("top_k", [None, 5])
def test_greedy_choices_are_tokens_whatever_the_logits(is_native, top_k):
    """NaN gave the token 2**62, an index outside the embedding, after which the CUDA context is unusable."""
    one = {"guidance_scale": 2.0, "top_k": top_k, "top_p": None, "temperature": None}
    rules, frame_settings = make_rules([one], do_sample=False)
    logits = torch.full((2, 3, V), float("nan"))
    chosen, _, _ = choose(rules, frame_settings, logits, torch.zeros(1, dtype=torch.long), None, is_native)
    assert ((chosen >= 0) & (chosen < V)).all()


def test_equal_calls_have_equal_rules():
    """Specs that differ in irrelevant values caused compilation and capture in every call."""
    one = {"guidance_scale": 2.0, "top_k": 5, "top_p": 0.9, "temperature": 1.2}
    rules, _ = make_rules([one])
    assert isinstance(rules, SamplingSpec)
    assert rules == make_rules([one | {"guidance_scale": 3.0, "temperature": 0.5, "top_p": 0.3}] * 3)[0]
    assert rules != make_rules([one | {"top_k": 6}])[0]
