"""Sources that do not exist, that are ambiguous, and on the Hub."""

from pathlib import Path

import pytest

from dia_hf import MINIATURE, cli
from dia_hf.conversion import convert_checkpoint, load_checkpoint
from dia_hf.conversion import locate as locate_module


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
