import gc
import io
import struct
import subprocess
import sys
import wave as wave_files

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf.audio.encoders import FORMATS, StreamEncoder
from dia_hf.audio.io import audio_seconds, pcm16, read_audio, resample, write_audio

RATES = [16000, 22050, 24000, 44100, 48000]
LOSSLESS = ["flac", "wav", "pcm"]
LOSSY = ["mp3", "opus", "aac"]
HELD = {"pcm": 0.0, "wav": 0.0, "flac": 0.026, "opus": 0.088, "mp3": 0.07, "aac": 0.13}
"""Seconds that a format holds back at 16 kHz and above, as its documentation says."""
LENGTHS = st.lists(st.integers(0, 5000), min_size=1, max_size=5).filter(any)
"""Lengths of chunks, empty ones too."""


def encoded(encoder: StreamEncoder, wave: np.ndarray, lengths: list[int]) -> list[bytes]:
    """Encode a waveform in chunks of these lengths over and over; return the bytes of each chunk, and the last ones."""
    parts, start = [], 0
    while start < len(wave):
        length = lengths[len(parts) % len(lengths)]
        parts.append(encoder.encode(wave[start : start + length]))
        start += length
    return [*parts, encoder.finish()]


def decoded(content: bytes, name: str, rate: int) -> tuple[np.ndarray, int]:
    """Decode a stream, or the beginning of one, with a library that is not the encoder's where there is one."""
    if name == "pcm":
        return np.frombuffer(content, "<i2"), rate
    if name == "aac":
        with av.open(io.BytesIO(content), format="aac") as container:
            parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
            return np.concatenate(parts), container.streams.audio[0].rate
    sound, found = read_audio(content)
    return (pcm16(sound[0]) if name in LOSSLESS else sound[0]), found


def noise(num_samples: int) -> np.ndarray:
    """Loud noise: some samples are clipped."""
    return np.random.default_rng(num_samples).normal(0, 0.3, num_samples).astype(np.float32)


def delay_and_correlation(sound: np.ndarray, wave: np.ndarray) -> tuple[int, float]:
    """Return how many samples later `wave` is in `sound`, and how alike they are there."""
    size = len(sound) + len(wave)
    products = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(wave, size).conj(), size)
    delay = int(np.argmax(products[: len(sound)]))
    length = min(len(sound) - delay, len(wave))
    return delay, float(np.corrcoef(sound[delay : delay + length], wave[:length])[0, 1])


@pytest.mark.parametrize("name", LOSSLESS)
@given(rate=st.sampled_from(RATES), num_samples=st.integers(0, 12000), lengths=LENGTHS)
@settings(max_examples=25)
def test_lossless_formats_are_the_samples(name, rate, num_samples, lengths):
    """Samples were lost between chunks, or the last block at the end."""
    wave, encoder = noise(num_samples), StreamEncoder(name, rate)
    content = b"".join(encoded(encoder, wave, lengths))
    assert encoder.sampling_rate == rate
    if num_samples or name == "pcm":
        samples, found = decoded(content, name, rate)
        assert found == rate
        np.testing.assert_array_equal(samples, pcm16(wave))


@pytest.mark.parametrize("name", LOSSY)
@given(rate=st.sampled_from(RATES), seconds=st.floats(0.2, 1.0), lengths=LENGTHS)
@settings(max_examples=15)
def test_lossy_formats_sound_the_same(name, rate, seconds, lengths):
    """Frames at the borders of chunks were padded; the rate was that of the chunks, and the pitch wrong."""
    time = np.arange(int(seconds * rate)) / rate
    wave = (0.4 * np.sin(2 * np.pi * (200 + 900 * time) * time)).astype(np.float32)
    encoder = StreamEncoder(name, rate)
    sound, found = decoded(b"".join(encoded(encoder, wave, lengths)), name, rate)
    assert found == encoder.sampling_rate
    expected = resample(wave, rate, found)
    delay, correlation = delay_and_correlation(sound, expected)
    assert correlation > 0.99
    if name == "opus":
        assert len(sound) == len(expected) and delay == 0
    else:
        assert 0 < delay <= 1152 and 0 < len(sound) - len(expected) <= 2 * 1152


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rate", RATES)
def test_a_chunk_can_be_played_at_once(tone, name, rate):
    """The muxer kept a second of pages, the codec a reservoir: the first sound came a second late."""
    encoder, content, wave = StreamEncoder(name, rate), b"", tone(1.0, rate)
    length = rate // 5
    for place in range(4):
        content += encoder.encode(wave[place * length : (place + 1) * length])
        sound, found = decoded(content, name, rate)
        assert len(sound) / found >= (place + 1) / 5 - HELD[name]


@pytest.mark.parametrize(
    ("name", "rate", "found"),
    [
        ("opus", 44100, 48000),
        ("opus", 22050, 24000),
        ("opus", 96000, 48000),
        ("mp3", 17000, 22050),
        ("mp3", 96000, 48000),
        ("aac", 44000, 44100),
        ("aac", 192000, 96000),
        ("flac", 17001, 17001),
        ("wav", 17001, 17001),
    ],
)
def test_rates_that_a_codec_does_not_have(tone, name, rate, found):
    """The codec refused the rate of the model after the response had begun."""
    encoder, wave = StreamEncoder(name, rate), tone(0.5, rate)
    assert encoder.sampling_rate == found
    sound, heard = decoded(b"".join(encoded(encoder, wave, [rate // 10])), name, rate)
    assert heard == found and 0.499 <= len(sound) / found < 0.6


@pytest.mark.parametrize("num_samples", [None, 5000])
def test_the_header_of_a_wav(num_samples):
    """A client that stops after the size of the header played nothing; others waited for samples."""
    wave, encoder = noise(5000), StreamEncoder("wav", 24000, num_samples)
    content = b"".join(encoded(encoder, wave, [2000]))
    sizes = (0xFFFFFFFF, 0xFFFFFFFF) if num_samples is None else (len(content) - 8, len(content) - 44)
    header = struct.unpack("<4sI4s4sIHHIIHH4sI", content[:44])
    assert header == (b"RIFF", sizes[0], b"WAVE", b"fmt ", 16, 1, 1, 24000, 48000, 2, 16, b"data", sizes[1])
    if num_samples:
        with wave_files.open(io.BytesIO(content)) as file:
            assert file.getparams()[:4] == (1, 2, 24000, 5000)


def test_the_header_of_a_flac():
    """soundfile refuses a flac of unknown length: "array is too big"."""
    wave = noise(5000)
    content = b"".join(encoded(StreamEncoder("flac", 24000, 5000), wave, [2000]))
    samples, rate = sf.read(io.BytesIO(content), dtype="int16")
    np.testing.assert_array_equal(samples, pcm16(wave))
    assert rate == 24000


@pytest.mark.parametrize("name", ["mp3", "opus", "flac", "wav"])
def test_a_stream_that_was_saved_is_read(name):
    """The answer of a server was refused as a voice: a flac of unknown length was a damaged file."""
    wave = noise(20000)
    content = b"".join(encoded(StreamEncoder(name, 16000), wave, [3000]))
    whole, rate = read_audio(content)
    assert rate == 16000 and whole.shape[0] == 1 and 20000 <= whole.shape[1] <= 22304
    assert audio_seconds(content) == whole.shape[1] / 16000
    np.testing.assert_allclose(read_audio(content, 0.5, 1.0)[0], whole[:, 8000:16000], atol=1e-6)
    np.testing.assert_allclose(read_audio(content, 1.0)[0], whole[:, 16000:], atol=1e-6)


def test_a_stream_has_the_samples_of_a_file(tmp_path, tone):
    """A stream and a file of the same audio differed."""
    wave = 6 * tone(0.5, 16000)  # clipped
    write_audio(tmp_path / "s.wav", wave, 16000)
    stream = b"".join(encoded(StreamEncoder("wav", 16000, len(wave)), wave, [999]))
    assert stream == (tmp_path / "s.wav").read_bytes()


def test_a_wav_of_more_than_4_gigabytes():
    """The size did not fit its field: struct.error."""
    assert StreamEncoder("wav", 44100, 1 << 31).encode(np.zeros(0, np.float32))[40:] == b"\xff" * 4


def test_another_number_of_samples_than_promised():
    """A client read the next response's header as samples, or waited for more."""
    encoder = StreamEncoder("wav", 16000, num_samples=100)
    encoder.encode(np.zeros(60, np.float32))
    with pytest.raises(ValueError, match="has 60 samples, and `num_samples` is 100"):
        encoder.finish()
    with pytest.raises(ValueError, match="has 110 samples, and `num_samples` is 100"):
        encoder.encode(np.zeros(50, np.float32))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.array([0.0, np.nan, np.inf], np.float32), "2 of 3 samples for the {} stream are NaN or infinite"),
        (np.array([0.0, 9830.0], np.float32), "1 of 2 samples for the {} stream are beyond ±10"),
        (np.zeros((1, 10), np.float32), r"float32 of the shape \[1, 10\]"),
        (np.zeros(10, np.int16), "int16"),
    ],
)
def test_what_is_no_chunk(name, chunk, message):
    """NaN became silence in one format, noise in another, and a crash of the encoder in a third."""
    encoder = StreamEncoder(name, 16000)
    with pytest.raises(ValueError, match=message.format(name)):
        encoder.encode(chunk)


@pytest.mark.parametrize("name", FORMATS)
def test_louder_than_full_scale_is_clipped(name):
    """16 bits wrapped around: a click at each peak."""
    time = np.arange(8000) / 16000
    loud = (1.5 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)
    one, other = (b"".join(encoded(StreamEncoder(name, 16000), wave, [1600])) for wave in (loud, loud.clip(-1, 1)))
    np.testing.assert_array_equal(decoded(one, name, 16000)[0], decoded(other, name, 16000)[0])


@pytest.mark.parametrize("name", FORMATS)
def test_empty_chunks_and_streams(name):
    """libav failed at a frame without samples."""
    nothing, wave = np.zeros(0, np.float32), noise(3000)
    encoder = StreamEncoder(name, 16000)
    assert bool(encoder.encode(nothing)) == (name in ("opus", "flac", "wav"))  # the header
    assert encoder.encode(nothing) == b"" == encoder.finish()
    encoder, other = StreamEncoder(name, 16000), StreamEncoder(name, 16000)
    one = b"".join([encoder.encode(nothing), encoder.encode(wave), encoder.encode(nothing), encoder.finish()])
    two = other.encode(wave) + other.finish()
    np.testing.assert_array_equal(decoded(one, name, 16000)[0], decoded(two, name, 16000)[0])


@pytest.mark.parametrize("name", FORMATS)
def test_after_the_end(name):
    """A second end wrote another trailer: a crash in libav."""
    encoder = StreamEncoder(name, 16000)
    encoder.encode(noise(100))
    encoder.finish()
    for call in (encoder.finish, lambda: encoder.encode(noise(100))):
        with pytest.raises(RuntimeError, match=f"the {name} stream is finished"):
            call()


def test_what_cannot_be_streamed():
    """The error came from libav, and did not name the formats."""
    with pytest.raises(ValueError, match=r"`format` is 'ogg', .* mp3, opus, aac, flac, wav, pcm"):
        StreamEncoder("ogg", 16000)
    with pytest.raises(ValueError, match="the sampling rate is 0 Hz"):
        StreamEncoder("mp3", 0)
    with pytest.raises(ValueError, match=r"22050\.5 Hz; a stream has whole numbers"):
        StreamEncoder("wav", 22050.5)


@pytest.mark.parametrize("name", FORMATS)
def test_content_types(name):
    """A client that chooses its decoder by the content type failed."""
    types = {"mp3": "audio/mpeg", "opus": "audio/ogg"}
    assert StreamEncoder(name, 16000).content_type == FORMATS[name].content_type == types.get(name, f"audio/{name}")
    assert FORMATS[name].suffix == f".{name}"


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac"])
def test_an_encoder_that_is_dropped_frees_its_memory(resident_memory, name):
    """Each disconnected client left up to 7 MB until the garbage collector ran, which counts objects, not bytes."""

    def drop() -> None:
        StreamEncoder(name, 48000).encode(np.zeros(9600, np.float32))

    gc.disable()
    try:
        for _ in range(10):
            drop()
        before = resident_memory()
        for _ in range(40):
            drop()
        assert resident_memory() - before < 4e6
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac"])
def test_memory_of_a_long_stream(resident_memory, name):
    """The bytes that had been taken stayed in the encoder."""
    encoder, second = StreamEncoder(name, 16000), noise(16000)
    for place in range(250):
        if place == 50:
            before = resident_memory()
        encoder.encode(second)
    assert resident_memory() - before < 1.5e6  # the samples have 12 MB, the bytes 1.6 MB or more


def test_pcm_and_wav_need_no_av():
    """A server without PyAV could not even send PCM."""
    code = (
        "import sys; sys.modules['av'] = None; import numpy as np; from dia_hf.audio.encoders import StreamEncoder\n"
        "for name in ('wav', 'pcm'): assert StreamEncoder(name, 16000).encode(np.zeros(9))[-18:] == bytes(18)\n"
        "try: StreamEncoder('mp3', 44100)\n"
        "except ImportError as error: assert 'dia-hf[serve]' in str(error), error\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
