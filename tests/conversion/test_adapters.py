"""Adapters that PEFT wrote, on top of base models of every layout."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dia_hf import Dia, DiaForConditionalGeneration, cli
from dia_hf.conversion import adapters as adapters_module
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion.adapters import locate_adapter, merge_adapter
from dia_hf.training import attach_lora
from other_formats import random_v0_1, write_mlx, write_nari, write_tts_cpp
from tiny import random_codec


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Bases of the same values in every layout, an adapter, and the weights that both make together."""
    folder = tmp_path_factory.mktemp("made")
    config, tensors = random_v0_1()
    held = write_mlx(folder / "mlx", config, tensors, 8, 64, "affine", "float32")
    bases = {"mlx": folder / "mlx", "nari": write_nari(folder / "nari", config, held)}
    write_tts_cpp(folder / "dia.gguf", config, held, codec=random_codec())
    bases["gguf"] = folder / "dia.gguf"
    convert_checkpoint(folder / "nari", folder / "huggingface")
    bases["huggingface"] = folder / "huggingface"
    model = attach_lora(DiaForConditionalGeneration.from_pretrained(folder / "huggingface"), {"r": 2})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder / "adapter")
    return bases, folder / "adapter", merge_adapter(folder / "huggingface", folder / "adapter").state_dict()


BASES = ["huggingface", "nari", "mlx", "gguf"]


@pytest.mark.parametrize("base", BASES)
def test_an_adapter_on_every_layout(made, base):
    """An adapter could be merged into a Hugging Face checkpoint only."""
    bases, adapter, merged = made
    dia = Dia.from_pretrained(bases[base], device="cpu", load_dac=False, adapter=adapter)
    plain = Dia.from_pretrained(bases[base], device="cpu", load_dac=False)
    changed = [name for name, tensor in plain.model.state_dict().items() if not torch.equal(tensor, merged[name])]
    assert len(changed) == 6 * 1 + 10 * 2, "every matrix of the layers"
    assert all(torch.equal(tensor, merged[name]) for name, tensor in dia.model.state_dict().items())
    assert not dia.model.training and type(dia.model) is DiaForConditionalGeneration


def test_it_is_merged_in_float32(made):
    """With `compute_dtype` the base was rounded before the adapter was added, and small changes were lost."""
    bases, adapter, merged = made
    dia = Dia.from_pretrained(bases["nari"], "bfloat16", "cpu", load_dac=False, adapter=adapter)
    assert all(torch.equal(tensor, merged[name].bfloat16()) for name, tensor in dia.model.state_dict().items())


@pytest.mark.parametrize("base", BASES)
def test_converted_with_an_adapter(made, tmp_path, capsys, base):
    """`dia-hf convert --adapter` wrote the base model, or a card without the adapter."""
    bases, adapter, merged = made
    options = ["--adapter", str(adapter), "--quiet"]
    assert cli.main(["convert", str(bases[base]), str(tmp_path / "dest"), *options]) == 0
    written, _ = load_checkpoint(tmp_path / "dest")
    assert all(torch.equal(tensor, merged[name]) for name, tensor in written.state_dict().items())
    card = (tmp_path / "dest" / "README.md").read_text("utf-8")
    assert "| merged adapter | `adapter` |" in card and str(adapter) not in card
    assert ("**Of a GGUF file.**" in card) == (base == "gguf")


def test_other_layouts_with_an_adapter(made, tmp_path):
    """Another layout than Hugging Face's was written without the adapter."""
    bases, adapter, merged = made
    convert_checkpoint(bases["nari"], tmp_path / "dest", to="nari-v0.1", adapter=adapter)
    written, _ = load_checkpoint(tmp_path / "dest")
    assert all(torch.equal(tensor, merged[name]) for name, tensor in written.state_dict().items())


def test_an_adapter_that_does_not_fit(made, tmp_path, capsys):
    """A wrong adapter was an error after minutes, with a folder half written, or a traceback."""
    bases, adapter, _ = made
    shutil.copytree(adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "r": 3}))
    for wrong, message in (
        (tmp_path / "adapter", "does not fit the model: size mismatch for"),
        (tmp_path / "nowhere", "has no adapter_config"),
    ):
        command = ["convert", str(bases["nari"]), str(tmp_path / "dest"), "--adapter", str(wrong)]
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("kind", ["missing", "extra"])
def test_an_adapter_that_is_not_whole(made, tmp_path, kind):
    """Layers whose tensors were missing, or named otherwise, stayed as they were, with a warning or without one."""
    bases, adapter, _ = made
    shutil.copytree(adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.decoder.layers.1.mlp.down_proj.lora_A.weight"
    if kind == "missing":
        del tensors[name]
    else:
        tensors[name.replace("layers.1", "layers.7")] = tensors[name].clone()
    save_file(tensors, file)
    message = {"missing": r"1 tensors less than its config says", "extra": r"belong to no layer of the model"}[kind]
    with pytest.raises(ValueError, match=message):
        Dia.from_pretrained(bases["nari"], device="cpu", load_dac=False, adapter=tmp_path / "adapter")


def test_a_destination_that_holds_the_adapter(made, tmp_path, capsys):
    """`dia-hf convert base run --adapter run/adapter --force` deleted the adapter with the run around it."""
    bases, adapter, _ = made
    shutil.copytree(adapter, tmp_path / "run" / "adapter")
    before = sorted(tmp_path.rglob("*"))
    for dest in ("run", "run/adapter"):
        options = ["--adapter", str(tmp_path / "run" / "adapter"), "--force"]
        assert cli.main(["convert", str(bases["nari"]), str(tmp_path / dest), *options]) == 2
        assert "would be lost" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_adapter_on_the_hub(made, tmp_path, monkeypatch):
    """Only folders were accepted, or a mistyped folder was looked up."""
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(made[1])

    monkeypatch.setattr(adapters_module, "snapshot_download", snapshot_download)
    assert locate_adapter("anna/dia-anna") == made[1]
    assert asked == [("anna/dia-anna", ["adapter_*"])]
    with pytest.raises(FileNotFoundError, match=r"no adapter in '\./runs/anna'"):
        locate_adapter("./runs/anna")
    assert len(asked) == 1
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="no such folder, and the Hub gives none"):
        locate_adapter("anna/dia-anna")
