"""Rounding to int4, against brute force, exact grids and the kernel."""

import itertools

import pytest
import torch

from dia_hf.int4 import round_for_inputs, round_weights


def nearest(weight, group_size):
    """Round to the nearest of 16 steps between each group's lowest and highest weight: the oracle of plain rounding."""
    rounded = torch.empty_like(weight)
    for row in range(len(weight)):
        for start in range(0, weight.shape[1], group_size):
            group = weight[row, start : start + group_size]
            step = (group.max() - group.min()) / 15
            rounded[row, start : start + group_size] = group.min() + step * ((group - group.min()) / step).round()
    return rounded


def grid_weights(outputs=8, groups=3, group_size=16):
    """Make weights on grids with a scale and a zero a group, of which each group has both ends."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(16, (outputs, groups, group_size), generator=generator)
    codes[..., 3], codes[..., 7] = 0, 15
    scales = 2.0 ** torch.randint(-8, -2, (outputs, groups, 1), generator=generator)
    zeros = scales * torch.randint(-3, 4, (outputs, groups, 1), generator=generator)
    return codes.flatten(1), ((codes - 8) * scales + zeros).flatten(1)


def inputs_of(width, rows=200, seed=0):
    """Make correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) @ torch.randn(width, width, generator=generator)


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
def test_less_error_than_plain_rounding(draw):
    """A search that keeps the worse of two candidates, or whose zeros are those of other scales."""
    weight = draw(64, 96, generator=torch.Generator().manual_seed(1))
    rounded = round_weights(weight, 32)
    assert rounded.codes.shape == (64, 96)
    assert rounded.scales.shape == rounded.zeros.shape == (64, 3)
    error, plain = (float((values - weight).square().sum()) for values in (rounded.dequantize(), nearest(weight, 32)))
    assert error < 0.93 * plain


def test_no_grid_is_much_better():
    """A search that misses the best grid, which trying many finds."""
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    found = (round_weights(weight, 8).dequantize() - weight).square().sum(-1)
    for row, group in enumerate(weight):
        best = min(
            float((low + step * ((group - low) / step).round().clamp(0, 15) - group).square().sum())
            for low in torch.linspace(float(group.min()) - 0.1, float(group.min()) + 0.4, 60)
            for step in torch.linspace(0.02, float(group.max() - group.min()) / 13, 150)
        )
        # Eight weights and fifteen steps: lucky grids exist between those that are tried.
        plain = float((nearest(group[None], 8)[0] - group).square().sum())
        assert best <= found[row] <= plain * 1.001


@pytest.mark.parametrize("with_inputs", [False, True])
def test_weights_on_a_grid_are_kept(with_inputs):
    """Scales or zeros rounded after the codes were chosen, or a middle code that is off by one."""
    codes, weight = grid_weights()
    moments = inputs_of(48).T @ inputs_of(48)
    rounded = round_for_inputs(weight, moments, 16) if with_inputs else round_weights(weight, 16)
    assert torch.equal(rounded.codes, codes.to(torch.uint8))
    assert torch.equal(rounded.dequantize(), weight)


@pytest.mark.parametrize("with_inputs", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.37109375])
def test_equal_weights(with_inputs, value):
    """A group without a range divides by zero: NaN in the scales, and codes of a NaN."""
    weight = torch.full((4, 32), value)
    moments = inputs_of(32).T @ inputs_of(32)
    rounded = round_for_inputs(weight, moments, 32) if with_inputs else round_weights(weight, 32)
    assert torch.allclose(rounded.dequantize(), weight, atol=1e-6)


def test_outputs_are_as_near_as_brute_force_finds():
    """Compensation of the wrong sign, or with the factor of the transposed moments."""
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    inputs = inputs_of(4, seed=1)
    moments = inputs.T @ inputs
    rounded = round_for_inputs(weight, moments, 4)

    def error_of(values, row):
        return float((inputs @ (values - weight[row])).square().sum())

    mine, plain, best = 0.0, 0.0, 0.0
    for row in range(6):
        scale, zero = rounded.scales[row].float(), rounded.zeros[row].float()
        steps = torch.arange(16) * scale + (zero - 8 * scale)
        all_values = torch.tensor(list(itertools.product(range(16), repeat=4))).float() * scale + (zero - 8 * scale)
        best += float(((all_values - weight[row]) @ inputs.T).square().sum(-1).min())
        mine += error_of(rounded.dequantize()[row], row)
        plain += error_of(steps[(weight[row][:, None] - steps).abs().argmin(-1)], row)
    assert best * (1 - 1e-4) <= mine < 0.7 * plain
    assert mine < 3 * best


def test_inputs_that_are_not_correlated_change_nothing():
    """Errors were carried to weights that cannot compensate them."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(4))
    assert torch.equal(round_for_inputs(weight, torch.eye(64), 32).codes, round_weights(weight, 32).codes)


@pytest.mark.parametrize("num_inputs", [0, 3])
def test_few_inputs(num_inputs):
    """Moments without full rank have no Cholesky factor: an error, or weights that only these inputs do not show."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(5))
    inputs = inputs_of(64)[:num_inputs]
    error = round_for_inputs(weight, inputs.T @ inputs, 32).dequantize() - weight
    plain = round_weights(weight, 32).dequantize() - weight
    assert error.norm() < 1.5 * plain.norm()
    if num_inputs:
        assert (error @ inputs.T).norm() < 0.6 * (plain @ inputs.T).norm()


def test_moments_that_are_not_finite():
    """Codes of a NaN."""
    for value in (float("nan"), float("inf")):
        moments = torch.eye(32)
        moments[3, 3] = value
        with pytest.raises(ValueError, match="not finite"):
            round_for_inputs(torch.randn(4, 32), moments, 32)
