import contextlib
import errno
import io
import json
import os
import signal
import struct

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dia_hf.audio.io import (
    AUDIO_FORMATS,
    audio_format,
    audio_seconds,
    pcm16,
    read_audio,
    read_metadata,
    resample,
    write_audio,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_every_format_comes_back(tmp_path, tone, suffix):
    """A file had another format than its ending."""
    wave = tone(0.5, 44100)
    path = tmp_path / "missing" / f"sound{suffix}"
    write_audio(path, wave, 44100)
    assert sf.info(path).format == AUDIO_FORMATS[suffix]
    again, rate = read_audio(path)
    assert rate == 44100 and again.shape[0] == 1
    length = min(len(wave), again.shape[1])
    assert length > 0.99 * len(wave)
    exact = suffix in (".wav", ".flac")
    assert np.abs(again[0, :length] - wave[:length]).max() < (1e-4 if exact else 0.1)


def test_channels_first(tmp_path):
    """soundfile takes [N, channels]; [channels, N] was written with N channels."""
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.5)]).astype(np.float32)
    write_audio(tmp_path / "s.wav", stereo, 8000)
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav")[0], stereo, atol=1e-4)


def test_unknown_ending():
    """libsndfile raised after the generation, without a remedy."""
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.mp3, \.ogg"):
        audio_format("speech.aac")


def test_a_failed_write_leaves_nothing(tmp_path, tone):
    """A rate that the format refuses left an empty file, or destroyed the existing one."""
    path = tmp_path / "kept.mp3"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="12345 Hz"):
        write_audio(path, tone(0.1, 12345), 12345)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_ordinary_permissions(tmp_path, tone):
    """The mode 0600 of a temporary file was kept, and the result was readable by its owner alone."""
    (tmp_path / "plain").touch()
    write_audio(tmp_path / "s.wav", tone(0.1, 8000), 8000)
    assert (tmp_path / "s.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_no_audio(tmp_path):
    """The traceback of the audio library did not name the file."""
    (tmp_path / "text.wav").write_text("no audio at all")
    with pytest.raises(ValueError, match=r"text\.wav.*cannot be read as audio"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        read_audio(tmp_path / "missing.wav")


@pytest.mark.parametrize(("rate", "target"), [(48000, 44100), (16000, 44100), (44100, 16000)])
def test_resampling_keeps_the_pitch(tone, rate, target):
    """Samples at another rate changed pitch and speed."""
    wave = resample(tone(1.0, rate), rate, target)
    assert wave.dtype == np.float32 and abs(len(wave) - target) <= 1
    spectrum = np.abs(np.fft.rfft(wave))
    assert abs(np.argmax(spectrum) * target / len(wave) - 220) < 2


def test_equal_rates_change_nothing(tone):
    """A filter at equal rates changed the samples."""
    wave = tone(0.1, 44100)
    assert resample(wave, 44100, 44100) is wave


def test_rates_must_be_positive():
    """A rate of 0 (an unset header) divided by zero."""
    with pytest.raises(ValueError, match="positive"):
        resample(np.zeros(10, dtype=np.float32), 0, 44100)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, float("nan"), float("inf"), True, "16000", None])
def test_rates_that_no_sound_has(tmp_path, tone, rate):
    """Resampling from 1 Hz took 40 s; an implausible rate was accepted."""
    for call in (
        lambda: resample(np.zeros(10, dtype=np.float32), rate, 44100),
        lambda: resample(np.zeros(10, dtype=np.float32), 44100, rate),
        lambda: write_audio(tmp_path / "s.wav", np.zeros(10, dtype=np.float32), rate),
    ):
        with pytest.raises(ValueError, match=r"the sampling rate is .* from 1000 to 1000000 Hz"):
            call()
    assert resample(np.zeros(1000, dtype=np.float32), 1000, 1_000_000).shape == (1_000_000,)


def test_a_rate_that_is_no_whole_number(tmp_path):
    """A fractional rate was truncated in the header."""
    with pytest.raises(ValueError, match=r"22050\.5 Hz; a file holds whole numbers"):
        write_audio(tmp_path / "s.wav", np.zeros(10, dtype=np.float32), 22050.5)
    write_audio(tmp_path / "s.wav", np.zeros(10, dtype=np.float32), np.float64(22050))
    assert read_audio(tmp_path / "s.wav")[1] == 22050


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 100), np.float32), r"float32 of the shape \[2, 100\]; give .* channels one by one"),
        (np.zeros((100, 2), np.float32), r"\[100, 2\]"),
        (np.zeros((), np.float32), r"float32 of the shape \[\]"),
        (np.zeros(100, np.int16), "is int16 of the shape"),
        ([0.0, 0.5], "is a list"),
    ],
)
def test_what_cannot_be_resampled(waveform, message):
    """[channels, N] was silently resampled along the channels."""
    for target in (44100, 16000):
        with pytest.raises(ValueError, match=message):
            resample(waveform, 16000, target)


def test_half_precision_is_resampled(tone):
    """soxr does not support float16."""
    wave = tone(0.1, 16000)
    again = resample(wave.astype(np.float16), 16000, 44100)
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, resample(wave, 16000, 44100), atol=1e-3)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
@pytest.mark.parametrize("metadata", [None, {"seed": 7}])
@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "there are 0 samples to write to"),
        (np.zeros((2, 0), np.float32), "there are 0 samples to write to"),
        (np.array([0.0, np.nan, np.inf, 0.5], np.float32), "2 of 4 samples for .* NaN or infinite"),
        (np.array([0.0, 9830.0, -1e30, 0.5], np.float32), r"2 of 4 samples for .* beyond ±10 .*1e\+30.*32768"),
        (np.array([0.0, 1e200]), "1 of 2 samples for .* are NaN or infinite"),
        (np.zeros((100, 2), np.float32), r"the shape \[100, 2\]; it is \[samples\] or \[channels, samples\]"),
        (np.zeros((1, 1, 100), np.float32), r"the shape \[1, 1, 100\]"),
        (np.zeros((), np.float32), r"the shape \[\]"),
        (np.zeros(100, np.int64), "of the type int64"),
        ([0.0, 0.5], "of the type list"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_what_is_no_sound_is_not_written(tmp_path, suffix, metadata, waveform, message):
    """Empty files were written that no program opens; NaN became silence in one format and noise in another."""
    path = tmp_path / f"kept{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match=message) as caught:
        write_audio(path, waveform, 44100, metadata)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_louder_than_full_scale_is_clipped_in_every_format(tmp_path, tone, suffix):
    """16-bit formats clipped and ogg kept the peaks: the same audio differed between formats."""
    wave = 8 * tone(0.5, 44100)
    assert np.abs(wave).max() > 1.5
    before = wave.copy()
    write_audio(tmp_path / f"loud{suffix}", wave, 44100)
    write_audio(tmp_path / f"clipped{suffix}", wave.clip(-1, 1), 44100)
    loud, clipped = (read_audio(tmp_path / f"{name}{suffix}")[0] for name in ("loud", "clipped"))
    np.testing.assert_array_equal(loud, clipped)
    np.testing.assert_array_equal(wave, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16, np.int32])
def test_other_types_of_samples_are_written(tmp_path, tone, dtype):
    """float16 failed in the encoder; integer PCM was refused or scaled."""
    wave = tone(0.1, 16000)
    full_scale = -float(np.iinfo(dtype).min) if dtype in (np.int16, np.int32) else 1.0
    samples = (full_scale * wave).astype(dtype)
    write_audio(tmp_path / "s.wav", samples, 16000)
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav")[0][0], wave, atol=1e-3)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_a_part_of_a_file(tmp_path, tone, suffix):
    """The first 0.3 s of a segment of an mp3 were noise: frames depend on earlier ones."""
    path, swell = tmp_path / f"s{suffix}", np.sin(np.arange(160_000) / 5000, dtype=np.float32)
    write_audio(path, swell * np.stack([tone(10, 16000), tone(10, 16000, 153.0)]), 16000)
    whole, _ = read_audio(path)
    np.testing.assert_allclose(read_audio(path.read_bytes())[0], whole, atol=1e-6)
    for begin, end in [(0.0, 0.5), (0.5, 1.25), (3.0, 5.0), (7.5, None), (9.5, 19.0), (10.5, 13.0), (5.0, 5.0)]:
        part, rate = read_audio(path, begin, end)
        stop = None if end is None else round(end * rate)
        np.testing.assert_allclose(part, whole[:, round(begin * rate) : stop], atol=1e-6)


def test_a_header_that_promises_more_than_the_file_holds(tmp_path, tone):
    """A damaged file of 132 bytes led to an allocation of half a terabyte, and the error did not name it."""
    path = tmp_path / "s.flac"
    write_audio(path, np.zeros(16000, np.float32), 16000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the number of samples is the last 36 bits of 8 bytes
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    for source in (path, bytes(content)):
        with pytest.raises(
            ValueError, match=r"has 68719476735 samples, more than its \d+ bytes can hold.*save it again"
        ):
            read_audio(source)


@pytest.mark.parametrize("form", ["WAV", "W64", "RF64", "CAF", "AIFF", "AU", "OGG", "FLAC"])
@given(place=st.integers(4, 150), value=st.sampled_from([b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\0\0\0\xff"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers(tone, capfd, form, place, value):
    """A damaged header led to a MemoryError or a traceback of a library."""
    file = io.BytesIO()
    sf.write(file, tone(0.1, 16000), 16000, format=form)
    content = bytearray(file.getvalue())
    content[place : place + 4] = value
    with contextlib.suppress(ValueError):
        assert read_audio(bytes(content))[0].nbytes < 1_000_000
    assert "Traceback" not in capfd.readouterr().err


def test_seconds_by_the_header(tmp_path, tone):
    """The error named neither the file nor a remedy."""
    write_audio(tmp_path / "s.flac", tone(0.5, 8000), 8000)
    assert audio_seconds(tmp_path / "s.flac") == 0.5 == audio_seconds((tmp_path / "s.flac").read_bytes())
    (tmp_path / "text.wav").write_text("no audio at all")
    with pytest.raises(ValueError, match=r"text\.wav.*cannot be read as audio"):
        audio_seconds(tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        audio_seconds(tmp_path / "missing.wav")


def test_memory_is_for_the_samples_that_are_there(tmp_path, monkeypatch):
    """A header with a barely possible number of samples led to an allocation of gigabytes."""
    monkeypatch.setattr("dia_hf.audio.io._SAMPLES_PER_READ", 1000)
    write_audio(tmp_path / "s.wav", np.linspace(-1, 1, 3500, dtype=np.float32), 16000)
    np.testing.assert_array_equal(
        read_audio(tmp_path / "s.wav")[0], sf.read(tmp_path / "s.wav", dtype="float32", always_2d=True)[0].T
    )


def test_what_fills_a_byte_most_is_read(tmp_path):
    """The limit refused an encoded hour of silence."""
    sf.write(tmp_path / "s.flac", np.zeros(8000 * 600, np.int16), 8000)
    assert read_audio(tmp_path / "s.flac")[0].shape == (1, 8000 * 600)


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
@given(metadata=st.dictionaries(st.text(), JSON, max_size=5))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_metadata_comes_back(tmp_path, tone, suffix, metadata):
    """mp3 garbled non-ASCII characters of the metadata."""
    path = tmp_path / f"s{suffix}"
    write_audio(path, tone(0.05, 8000), 8000, metadata)
    assert read_metadata(path) == metadata


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
@pytest.mark.parametrize(
    "text", ["a" * 2047, "[S1] Grüße, 世界! " * 2000, "\U0001f600" * 30_000], ids=["2k", "34k", "360k"]
)
def test_long_metadata_comes_back_whole(tmp_path, tone, suffix, text):
    """libsndfile silently drops wav comments of 2 kB on reading, and of 64 kB on writing."""
    path, wave = tmp_path / f"s{suffix}", tone(0.5, 44100)
    write_audio(path, wave, 44100, {"text": text, "seed": 7})
    assert read_metadata(path) == {"text": text, "seed": 7}
    write_audio(tmp_path / f"plain{suffix}", wave, 44100)
    np.testing.assert_array_equal(read_audio(path)[0], read_audio(tmp_path / f"plain{suffix}")[0])


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_other_programs_find_the_metadata(tmp_path, tone, suffix):
    """Metadata was not readable by other programs, or broke the wav file."""
    path = tmp_path / f"s{suffix}"
    write_audio(path, tone(0.1, 8000), 8000, {"text": "Grüße"})
    with sf.SoundFile(path) as file:
        assert json.loads(file.comment) == {"dia-hf": {"text": "Grüße"}}
        assert suffix == ".mp3" or file.software.startswith("dia-hf")  # an mp3 names its encoder there
    if suffix == ".wav":
        content = path.read_bytes()
        assert struct.unpack("<4sI4s", content[:12]) == (b"RIFF", len(content) - 8, b"WAVE") and len(content) % 2 == 0


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_without_metadata_there_is_none(tmp_path, tone, suffix):
    """The comment of another program, or a list of markers, was taken for metadata."""
    path = tmp_path / f"s{suffix}"
    write_audio(path, tone(0.1, 8000), 8000)
    assert read_metadata(path) == {}
    with sf.SoundFile(path, "w", 8000, 1, format=AUDIO_FORMATS[suffix]) as file:
        file.comment = '{"title": "not ours"}'
        file.write(tone(0.1, 8000))
    assert read_metadata(path) == {}


def test_metadata_is_found_behind_other_chunks(tmp_path, tone):
    """Metadata was not found in a wav with markers or chunks of odd length."""
    write_audio(tmp_path / "s.wav", tone(0.1, 8000), 8000, {"seed": 7})
    content = (tmp_path / "s.wav").read_bytes()
    markers = b"LIST\x14\0\0\0adtllabl\x07\0\0\0\x01\0\0\0ab\0\0" + b"junk\x03\0\0\0abc\0"
    content = content[:36] + markers + content[36:]
    (tmp_path / "s.wav").write_bytes(b"RIFF" + struct.pack("<I", len(content) - 8) + content[8:])
    assert read_metadata(tmp_path / "s.wav") == {"seed": 7}


def test_metadata_that_was_cut(tmp_path, tone):
    """Truncated metadata was taken for none."""
    path = tmp_path / "s.flac"
    with sf.SoundFile(path, "w", 8000, 1) as file:
        file.comment = '{"dia-hf": {"text": "[S1] He'
        file.write(tone(0.1, 8000))
    with pytest.raises(ValueError, match=r"s\.flac.*cut or changed"):
        read_metadata(path)


def test_metadata_of_what_is_no_audio(tmp_path):
    """The error named neither the file nor a remedy."""
    (tmp_path / "text.wav").write_text("no audio at all")
    with pytest.raises(ValueError, match=r"text\.wav.*cannot be read as audio"):
        read_metadata(tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        read_metadata(tmp_path / "missing.wav")


@pytest.mark.parametrize("metadata", [{"path": object()}, {"rate": float("nan")}, "text", 7, ["a"]])
def test_metadata_that_is_no_json(tmp_path, tone, metadata):
    """Python writes `NaN`, which is invalid JSON; and a file was written in spite of the error."""
    with pytest.raises(ValueError, match=r"`metadata` cannot be written as JSON.*give a dict"):
        write_audio(tmp_path / "s.wav", tone(0.1, 8000), 8000, metadata)
    assert not list(tmp_path.iterdir())


def test_metadata_beyond_what_a_format_holds(tmp_path, tone):
    """Metadata above flac's 16 MiB gave an unrelated error of the library."""
    with pytest.raises(ValueError, match=r"s\.flac' cannot be written as FLAC.*with 17000\d\d\d bytes of metadata"):
        write_audio(tmp_path / "s.flac", tone(0.1, 8000), 8000, {"text": "a" * 17_000_000})
    assert not list(tmp_path.iterdir())


def test_metadata_that_a_library_cuts(tmp_path, tone, monkeypatch):
    """Another build of libsndfile with a lower limit truncated metadata silently."""
    chunk = struct.pack("<4sI", b"ICMT", 8) + b'{"dia-hf'
    monkeypatch.setattr("dia_hf.audio.io._chunk", lambda name, body: chunk)
    with pytest.raises(ValueError, match=r"bytes of metadata do not fit into .*s\.wav"):
        write_audio(tmp_path / "s.wav", tone(0.1, 8000), 8000, {"seed": 7})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_a_full_disk_is_told(tmp_path, tone, suffix):
    """libsndfile left half an ogg on a full disk without an error. Here the disk holds 3 kB."""
    resource = pytest.importorskip("resource")
    path = tmp_path / f"kept{suffix}"
    path.write_bytes(b"precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OSError, match=rf"nothing was written.*kept\{suffix}") as caught:
            write_audio(path, tone(1, 44100), 44100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_only_when_it_is_asked(tmp_path, tone, monkeypatch):
    """A network disk reports a lack of space late; the old file had been replaced by then."""

    def fsync(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "kept.wav"
    path.write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device; nothing was written: .*kept\.wav"):
        write_audio(path, tone(0.1, 8000), 8000)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_written_in_parts_as_in_one(tmp_path, tone, suffix):
    """libsndfile crashes on minutes of ogg at once; parts in a wrong order click."""
    wave = tone(2, 44100)
    write_audio(tmp_path / f"s{suffix}", wave, 44100)
    once = io.BytesIO()
    sf.write(once, pcm16(wave) if suffix == ".wav" else wave, 44100, format=AUDIO_FORMATS[suffix])
    once.seek(0)
    begin = 128 if suffix == ".ogg" else 0  # which the encoder extrapolates from what it has been given by then
    again, expected = read_audio(tmp_path / f"s{suffix}")[0][0], sf.read(once, dtype="float32")[0]
    np.testing.assert_array_equal(again[begin:], expected[begin:])
    np.testing.assert_allclose(again[:begin], expected[:begin], atol=0.03)


def test_minutes_of_ogg(tmp_path, tone):
    """The process crashed with a stack overflow."""
    write_audio(tmp_path / "s.ogg", tone(300, 8000), 8000)
    assert sf.info(tmp_path / "s.ogg").frames == 300 * 8000


class _Interrupting(io.BytesIO):
    """Sends Control-C to this process at its third read or write."""

    num_calls = 0

    def _count(self):
        self.num_calls += 1
        if self.num_calls == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def write(self, content):
        self._count()
        return super().write(content)

    def readinto(self, buffer):
        self._count()
        return super().readinto(buffer)


@pytest.fixture
def heard_interrupts():
    """Have Control-C raise KeyboardInterrupt, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_interrupted_while_it_is_encoded(tmp_path, monkeypatch, tone, ending):
    """soundfile dropped the Control-C, and a cut or damaged mp3 was reported as written."""
    path = tmp_path / f"out.{ending}"
    monkeypatch.setattr("dia_hf.audio.io.io.BytesIO", _Interrupting)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        write_audio(path, tone(2.0, 44100), 44100, {"seed": 1})
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("heard_interrupts")
def test_interrupted_while_it_is_read(tmp_path, monkeypatch, tone):
    """A recording in memory was cut short where Control-C came, without an error."""
    write_audio(tmp_path / "in.flac", tone(2.0, 44100), 44100)
    content = (tmp_path / "in.flac").read_bytes()
    monkeypatch.setattr("dia_hf.audio.io._Content", _Interrupting)
    with pytest.raises(KeyboardInterrupt):
        read_audio(content)


@given(samples=arrays(np.float32, st.integers(1, 50), elements=st.floats(-1.5, 1.5, width=32)))
def test_files_hold_the_nearest_of_16_bits(tmp_path_factory, samples):
    """wav had the 16 bits below a sample, as libsndfile makes them, flac the nearest: files of one audio differed."""
    folder = tmp_path_factory.mktemp("sound")
    nearest = [int(min(max(round(float(sample) * 32768), -32768), 32767)) for sample in samples]
    assert pcm16(samples).tolist() == nearest
    for name in ("s.wav", "s.flac"):
        write_audio(folder / name, samples.clip(-1, 1), 16000)
        assert sf.read(folder / name, dtype="int16")[0].tolist() == nearest
