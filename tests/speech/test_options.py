"""Conversion of `Dia`'s arguments to options of `generate`."""

from typing import Annotated

import numpy as np
import pytest

from dia_hf.speech.options import LIMITS, check_option


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


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_the_server(name):
    """A value that the server refuses was accepted in a table, or the other way round."""
    pydantic = pytest.importorskip("pydantic", reason='needs the extra "serve"')
    kind = int if name in ("seed", "cfg_filter_top_k", "sample_rate") else float
    adapter = pydantic.TypeAdapter(Annotated[kind, pydantic.Field(strict=True, allow_inf_nan=False, **LIMITS[name])])
    values = [kind(value) for limit in LIMITS[name].values() for value in (limit - 1, limit, limit + 1)]
    for value in [*values, kind(0), True, "1", None, float("nan"), float("inf"), 2.5]:
        try:
            adapter.validate_python(value)
        except pydantic.ValidationError:
            with pytest.raises(ValueError, match=f"^`{name}` is .*; give a "):
                check_option(name, value)
        else:
            check_option(name, value)


def test_a_temperature_near_zero_is_refused():
    """Logits divided by 1e-30 are infinite, and no token could be sampled."""
    check_option("temperature", 0)
    check_option("temperature", 0.001)
    with pytest.raises(ValueError, match=r"^`temperature` is 1e-30; give 0 \(greedy decoding\), or 0.001 and more\.$"):
        check_option("temperature", 1e-30)
