"""Model and codec in ONNX Runtime."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from dia_hf import MINIATURE, DiaConfig, DiaForConditionalGeneration
from dia_hf.audio.codec import as_codec
from dia_hf.audio.dac import load_dac
from dia_hf.conversion import convert_checkpoint

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def small(tmp_path_factory, v0_1, v0_1_config):
    """The checkpoint with a layer each, because the exporter takes seconds a layer."""
    folder = tmp_path_factory.mktemp("small")
    config = DiaConfig.from_dict(v0_1_config.to_dict())
    config.encoder_config.num_hidden_layers = config.decoder_config.num_hidden_layers = 1
    torch.manual_seed(0)
    DiaForConditionalGeneration(config).save_pretrained(folder)
    shutil.copytree(v0_1 / "audio_tokenizer", folder / "audio_tokenizer")
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, small):
    folder = tmp_path_factory.mktemp("onnx") / "made"
    convert_checkpoint(small, folder, to="onnx", verbose=False)
    return folder


def open_session(file):
    return onnxruntime.InferenceSession(file)


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "num_bytes", "num_frames"), [(1, 7, 5), (3, 11, 12)])
def test_steps(exported, small, num_rows, num_bytes, num_frames):
    """A size of the example was written into a graph, or a step read the wrong part of its cache."""
    model = DiaForConditionalGeneration.from_pretrained(small).eval()
    generator = torch.Generator().manual_seed(num_rows)
    ids = torch.randint(1, 200, (num_rows, num_bytes), generator=generator)
    mask = torch.ones_like(ids)
    if num_rows > 1:
        mask[0, :3] = 0
    codes = torch.randint(0, 1028, (num_rows, num_frames, 9), generator=generator)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, decoder_input_ids=codes).logits
    expected = logits.unflatten(0, (num_rows, 9)).transpose(1, 2)

    encoder, step = (open_session(exported / f"{name}.onnx") for name in ("text_encoder", "decoder_step"))
    cross = encoder.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    keys = values = np.zeros((1, num_rows, 2, 0, 16), dtype=np.float32)
    for frame in range(num_frames):
        inputs = {
            "codes": codes[:, frame : frame + 1].numpy(),
            "position": np.full((num_rows, 1), frame),
            "attention_mask": mask.numpy(),
            "keys": keys,
            "values": values,
            "cross_keys": cross[0],
            "cross_values": cross[1],
        }
        found, keys, values = step.run(None, inputs)
        assert found.shape == (num_rows, 9, 1028)
        torch.testing.assert_close(torch.from_numpy(found), expected[:, frame], rtol=0, atol=1e-4)
    assert keys.shape == (1, num_rows, 2, num_frames, 16)


@pytest.mark.slow
def test_codec_of_any_number_of_clips_and_frames(exported, v0_1):
    """The length of the example was written into the graph, or a frame's samples came out otherwise."""
    codec, decoder = as_codec(load_dac(v0_1 / "audio_tokenizer")), open_session(exported / "codec_decoder.onnx")
    generator = torch.Generator().manual_seed(0)
    for num_clips, num_frames in [(1, 1), (1, 2), (2, 4), (3, 30), (1, 211)]:
        codes = torch.randint(0, codec.codebook_size, (num_clips, num_frames, 9), generator=generator)
        (waveform,) = decoder.run(None, {"codes": codes.mT.contiguous().numpy()})
        assert waveform.shape == (num_clips, num_frames * codec.hop_length)
        for clip, wanted in zip(torch.from_numpy(waveform), codec.decode(list(codes)), strict=True):
            torch.testing.assert_close(clip, wanted, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_what_lies_beside_the_graphs(exported):
    """Graphs without the delay pattern, the token ids or the rate of the samples are of no use to a caller."""
    config = json.loads((exported / "config.json").read_text("utf-8"))
    assert config["delay_pattern"] == [0, 8, 9, 10, 11, 12, 13, 14, 15]
    assert config["decoder_config"]["bos_token_id"] == 1026
    metadata = open_session(exported / "codec_decoder.onnx").get_modelmeta().custom_metadata_map
    assert metadata == {"sampling_rate": "44100", "hop_length": "512"}
    card = (exported / "README.md").read_text("utf-8")
    assert "Guidance, delay pattern and sampling" in card and "decoder_step.onnx" in card


def test_the_command_exports_a_codec_quietly(tmp_path):
    """PyTorch's exporter printed pages about itself and about torchvision into the output of the command."""
    command = [sys.executable, "-m", "dia_hf.cli", "convert", str(MINIATURE), str(tmp_path / "made")]
    result = subprocess.run([*command, "--to", "onnx-codec"], check=True, capture_output=True, text=True)
    assert len(result.stdout.splitlines()) == 2
    assert "torchvision" not in result.stderr and "onnx" not in result.stderr.lower()
    codec = as_codec(load_dac(MINIATURE, subfolder="audio_tokenizer"))
    codes = torch.randint(0, codec.codebook_size, (1, 5, codec.num_codebooks))
    decoder = open_session(tmp_path / "made" / "codec_decoder.onnx")
    (waveform,) = decoder.run(None, {"codes": codes.mT.contiguous().numpy()})
    torch.testing.assert_close(torch.from_numpy(waveform[0]), codec.decode(list(codes))[0], rtol=0, atol=1e-4)
    assert "codec_decoder.onnx" in (tmp_path / "made" / "README.md").read_text("utf-8")


def test_refusals(v0_1, tmp_path):
    """A checkpoint that only names its codec led to a download, and a dtype that ONNX has not to another one."""
    source = tmp_path / "source"
    shutil.copytree(MINIATURE, source, ignore=shutil.ignore_patterns("audio_tokenizer"))
    with pytest.raises(ValueError, match="no codec inside"):
        convert_checkpoint(source, tmp_path / "made", to="onnx-codec")
    for to in ("onnx", "onnx-codec"):
        with pytest.raises(ValueError, match=r"`bits` .* is for"):
            convert_checkpoint(v0_1, tmp_path / "made", to=to, bits=8)
        with pytest.raises(ValueError, match="in float32"):
            convert_checkpoint(v0_1, tmp_path / "made", to=to, dtype="bfloat16")
    assert not (tmp_path / "made").exists()


def test_without_the_exporter(v0_1, tmp_path, monkeypatch):
    """The package was missing, and the error named neither it nor the extra."""
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
        for to in ("onnx", "onnx-codec"):
            with pytest.raises(ImportError, match=rf"`{package}`.*dia-hf\[onnx\]"):
                convert_checkpoint(v0_1, tmp_path / "made", to=to)
        monkeypatch.undo()
    assert logging.getLogger("torch.onnx").level == logging.NOTSET
