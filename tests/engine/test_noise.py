"""Noise for sampling against `Tensor.exponential_`."""

import pytest
import torch

from dia_hf.engine import noise
from dia_hf.engine.noise import ExponentialNoise


@pytest.mark.parametrize("is_uniform", [True, False])
def test_the_values_are_pytorchs(monkeypatch, is_uniform):
    """A seed spoke differently on the fast path, or the second step of a generator began at another number."""
    if not is_uniform:
        monkeypatch.setattr(noise, "_is_log_of_uniform", lambda: False)
    drawn, target = ExponentialNoise((3, 9, 200), torch.device("cpu")), torch.empty(3, 9, 200)
    ours = [torch.Generator().manual_seed(seed) for seed in range(3)]
    theirs = [torch.Generator().manual_seed(seed) for seed in range(3)]
    for _ in range(3):
        for index, generator in enumerate(ours):
            drawn.draw(drawn.raw[index], generator)
        drawn.copy_to(target)
        for index, generator in enumerate(theirs):
            assert torch.equal(target[index], torch.empty(9, 200).exponential_(generator=generator))


def test_another_pytorch_is_noticed(monkeypatch):
    """With a PyTorch that draws in another way, the fast path had other random numbers than `multinomial`."""
    noise._is_log_of_uniform.cache_clear()
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, generator: self.random_(2**20, generator=generator))
    assert not noise._is_log_of_uniform()
    monkeypatch.undo()
    noise._is_log_of_uniform.cache_clear()
