"""Tables of nari-labs' names and settings."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import REFERENCE
from dia_hf import DiaConfig, DiaForConditionalGeneration
from dia_hf.conversion import nari
from dia_hf.conversion.nari import TensorRule, tensor_rules

PACK = REFERENCE / "nari-0626"


@given(st.integers(1, 4), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 3))
def test_tensor_rules_invert(num_sources, shape, num_in):
    """A tensor that was converted and converted back differed, or had another shape."""
    num_in = min(num_in, len(shape) - 1)
    sources = ("x",) if num_in else tuple("abcd"[:num_sources])
    rule = TensorRule("ours", sources, tuple(shape), num_in)
    theirs = [torch.randn(shape) for _ in sources]
    ours = rule.to_ours(theirs)
    assert ours.shape == rule.our_shape
    assert all(torch.equal(a, b) for a, b in zip(rule.to_theirs(ours), theirs, strict=True))


@pytest.mark.parametrize("source", ["default", "pack"])
def test_the_table_names_every_tensor(source):
    """A layer or head that is missing in the table stays random."""
    config = DiaConfig() if source == "default" else DiaConfig.from_pretrained(PACK)
    with torch.device("meta"):
        model = DiaForConditionalGeneration(config)
    assert {rule.name: rule.our_shape for rule in tensor_rules(config)} == {
        name: tuple(parameter.shape) for name, parameter in model.named_parameters()
    }


def test_v0_1_settings_that_are_not_known():
    """An unknown timescale or padding value of a fine-tuned checkpoint was ignored."""
    values = json.loads((REFERENCE / "nari-v0.1" / "config.json").read_text())
    values["model"]["rope_min_timescale"] = 2
    with pytest.raises(ValueError, match="rope_min_timescale"):
        nari.config_from_v0_1(values)
