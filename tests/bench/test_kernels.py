import pytest
import torch
from torch import nn

from dia_hf import native
from dia_hf.bench import make_config, make_model, make_processor
from dia_hf.bench.kernels import kernels_of


@pytest.fixture
def without_operators(monkeypatch):
    monkeypatch.setenv("DIA_HF_NATIVE", "0")
    native._loaded.cache_clear()
    yield
    monkeypatch.undo()
    native._loaded.cache_clear()


def test_what_runs_here():
    """A user with the fast kernels was told of the slow ones, or the other way round."""
    config = make_config("toy")
    found = kernels_of(make_model(config), make_processor(config, "toy").codec)
    wanted = f"C++, {native.variant_name()}" if native.library() else f"PyTorch ({native.unavailable_reason()})"
    assert found == {"decoder steps": wanted, "decoder of the codec": wanted}


def test_switched_off(without_operators):
    """`DIA_HF_NATIVE=0` left an operator on."""
    config = make_config("toy")
    found = kernels_of(make_model(config), make_processor(config, "toy").codec)
    assert set(found.values()) == {"PyTorch (DIA_HF_NATIVE=0)"}


@pytest.mark.skipif(native.library() is None, reason="no C++ operators")
def test_the_reason_is_named():
    """A model that the operator does not compute ran slowly without a word."""
    model = make_model(make_config("toy"))
    model.model.decoder.layers[0].mlp.activation = nn.Tanh()
    assert kernels_of(model) == {"decoder steps": "PyTorch (the activation is a Tanh, or has another `forward`)"}
    assert "float64" in kernels_of(make_model(make_config("toy"), dtype=torch.float64))["decoder steps"]
