"""Files as mlx-audio quantizes them, written with `mlx`: the same values as MLX's own, and the same model."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dia_hf import Dia
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion.mlx import dequantize
from other_formats import random_v0_1, write_mlx, write_nari
from tiny import random_batch

mx = pytest.importorskip("mlx.core", reason="mlx has no build for this machine")
AFFINE = [("affine", bits, group_size) for bits in (2, 3, 4, 5, 6, 8) for group_size in (32, 64, 128)]
FLOATS = [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


def to_torch(array):
    if array.dtype in (mx.uint32, mx.uint8):
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.array(array.astype(mx.float32))).to(getattr(torch, str(array.dtype).split(".")[-1]))


@pytest.mark.parametrize(("mode", "bits", "group_size"), AFFINE + FLOATS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_values_of_mlx(mode, bits, group_size, dtype):
    """Bits that cross a word were read in another order, or a scale's format was taken for another."""
    values = np.random.default_rng(0).standard_normal((16, 256)).astype(np.float32)
    values[0], values[1, :128] = 0, 1e-30
    options = {"group_size": group_size, "bits": bits, "mode": mode}
    parts = mx.quantize(mx.array(values).astype(getattr(mx, dtype)), **options)
    expected = to_torch(mx.dequantize(*parts, **options)).float()
    ours = dequantize(mode, bits, [to_torch(part) for part in parts])
    assert ours.dtype == torch.float32 and ours.shape == (16, 256)
    if mode != "affine" or dtype == "float32":
        assert torch.equal(ours, expected)
    else:  # MLX rounds product and sum, to a dtype of as many bits
        scales, biases = (to_torch(part).float().abs().max() for part in parts[1:])
        step = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
        assert (ours - expected).abs().max() <= 2 * step * (scales * 2**bits + biases)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("mode", "bits", "group_size"), [("affine", 4, 64), ("affine", 6, 64), ("affine", 8, 32), *FLOATS]
)
def test_the_same_model(tmp_path, mode, bits, group_size, dtype):
    """Packed integers were taken for weights, or the model was taken for an unquantized one."""
    config, tensors = random_v0_1()
    held = write_mlx(tmp_path / "mlx", config, tensors, bits, group_size, mode, dtype)
    expected, _ = load_checkpoint(write_nari(tmp_path / "nari", config, held), dtype="float32")
    model, _ = load_checkpoint(tmp_path / "mlx", dtype="float32")
    batch = random_batch(model.config)
    batch.pop("labels")
    with torch.no_grad():
        logits, reference = model(**batch).logits, expected(**batch).logits
    if dtype == "float32" or mode != "affine":
        assert torch.equal(logits, reference)
    for name, parameter in model.named_parameters():
        other = expected.get_parameter(name)
        atol = 0.0 if dtype == "float32" or mode != "affine" or "embed" not in name else 2**-7
        torch.testing.assert_close(parameter, other, rtol=0, atol=atol)
    own, _ = load_checkpoint(tmp_path / "mlx")
    assert own.dtype == getattr(torch, dtype)


def test_a_converted_file_and_its_card(tmp_path):
    """The card did not say that values of 4 bits were made larger, or `Dia.from_pretrained` refused the folder."""
    config, tensors = random_v0_1()
    write_mlx(tmp_path / "mlx", config, tensors, 4, 64, "affine", "bfloat16")
    report = convert_checkpoint(tmp_path / "mlx", tmp_path / "dest")
    assert "nari-v0.1 -> huggingface, bfloat16" in report
    assert "nari-v0.1 (MLX, affine, 4 bits, groups of 64)" in (tmp_path / "dest" / "README.md").read_text("utf-8")
    dia = Dia.from_pretrained(tmp_path / "mlx", device="cpu", load_dac=False)
    assert dia.compute_dtype == torch.bfloat16 and dia.config.decoder_config.cross_attention_rope


def break_folder(kind, folder):
    """Damage a folder, and return a part of the error."""
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    told, module = config["quantization"], "decoder.embeddings.3"
    message = None
    if kind == "unknown mode":
        told["mode"], message = "nf4", "has the mode 'nf4'; known are affine, mxfp4"
    elif kind == "other bits":
        told["bits"], message = 8, "are not of 8 bits in groups of 64"
    elif kind == "odd bits":
        told["bits"], message = 7, "are not of 7 bits"
    elif kind == "other groups":
        told["group_size"], message = 32, "are not of 4 bits in groups of 32"
    elif kind == "huge groups":
        told["group_size"], message = 2**70, "in groups of 1180591620717411303424"
    elif kind == "bits that are no number":
        told["bits"], message = "4", "'4' as `bits`; expected a whole number"
    elif kind == "settings that are a list":
        config["quantization"], message = [4], r"`quantization` is \[4\]; expected an object"
    elif kind == "no biases":
        del weights[f"{module}.biases"]
        message = rf"{module}\.biases' of a quantized weight is missing"
    elif kind == "no scales":
        del weights[f"{module}.scales"]
        message = rf"{module}\.weight' has the shape"
    elif kind == "scales of another shape":
        weights[f"{module}.scales"] = weights[f"{module}.scales"][:5]
        message = "have shapes that do not fit"
    elif kind == "integers that are floats":
        weights[f"{module}.weight"] = weights[f"{module}.weight"].float()
        message = rf"the parts of '{module}' are F32"
    elif kind == "biases of another mode":
        told["mode"], message = "mxfp4", "has biases, which the mode 'mxfp4' has not"
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return message


KINDS = [
    "unknown mode",
    "other bits",
    "odd bits",
    "other groups",
    "huge groups",
    "bits that are no number",
    "no biases",
]
KINDS += ["settings that are a list", "no scales", "scales of another shape", "integers that are floats"]
KINDS += ["biases of another mode"]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_do_not_fit(tmp_path, kind):
    """Integers of other widths were unpacked into noise."""
    config, tensors = random_v0_1()
    write_mlx(tmp_path, config, tensors, 4, 64, "affine", "float32")
    message = break_folder(kind, tmp_path)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path)
