"""Loading: unavailable devices, unknown dtypes, folders in other layouts, adapters."""

import json
import shutil

import numpy as np
import pytest

from conftest import REFERENCE
from dia_hf import MINIATURE, ComputeDtype, Dia
from dia_hf.conversion import load_checkpoint, load_descript_codec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute_dtype": "int8"}, "'float32', 'bfloat16' or 'float16'"),
        ({"compute_dtype": "speedy"}, "'speedy'"),
        ({"device": "warp"}, "'warp' is not available"),
        ({"device": "cuda:77"}, "not available"),
    ],
)
def test_unusable_places(options, message):
    """Device and dtype errors came after minutes of loading, as errors of CUDA."""
    with pytest.raises(ValueError, match=message):
        Dia.from_pretrained(**options)


@pytest.mark.parametrize("release", ["nari-0626", "nari-v0.1"])
def test_folders_of_nari_labs(release, tmp_path):
    """`Dia.from_pretrained(folder)` of their layout raised a list of mismatched tensors, or a missing file."""
    folder = tmp_path / release
    shutil.copytree(REFERENCE / release, folder, ignore=shutil.ignore_patterns("expected*", "inputs*"))
    with pytest.raises(
        OSError, match=r"has no codec inside, and .*dac_44khz.*`Dia\.from_pretrained\(\.\.\., codec=\.\.\.\)`"
    ):
        Dia.from_pretrained(folder, device="cpu")
    assert Dia.from_pretrained(folder, device="cpu", load_dac=False).dac_model is None
    load_descript_codec(REFERENCE / "descript-dac" / "weights.pth").save_pretrained(folder / "audio_tokenizer")
    dia = Dia.from_pretrained(folder, compute_dtype=ComputeDtype.BFLOAT16, device="cpu")
    (weights,) = [file for file in folder.iterdir() if file.suffix in (".pth", ".safetensors")]
    local = Dia.from_local(folder / "config.json", weights, "bfloat16", "cpu", codec=folder / "audio_tokenizer")
    say = {"seed": 1, "max_tokens": 30}
    assert np.array_equal(dia.generate("[S1] Hi.", **say), local.generate("[S1] Hi.", **say))


def test_an_adapter_is_no_model(tmp_path):
    """PEFT's folder was loaded through its base model, and had no codec."""
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is an adapter, not a complete model; .*--adapter"):
        Dia.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is an adapter, not a complete model; .*--adapter"):
        load_checkpoint(tmp_path)


def test_an_index_without_metadata(tmp_path):
    """A bare KeyError."""
    shutil.copytree(MINIATURE, tmp_path / "dia")
    (tmp_path / "dia" / "model.safetensors").rename(tmp_path / "dia" / "model-1.safetensors")
    index = {"weight_map": {"logits_dense.weight": "model-1.safetensors"}}
    (tmp_path / "dia" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"cannot be loaded.*metadata"):
        Dia.from_pretrained(tmp_path / "dia")
