import pytest
import torch
from transformers import DacModel

from dia_hf.codec import Codec


@pytest.fixture(scope="module")
def dac(pack):
    return DacModel.from_pretrained(pack / "dac_44khz").eval()


@pytest.fixture(scope="module")
def codec(dac):
    return Codec(dac)


def test_geometry_comes_from_the_codec(codec):
    """A hop length written down twice goes wrong with the second codec."""
    assert (codec.sampling_rate, codec.hop_length, codec.num_codebooks, codec.codebook_size) == (44100, 512, 9, 1024)
    assert codec.frame_rate == pytest.approx(86.13, abs=0.01)


@pytest.mark.parametrize("num_samples", [1, 511, 512, 513, 5000])
def test_encode_pads_to_whole_frames(codec, dac, num_samples):
    """The last part of a frame was dropped, or a whole frame of silence added."""
    wave = torch.randn(num_samples)
    (codes,) = codec.encode([wave])
    assert codes.shape == (-(-num_samples // 512), 9)
    padded = torch.zeros(len(codes) * 512)
    padded[:num_samples] = wave
    assert torch.equal(codes, dac.encode(padded[None, None]).audio_codes[0].T)


def test_clips_of_a_batch_equal_clips_alone(codec):
    """Zero padding up to the longest clip changes the codes near a shorter clip's end."""
    waves = [torch.randn(n) for n in (700, 3000, 1500)]
    for together, wave in zip(codec.encode(waves), waves, strict=True):
        assert torch.equal(together, codec.encode([wave])[0])
    codes = codec.encode(waves)
    for together, clip in zip(codec.decode(codes), codes, strict=True):
        assert torch.equal(together, codec.decode([clip])[0])


def test_decode(codec, dac):
    """Channels and frames swapped decode to noise of the right length."""
    codes = torch.randint(0, 1024, (20, 9))
    (wave,) = codec.decode([codes])
    assert wave.shape == (20 * 512,) and wave.dtype == torch.float32
    assert torch.equal(wave, dac.decode(audio_codes=codes.T[None]).audio_values[0])


def test_no_frames(codec):
    """An end of speech in the first frame made the codec raise."""
    assert codec.decode([torch.zeros(0, 9, dtype=torch.long)])[0].shape == (0,)


@pytest.mark.parametrize(("code", "message"), [(1024, "0 to 1023"), (-1, "-1")])
def test_what_is_no_code_raises(codec, code, message):
    """Special tokens mapped to code 0 are clicks that nobody can explain."""
    codes = torch.zeros(4, 9, dtype=torch.long)
    codes[2, 3] = code
    with pytest.raises(ValueError, match=message):
        codec.decode([codes])


def test_wrong_number_of_channels(codec):
    """Codes with channels first went through where both lengths happened to be 9."""
    with pytest.raises(ValueError, match=r"expected \[frames, 9\]"):
        codec.decode([torch.zeros(9, 8, dtype=torch.long)])


def test_half_precision_codec(pack):
    """A bfloat16 codec failed on float32 audio."""
    codec = Codec(DacModel.from_pretrained(pack / "dac_44khz", dtype=torch.bfloat16))
    (codes,) = codec.encode([torch.randn(2000)])
    assert codes.shape == (4, 9)
    assert codec.decode([codes])[0].dtype == torch.float32
