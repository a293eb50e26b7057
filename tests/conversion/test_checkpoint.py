"""Sources and dtypes that are recognized, and that are refused."""

import json
import shutil

import pytest
import torch

from conftest import REFERENCE
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from nari_packs import Pack
from other_formats import random_v0_1, write_nari


def test_unknown_dtype(sources):
    """An integer dtype truncates the weights to zeros."""
    for dtype in ("int8", torch.int64, "auto"):
        with pytest.raises(ValueError, match=r"`dtype` is .*use one of float32, bfloat16, float16"):
            load_checkpoint(sources["nari-0626"], dtype=dtype)


def test_nari_labs_names_with_a_hugging_face_config(tmp_path):
    """Parkiet's files: a pickle of nari-labs' names beside a flat config, of `model_type` dia, with ids at the top."""
    pack = Pack("nari-0626")
    from safetensors.torch import load_file

    torch.save(load_file(pack.folder / "model.safetensors"), tmp_path / "dia-nl-v1.pth")
    shutil.copy(pack.folder / "config.json", tmp_path)
    for source in (tmp_path, tmp_path / "dia-nl-v1.pth"):
        model, _ = load_checkpoint(source)
        pack.check_logits(model, "cond")


def test_a_fine_tune_of_the_first_release(tmp_path):
    """A config whose width is not that of the tensors, shorter lengths and half precision: files of dia-finetuning."""
    pack = Pack("nari-v0.1")
    tensors = torch.load(pack.folder / "dia-v0_1.pth", weights_only=True)
    values = json.loads((pack.folder / "config.json").read_text())
    values |= {"version": "0.1"}
    values["model"]["decoder"] |= {"n_embd": 256, "d_model": 256}
    values["data"] |= {"text_length": 128, "audio_length": 192}
    (tmp_path / "config.json").write_text(json.dumps(values))
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "ckpt_epoch1.pth")
    with pytest.warns(UserWarning, match=r"`n_embd` of the decoder is 256, but its tensors are 24 wide; 24 is used"):
        model, processor = load_checkpoint(tmp_path)
    pack.check_logits(model, "cond")
    assert model.config.decoder_config.max_position_embeddings == 192
    assert processor.tokenizer.model_max_length == 128


def test_the_source_is_told_in_the_card(tmp_path):
    """Two conversions of different layouts had the same card."""
    config, tensors = random_v0_1()
    convert_checkpoint(write_nari(tmp_path / "nari", config, tensors), tmp_path / "dest")
    card = (tmp_path / "dest" / "README.md").read_text("utf-8")
    assert "| source | `dia-v0_1.pth` |" in card and "| layout of the source | nari-v0.1 |" in card
    convert_checkpoint(REFERENCE / "nari-0626" / "model.safetensors", tmp_path / "other")
    assert "| layout of the source | nari-0626 |" in (tmp_path / "other" / "README.md").read_text("utf-8")
