"""Our codec against descript's own package. `make test-descript` runs it where that package is installed."""

import pytest
import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf import DiaFeatureExtractor, DiaProcessor, DiaTokenizer
from dia_hf.codec import Codec
from dia_hf.conversion import load_descript_codec

dac = pytest.importorskip("dac", reason="`make test-descript` installs and runs it")

FILE = REFERENCE / "descript-dac" / "weights.pth"


@pytest.fixture(scope="module")
def theirs():
    return dac.DAC.load(FILE).eval()


@pytest.fixture(scope="module")
def converted():
    return load_descript_codec(FILE)


@pytest.mark.parametrize("num_samples", [1, 511, 512, 20000, 44100])
def test_the_converted_codec_is_descripts(theirs, converted, num_samples):
    """A weight folded along the wrong dimension sounds almost right."""
    wave = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.3
    (codes,) = Codec(theirs).encode([wave])
    assert torch.equal(codes, Codec(converted).encode([wave])[0])
    audio = [Codec(codec).decode([codes])[0] for codec in (theirs, converted)]
    torch.testing.assert_close(*audio, rtol=0, atol=1e-4)


def test_both_backends_have_one_geometry(theirs, converted):
    """A rate or hop read from the wrong attribute shifts everything downstream."""
    geometry = [
        (codec.sampling_rate, codec.hop_length, codec.num_codebooks, codec.codebook_size, codec.frame_rate)
        for codec in (Codec(theirs), Codec(converted))
    ]
    assert geometry[0] == geometry[1]


def test_descripts_own_package_computes_the_pack(theirs):
    """The pack was made by it; if this fails, the installation is not the reference."""
    expected = load_file(REFERENCE / "descript-dac" / "expected.safetensors")
    codec = Codec(theirs)
    assert torch.equal(codec.encode([expected["wave_0"]])[0].T, expected["codes_0"])
    torch.testing.assert_close(codec.decode([expected["codes_0"].T])[0], expected["decoded_0"], rtol=0, atol=1e-4)


def test_a_processor_speaks_through_descripts_codec(theirs, converted, tmp_path):
    """transformers' processors refuse any codec that is not transformers' own."""
    wave = torch.randn(5000).numpy()
    inputs = []
    for codec in (theirs, converted):
        processor = DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), codec)
        inputs.append(processor("[S1] Hi.", wave, sampling_rate=44100)["decoder_input_ids"])
        assert type(codec).__name__ in repr(processor)
    assert torch.equal(*inputs)
    with pytest.raises(ValueError, match="load_descript_codec"):
        DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), theirs).save_pretrained(tmp_path)
