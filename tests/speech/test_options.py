"""Conversion of `Dia`'s arguments to options of `generate`."""

import numpy as np
import pytest


def test_temperature_zero_is_greedy(dia):
    """Temperature 0 means greedy decoding in nari-labs/dia; a division by it gives NaN."""
    waves = [dia.generate("[S1] Hi.", temperature=0, max_seconds=0.3, seed=seed) for seed in (1, 2)]
    assert np.array_equal(*waves)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": [0, 1.0]}, r"`temperature` is \[0, 1.0\]; 0, greedy decoding, is for a whole call"),
        ({"seed": [1, 2, 3]}, "`seed` has 3 values for 2 texts"),
    ],
)
def test_lists_that_do_not_fit(dia, options, message):
    """The errors came from transformers, or named arguments that the caller had not given."""
    with pytest.raises(ValueError, match=message):
        dia.generate(["[S1] Hi.", "[S2] Yes."], max_seconds=0.3, **options)
