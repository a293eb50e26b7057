"""Some cases of each family; `tests/fuzz/run.py` runs any number of them."""

from random import Random

import pytest

from fuzz.families import FAMILIES
from fuzz.harness import Case, run

CASES = 12  # of each family; with `make fuzz` in .ci/run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Make the undamaged input once for families that share it."""
    made = {}

    def make(family):
        if family.make not in made:
            made[family.make] = tmp_path_factory.mktemp("whole")
            family.make(made[family.make])
        return made[family.make]

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_hostile_inputs(whole, tmp_path, monkeypatch, name):
    """A damaged file or invalid argument caused a traceback, a page of output, a hang, or changes to other files."""
    family = FAMILIES[name]
    source = whole(family)
    for index in range(CASES):
        folder = tmp_path / str(index)
        folder.mkdir()
        monkeypatch.setenv("DIA_HF_VOICES", str(folder / "voices"))
        case = family.draw(Random(f"0/{name}/{index}"), source, folder)
        assert run(case, folder) is None, f"case {index}: {case.argv}"


def test_faults_are_seen(tmp_path):
    """A kind of fault that the harness does not detect is never found; each is caused once by a call."""
    (tmp_path / "mine.txt").write_text("mine")

    def raise_somewhere_else():
        int("x" * 1000)

    def leave_something():
        (tmp_path / ".dia-hf-left").touch()

    assert "int" in run(Case(call=raise_somewhere_else), tmp_path)
    assert "traceback" in run(Case(call=lambda: {}["x"]), tmp_path)
    assert "lost" in run(Case(call=(tmp_path / "mine.txt").unlink), tmp_path)
    assert "made" in run(Case(call=leave_something), tmp_path)
    assert "left over" in run(Case(call=lambda: None), tmp_path)
