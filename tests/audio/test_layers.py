"""Plans of convolutional networks: an input that grows against the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dia_hf.audio.layers import GrowingRun, make_plan, run_plan


class ResidualUnit(nn.Sequential):
    """Known to `make_plan` by its name."""


def random_network(draw):
    layers, channels = [], 2
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "strided", "transposed", "unit", "tanh"]))
        kernel = draw(st.sampled_from([1, 3, 5, 7]))
        dilation = draw(st.sampled_from([1, 2, 3]))
        same = dilation * (kernel - 1) // 2
        if kind == "conv":
            layers.append(nn.Conv1d(channels, channels, kernel, padding=draw(st.sampled_from([same, 0, 1]))))
        elif kind == "strided":
            stride = draw(st.integers(2, 3))
            layers.append(nn.Conv1d(channels, channels, 2 * stride, stride, padding=(stride + 1) // 2))
        elif kind == "transposed":
            stride = draw(st.integers(2, 5))
            odd = stride % 2
            options = {"padding": (stride + odd) // 2, "output_padding": odd * draw(st.integers(0, 1))}
            layers.append(nn.ConvTranspose1d(channels, channels, 2 * stride, stride, **options))
        elif kind == "unit":
            conv = nn.Conv1d(channels, channels, kernel, padding=same, dilation=dilation)
            layers.append(ResidualUnit(nn.Tanh(), conv, nn.Tanh(), nn.Conv1d(channels, channels, 1)))
        else:
            layers.append(nn.Tanh())
    return nn.Sequential(*layers).double()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
@torch.no_grad()
def test_an_input_that_grows_has_the_outputs_of_the_whole(data):
    """A stream clicked between its chunks, lost its end, or repeated the context of a chunk."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    plan = make_plan(random_network(data.draw))
    pieces = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    rest = 400  # so that the last layer has an output, whatever the strides before it
    whole = torch.randn(1, 2, sum(pieces) + rest).double()
    expected = run_plan(plan, whole.clone(), [whole.shape[-1]])[0]
    run, parts = GrowingRun([layer.unpadded() for layer in plan]), []
    for piece in whole.split([*pieces, rest], dim=-1):
        before = run.copy()
        parts.append(run.push(piece))
        run = before  # a copy is not changed by what is pushed into the other
        again = run.push(piece)
        assert (again is None) == (parts[-1] is None)
    parts.append(run.push(None, is_last=True))
    grown = torch.cat([part for part in parts if part is not None], dim=-1)
    assert run.has_ended
    torch.testing.assert_close(grown, expected, rtol=0, atol=1e-12)


def test_each_value_is_computed_once(monkeypatch):
    """A chunk was computed together with its context of twenty frames: the first ones cost twenty times as much."""
    plan = make_plan(nn.Sequential(nn.Conv1d(1, 1, 7, padding=3), nn.ConvTranspose1d(1, 1, 4, 2, padding=1)))
    run, lengths = GrowingRun([layer.unpadded() for layer in plan]), []
    run.plan[0].module.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[-1]))
    for _ in range(10):
        run.push(torch.zeros(1, 1, 4))
    assert sum(lengths) == 40 - 3  # all but those that wait for later inputs


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, lambda module: module])
def test_only_bare_layers_are_copied(wrap):
    """A copy of a layer with weight normalization kept the weights from before they were loaded."""
    layer = make_plan(nn.Sequential(nn.Conv1d(1, 1, 3)))[0]
    assert layer.is_bare
    wrap(layer.module)
    assert layer.is_bare == (wrap is not nn.utils.parametrizations.weight_norm)
