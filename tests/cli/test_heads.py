"""`dia-hf heads`."""

import json
import shutil

import pytest

from cli.command import run
from dia_hf import MINIATURE, Dia
from dia_hf.conversion import convert_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MINIATURE, folder)
    config = json.loads((folder / "generation_config.json").read_text("utf-8"))
    del config["alignment_heads"]
    config["_from_model_config"] = True  # as after a training from scratch
    (folder / "generation_config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "texts.txt").write_text("[S1] One two three four five.\n\n[S2] Hello, I am Dia.\n", "utf-8")
    return folder


def test_heads_are_found_and_written(checkpoint, tmp_path, capsys):
    """The file lost its other settings, or transformers did not load the heads: it leaves them out by a flag."""
    before = json.loads((checkpoint / "generation_config.json").read_text("utf-8"))
    args = ["heads", str(checkpoint), "--texts", str(tmp_path / "texts.txt"), "--device", "cpu", "--json"]
    assert run(*args, "--dry-run") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["alignment_heads"][0] in Dia.from_pretrained().alignment_heads()
    assert told["before"] is None and not told["written"]
    assert json.loads((checkpoint / "generation_config.json").read_text("utf-8")) == before
    assert run(*args) == 0
    after = json.loads((checkpoint / "generation_config.json").read_text("utf-8"))
    del before["_from_model_config"]
    assert after == before | {"alignment_heads": told["alignment_heads"]}
    assert Dia.from_pretrained(checkpoint).alignment_heads() == told["alignment_heads"]


def test_a_converted_checkpoint_keeps_its_heads(checkpoint, tmp_path):
    """A conversion between dtypes lost the heads; times of its speech needed a search."""
    convert_checkpoint(MINIATURE, tmp_path / "half", dtype="bfloat16", verbose=False)
    assert Dia.from_pretrained(tmp_path / "half").alignment_heads() == Dia.from_pretrained().alignment_heads()


def test_a_quantized_model_has_the_same_heads():
    """Heads of quantized weights could not be read, or others followed the text."""
    pytest.importorskip("torchao", reason='needs the extra "quantize"')
    dia = Dia.from_pretrained(device="cpu", quantization="int8")
    assert dia.alignment_heads() == Dia.from_pretrained().alignment_heads()
    text = "[S1] Hello, I am Dia."
    words = dia.generate(text, temperature=0, return_timestamps="word")[1]
    assert [word.text for word in words] == text.split()[1:]
    assert all(word.end > word.start for word in words)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, capsys):
    """The model spoke for minutes before the file could not be written."""
    assert run("heads", str(tmp_path)) == 2
    assert "no folder with a generation_config.json" in capsys.readouterr().err
