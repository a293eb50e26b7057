"""Controls of the page."""

import pytest

pytest.importorskip("gradio")

from dia_hf import Dia
from dia_hf.serving.page.layout import make_blocks, sampling_defaults


@pytest.fixture
def dia(model, processor, monkeypatch):
    """A model whose generation config a test changes."""

    def make(**values):
        for name, value in values.items():
            monkeypatch.setattr(model.generation_config, name, value)
        return Dia(model, processor)

    return make


def sliders(blocks):
    return {one["props"]["label"]: one["props"] for one in blocks.config["components"] if one["type"] == "slider"}


def test_defaults_are_the_checkpoint_s(dia):
    """The page sent parameters of its own, and the speech differed from that of a request without any."""
    one = dia(guidance_scale=2.5, temperature=1.3, top_p=0.9, top_k=30, do_sample=True)
    expected = {"cfg_scale": 2.5, "temperature": 1.3, "top_p": 0.9, "cfg_filter_top_k": 30, "speed": 1}
    assert sampling_defaults(one) == expected
    shown = sliders(make_blocks(one))
    assert [shown[label]["value"] for label in ("Guidance", "Temperature", "Top-p", "Speed")] == [2.5, 1.3, 0.9, 1]


def test_parameters_that_are_off(dia):
    """A checkpoint without a parameter, or of greedy decoding, had no page, or another temperature."""
    one = dia(guidance_scale=None, temperature=1.0, top_p=None, top_k=None, do_sample=False)
    values = sampling_defaults(one)
    assert values == {"cfg_scale": 1, "temperature": 0, "top_p": 1, "cfg_filter_top_k": 200, "speed": 1}


def test_a_default_beyond_the_range(dia):
    """A slider showed another value than the checkpoint's."""
    shown = sliders(make_blocks(dia(top_k=1024)))["Guidance top-k"]
    assert shown["value"] == shown["maximum"] == 1024


def test_no_function_runs_on_the_server(dia):
    """A control of the page called the server through Gradio's queue, past the keys."""
    dependencies = make_blocks(dia()).config["dependencies"]
    assert dependencies and not any(one["backend_fn"] for one in dependencies)
