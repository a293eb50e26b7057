"""Conversion of `Dia`'s arguments to options of `generate`."""

import numpy as np


def test_temperature_zero_is_greedy(dia):
    """Temperature 0 means greedy decoding in nari-labs/dia; a division by it gives NaN."""
    waves = [dia.generate("[S1] Hi.", temperature=0, max_seconds=0.3, seed=seed) for seed in (1, 2)]
    assert np.array_equal(*waves)
