"""Our codec against descript's own package. `make test-descript` runs it where that package is installed."""

import pytest
import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf import DiaFeatureExtractor, DiaProcessor, DiaTokenizer
from dia_hf.audio.dac import DacCodec
from dia_hf.conversion import load_descript_codec

dac = pytest.importorskip("dac", reason="`make test-descript` installs and runs it")

FILE = REFERENCE / "descript-dac" / "weights.pth"
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")  # descript's


@pytest.fixture(scope="module")
def theirs():
    return dac.DAC.load(FILE).eval()


@pytest.fixture(scope="module")
def converted():
    return load_descript_codec(FILE)


@pytest.mark.parametrize("num_samples", [1, 511, 512, 20000, 44100])
def test_the_converted_codec_is_descripts(theirs, converted, num_samples):
    """A weight that is folded along the wrong dimension changes the audio only slightly."""
    wave = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.3
    (codes,) = DacCodec(theirs).encode([wave])
    assert torch.equal(codes, DacCodec(converted).encode([wave])[0])
    audio = [DacCodec(codec).decode([codes])[0] for codec in (theirs, converted)]
    torch.testing.assert_close(*audio, rtol=0, atol=1e-4)


def test_both_backends_have_one_geometry(theirs, converted):
    """A sampling rate or hop length read from the wrong attribute shifts all frames."""
    geometry = [
        (codec.sampling_rate, codec.hop_length, codec.num_codebooks, codec.codebook_size, codec.frame_rate)
        for codec in (DacCodec(theirs), DacCodec(converted))
    ]
    assert geometry[0] == geometry[1]


def test_descripts_own_package_computes_the_pack(theirs):
    """The pack was made by this package; a failure here means that the installation is not the reference."""
    expected = load_file(REFERENCE / "descript-dac" / "expected.safetensors")
    codec = DacCodec(theirs)
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


@pytest.mark.parametrize("rates", [[2, 4, 8, 8], [3, 5]], ids=str)
def test_batches_windows_and_streams_of_descripts_network(rates):
    """Descript's modules are nested differently: layers called in another order change the audio only slightly."""
    torch.manual_seed(0)
    sizes = {"encoder_dim": 4, "decoder_dim": 4 * 2 ** len(rates), "n_codebooks": 3, "codebook_size": 64}
    network = dac.DAC(encoder_rates=rates, decoder_rates=rates[::-1], **sizes).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    codec = DacCodec(network)
    codec = DacCodec(network, max_frames_per_batch=2 * max(codec.encoder_margin, codec.decoder_margin) + 15)
    codes = [torch.randint(64, (num_frames, 3)) for num_frames in (70, 30, 26, 1)]
    with torch.no_grad():
        expected = [network.decode(network.quantizer.from_codes(clip.T[None])[0]).flatten() for clip in codes]
    assert 0.03 < expected[0].std() < 0.8, "silence would pass any test of equality"
    for wave, alone in zip(codec.decode(codes), expected, strict=True):
        torch.testing.assert_close(wave, alone, rtol=0, atol=1e-5)

    stream = codec.stream()
    portions = []
    for chunk in codes[0].split(9):
        stream.push(chunk)
        portions.append(stream.pop(stream.num_ready))
    stream.close()
    torch.testing.assert_close(torch.cat([*portions, stream.pop(stream.num_ready)]), expected[0], rtol=0, atol=1e-5)

    waves = [torch.randn(num_frames * codec.hop_length) for num_frames in (70, 30, 26, 1)]
    for clip, wave in zip(codec.encode(waves), waves, strict=True):
        with torch.no_grad():
            assert torch.equal(clip, network.encode(wave[None, None])[1][0].T)


def test_both_networks_have_one_plan_and_one_fingerprint(theirs, converted):
    """A voice made with descript's codec was refused beside the same codec converted."""
    ours, descripts = DacCodec(converted), DacCodec(theirs)
    assert (ours.encoder_margin, ours.decoder_margin) == (descripts.encoder_margin, descripts.decoder_margin) == (8, 10)
    assert ours.fingerprint == descripts.fingerprint
