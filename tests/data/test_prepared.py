"""Prepared folders that are damaged."""

import shutil
from pathlib import Path

import datasets
import pytest

from dia_hf.data import load_prepared
from training.clips import write_prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("damaged") / "data", num_clips=3)


def _lack(column):
    def rewrite(folder):
        clips = datasets.load_from_disk(str(folder)).remove_columns([column])
        path = next(folder.glob("*.arrow"))
        shutil.rmtree(folder / "new", ignore_errors=True)
        clips.save_to_disk(str(folder / "new"))
        for file in (folder / "new").iterdir():
            file.replace(folder / (path.name if file.suffix == ".arrow" else file.name))

    return rewrite


@pytest.mark.parametrize(
    ("name", "damage", "match"),
    [
        *(
            (name, lambda path, text=text: path.write_text(text), name)
            for name in ("prepared.json", "state.json", "dataset_info.json")
            for text in ("null", "[]", "", "[" * 100_000, '{"a": ')
        ),
        ("prepared.json", lambda path: path.write_text('{"version": 1}'), "`codec` is null"),
        ("prepared.json", lambda path: path.write_text('{"version": [1]}'), "version"),
        ("state.json", lambda path: path.write_text('{"_data_files": [1]}'), "`_data_files`"),
        ("state.json", lambda path: path.write_text('{"_data_files": [{"filename": "../x"}]}'), "`_data_files`"),
        ("data-00000-of-00001.arrow", Path.unlink, r"the file 'data-00000-of-00001.arrow' is missing"),
        ("data-00000-of-00001.arrow", lambda path: path.write_bytes(path.read_bytes()[:700]), "cannot be read"),
        (".", _lack("text"), "no column 'text'"),
    ],
)
def test_a_damaged_prepared_folder(tmp_path, prepared, name, damage, match):
    """`null` in prepared.json, a cut arrow file or a missing column caused an error of another library."""
    folder = Path(shutil.copytree(prepared, tmp_path / "data"))
    damage(folder / name)
    with pytest.raises(ValueError, match=match) as refused:
        load_prepared(folder)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 500
