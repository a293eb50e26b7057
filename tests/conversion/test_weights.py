"""Weight files: wrapped, indexed, mapped, damaged."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import REFERENCE
from dia_hf import Dia
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion import weights as weights_module
from dia_hf.conversion.weights import Weights
from tiny import assert_same_model


def test_a_pickle_is_mapped_now_and_then(sources, monkeypatch):
    """Mapped once, a pickle counts whole beside the model; mapped for each tensor, a codec took 6 seconds to load."""
    mapped, load_state_dict = [], weights_module._load_state_dict

    def watched(file):
        mapped.append(file)
        return load_state_dict(file)

    monkeypatch.setattr(weights_module, "_load_state_dict", watched)
    expected, _ = load_checkpoint(sources["nari-v0.1"])
    assert len(mapped) == 2, "to list it, and to read it"
    monkeypatch.setattr(weights_module, "_BYTES_PER_MAPPING", 500_000)
    model, _ = load_checkpoint(sources["nari-v0.1"])
    assert len(mapped) == 2 + 1 + 3, "to list it, and for each half megabyte of 2 MB, rounded up to whole tensors"
    assert_same_model(model, expected)


def _wrapped(name):
    """Name a tensor as of a layer that is wrapped by itself."""
    return re.sub(r"(layers\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", name)


WRAPPED = {
    "model": lambda state: {"model": state, "optimizer": {}, "epoch": 1},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "nested": lambda state: {"state_dict": {"model": {"model_state_dict": state}}, "step": 3},
    "half": lambda state: {"model": {f"_orig_mod.{name}": tensor.half() for name, tensor in state.items()}},
    "fsdp": lambda state: {f"_fsdp_wrapped_module.{_wrapped(name)}": tensor for name, tensor in state.items()},
    "fsdp, compiled": lambda state: {
        f"module._orig_mod._fsdp_wrapped_module.module.{_wrapped(name)}": tensor for name, tensor in state.items()
    },
    "parallel": lambda state: {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("how", [*WRAPPED, "compiled safetensors"])
def test_what_training_scripts_save(tmp_path, how):
    """Weights under `model`, or behind the names of `torch.compile`, `DataParallel` and FSDP, were not recognized."""
    state = torch.load(REFERENCE / "nari-v0.1" / "dia-v0_1.pth", weights_only=True)
    if how.startswith("compiled safe"):
        file = tmp_path / "model.safetensors"
        save_file(WRAPPED["compiled"](state), file)
    else:
        file = tmp_path / "model.pth"
        torch.save(WRAPPED[how](state), file)
    config = REFERENCE / "nari-v0.1" / "config.json"
    expected = load_checkpoint(REFERENCE / "nari-v0.1" / "dia-v0_1.pth", config)[0].state_dict()
    loaded = load_checkpoint(file, config)[0].state_dict()
    dtype = torch.float16 if how == "half" else torch.float32
    assert all(torch.equal(loaded[name], tensor.to(dtype)) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (torch.zeros(3, 3).to_sparse(), "sparse"),
        (torch.zeros(3, dtype=torch.complex64), "complex"),
        (torch.zeros(3, device="meta"), "meta"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, tensor, word):
    """Sparse, complex and empty tensors failed inside torch, or lost their imaginary part without an error."""
    torch.save({"decoder.norm.weight": tensor}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=rf"model\.pth: 'decoder\.norm\.weight' is not a dense tensor .*{word}"):
        Weights([tmp_path / "model.pth"])


def test_a_tensor_given_twice(tmp_path):
    """Of a tensor that a file contains twice, the later one was taken without an error."""
    torch.save({"a": torch.zeros(1), "module.a": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"contains 'a' twice, once as 'module\.a'"):
        Weights([tmp_path / "model.pth"])


@pytest.mark.parametrize(
    "content", ["null", "[]", "{", *(f'{{"weight_map": {value}}}' for value in ("null", "[]", "{}", '{"a": 1}'))]
)
def test_a_damaged_index(tmp_path, content):
    """An empty index was read as a checkpoint without weights, or caused an AttributeError."""
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json .*`weight_map`"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json .*`weight_map`"):
        Dia.from_pretrained(tmp_path)


@pytest.mark.parametrize("link", ["nowhere", "model.safetensors"])
def test_links_that_lead_nowhere(tmp_path, link):
    """A broken symbolic link was taken for a file."""
    shutil.copy(REFERENCE / "nari-0626" / "config.json", tmp_path)
    (tmp_path / "model.safetensors").symlink_to(link)
    with pytest.raises(ValueError, match="has no weights"):
        load_checkpoint(tmp_path)


def test_a_pickle_with_wrong_instructions(tmp_path):
    """A pickle with invalid instructions caused their own exception, such as an IndexError."""
    file = tmp_path / "model.pth"
    torch.save({"x": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    content = bytearray(file.read_bytes())
    content[2:4] = b"u."  # sets items of a dictionary that does not exist
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"model.pth (cannot be read|is refused)"):
        Weights([file])


@pytest.mark.parametrize("format", ["zip", "zip without sums", "before torch 1.6"])
@pytest.mark.parametrize("is_flipped", [True, False])
def test_a_flipped_bit_in_a_pickle(tmp_path, format, is_flipped):
    """`torch.load` does not check the CRCs of its files: one damaged weight was converted."""
    file, dest = tmp_path / "model.pth", tmp_path / "dest"
    shutil.copy(REFERENCE / "nari-0626" / "config.json", tmp_path)
    weights = load_file(REFERENCE / "nari-0626" / "model.safetensors")
    is_summed = format == "zip"
    torch.serialization.set_crc32_options(is_summed)
    try:
        torch.save(weights, file, _use_new_zipfile_serialization=format != "before torch 1.6")
    finally:
        torch.serialization.set_crc32_options(True)
    name = "decoder.logits_dense.weight"
    if is_flipped:
        content = bytearray(file.read_bytes())
        content[content.index(weights[name].numpy().tobytes()[:64]) + 3] ^= 1
        file.write_bytes(bytes(content))
        assert not torch.equal(torch.load(file, weights_only=True)[name], weights[name])
    if is_flipped and is_summed:
        for use in (load_checkpoint, lambda source: convert_checkpoint(source, dest, dry_run=True)):
            with pytest.raises(ValueError, match=r"model\.pth is damaged: 'model/data/\d+' inside it differs"):
                use(file)
    else:
        convert_checkpoint(file, dest)
        load_checkpoint(file)
