"""Checkpoints of mlx-audio, read by MLX."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from dia_hf import MINIATURE, DiaConfig
from dia_hf.conversion import convert_checkpoint
from dia_hf.conversion.mlx_writer import check_quantizable
from dia_hf.conversion.nari import config_from_v0_1, tensor_rules

mx = pytest.importorskip("mlx.core")


def write(source, dest, **options):
    convert_checkpoint(source, dest, to="mlx", verbose=False, **options)
    return mx.load(str(dest / "model.safetensors")), json.loads((dest / "config.json").read_text("utf-8"))


def tensor_of(array):
    import numpy as np

    return torch.from_numpy(np.array(array.astype(mx.float32)))


def test_names_and_values(v0_1, v0_1_config, tmp_path):
    """A matrix was transposed, or had a name that mlx-audio does not know."""
    weights, config = write(v0_1, tmp_path / "made")
    ours = load_file(v0_1 / "model.safetensors")
    rules = tensor_rules(v0_1_config)
    assert set(weights) == {name for rule in rules for name in rule.sources}
    for rule in rules:
        assert {weights[name].shape for name in rule.sources} == {rule.shape}
        assert torch.equal(rule.to_ours([tensor_of(weights[name]) for name in rule.sources]), ours[rule.name])
    assert config["model_type"] == "dia"
    assert config["training"]["dtype"] == config["model"]["weight_dtype"] == "float32"
    assert "quantization" not in config
    assert config_from_v0_1(config).to_dict() == v0_1_config.to_dict()


@pytest.mark.parametrize(("bits", "dtype"), [(4, "bfloat16"), (6, "float16"), (8, "float32")])
def test_quantized(v0_1, tmp_path, bits, dtype):
    """Other matrices than embeddings were quantized, whose quantized form mlx-audio does not have."""
    exact, _ = write(v0_1, tmp_path / "exact", dtype=dtype)
    weights, config = write(v0_1, tmp_path / "made", dtype=dtype, bits=bits)
    embeddings = {name for name in exact if "embedding" in name}
    assert len(embeddings) == 10
    assert set(weights) - set(exact) == {
        name.replace("weight", part) for name in embeddings for part in ("scales", "biases")
    }
    for name, wanted in exact.items():
        if name not in embeddings:
            assert weights[name].dtype == getattr(mx, dtype)
            assert torch.equal(tensor_of(weights[name]), tensor_of(wanted))
            continue
        scales, biases = (weights[name.replace("weight", part)] for part in ("scales", "biases"))
        assert (weights[name].dtype, scales.dtype, biases.dtype) == (mx.uint32, *[getattr(mx, dtype)] * 2)
        assert weights[name].shape == (wanted.shape[0], wanted.shape[1] * bits // 32)
        values = mx.dequantize(weights[name], scales, biases, group_size=64, bits=bits)
        groups = tensor_of(wanted).unflatten(-1, (-1, 64))
        step = (groups.amax(-1) - groups.amin(-1))[..., None] / (2**bits - 1)
        tolerance = 0.02 if dtype == "bfloat16" else 0.002  # of the scale and bias themselves
        error = (tensor_of(values).unflatten(-1, (-1, 64)) - groups).abs()
        assert (error <= step + tolerance * groups.abs().amax(-1, keepdim=True)).all()
    quantization = config["quantization"]
    assert (quantization["group_size"], quantization["bits"], quantization["mode"]) == (64, bits, "affine")
    paths = {f"model.{name.removesuffix('.weight')}" for name in embeddings}
    assert {key for key in quantization if "." in key} == paths


def test_several_files(v0_1, v0_1_config, tmp_path):
    """The index named a quantized tensor's integers, and neither scales nor biases."""
    convert_checkpoint(v0_1, tmp_path / "made", to="mlx", bits=8, max_shard_size="100KB", verbose=False)
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text("utf-8"))
    files = sorted((tmp_path / "made").glob("*.safetensors"))
    assert len(files) > 1
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "made" / file)
    assert len(index["weight_map"]) == sum(len(load_file(file)) for file in files)
    assert "decoder.embeddings.8.scales" in index["weight_map"]


def test_a_model_of_0626(tmp_path):
    """mlx-audio rotates the cross-attention, which the 0626 release's model does not know."""
    with pytest.raises(ValueError, match=r"cross_attention_rope` is false"):
        write(MINIATURE, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized(v0_1, tmp_path):
    """mlx reports a size without a name, after minutes; or a number of bits that no published checkpoint has."""
    with pytest.raises(ValueError, match=r"is 5; .*4, 6, 8"):
        write(v0_1, tmp_path / "made", bits=5)
    with pytest.raises(ValueError, match=r"encoder_config.hidden_size` is 40.*64"):
        check_quantizable(DiaConfig(encoder_config={"hidden_size": 40}, decoder_config={"cross_hidden_size": 40}), 4)


def test_without_mlx(v0_1, tmp_path, monkeypatch):
    """The package was missing, and the error named neither it nor the extra."""
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(ImportError, match=r"dia-hf\[mlx\]"):
        write(v0_1, tmp_path / "made", bits=4)
    assert not list(tmp_path.iterdir())
