import numpy as np
import pytest
import soundfile as sf

from dia_hf.audio import AUDIO_FORMATS, audio_format, read_audio, resample, write_audio


@pytest.mark.parametrize("suffix", AUDIO_FORMATS)
def test_every_format_comes_back(tmp_path, tone, suffix):
    """An ending that is written as another format is unreadable for who trusts the ending."""
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
    """Soundfile counts samples first; [channels, N] written as it is has N channels."""
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.5)]).astype(np.float32)
    write_audio(tmp_path / "s.wav", stereo, 8000)
    np.testing.assert_allclose(read_audio(tmp_path / "s.wav")[0], stereo, atol=1e-4)


def test_unknown_ending():
    """Libsndfile would have raised after the generation, with its own words."""
    with pytest.raises(ValueError, match=r"\.wav, \.flac, \.mp3, \.ogg"):
        audio_format("speech.aac")


def test_a_failed_write_leaves_nothing(tmp_path, tone):
    """A format that refuses the rate left an empty file, or destroyed the one that was there."""
    path = tmp_path / "kept.mp3"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="12345 Hz"):
        write_audio(path, tone(0.1, 12345), 12345)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_ordinary_permissions(tmp_path, tone):
    """A temporary file's 0600 stayed on, and nobody else could read the result."""
    (tmp_path / "plain").touch()
    write_audio(tmp_path / "s.wav", tone(0.1, 8000), 8000)
    assert (tmp_path / "s.wav").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_no_audio(tmp_path):
    """A traceback from the audio library says nothing about which file it was."""
    (tmp_path / "text.wav").write_text("no audio at all")
    with pytest.raises(ValueError, match=r"text\.wav.*cannot be read as audio"):
        read_audio(tmp_path / "text.wav")
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        read_audio(tmp_path / "missing.wav")


@pytest.mark.parametrize(("rate", "target"), [(48000, 44100), (16000, 44100), (44100, 16000)])
def test_resampling_keeps_the_pitch(tone, rate, target):
    """Samples taken as if they were at another rate change pitch and speed."""
    wave = resample(tone(1.0, rate), rate, target)
    assert wave.dtype == np.float32 and abs(len(wave) - target) <= 1
    spectrum = np.abs(np.fft.rfft(wave))
    assert abs(np.argmax(spectrum) * target / len(wave) - 220) < 2


def test_equal_rates_change_nothing(tone):
    """A filter run for nothing would cost the equality with the reference."""
    wave = tone(0.1, 44100)
    assert resample(wave, 44100, 44100) is wave


def test_rates_must_be_positive():
    """A rate of 0 (an unset header) divided by zero."""
    with pytest.raises(ValueError, match="positive"):
        resample(np.zeros(10, dtype=np.float32), 0, 44100)
