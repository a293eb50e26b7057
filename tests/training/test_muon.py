import copy
import math

import pytest
import torch

import tiny
from dia_hf.training.muon import MuonBeside

CONFIG = tiny.random_config(1)
# Coefficients of the Newton-Schulz iteration of degree five; Jordan et al. (2024).
A, B, C = 3.4445, -4.775, 2.0315


def make(model):
    other = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    return MuonBeside(other, model, learning_rate=2e-2, weight_decay=0.1)


def put_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def is_hidden(name, weight):
    return ".layers." in name and weight.ndim == 2


def step_by_hand(weight, momentum, gradient):
    """Muon with decay, in float64 by its formula, for a matrix whose singular values stay the same."""
    momentum = 0.95 * momentum + 0.05 * gradient
    left, values, right = torch.linalg.svd(0.05 * gradient + 0.95 * momentum, full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = A * values + B * values**3 + C * values**5
    scale = 2e-2 * 0.2 * math.sqrt(max(weight.shape))
    return weight * (1 - 2e-2 * 0.1) - scale * (left * values) @ right, momentum


def test_each_part_takes_its_steps():
    """A matrix was updated by both optimizers, by neither, or with another step size."""
    model = tiny.random_model(CONFIG)
    before = copy.deepcopy(model)
    optimizer, adamw = make(model), torch.optim.AdamW(before.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    expected = {name: weight.detach().double() for name, weight in before.named_parameters()}
    momenta = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    for seed in (1, 2, 3):
        for one in (model, before):
            put_gradients(one, seed)
        optimizer.step()
        adamw.step()
        for name, weight in before.named_parameters():
            if is_hidden(name, weight):
                expected[name], momenta[name] = step_by_hand(expected[name], momenta[name], weight.grad.double())
            else:
                expected[name] = weight.detach().double()
    assert sum(is_hidden(*item) for item in expected.items()) > 10
    for name, weight in model.named_parameters():
        if is_hidden(name, weight):  # rounding of bfloat16, a hundredth of a step
            torch.testing.assert_close(weight.double(), expected[name], atol=0.05 * 3 * 2e-2 * 0.2, rtol=0, msg=name)
        else:
            torch.testing.assert_close(weight.double(), expected[name], atol=1e-7, rtol=1e-6, msg=name)


def test_what_was_saved_goes_on():
    """A resumed run lost momenta, or stepped with groups that the schedulers no longer reach."""
    model, other = tiny.random_model(CONFIG), tiny.random_model(CONFIG)
    first = make(model)
    put_gradients(model, 1)
    first.step()
    other.load_state_dict(model.state_dict())
    second = make(other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, one in ((first, model), (second, other)):
        for group in optimizer.param_groups:
            group["lr"] /= 2
        put_gradients(one, 2)
        optimizer.step()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, other.get_parameter(name)), name


def test_a_closure_is_called_once():
    """The closure was called by both optimizers, which computed the gradients twice."""
    model, calls = tiny.random_model(CONFIG), []

    def closure():
        calls.append(torch.is_grad_enabled())
        put_gradients(model, 1)
        return 0.5

    assert make(model).step(closure) == 0.5
    assert calls == [True]


def test_nothing_to_do():
    """Frozen layers caused an error of torch about an empty list."""
    model = tiny.random_model(CONFIG)
    model.model.requires_grad_(False)
    with pytest.raises(ValueError, match="no matrix of a layer is trained"):
        make(model)


def test_an_old_torch(monkeypatch):
    """An old torch caused an `AttributeError` that does not say what to install."""
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"torch 2\.9"):
        make(tiny.random_model(CONFIG))
