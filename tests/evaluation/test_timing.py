"""Timing of speech: silence, pauses, pace, abrupt ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.evaluation.timing import measure_timing

RATE = 16000


def make(*parts, rate=RATE):
    """Sound (above 0) and silence (below 0) of so many seconds each."""
    pieces = []
    for seconds in parts:
        time = np.arange(round(abs(seconds) * rate)) / rate
        pieces.append(np.sin(2 * np.pi * 300 * time) * (seconds > 0))
    return np.concatenate(pieces).astype(np.float32)


def values(waveform, rate=RATE, num_words=6):
    return {name: measure.value for name, measure in measure_timing(waveform, rate, num_words).items()}


@given(*[st.integers(1, 60)] * 3, st.sampled_from([8000, 16000, 44100]), st.sampled_from([1.0, 0.01]))
def test_silence_around_and_inside(lead, gap, tail, rate, volume):
    """Silence was measured in samples of another rate, or depended on the volume."""
    waveform = make(-lead / 100, 0.5, -gap / 100, 0.5, -tail / 100, rate=rate) * volume
    found = values(waveform, rate)
    assert found["lead"] == pytest.approx(lead / 100, abs=0.011)
    assert found["tail"] == pytest.approx(tail / 100, abs=0.011)
    assert found["pace"] == pytest.approx(6 / (1 + gap / 100), rel=0.03)
    is_pause = gap >= 26 or (found["longest_pause"] > 0)
    assert found["longest_pause"] == pytest.approx(gap / 100 if is_pause else 0, abs=0.011)
    assert found["abrupt"] == 0 or tail <= 2


def test_an_abrupt_end():
    """A word that is cut counted as a proper end, or one that fades as cut."""
    assert values(make(-0.1, 0.5))["abrupt"] == 1
    assert values(make(0.5, -0.05))["abrupt"] == 0
    fading = make(0.5) * np.linspace(1, 0, RATE // 2)
    assert values(np.concatenate([make(0.5), fading.astype(np.float32)]))["abrupt"] == 0


@pytest.mark.parametrize("waveform", [np.zeros(0), np.zeros(5000), np.full(5000, 1e-5), np.full(9, np.nan)])
def test_no_sound(waveform):
    """Silence had a pace, or was an error."""
    assert values(waveform.astype(np.float32)) == {"silent": 1}
