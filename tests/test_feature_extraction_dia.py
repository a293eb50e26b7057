import warnings

import datasets
import numpy as np
import pytest
import soundfile as sf
import torch
from transformers import DacModel
from transformers.models.dia.feature_extraction_dia import DiaFeatureExtractor as TheirFeatureExtractor

from dia_hf import DiaFeatureExtractor
from dia_hf.audio.io import resample, write_audio
from phone_recordings import encode_recording

EXTRACTOR = DiaFeatureExtractor()
RATE = EXTRACTOR.sampling_rate


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("lengths", [[1000], [700, 3000, 512]])
def test_equals_transformers(tone, lengths, return_tensors):
    """Another padding, shape or dtype than transformers' breaks callers of DAC."""
    clips = [tone(n / RATE, RATE)[:n] for n in lengths]
    theirs = TheirFeatureExtractor(sampling_rate=RATE)(clips, sampling_rate=RATE, return_tensors=return_tensors)
    ours = EXTRACTOR(clips, sampling_rate=RATE, return_tensors=return_tensors)
    assert set(ours) == set(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])


def as_numpy(wave):
    return wave


def as_float64(wave):
    return wave.astype(np.float64)


def as_torch(wave):
    return torch.from_numpy(wave).requires_grad_()


def as_bfloat16(wave):
    return torch.from_numpy(wave).bfloat16()


def as_list(wave):
    return wave.tolist()


def as_int16(wave):
    return np.round(wave * 32768).astype(np.int16)


def as_float16(wave):
    return wave.astype(np.float16)


def as_stereo(wave):
    return np.stack([wave + 0.1, wave - 0.1])


def as_soundfile_stereo(wave):
    return np.stack([wave + 0.1, wave - 0.1], axis=1)


@pytest.mark.parametrize(
    "form",
    [as_numpy, as_float64, as_torch, as_bfloat16, as_list, as_int16, as_float16, as_stereo, as_soundfile_stereo],
)
@pytest.mark.parametrize("batched", [False, True])
def test_every_form_of_a_clip(tone, form, batched):
    """transformers crashes on a list of tensors and refuses stereo."""
    wave = tone(0.05, RATE)
    clip = form(wave)
    features = EXTRACTOR([clip, clip] if batched else clip, sampling_rate=RATE, return_tensors="pt")
    assert features["input_values"].shape == (1 + batched, 1, -(-len(wave) // 512) * 512)
    tolerance = {as_bfloat16: 4e-3, as_float16: 1e-3}.get(form, 1e-4)
    np.testing.assert_allclose(features["input_values"][0, 0, : len(wave)], wave, atol=tolerance)


def test_a_three_dimensional_array_is_a_batch(tone):
    """[B, 1, N], what this class itself returns, was refused as input."""
    first = EXTRACTOR([tone(0.1, RATE)] * 2, sampling_rate=RATE, return_tensors="pt")["input_values"]
    again = EXTRACTOR(first, sampling_rate=RATE, return_tensors="pt")["input_values"]
    assert torch.equal(first, again)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_other_rates_are_resampled(tone, rate):
    """transformers raises for 48 kHz though its rate is given."""
    wave = tone(0.2, rate)
    (loaded,) = EXTRACTOR.load_waveforms(wave, rate)
    np.testing.assert_array_equal(loaded, resample(wave, rate, RATE))


def test_what_carries_its_rate_needs_none(tmp_path, tone):
    """A missing rate taken for 44.1 kHz plays a 16 kHz prompt at almost three times its speed."""
    wave = tone(0.2, 16000)
    expected = resample(wave, 16000, RATE)
    write_audio(tmp_path / "a.flac", wave, 16000)

    class Decoder:  # like torchcodec's, which `datasets` returns
        def get_all_samples(self):
            from types import SimpleNamespace

            return SimpleNamespace(data=torch.from_numpy(wave)[None], sample_rate=16000)

    content = (tmp_path / "a.flac").read_bytes()
    for clip in (
        {"array": wave, "sampling_rate": 16000},
        tmp_path / "a.flac",
        str(tmp_path / "a.flac"),
        Decoder(),
        content,
        {"bytes": content, "path": None},
        {"bytes": content, "path": "not/here.flac"},
        {"bytes": None, "path": str(tmp_path / "a.flac")},
        {"path": str(tmp_path / "a.flac")},
        (16000, (wave * 32767).astype(np.int16)),
        (16000, (wave * (2**31 - 1)).astype(np.int32)),
        (16000, np.stack([wave, wave], axis=1)),
        [16000, wave],
        (np.int64(16000), torch.from_numpy(wave)),
        (wave, 16000),
        (torch.from_numpy(wave)[None], 16000),
    ):
        for given in (clip, [clip], [clip, clip]):
            for loaded in EXTRACTOR.load_waveforms(given):
                np.testing.assert_allclose(loaded, expected, atol=2e-3)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a warning of a missing rate
                features = EXTRACTOR(given, return_tensors="np")
            np.testing.assert_allclose(features["input_values"][0, 0, : len(expected)], expected, atol=2e-3)
    assert len(EXTRACTOR.load_waveforms([str(tmp_path / "a.flac")] * 2)) == 2


@pytest.mark.parametrize(
    ("clip", "rate", "message"),
    [
        ({"array": np.zeros(10), "sampling_rate": 8000}, 44100, "the clip says 8000 Hz"),
        (np.zeros(0, dtype=np.float32), 44100, "0 samples"),
        (np.array([0.0, np.nan]), 44100, "1 samples that are NaN"),
        (np.array([np.inf, 0.0]), 44100, "infinite"),
        (np.zeros((20, 30)), 44100, r"shape \(20, 30\)"),
        (np.zeros(10, dtype=np.int64), 44100, "int64"),
        ([], 44100, "empty list"),
        ({"array": np.zeros(10)}, None, "sampling rate of the audio is unknown"),
        ({"bytes": None, "path": None}, 44100, "a dictionary of 'bytes', 'path' without samples; give 'array'"),
        ({}, 44100, "a dictionary of nothing without samples"),
        ({"bytes": b"no audio", "path": "a.wav"}, 44100, "a file of 8 bytes cannot be read as audio"),
        ((8000, np.zeros(10)), 44100, "the clip says 8000 Hz"),
        ((8000, np.zeros(0)), None, "0 samples"),
        (np.zeros(1, dtype=np.float32), 192000, "1 samples at 192000 Hz, which are 0 samples at 44100 Hz"),
        (np.zeros(10), 1, "the sampling rate is 1 Hz"),
        (np.zeros(10), 0, "the sampling rate is 0 Hz"),
    ],
)
def test_unusable_audio(clip, rate, message):
    """Invalid audio became a prompt of noise, or an error in the codec."""
    with pytest.raises(ValueError, match=message):
        EXTRACTOR.load_waveforms(clip, rate)


def test_an_array_without_its_rate_is_told(tone):
    """A dictionary without a rate was taken for one that has it, and ended in a bare KeyError."""
    wave = tone(0.1, 16000)
    (loaded,) = EXTRACTOR.load_waveforms({"array": wave}, 16000)
    np.testing.assert_array_equal(loaded, resample(wave, 16000, RATE))
    with pytest.warns(UserWarning, match="taken to be at 44100 Hz"):
        EXTRACTOR({"array": wave})


@pytest.mark.parametrize("scale", [32767, 127])
def test_integers_that_were_not_scaled_are_told(tmp_path, tone, scale):
    """int16 cast to float without scaling is clipped to a square wave."""
    wave = tone(0.1, RATE)
    sf.write(tmp_path / "s.wav", scale * wave, RATE, subtype="FLOAT")
    for clip in (scale * wave, str(tmp_path / "s.wav")):
        with pytest.warns(UserWarning, match=r"goes up to [\d.]+, and full scale is 1; .*32768"):
            (loaded,) = EXTRACTOR.load_waveforms(clip, RATE)
        np.testing.assert_array_equal(loaded, scale * wave)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EXTRACTOR.load_waveforms(6 * wave, RATE)  # loud, but not unscaled
        EXTRACTOR.load_waveforms((32767 * wave).astype(np.int16), RATE)


def test_a_recording_of_a_telephone(tmp_path, tone):
    """An m4a was refused, or read with the encoder's samples in front."""
    stereo = np.stack([tone(1.0, 48000), np.zeros(48000, np.float32)])
    path = tmp_path / "memo.m4a"
    path.write_bytes(encode_recording(stereo, "ipod", "aac", 48000))
    for clip in (path, path.read_bytes(), {"bytes": None, "path": str(path)}):
        (waveform,) = DiaFeatureExtractor().load_waveforms(clip)
        expected = resample(tone(1.0, 48000), 48000, 44100) / 2
        assert abs(len(waveform) - len(expected)) <= 1
        np.testing.assert_allclose(waveform[2000:44000], expected[2000:44000], atol=0.02)


def test_a_column_is_a_batch(tmp_path, tone):
    """A column of a dataset was taken for one clip, and raised an error of numpy."""
    clips = [tone(0.1, 16000), tone(0.2, 16000)]
    for number, clip in enumerate(clips):
        sf.write(tmp_path / f"{number}.wav", clip, 16000, subtype="FLOAT")
    rows = [{"audio": str(tmp_path / f"{number}.wav"), "samples": clip} for number, clip in enumerate(clips)]
    dataset = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
    for column in ("audio", "samples"):
        for loaded, clip in zip(EXTRACTOR.load_waveforms(dataset[column], 16000), clips, strict=True):
            np.testing.assert_allclose(loaded, resample(clip, 16000, RATE), atol=1e-6)


def test_a_missing_rate_is_told(tone):
    """An array at 48 kHz became slower and lower; transformers' extractor does not warn."""
    with pytest.warns(UserWarning, match="taken to be at 44100 Hz"):
        features = EXTRACTOR(tone(0.1, RATE), return_tensors="np")
    expected = EXTRACTOR(tone(0.1, RATE), sampling_rate=RATE, return_tensors="np")
    np.testing.assert_array_equal(features["input_values"], expected["input_values"])


def test_an_extractor_whose_file_says_stereo(tone):
    """`feature_size` 2 made padding take the averaged clip for two channels."""
    clip = np.stack([tone(0.1, RATE), tone(0.1, RATE, 150.0)])
    stereo = DiaFeatureExtractor(feature_size=2)(clip, sampling_rate=RATE, return_tensors="np")
    mono = EXTRACTOR(clip.mean(axis=0), sampling_rate=RATE, return_tensors="np")
    np.testing.assert_allclose(stereo["input_values"], mono["input_values"], atol=1e-6)


def test_codes_when_given_the_codec(pack, tone):
    """Codes of padded clips differ from the clips' own."""
    dac = DacModel.from_pretrained(pack / "dac_44khz")
    clips = [tone(0.1, RATE), tone(0.25, RATE, 150.0)]
    together = EXTRACTOR(clips, sampling_rate=RATE, audio_tokenizer=dac)["audio_codes"]
    for codes, clip in zip(together, clips, strict=True):
        assert torch.equal(codes, EXTRACTOR(clip, sampling_rate=RATE, audio_tokenizer=dac)["audio_codes"][0])
    dac.config.sampling_rate = 16000
    with pytest.raises(ValueError, match="must belong together"):
        EXTRACTOR(clips, sampling_rate=RATE, audio_tokenizer=dac)


def test_truncation(tone):
    """A truncated clip kept the codes of the removed part."""
    features = EXTRACTOR(tone(1.0, RATE), sampling_rate=RATE, truncation=True, max_length=1024, return_tensors="np")
    assert features["input_values"].shape == (1, 1, 1024)


def test_round_trip(tmp_path):
    """A rate was lost on saving, and became the default."""
    DiaFeatureExtractor(sampling_rate=16000, hop_length=320).save_pretrained(tmp_path)
    again = DiaFeatureExtractor.from_pretrained(tmp_path)
    assert (again.sampling_rate, again.hop_length) == (16000, 320)
