"""The codec's decoder in ONNX Runtime."""

import logging
import shutil
import subprocess
import sys

import pytest
import torch

from conftest import REFERENCE
from dia_hf import MINIATURE
from dia_hf.audio.codec import as_codec
from dia_hf.audio.dac import load_dac
from dia_hf.conversion import convert_checkpoint
from dia_hf.conversion.checkpoint import load_codec

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

DAC = REFERENCE / "transformers-4.53" / "dac_44khz"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "made"
    report = convert_checkpoint(DAC, folder, to="onnx-codec")
    assert "44100 Hz" in report
    return folder


def test_any_number_of_clips_and_frames(exported):
    """The length of the example was written into the graph, or a frame's samples came out otherwise."""
    codec, decoder = as_codec(load_dac(DAC)), onnxruntime.InferenceSession(exported / "codec_decoder.onnx")
    generator = torch.Generator().manual_seed(0)
    for num_clips, num_frames in [(1, 1), (1, 2), (2, 4), (3, 30), (1, 211)]:
        codes = torch.randint(0, codec.codebook_size, (num_clips, num_frames, 9), generator=generator)
        (waveform,) = decoder.run(None, {"codes": codes.mT.contiguous().numpy()})
        assert waveform.shape == (num_clips, num_frames * codec.hop_length)
        for clip, wanted in zip(torch.from_numpy(waveform), codec.decode(list(codes)), strict=True):
            torch.testing.assert_close(clip, wanted, rtol=0, atol=1e-4)


def test_rate_in_the_metadata(exported):
    """The file alone did not say at which rate its samples are to be played."""
    metadata = onnxruntime.InferenceSession(exported / "codec_decoder.onnx").get_modelmeta().custom_metadata_map
    assert metadata == {"sampling_rate": "44100", "hop_length": "512"}
    assert "codec_decoder.onnx" in (exported / "README.md").read_text("utf-8")


def test_sources(exported, tmp_path):
    """A codec inside a checkpoint, or descript's own file, had to be converted by hand first."""
    own = tmp_path / "own"
    convert_checkpoint(MINIATURE, own, to="onnx-codec")
    network = load_dac(MINIATURE, subfolder="audio_tokenizer")
    descript = REFERENCE / "descript-dac" / "weights.pth"
    convert_checkpoint(descript, tmp_path / "descript", to="onnx-codec")
    for folder, codec in ((own, as_codec(network)), (tmp_path / "descript", as_codec(load_codec(descript)))):
        codes = torch.randint(0, codec.codebook_size, (1, 5, codec.num_codebooks))
        decoder = onnxruntime.InferenceSession(folder / "codec_decoder.onnx")
        (waveform,) = decoder.run(None, {"codes": codes.mT.contiguous().numpy()})
        torch.testing.assert_close(torch.from_numpy(waveform[0]), codec.decode(list(codes))[0], rtol=0, atol=1e-4)


def test_without_a_codec(tmp_path):
    """A checkpoint that only names its codec led to a download, or to a file of random weights."""
    source = tmp_path / "source"
    shutil.copytree(MINIATURE, source, ignore=shutil.ignore_patterns("audio_tokenizer"))
    with pytest.raises(ValueError, match="no codec inside"):
        convert_checkpoint(source, tmp_path / "made", to="onnx-codec")
    with pytest.raises(ValueError, match=r"`bits` .* is for"):
        convert_checkpoint(DAC, tmp_path / "made", to="onnx-codec", bits=8)
    with pytest.raises(ValueError, match="in float32"):
        convert_checkpoint(DAC, tmp_path / "made", to="onnx-codec", dtype="bfloat16")
    assert not (tmp_path / "made").exists()


def test_the_exporter_is_quiet(tmp_path):
    """PyTorch's exporter printed pages about itself and about torchvision into the output of the command."""
    command = [sys.executable, "-m", "dia_hf.cli", "convert", str(DAC), str(tmp_path / "made"), "--to", "onnx-codec"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 2
    assert "torchvision" not in result.stderr and "onnx" not in result.stderr.lower()
    assert logging.getLogger("torch.onnx").level == logging.NOTSET
