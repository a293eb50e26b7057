"""`Dia` with random weights, for tests of several files."""

import pytest

from dia_hf import Dia


@pytest.fixture(scope="module")
def dia(checkpoint) -> Dia:
    return Dia.from_pretrained(checkpoint, device="cpu")
