"""What the tests of the GPU share. They need no network: random models and the embedded miniature."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def needs_cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def exact_float32(needs_cuda, monkeypatch):
    """No TF32: ten bits of a product do not tell tokens apart."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
