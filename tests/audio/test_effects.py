import math
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dia_hf.audio.effects import (
    change_speed,
    find_sound,
    limit_peak,
    measure_loudness,
    normalize_loudness,
    trim_silence,
)


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sine(frequency: float, seconds: float, rate: int, amplitude: float = 1.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def peak_of(waveform) -> float:
    return 20 * math.log10(np.abs(waveform).max())


def loudness_by_the_standard(waveform: np.ndarray) -> float:
    """ITU-R BS.1770-4 at 48 kHz as a slow loop: annex 1, tables 1 and 2, equations 2 to 7."""
    stages = [
        ([1.53512485958697, -2.69169618940638, 1.19839281085285], [-1.69065929318241, 0.73248077421585]),
        ([1.0, -2.0, 1.0], [-1.99004745483398, 0.99007225036621]),
    ]
    samples = [float(x) for x in waveform]
    for (b0, b1, b2), (a1, a2) in stages:
        filtered, x1, x2, y1, y2 = [], 0.0, 0.0, 0.0, 0.0
        for x in samples:
            y = b0 * x + b1 * x1 + b2 * x2 - a1 * y1 - a2 * y2
            x1, x2, y1, y2 = x, x1, y, y1
            filtered.append(y)
        samples = filtered
    block, step = 19200, 4800
    powers = [sum(x * x for x in samples[i : i + block]) / block for i in range(0, len(samples) - block + 1, step)]

    def level(powers):
        return -0.691 + 10 * math.log10(sum(powers) / len(powers)) if powers and sum(powers) > 0 else -math.inf

    above = [power for power in powers if level([power]) > -70]
    return level([power for power in above if level([power]) > level(above) - 10])


def test_the_standards_own_example():
    """By the standard, a full-scale 997 Hz sine in one channel measures -3.01; other filters give other values."""
    assert measure_loudness(sine(997, 5, 48000), 48000) == pytest.approx(-3.01, abs=0.005)
    assert measure_loudness(sine(997, 5, 44100), 44100) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize("seconds", [0.4, 0.46, 0.5, 1.73, 3.999])
def test_loudness_is_that_of_the_standard(seconds):
    """pyloudnorm deviates from the standard (filters, incomplete last block), and results with it."""
    generator = np.random.default_rng(0)
    loud = generator.normal(0, 0.1, round(seconds * 48000)) * np.linspace(0.01, 1, round(seconds * 48000)) ** 2
    loud = loud.astype(np.float32)
    assert measure_loudness(loud, 48000) == pytest.approx(loudness_by_the_standard(loud), abs=0.001)


def test_pauses_do_not_count():
    """An ungated mean is 3 dB too low for a recording with half pauses, and the voice becomes too loud."""
    voice = sine(440, 4, 48000, 0.1)
    half = np.concatenate([voice, np.zeros_like(voice)])
    assert measure_loudness(half, 48000) == pytest.approx(measure_loudness(voice, 48000), abs=0.2)


def test_channels_add_up():
    """[channels, N] read as N channels, or the mean of the channels instead of their sum."""
    voice = sine(440, 1, 48000, 0.1)
    assert measure_loudness(np.stack([voice, voice]), 48000) == pytest.approx(
        measure_loudness(voice, 48000) + 10 * math.log10(2), abs=0.001
    )
    assert measure_loudness(voice[None], 48000) == measure_loudness(voice, 48000)
    with pytest.raises(ValueError, match=r"\[channels, N\], not \[48000, 2\]"):
        measure_loudness(np.stack([voice, voice]).T, 48000)


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
@pytest.mark.parametrize(("amplitude", "target"), [(0.01, -16), (0.9, -30), (0.9, np.float64(-23))])
def test_the_target_is_reached(shape, amplitude, target):
    """Normalized waveforms were not equally loud."""
    waveform = np.broadcast_to(sine(440, 1, 44100, amplitude), (*shape, 44100))
    result = normalize_loudness(waveform, 44100, target)
    assert result.shape == waveform.shape and result.dtype == np.float32
    assert measure_loudness(result, 44100) == pytest.approx(target, abs=0.01)


def test_a_peak_goes_before_the_target():
    """A gain that lifts a peak above full scale was audible as clipping in a 16-bit file."""
    waveform = sine(440, 1, 44100, 0.01)
    waveform[20000] = 0.5
    with pytest.warns(UserWarning, match=r"-16 LUFS would lift the peak above -1\.0 dBFS") as caught:
        result = normalize_loudness(waveform, 44100, -16)
    assert peak_of(result) == pytest.approx(-1, abs=1e-5)
    assert f"the loudness is {measure_loudness(result, 44100):.1f} LUFS" in str(caught[0].message)
    with pytest.warns(UserWarning, match=r"above -6 dBFS"):
        assert peak_of(normalize_loudness(waveform, 44100, -16, peak=-6)) == pytest.approx(-6, abs=1e-5)


@pytest.mark.parametrize("waveform", [np.zeros(44100), np.full((2, 44100), 1e-6)], ids=["zero", "hiss"])
def test_silence_stays_silence(waveform):
    """The gain from -inf to a target is infinite: silence became NaN, and hiss loud noise."""
    waveform = waveform.astype(np.float32)
    assert measure_loudness(waveform, 44100) == -math.inf
    with pytest.warns(UserWarning, match="silent"):
        assert normalize_loudness(waveform, 44100, -16) is waveform


@pytest.mark.parametrize("num_samples", [0, 1, 17639])
def test_what_is_too_short_for_loudness(num_samples):
    """One short clip failed a batch, or was taken for measured."""
    waveform = np.full(num_samples, 0.5, dtype=np.float32)
    with pytest.warns(UserWarning, match=r"too short for loudness, which needs 0\.4 s"):
        assert normalize_loudness(waveform, 44100, -16) is waveform
    with pytest.raises(ValueError, match=r"too short for loudness, which needs 0\.4 s"):
        measure_loudness(waveform, 44100)


@given(
    waveform=arrays(
        np.float32, st.tuples(st.integers(1, 2), st.integers(2, 6000)), elements=st.floats(-2, 2, width=32)
    ),
    target=st.floats(-70, 0),
    peak=st.floats(-60, 0),
)
def test_never_nan_and_never_above_the_peak(waveform, target, peak):
    """A result had NaN samples, or exceeded the peak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = normalize_loudness(waveform, 8000, target, peak)
    assert np.isfinite(result).all()
    assert result is waveform or np.abs(result).max() <= 10 ** (peak / 20) * (1 + 1e-6)
    limited = limit_peak(waveform, peak)
    assert np.abs(limited).max(initial=0) <= 10 ** (peak / 20) * (1 + 1e-6)


def test_a_peak_is_lowered_and_never_lifted():
    """A quiet waveform was scaled up."""
    loud, quiet = sine(440, 0.1, 8000, 0.9), sine(440, 0.1, 8000, 0.1)
    limited = limit_peak(loud, -6)
    assert peak_of(limited) == pytest.approx(-6, abs=1e-5) and limited.dtype == np.float32
    np.testing.assert_allclose(limited / np.abs(limited).max(), loud / np.abs(loud).max(), atol=1e-6)
    assert limit_peak(quiet, -6) is quiet
    assert limit_peak(loud[:0], -6).size == 0


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_speed_keeps_the_pitch(shape, speed):
    """Resampling changes the pitch; an inverted factor makes the speech slower."""
    waveform = np.broadcast_to(sine(220, 2, 44100, 0.3), (*shape, 88200))
    result = change_speed(waveform, 44100, speed)
    assert result.dtype == np.float32 and result.shape[:-1] == shape
    assert abs(result.shape[-1] - 88200 / speed) <= 1
    channel = result.reshape(-1, result.shape[-1])[-1]
    spectrum = np.abs(np.fft.rfft(channel * np.hanning(len(channel))))
    assert abs(np.argmax(spectrum) * 44100 / len(channel) - 220) < 1
    assert np.sqrt(np.mean(channel**2)) == pytest.approx(0.3 / math.sqrt(2), rel=0.05)


def test_speed_keeps_the_order_of_things():
    """Stretching in parts shifted positions within the waveform."""
    waveform = np.concatenate([0 * sine(220, 2, 44100), sine(220, 1, 44100, 0.3)])
    result = change_speed(waveform, 44100, 1.25)
    assert np.flatnonzero(np.abs(result) > 0.1)[0] / len(result) == pytest.approx(2 / 3, abs=0.01)


def test_speed_one_changes_nothing(monkeypatch):
    """Speed 1 needed pedalboard, and lost quality."""
    monkeypatch.setitem(sys.modules, "pedalboard", None)
    waveform = sine(220, 1, 44100)
    assert change_speed(waveform, 44100, 1.0) is waveform


@pytest.mark.parametrize("num_samples", [0, 1, 100, 4409])
def test_what_is_too_short_to_stretch(num_samples):
    """Rubber Band returns silence, or nothing, for a few milliseconds."""
    waveform = np.full(num_samples, 0.5, dtype=np.float32)
    with pytest.warns(UserWarning, match=r"too short to change speed, which needs 0\.1 s"):
        assert change_speed(waveform, 44100, 2.0) is waveform


def test_silence_goes_at_the_ends_only():
    """Pauses between words were removed."""
    voice, silence = sine(220, 1, 16000, 0.3), np.zeros(8000, dtype=np.float32)
    waveform = np.concatenate([silence, voice, silence, voice, silence])
    result = trim_silence(waveform, 16000)
    np.testing.assert_array_equal(result, waveform[8000 - 800 : -8000 + 800])
    np.testing.assert_array_equal(trim_silence(waveform, 16000, keep=0), waveform[8000:-8000])
    assert find_sound(waveform, 16000) == (8000, len(waveform) - 8000)
    assert find_sound(waveform[:-8000], 16000)[1] == len(waveform) - 8000
    assert find_sound(silence, 16000) == find_sound(silence[:0], 16000) == (0, 0)


def test_what_begins_and_ends_loud_stays_whole():
    """A margin beyond the ends wrapped around, and everything was cut."""
    for num_samples in (2, 159, 160, 161, 16001):
        waveform = np.resize(np.float32([0.5, -0.5]), num_samples)
        np.testing.assert_array_equal(trim_silence(waveform, 16000), waveform)


def test_wholly_silent_is_empty():
    """A silent recording was returned unchanged, and used as a voice prompt."""
    hiss = np.random.default_rng(0).normal(0, 0.001, 16000).astype(np.float32)
    assert trim_silence(hiss, 16000).shape == (0,)
    assert trim_silence(np.stack([hiss, hiss]), 16000).shape == (2, 0)
    assert trim_silence(hiss[:0], 16000).shape == (0,)
    assert trim_silence(hiss, 16000, threshold=-70).size == 16000


@pytest.mark.parametrize("offset", [0.0034, -0.01, 0.3])
@pytest.mark.parametrize("threshold", [-50.0, -60.0])
def test_a_constant_offset_is_no_sound(offset, threshold):
    """A constant offset of 0.0034 was taken for sound, and no silence was trimmed."""
    silence, voice = np.zeros(32000, dtype=np.float32), sine(220, 1.5, 16000, 0.3)
    waveform = np.concatenate([silence, voice, silence]) + np.float32(offset)
    trimmed = trim_silence(waveform, 16000, threshold)
    np.testing.assert_array_equal(trimmed, waveform[32000 - 800 : -32000 + 800])
    stereo = np.stack([waveform, np.full_like(waveform, -offset)])
    np.testing.assert_array_equal(trim_silence(stereo, 16000, threshold)[0], trimmed)
    assert trim_silence(silence + np.float32(offset), 16000, threshold).size == 0


def test_an_offset_of_a_part_is_no_sound():
    """Digital silence around a recording with an offset was taken for sound."""
    nothing, offset = np.zeros(48000, dtype=np.float32), np.full(16000, 0.01, dtype=np.float32)
    waveform = np.concatenate([nothing, offset, offset[:8000] + sine(220, 0.5, 16000, 0.3), offset, nothing])
    assert len(trim_silence(waveform, 16000)) / 16000 == pytest.approx(0.6, abs=0.01)


def test_one_channel_that_speaks_is_enough():
    """The mean of a voice and a silent channel is half as loud, and soft ends were cut."""
    voice = sine(220, 1, 16000, 0.005)
    padded = np.pad(voice, 8000)
    assert trim_silence(np.stack([padded, 0 * padded]), 16000, keep=0).shape == (2, 16000)


@given(
    levels=st.lists(st.sampled_from([0.0, 1e-4, 2e-3, 4e-3, 0.5]), max_size=30),
    extra=st.integers(0, 79),
    keep=st.floats(0, 0.1),
)
def test_trimming_is_that_of_a_slow_loop(levels, extra, keep):
    """Ends between two windows were cut at the wrong sample."""
    waveform = np.append(np.repeat(levels, 80), np.full(extra, 0.5)).astype(np.float32)
    waveform[1::2] *= -1
    loud = [i for i in range(0, len(waveform), 80) if np.std(waveform[i : i + 80]) >= 10 ** (-50 / 20)]
    margin = round(keep * 8000)
    expected = waveform[max(0, loud[0] - margin) : min(loud[-1] + 80 + margin, len(waveform))] if loud else waveform[:0]
    np.testing.assert_array_equal(trim_silence(waveform, 8000, keep=keep), expected)


SECOND = np.full(8000, 0.5, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: normalize_loudness(SECOND, 8000, 16), r"`target` is 16 LUFS.*-70 and 0"),
        (lambda: normalize_loudness(SECOND, 8000, math.nan), r"`target` is nan"),
        (lambda: normalize_loudness(SECOND, 8000, -16, peak=1), r"`peak` is 1 dBFS"),
        (lambda: normalize_loudness(SECOND, 0, -16), r"`sampling_rate` is 0 Hz"),
        (lambda: measure_loudness(SECOND, 4000), r"4000 Hz.*8000 Hz and above"),
        (lambda: measure_loudness(np.stack([SECOND] * 6), 8000), r"6 channels.*5 at most"),
        (lambda: measure_loudness(SECOND * math.nan, 8000), r"NaN"),
        (lambda: limit_peak(SECOND, 3), r"`peak` is 3 dBFS"),
        (lambda: limit_peak(SECOND * math.inf, -1), r"infinite"),
        (lambda: limit_peak((SECOND * 32767).astype(np.int16), -1), r"int16.*float32"),
        (lambda: limit_peak([0.5], -1), r"list.*numpy"),
        (lambda: limit_peak(SECOND.reshape(2, 2, -1), -1), r"\[2, 2, 2000\]"),
        (lambda: change_speed(SECOND, 8000, 3), r"`speed` is 3.*0\.5.*2"),
        (lambda: change_speed(SECOND, 8000, math.nan), r"`speed` is nan"),
        (lambda: change_speed(SECOND, 0, 1), r"0 Hz"),
        (lambda: trim_silence(SECOND, 8000, threshold=50), r"`threshold` is 50 dBFS"),
        (lambda: trim_silence(SECOND, 8000, keep=-1), r"`keep` is -1 s"),
        (lambda: trim_silence(SECOND, -1), r"-1 Hz"),
    ],
)
def test_what_cannot_be(call, message):
    """A missing minus sign gave dangerous levels; NaN was written to the file."""
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("pyloudnorm", lambda: measure_loudness(SECOND, 8000)),
        ("pyloudnorm", lambda: normalize_loudness(SECOND, 8000, -16)),
        ("pedalboard", lambda: change_speed(SECOND, 8000, 2)),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, call):
    """`No module named 'pyloudnorm'` did not name the extra to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'`{package}`.*pip install "dia-hf\[audio\]"'):
        call()


class Counted(np.ndarray):
    """A waveform that counts the scans of its samples for the largest one."""

    scans = 0

    def max(self, *args, **kwargs):
        Counted.scans += 1
        return np.asarray(self).max(*args, **kwargs)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: measure_loudness(x, 48000),
        lambda x: normalize_loudness(x, 48000, -30),
        lambda x: limit_peak(x, -1),
        lambda x: change_speed(x, 48000, 2),
    ],
)
def test_samples_are_checked_once(monkeypatch, call):
    """Each function that called another scanned the samples again, as did each helper."""
    monkeypatch.setattr(Counted, "scans", 0)
    call(sine(440, 1, 48000, 0.1).view(Counted))
    assert Counted.scans == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: measure_loudness(x, 8000),
        lambda x: normalize_loudness(x, 8000, -30),
        lambda x: normalize_loudness(x[:100], 8000, -30),
        lambda x: limit_peak(x, -1),
        lambda x: change_speed(x, 8000, 1),
        lambda x: change_speed(x, 8000, 2),
        lambda x: trim_silence(x, 8000),
    ],
)
def test_one_sample_that_is_no_number(call, value):
    """It was accepted, and the whole result was NaN."""
    waveform = SECOND.copy()
    waveform[50] = value
    for samples in (waveform, np.stack([SECOND, waveform])):
        with pytest.raises(ValueError, match="NaN or infinite"):
            call(samples)
