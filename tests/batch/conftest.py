"""Fixtures of runs over tables."""

import pytest

from dia_hf import Dia


@pytest.fixture(scope="session")
def dia():
    return Dia.from_pretrained(device="cpu")
