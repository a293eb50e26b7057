"""Metrics of exactness, against plain loops and known results."""

import copy

import pytest
import torch

from dia_hf.bench import compare, make_config, make_model, parity, random_inputs, record_reference


@pytest.fixture(scope="module")
def toy():
    return make_model(make_config("toy"))


@pytest.fixture(scope="module")
def inputs(toy):
    return random_inputs(toy.config, 2, 12)


def test_a_model_agrees_with_itself(toy, inputs):
    """A comparison whose sides read different codes, or different halves of a batch, is never zero."""
    report = parity(toy, toy, inputs, num_frames=24)
    assert (report.num_texts, report.num_frames) == (2, 24)
    for error in (report.conditional, report.guided):
        assert (error.max_absolute, error.mean_absolute, error.relative_rms) == (0, 0, 0)
        assert error.top1_agreement == [1.0] * 9
    assert report.kl_divergence == pytest.approx([0] * 9, abs=1e-6)
    assert report.greedy_differs_at == [None, None]


def test_half_precision_shows(toy, inputs):
    """A model was compared with itself under another name, without a difference."""
    report = parity(toy, copy.deepcopy(toy).bfloat16(), inputs, num_frames=24, do_sample=True)
    assert 1e-4 < report.conditional.relative_rms < 0.1
    assert report.guided.mean_absolute > report.conditional.mean_absolute
    assert all(divergence > 0 for divergence in report.kl_divergence)


@pytest.mark.parametrize("do_sample", [False, True])
def test_figures_are_those_of_a_plain_loop(toy, inputs, do_sample):
    """A mask that is one frame off counts the positions before the delay, which no model chooses."""
    other = make_model(toy.config)
    with torch.no_grad():
        other.logits_dense.weight += 0.02 * torch.randn(other.logits_dense.weight.shape)
    report = parity(toy, other, inputs, num_frames=24, do_sample=do_sample)
    codes = record_reference(toy, inputs, 24, do_sample).codes
    logits = []
    for model in (toy, other):
        with_text = model(inputs["input_ids"], inputs["attention_mask"], codes[:, :-1]).logits
        without = model(torch.zeros_like(inputs["input_ids"]), inputs["attention_mask"], codes[:, :-1]).logits
        logits.append([one.view(2, 9, 24, -1) for one in (with_text, with_text + 3 * (with_text - without))])
    for kind, report_kind in enumerate((report.conditional, report.guided)):
        differences, spreads = [], []
        for channel in range(9):
            agreements, divergences = [], []
            for text in range(2):
                for frame in range(24):
                    if codes[text, frame + 1, channel] >= 1024:
                        continue
                    expected, given = (pair[kind][text, channel, frame] for pair in logits)
                    differences.append(given - expected)
                    spreads.append(expected - expected.mean())
                    agreements.append(float(expected.argmax() == given.argmax()))
                    chances = expected.softmax(0)
                    divergences.append(float((chances * (expected.log_softmax(0) - given.log_softmax(0))).sum()))
            # 24 frames: the slowest channel begins 15 later, and each channel's last position is EOS.
            assert len(agreements) == 2 * (24 - 16)
            assert report_kind.top1_agreement[channel] == pytest.approx(sum(agreements) / len(agreements))
            if kind == 0:
                assert report.kl_divergence[channel] == pytest.approx(sum(divergences) / len(divergences), rel=1e-3)
        difference, spread = torch.stack(differences), torch.stack(spreads)
        assert report_kind.max_absolute == pytest.approx(float(difference.abs().max()), rel=1e-4)
        assert report_kind.mean_absolute == pytest.approx(float(difference.abs().mean()), rel=1e-4)
        assert report_kind.relative_rms == pytest.approx(float(difference.norm() / spread.norm()), rel=1e-4)


def test_where_greedy_codes_part(toy, inputs):
    """The position of the first difference was counted with the prompt, or was that of the first text."""
    reference = record_reference(toy, inputs, 24)
    begin = reference.greedy_codes.shape[1] - 24
    reference.greedy_codes[1, begin + 5, 0] += 1
    assert compare(reference, toy, inputs).greedy_differs_at == [None, 5]
    reference.greedy_codes[0, begin, 8] += 1
    reference.greedy_codes[1, begin + 2, 3] += 1
    assert compare(reference, toy, inputs).greedy_differs_at == [0, 2]


def test_texts_of_different_lengths(toy):
    """Without a mask, a short text's metrics depended on the length of the longest text in the batch."""
    one, two = random_inputs(toy.config, 1, 12), random_inputs(toy.config, 1, 5, seed=1)
    both = {name: torch.cat([one[name], two[name]]) for name in ("decoder_input_ids", "decoder_attention_mask")}
    for name in ("input_ids", "attention_mask"):
        both[name] = torch.cat([one[name], torch.nn.functional.pad(two[name], (0, 7))])
    together, alone = record_reference(toy, both, 20), record_reference(toy, two, 20)
    assert torch.allclose(together.conditional[1], alone.conditional[0], atol=1e-4)
    assert torch.allclose(together.unconditional[1], alone.unconditional[0], atol=1e-4)


def test_too_few_frames(toy, inputs):
    """A channel without any counted position was averaged to a perfect 0."""
    with pytest.raises(ValueError, match="at least 17"):
        record_reference(toy, inputs, 16)


def test_a_model_that_was_the_reference_speaks_in_its_new_precision(toy, inputs):
    """The fast path computed with cached float32 weights in place of the rounded ones."""
    reused, fresh = copy.deepcopy(toy), copy.deepcopy(toy)
    reference = record_reference(reused, inputs, 64)
    report = compare(reference, reused.bfloat16(), inputs)
    assert report == compare(reference, fresh.bfloat16(), inputs)
    assert report.greedy_differs_at != [None, None]
