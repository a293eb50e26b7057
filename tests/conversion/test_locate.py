"""Sources that do not exist, that are ambiguous, and on the Hub."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import REFERENCE
from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, cli
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion import locate as locate_module
from dia_hf.conversion.locate import needs_conversion
from dia_hf.speech import loading as loading_module
from other_formats import random_v0_1, write_mlx, write_nari, write_tts_cpp


def test_a_source_that_does_not_exist(tmp_path, capsys):
    """A mistyped path was looked up on the Hub, and the error was about repositories."""
    assert cli.main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "dest")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_config_is_no_source(tmp_path):
    """A config.json given as SOURCE was opened as weights."""
    with pytest.raises(ValueError, match=r"config.json' is a config without weights; give its folder"):
        convert_checkpoint(Path(MINIATURE, "config.json"), tmp_path / "out")


def test_a_mistyped_weight_file_is_not_looked_up(monkeypatch):
    """`weights/dia.pth` has the form of a repository's name: the error was about repositories and tokens."""
    monkeypatch.setattr(locate_module, "snapshot_download", lambda *args, **kwargs: pytest.fail("looked up"))
    for path in ("weights/dia-v0_1.pth", "weights/model.safetensors", "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint at '{path}'"):
            load_checkpoint(path)


def test_which_checkpoints_need_conversion(tmp_path, checkpoint):
    """A folder of nari-labs, MLX or GGUF was given to transformers, whose errors list hundreds of tensors."""
    config, tensors = random_v0_1()
    write_nari(tmp_path / "nari", config, tensors)
    write_mlx(tmp_path / "mlx", config, tensors, 4, 64, "affine", "float32")
    (tmp_path / "gguf").mkdir()
    write_tts_cpp(tmp_path / "gguf" / "dia.gguf", config, tensors)
    others = [tmp_path / name for name in ("nari", "mlx", "gguf", "gguf/dia.gguf", "nari/dia-v0_1.pth")]
    assert all(map(needs_conversion, [*others, REFERENCE / "nari-0626", Path(checkpoint, "model.safetensors")]))
    (tmp_path / "empty").mkdir()
    for name in (checkpoint, MINIATURE, tmp_path / "empty", tmp_path / "nowhere"):
        assert not needs_conversion(name)


HUB = {
    "nari-labs/Dia-1.6B": (["config.json", "dia-v0_1.pth", "model.safetensors"], [".safetensors"]),
    "pevers/parkiet": (["config.json", "dia-nl-v1.pth", "dia-nl-v1.zip"], [".pth", ".pt", ".bin"]),
    "cstr/dia-1.6b-GGUF": (["README.md", "dac-44khz.gguf", "dia-1.6b-f16.gguf"], [".gguf"]),
    "somebody/adapters": (["config.json", "anna/model.safetensors", "dia.pth"], [".pth", ".pt", ".bin"]),
}


@pytest.mark.parametrize("kind", ["named", "nested", "distributed", "compiled", "several", "float8"])
def test_folders_of_training_scripts(tmp_path, checkpoint, kind):
    """`Dia.from_pretrained` of a folder refused weights that it reads as a file, and advised `Dia.from_pretrained`."""
    state = load_file(Path(checkpoint, "model.safetensors"))
    folder = tmp_path / kind
    folder.mkdir()
    shutil.copy(Path(checkpoint, "config.json"), folder)
    wrapped = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    if kind == "named":
        save_file(state, folder / "dia.safetensors")
    elif kind == "nested":
        torch.save({"model": state, "step": 3}, folder / "last.pt")
    elif kind == "distributed":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, folder / "pytorch_model.bin")
    elif kind == "compiled":
        save_file(wrapped, folder / "model.safetensors")
    elif kind == "float8":
        torch.save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, folder / "dia.pth")
    else:
        for number in (1, 2):
            torch.save(state, folder / f"step-{number}.pth")
    if kind in ("several", "float8"):
        message = (
            r"several weight files \(step-1\.pth" if kind == "several" else r"loaded in \(float8_e4m3fn\); choose one"
        )
        with pytest.raises(ValueError, match=message):
            Dia.from_pretrained(folder, device="cpu", load_dac=False)
    else:
        model = Dia.from_pretrained(folder, device="cpu", load_dac=False).model
        expected = DiaForConditionalGeneration.from_pretrained(checkpoint).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", HUB)
def test_one_kind_of_weights_is_downloaded(monkeypatch, tmp_path, name):
    """Both weight files of the first release were downloaded, 13 GB instead of 6."""
    files, suffixes = HUB[name]
    fetched = []

    def snapshot_download(name, allow_patterns):
        fetched.append((name, allow_patterns))
        raise FileNotFoundError

    monkeypatch.setattr(locate_module.HfApi, "list_repo_files", lambda self, name: files)
    monkeypatch.setattr(locate_module, "check_model", lambda name: None)
    monkeypatch.setattr(locate_module, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(name)
    assert fetched == [(name, ["*.json", *(f"*{suffix}" for suffix in suffixes)])]


def test_a_choice_among_files_on_the_hub(monkeypatch):
    """All five types of a GGUF repository were downloaded before the error, 17 GB."""
    files = [f"Dia_{kind}.gguf" for kind in ("F16", "Q4_0", "Q8_0")]
    monkeypatch.setattr(locate_module.HfApi, "list_repo_files", lambda self, name: files)
    monkeypatch.setattr(locate_module, "check_model", lambda name: None)
    monkeypatch.setattr(locate_module, "snapshot_download", lambda *args, **kwargs: pytest.fail("downloaded"))
    with pytest.raises(ValueError, match=r"`hf download mmwillet2/Dia_GGUF Dia_F16\.gguf`, and give the file"):
        load_checkpoint("mmwillet2/Dia_GGUF")


def test_a_hub_id_of_another_layout(monkeypatch, tmp_path):
    """`Dia.from_pretrained` of nari-labs' first release, the form of their own examples, was an error."""
    config, tensors = random_v0_1()
    write_nari(tmp_path / "snapshot", config, tensors)
    monkeypatch.setattr(loading_module, "check_model", lambda name: None)
    monkeypatch.setattr(locate_module, "check_model", lambda name: None)
    monkeypatch.setattr(locate_module, "cached_file", lambda name, file, **options: find(tmp_path / "snapshot" / file))
    monkeypatch.setattr(locate_module, "snapshot_download", lambda *args, **kwargs: str(tmp_path / "snapshot"))
    dia = Dia.from_pretrained("nari-labs/Dia-1.6B", device="cpu", load_dac=False)
    assert dia.config.decoder_config.cross_attention_rope
    assert dia.model.name_or_path == "nari-labs/Dia-1.6B"


def find(file):
    return str(file) if file.is_file() else None


def test_names_of_tensors_tell_the_layout_on_the_hub(monkeypatch, tmp_path):
    """The layout of a repository with the 0626 release's config was known after its download only, by an error."""

    def of(folder):
        monkeypatch.setattr(locate_module, "cached_file", lambda name, file, **options: find(Path(folder) / file))
        return needs_conversion("owner/model")

    sharded = tmp_path / "sharded"
    convert_checkpoint(REFERENCE / "nari-0626", sharded, max_shard_size="300KB")
    (tmp_path / "pth").mkdir()
    (tmp_path / "pth" / "config.json").write_bytes((REFERENCE / "nari-0626" / "config.json").read_bytes())
    (tmp_path / "nothing").mkdir()
    told = {folder: of(folder) for folder in (REFERENCE / "nari-0626", MINIATURE, sharded)}
    assert list(told.values()) == [True, False, False]
    assert of(tmp_path / "pth") and of(tmp_path / "nothing"), "its pickle, or its GGUF file"
