"""Comparison of audio that was decoded in other pieces: the same bits with the C++ operators, not quite without."""

import numpy as np

from dia_hf import native


def assert_same_audio(audio, expected):
    """Compare float samples, or bytes of 16-bit PCM."""
    if isinstance(expected, bytes):
        audio, expected = (np.frombuffer(one, "<i2").astype(int) for one in (audio, expected))
    rounding = 0 if native.library() is not None else 1 if expected.dtype.kind == "i" else 1e-5
    np.testing.assert_allclose(audio, expected, rtol=0, atol=rounding)
