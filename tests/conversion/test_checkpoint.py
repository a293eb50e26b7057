"""Dtypes that are refused."""

import pytest
import torch

from dia_hf.conversion import load_checkpoint


def test_unknown_dtype(sources):
    """An integer dtype truncates the weights to zeros."""
    for dtype in ("int8", torch.int64, "auto"):
        with pytest.raises(ValueError, match=r"`dtype` is .*use one of float32, bfloat16, float16"):
            load_checkpoint(sources["nari-0626"], dtype=dtype)
