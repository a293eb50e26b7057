"""Recordings of telephones and browsers: exact lengths and places, and hostile content."""

import io
import sys

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf.audio import containers
from dia_hf.audio.containers import ContainerError, container_seconds, is_container, read_container
from dia_hf.audio.io import audio_seconds, read_audio, read_metadata, write_audio
from dia_hf.data.clips import read_clip
from dia_hf.data.rows import RowError
from phone_recordings import encode_recording

# Format, codec, rate, and samples of a tone that the result is longer at most.
EXACT = [
    ("ipod", "aac", 44100, 1),
    ("ipod", "alac", 44100, 0),
    ("mp4", "aac", 48000, 1),
    ("mp4", "libopus", 48000, 1),
    ("mp4", "libmp3lame", 44100, 1),
    ("mov", "aac", 24000, 1),
    ("mov", "pcm_s16be", 44100, 0),
    ("webm", "libopus", 48000, 0),
    ("matroska", "libopus", 48000, 0),
    ("3gp", "libopencore_amrnb", 8000, 8),
]
# Files that do not say how many samples the encoder has put before the first one.
RAW = [("adts", "aac", 44100), ("amr", "libopencore_amrnb", 8000)]
SECONDS, CLICKS = 3.217, (0.5, 1.5, 2.9)


def needs(codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")


def clicks(rate, seconds=SECONDS, times=CLICKS):
    """Short tones, which all codecs keep, at known places."""
    time = np.arange(round(seconds * rate)) / rate
    bursts = [np.exp(-0.5 * ((time - at) / 0.002) ** 2) * np.cos(2 * np.pi * 900 * (time - at)) for at in times]
    return (0.6 * sum(bursts)).astype(np.float32)


def delays(waveform, rate, times=CLICKS):
    """By how many samples each click is late."""
    reference = clicks(rate, 0.1, [0.05])
    found = []
    for at in times:
        begin = round((at - 0.15) * rate)
        part = waveform[begin : round((at + 0.15) * rate)]
        found.append(int(np.correlate(part, reference, "valid").argmax()) + begin - round((at - 0.05) * rate))
    return found


@pytest.mark.parametrize(("container", "codec", "rate", "extra"), EXACT)
def test_places_and_lengths_are_exact(tmp_path, container, codec, rate, extra):
    """The samples before the first, or the padding behind the last, were read, so that all segments were late."""
    needs(codec)
    wave = clicks(rate)
    content = encode_recording(wave, container, codec, rate)
    path = tmp_path / "recording"
    path.write_bytes(content)
    assert is_container(content) and is_container(path)
    waveform, found_rate = read_audio(path)
    assert found_rate == rate and waveform.dtype == np.float32 and len(waveform) == 1
    assert 0 <= waveform.shape[1] - len(wave) <= extra
    assert np.abs(delays(waveform[0], rate)).max() <= (2 if rate == 8000 else 0)
    assert np.array_equal(read_audio(content)[0], waveform)
    assert audio_seconds(path) == audio_seconds(content) == waveform.shape[1] / rate
    if rate > 8000:
        np.testing.assert_allclose(waveform[0, : len(wave)], wave, atol=0.05)
    assert read_metadata(path) == {}


@pytest.mark.parametrize(("container", "codec", "rate"), RAW)
def test_raw_streams(container, codec, rate):
    """A stream without a container was refused; it has the encoder's samples at its begin, which nothing tells."""
    needs(codec)
    content = encode_recording(clicks(rate), container, codec, rate)
    waveform, found_rate = read_audio(content)
    assert found_rate == rate
    assert len(set(delays(waveform[0], rate))) == 1 and 0 <= delays(waveform[0], rate)[0] <= 1024
    assert is_container(b"ID3\4\0\0\0\0\0\5" + bytes(5) + content[:9]) == (container == "adts")


@pytest.mark.parametrize("seek_from", [0.0, 1e9])
@pytest.mark.parametrize(("container", "codec", "rate"), [*(one[:3] for one in EXACT), *RAW])
def test_a_segment_is_that_part_of_the_whole(tmp_path, monkeypatch, container, codec, rate, seek_from):
    """A segment began at the packet before it, after a seek or without one."""
    needs(codec)
    monkeypatch.setattr(containers, "_SEEK_FROM", seek_from)
    noise = np.random.default_rng(0).normal(size=round(6.1 * rate)).astype(np.float32)
    smooth = np.convolve(noise, np.hanning(rate // 500), "same")
    path = tmp_path / "recording"
    path.write_bytes(encode_recording((0.3 * smooth / np.abs(smooth).max()).astype(np.float32), container, codec, rate))
    whole, _ = read_audio(path)
    for begin, end in [(0.0, 1.0), (2.0, 3.25), (4.9, None), (5.5, 9.0), (6.0, 6.0), (8.0, 9.0), (0.0, 0.0)]:
        for source in (path, path.read_bytes()):
            part, part_rate = read_audio(source, begin, end)
            expected = whole[:, round(begin * rate) : None if end is None else round(end * rate)]
            assert part_rate == rate and part.shape == expected.shape
            np.testing.assert_allclose(part, expected, atol=2e-3 if rate > 8000 else 0.2)


def test_a_seek_that_is_not_exact_is_not_used(tmp_path, monkeypatch):
    """A recording with a gap was read at the place of its time stamps in one way, and of its samples in the other."""
    monkeypatch.setattr(containers, "_SEEK_FROM", 0.0)
    rate, times = 44100, (0.1, 1.5, 2.9)
    path = tmp_path / "gap.m4a"
    path.write_bytes(encode_recording(clicks(rate, times=times), "ipod", "aac", rate, gap=20))
    whole, _ = read_container(path)
    assert containers._info_of(path).first_stamp is None
    part, _ = read_container(path, 1.3, 2.0)
    np.testing.assert_array_equal(part, whole[:, round(1.3 * rate) : round(2.0 * rate)])
    path.write_bytes(encode_recording(clicks(rate), "ipod", "aac", rate))
    assert containers._info_of(path).first_stamp == 0, "the file has changed"


def test_a_long_recording_is_decoded_from_near_the_segment(tmp_path, monkeypatch):
    """Each segment of an hour was decoded from the beginning of the hour."""
    rate = 8000
    path = tmp_path / "long.m4a"
    path.write_bytes(encode_recording(np.tile(clicks(rate), 25), "ipod", "aac", rate))
    audio_seconds(path)
    num_samples, frames = 0, containers._frames

    def counted(*args):
        nonlocal num_samples
        for frame in frames(*args):
            num_samples += frame.samples
            yield frame

    monkeypatch.setattr(containers, "_frames", counted)
    assert read_audio(path, 70.0, 71.0)[0].shape == (1, rate)
    assert num_samples < 4 * rate


def test_channels_of_a_video(tmp_path):
    """A video was refused, or its sound mixed before others would mix it."""
    rate = 44100
    stereo = np.stack([clicks(rate), np.zeros(round(SECONDS * rate), np.float32)])
    waveform, _ = read_audio(encode_recording(stereo, "mp4", "aac", rate, pictures="mpeg4"))
    assert len(waveform) == 2
    assert delays(waveform[0], rate) == [0, 0, 0]
    assert np.abs(waveform[1]).max() < 0.01


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG", "AIFF", "CAF", "W64", "AU", "OPUS"])
def test_files_of_libsndfile_are_left_to_it(form):
    """A wav file needed PyAV, or libsndfile's exact seeks were given up for FFmpeg's."""
    file = io.BytesIO()
    form, subtype = ("OGG", "OPUS") if form == "OPUS" else (form, None)
    sf.write(file, clicks(48000), 48000, format=form, subtype=subtype)
    assert not is_container(file.getvalue())
    waveform, rate = read_audio(file.getvalue())
    assert delays(waveform[0], rate) == [0, 0, 0]


def test_without_pyav(monkeypatch):
    """The error was of an unknown format, and did not name the package; or a wav file could not be read either."""
    monkeypatch.setitem(sys.modules, "av", None)
    file = io.BytesIO()
    sf.write(file, clicks(8000), 8000, format="WAV")
    assert read_audio(file.getvalue())[1] == 8000
    content = b"\0\0\0\x20ftypM4A " + bytes(99)
    for read in (read_audio, audio_seconds):
        with pytest.raises(ImportError, match=r"PyAV.*dia-hf\[audio\]"):
            read(content)
    with pytest.raises(RowError, match=r"PyAV.*dia-hf\[audio\]"):
        read_clip(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: encode_recording(clicks(48000), "mp4", "ac3", 48000), "codec ac3, which is not read"),
        (lambda: encode_recording(clicks(44100), "ipod", "aac", 44100)[:2000], "damaged|Invalid"),
        (lambda: b"#!AMR\n" + bytes(3), "Invalid|no sound|End of file"),
        (lambda: b"\x1aE\xdf\xa3" + bytes(99), "Invalid|End of file"),
        (lambda: b"\0\0\0\x20ftypM4A " + bytes(99), "Invalid|no sound|End of file"),
    ],
)
def test_damaged_and_foreign_content(tmp_path, content, reason):
    """The error named neither the file nor the fault; or any decoder of FFmpeg was run on content of unknown origin."""
    path = tmp_path / "a recording.m4a"
    path.write_bytes(content())
    with pytest.raises(
        ValueError, match=rf"'.*a recording.m4a' cannot be read as audio \(.*({reason}).*\); give a wav"
    ):
        read_audio(path)


def test_a_video_without_sound(tmp_path):
    """A silent video ended in an IndexError."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        video = output.add_stream("mpeg4", rate=1)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        output.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(video.encode(None))
    with pytest.raises(ValueError, match="it has no sound"):
        read_audio(file.getvalue())


def test_limits(monkeypatch):
    """Content could decode to more samples than there is memory."""
    content = encode_recording(np.stack([clicks(44100)] * 2), "ipod", "aac", 44100)
    monkeypatch.setattr(containers, "_MAX_SAMPLES_PER_BYTE", 1)
    for read in (read_container, container_seconds):
        with pytest.raises(ContainerError, match="more samples than its"):
            read(content)
    monkeypatch.setattr(containers, "_MAX_SAMPLES_PER_BYTE", 8192)
    monkeypatch.setattr(containers, "_MAX_CHANNELS", 1)
    with pytest.raises(ContainerError, match="2 channels; at most 1"):
        read_container(content)


@given(
    which=st.sampled_from([("ipod", "aac", 44100), ("webm", "libopus", 48000), ("adts", "aac", 44100)]),
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_any_damage_is_a_value_error(which, places, kept):
    """Damaged content ended in an error of another type, or in an endless recording."""
    content = bytearray(encode_recording(clicks(which[2], 0.3, [0.1]), *which))
    for place, value in places:
        content[int(place * len(content))] = value
    content = content[: int(kept * len(content))]
    try:
        waveform, rate = read_audio(bytes(content))
        assert waveform.ndim == 2 and waveform.nbytes < 4 * 8 * 8192 * len(content) and rate > 0
    except ValueError:
        pass


def test_what_is_written_is_no_container(tmp_path):
    """A file that this package wrote was read by another library than before."""
    write_audio(tmp_path / "s.mp3", clicks(44100), 44100, {"text": "Hello."})
    assert not is_container(tmp_path / "s.mp3")
    assert not is_container(tmp_path / "missing.m4a") and not is_container(tmp_path)
