import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf.audio.io import resample
from dia_hf.audio.streams import StreamResampler, StreamTimeStretcher

RATES = [16000, 22050, 24000, 44100, 48000]
SPEEDS = [0.25, 0.5, 0.9, 1.5, 2, 4]


def split(wave: np.ndarray, lengths: list[int]):
    """Yield chunks of these lengths over and over, all of the waveform."""
    start = place = 0
    while start < len(wave):
        length = lengths[place % len(lengths)]
        yield wave[start : start + length]
        start, place = start + length, place + 1


def outputs(stream, wave: np.ndarray, lengths: list[int]) -> np.ndarray:
    return np.concatenate([*map(stream.process, split(wave, lengths)), stream.finish()])


def noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(num_samples).uniform(-1, 1, num_samples).astype(np.float32)


LENGTHS = st.lists(st.integers(0, 5000), min_size=1, max_size=5).filter(any)
"""Lengths of chunks, empty ones too."""


@given(
    rates=st.tuples(st.sampled_from(RATES), st.sampled_from(RATES)), num_samples=st.integers(0, 20000), lengths=LENGTHS
)
@settings(max_examples=60)
def test_resampling_in_chunks_equals_resampling_at_once(rates, num_samples, lengths):
    """Each chunk was resampled alone: a click and a wrong length at each border."""
    wave = noise(num_samples)
    output = outputs(StreamResampler(*rates), wave, lengths)
    assert output.dtype == np.float32
    assert len(output) == math.floor(num_samples * rates[1] / rates[0] + 0.5)
    if num_samples:
        np.testing.assert_allclose(output, resample(wave, *rates), atol=1e-6)


@pytest.mark.parametrize("rates", [(44100, 24000), (44100, 48000), (16000, 24000), (22050, 24000)])
def test_resampling_holds_little_back(tone, rates):
    """All of the output came at the end."""
    resampler, held = StreamResampler(*rates), 0.0
    for chunk in split(tone(1.0, rates[0]), [rates[0] // 20]):
        held += len(chunk) / rates[0] - len(resampler.process(chunk)) / rates[1]
        assert held < 0.045


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("speed", SPEEDS)
def test_speed_keeps_the_pitch(rate, speed):
    """A waveform at another rate is faster, and higher."""
    time = np.arange(2 * rate) / rate
    wave = (0.5 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    output = outputs(StreamTimeStretcher(rate, speed), wave, [rate // 10])
    assert len(output) == round(len(wave) / speed)
    middle = output[len(output) // 10 : -len(output) // 10]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * rate / len(middle) - 220) <= rate / len(middle)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


@given(speed=st.sampled_from([*SPEEDS, 1, 3, 0.3, 1.1]), num_samples=st.integers(0, 20000), lengths=LENGTHS)
@settings(max_examples=60)
def test_the_length_is_exact_at_each_speed(speed, num_samples, lengths):
    """atempo dropped up to a window at the end, and all of a short waveform."""
    output = outputs(StreamTimeStretcher(16000, speed), noise(num_samples), lengths)
    assert output.dtype == np.float32
    assert len(output) == math.floor(num_samples / speed + 0.5)


@pytest.mark.parametrize("speed", SPEEDS)
def test_speed_does_not_depend_on_the_chunks(tone, speed):
    """A filter for each chunk repeated or lost samples at the borders."""
    wave = tone(1.0, 16000)
    whole, parts = (outputs(StreamTimeStretcher(16000, speed), wave, lengths) for lengths in ([16000], [7, 800, 0]))
    assert np.corrcoef(parts, whole)[0, 1] > 0.9999  # libav's transforms round


@pytest.mark.parametrize("speed", SPEEDS)
def test_the_end_is_not_lost(speed):
    """The last syllable was held in the filter and never played."""
    wave = np.zeros(16000, np.float32)
    wave[-1600:] = noise(1600) / 2
    output = outputs(StreamTimeStretcher(16000, speed), wave, [1600])
    assert np.sum(output**2) * speed > 0.6 * np.sum(wave**2)


@pytest.mark.parametrize("speed", [0.5, 1.5, 4])
def test_speed_gives_output_on_the_way(tone, speed):
    """All of the output came at the end."""
    stretcher, held = StreamTimeStretcher(44100, speed), 0.0
    for chunk in split(tone(2.0, 44100), [4410]):
        held += (len(chunk) - speed * len(stretcher.process(chunk))) / 44100
        assert held < 0.31


@pytest.mark.parametrize("stream", [lambda: StreamResampler(16000, 16000), lambda: StreamTimeStretcher(16000, 1)])
def test_nothing_to_change(tone, stream):
    """A filter without effect delayed the chunks and changed samples."""
    wave, stream = tone(0.1, 16000), stream()
    np.testing.assert_array_equal(stream.process(wave), wave)
    assert stream.finish().shape == (0,)


STREAMS = [
    lambda: StreamResampler(16000, 24000),
    lambda: StreamResampler(16000, 16000),
    lambda: StreamTimeStretcher(16000, 1.5),
    lambda: StreamTimeStretcher(16000, 1),
]


@pytest.mark.parametrize("stream", STREAMS)
def test_after_the_end(stream):
    """A chunk after the end was lost, or crashed the filter."""
    stream = stream()
    assert stream.finish().shape == (0,)
    for call in (stream.finish, lambda: stream.process(np.zeros(10, np.float32))):
        with pytest.raises(RuntimeError, match="is finished; make one for each waveform"):
            call()


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.array([0.0, np.nan, np.inf], np.float32), "2 of 3 samples for a chunk are NaN or infinite"),
        (np.array([0.0, 9830.0], np.float32), "1 of 2 samples for a chunk are beyond ±10"),
        (np.zeros((1, 10), np.float32), r"float32 of the shape \[1, 10\]; give a mono"),
        (np.zeros(10, np.int16), "int16 of the shape"),
        ([0.0, 0.5], "a chunk is a list"),
    ],
)
def test_what_is_no_chunk(stream, chunk, message):
    """NaN went through to the client as noise; [1, N] was one sample of N channels."""
    stream = stream()
    with pytest.raises(ValueError, match=message):
        stream.process(chunk)
    stream.process(np.zeros(100, np.float64)[::2])
    stream.finish()


@pytest.mark.parametrize("speed", [0.2, 4.1, 0, -1, float("nan")])
def test_a_speed_out_of_range(speed):
    """libav's error named neither the parameter nor its range."""
    with pytest.raises(ValueError, match=r"`speed` is .* from 0\.25 .* to 4"):
        StreamTimeStretcher(16000, speed)


def test_rates_out_of_range():
    """A rate of 0 aborted in soxr."""
    for make in (
        lambda: StreamResampler(0, 24000),
        lambda: StreamResampler(24000, 0),
        lambda: StreamTimeStretcher(0, 2),
    ):
        with pytest.raises(ValueError, match="the sampling rate is 0 Hz"):
            make()


def test_memory_of_a_long_stream(resident_memory):
    """Frames that nobody took stayed in the filter's queue."""
    stretcher, resampler, second = StreamTimeStretcher(16000, 1.5), StreamResampler(16000, 44100), noise(16000)
    for place in range(300):
        if place == 50:
            gc.collect()
            before = resident_memory()
        resampler.process(stretcher.process(second))
    assert resident_memory() - before < 8e6  # the output of these 250 s has 29 MB
