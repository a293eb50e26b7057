"""Layouts of other software, converted there and back."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf import MINIATURE, DiaConfig, DiaTokenizer, cli
from dia_hf.audio.codec import as_codec, load_network
from dia_hf.conversion import convert_checkpoint
from dia_hf.conversion.convert import _LAYOUTS
from dia_hf.conversion.nari import config_from_v0_1, config_to_v0_1
from dia_hf_command.convert import LAYOUTS

PACK = REFERENCE / "nari-v0.1"


def test_the_command_knows_every_layout():
    """A layout could be written from Python alone."""
    assert list(_LAYOUTS) == LAYOUTS


def test_nari_v0_1_there_and_back(tmp_path):
    """A published .pth, converted to our layout and back, had other values, names, order or settings."""
    ours, back = tmp_path / "ours", tmp_path / "back"
    convert_checkpoint(PACK / "dia-v0_1.pth", ours, verbose=False)
    convert_checkpoint(ours, back, to="nari-v0.1", verbose=False)
    before, after = (torch.load(folder / "dia-v0_1.pth", weights_only=True) for folder in (PACK, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) and after[name].is_contiguous() for name, tensor in before.items())
    their_config, config = (json.loads((folder / "config.json").read_text("utf-8")) for folder in (PACK, back))
    assert {**config, "version": "", "training": None} == {**their_config, "version": "", "training": None}


def test_nari_v0_1_config_inverts(v0_1_config):
    """A size was written under the name of another."""
    values = config_to_v0_1(v0_1_config)
    assert config_from_v0_1(values).to_dict() == v0_1_config.to_dict()


@pytest.mark.parametrize("to", ["nari-v0.1", "mlx"])
def test_a_0626_model_for_code_of_v0_1(tmp_path, capsys, to):
    """The file could be loaded, and spoke noise: v0.1 rotates its cross-attention and a 0626 model must not be."""
    assert cli.main(["convert", str(MINIATURE), str(tmp_path / "made"), "--to", to]) == 2
    error = capsys.readouterr().err
    assert "cross_attention_rope` is false" in error and "'nari-0626'" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"encoder_config": {"num_key_value_heads": 2}}, "encoder_config.num_key_value_heads` is 2"),
        ({"decoder_config": {"cross_num_key_value_heads": 2}}, "decoder_config.cross_num_key_value_heads` is 2"),
        ({"decoder_config": {"norm_eps": 1e-6}}, "norm_eps` is 1e-05 and 1e-06"),
        ({"decoder_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}}, "rope_theta"),
    ],
)
def test_settings_that_v0_1_does_not_have(v0_1_config, change, word):
    """A setting without a place in the nested config was dropped, and the checkpoint computes another model."""
    values = v0_1_config.to_dict()
    for name, value in change.items():
        values[name] = {**values[name], **value}
    with pytest.raises(ValueError, match=word):
        config_to_v0_1(DiaConfig.from_dict(values))


def test_speaker_tags_that_others_do_not_know(v0_1, tmp_path):
    """A fine-tune's third speaker was read aloud as "[S3]" elsewhere, and nothing had said so."""
    source = tmp_path / "source"
    shutil.copytree(v0_1, source)
    DiaTokenizer(speaker_tokens=["[S1]", "[S2]", "[S3]"], language_tokens={"[nl]": 14}).save_pretrained(source)
    convert_checkpoint(source, tmp_path / "made", to="nari-v0.1", verbose=False)
    assert "The tags [S3], [nl] are read as their letters" in (tmp_path / "made" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("to", "options", "word"),
    [
        ("huggingface", {"bits": 4}, "gguf-tts.cpp and mlx"),
        ("nari-v0.1", {"bits": 4}, "gguf-tts.cpp and mlx"),
    ],
)
def test_layouts_without_quantization(v0_1, tmp_path, to, options, word):
    """`--bits` was ignored, and the file was eight times as large as asked for."""
    with pytest.raises(ValueError, match=word):
        convert_checkpoint(v0_1, tmp_path / "made", to=to, verbose=False, **options)


@pytest.mark.parametrize("name", ["dia.gguf", "dac.onnx"])
def test_a_file_as_destination(v0_1, tmp_path, name):
    """A folder with the name of a file was made, which no runtime opens."""
    with pytest.raises(ValueError, match="would be a folder"):
        convert_checkpoint(v0_1, tmp_path / name, to="gguf-tts.cpp", verbose=False)


@pytest.mark.parametrize("to", LAYOUTS)
def test_dry_run(v0_1, tmp_path, capsys, to):
    """`--dry-run` wrote files, or refused a layout that is written without it."""
    assert cli.main(["convert", str(v0_1), str(tmp_path / "made"), "--to", to, "--dry-run"]) in (0, 2)
    captured = capsys.readouterr()
    assert "(dry run)" in captured.out or (to == "nari-0626" and "this is a v0.1 model" in captured.err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [None, 8])
def test_gguf_there_and_back(v0_1, v0_1_config, tmp_path, bits):
    """A model that was written as GGUF and read again had another size, value or codec."""
    there, back = tmp_path / "there", tmp_path / "back"
    convert_checkpoint(v0_1, there, to="gguf-tts.cpp", bits=bits, verbose=False)
    convert_checkpoint(there, back, dtype="float32", verbose=False)
    config = DiaConfig.from_pretrained(back)
    assert {**config.to_dict(), "dtype": None} == {**DiaConfig.from_pretrained(v0_1).to_dict(), "dtype": None}
    before, after = (load_file(folder / "model.safetensors") for folder in (v0_1, back))
    for name, wanted in before.items():
        assert torch.equal(after[name], wanted) or (bits is not None and "norm" not in name), name
        torch.testing.assert_close(after[name], wanted, rtol=0, atol=0 if bits is None else 0.01)
    codes = torch.randint(0, 1024, (20, 9), generator=torch.Generator().manual_seed(0))
    waveforms = [as_codec(load_network(folder / "audio_tokenizer")).decode([codes])[0] for folder in (v0_1, back)]
    assert torch.equal(*waveforms)


@pytest.mark.parametrize("bits", [None, 6])
def test_mlx_there_and_back(v0_1, v0_1_config, tmp_path, bits):
    """A model that was written for mlx-audio and read again had another size or value."""
    there, back = tmp_path / "there", tmp_path / "back"
    convert_checkpoint(v0_1, there, to="mlx", bits=bits, verbose=False)
    convert_checkpoint(there, back, verbose=False)
    assert DiaConfig.from_pretrained(back).to_dict() == DiaConfig.from_pretrained(v0_1).to_dict()
    before, after = (load_file(folder / "model.safetensors") for folder in (v0_1, back))
    for name, wanted in before.items():
        assert torch.equal(after[name], wanted) or (bits is not None and "embed" in name), name
        torch.testing.assert_close(after[name], wanted, rtol=0, atol=0 if bits is None else 0.01)


def test_unchanged_from_a_layout_to_itself(tmp_path):
    """v0.1 to v0.1, which folds and unfolds nothing, changed a value."""
    convert_checkpoint(PACK / "dia-v0_1.pth", tmp_path / "made", to="nari-v0.1", dtype="bfloat16", verbose=False)
    after = torch.load(tmp_path / "made" / "dia-v0_1.pth", weights_only=True)
    before = torch.load(PACK / "dia-v0_1.pth", weights_only=True)
    assert all(torch.equal(after[name], tensor.bfloat16()) for name, tensor in before.items())
