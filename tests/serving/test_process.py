"""Keys and ids of a process that serves."""

import pytest

from dia_hf import MINIATURE
from dia_hf.serving.process import model_id, read_api_keys


def test_keys(tmp_path, monkeypatch):
    """Keys of one source replaced those of another, or a blank line was a key."""
    file = tmp_path / "keys"
    file.write_text("two\n\n three \n", encoding="utf-8")
    monkeypatch.setenv("DIA_HF_API_KEY", "four")
    assert read_api_keys(["one"], file) == ["one", "two", "three", "four"]
    monkeypatch.delenv("DIA_HF_API_KEY")
    assert read_api_keys([], None) == []
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no key"):
        read_api_keys([], file)


def test_names_of_models(tmp_path):
    """The id of a model told the path of its folder to all clients."""
    assert model_id(MINIATURE) == "miniature"
    assert model_id(str(tmp_path)) == tmp_path.name
    assert model_id("nari-labs/Dia-1.6B-0626") == "nari-labs/Dia-1.6B-0626"
