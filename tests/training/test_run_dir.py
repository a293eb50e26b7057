"""Output folder of a run: free, locked, and resumed only with its own recipe and data."""

import math
import shutil
from importlib import import_module

import pytest

from dia_hf.training.finetune import finetune
from dia_hf.training.recipe import Recipe
from dia_hf.training.run_dir import newest_checkpoint
from kills import die, stunned
from training.clips import StoppedError, quick_recipe, write_prepared

room = import_module("dia_hf.training.finetune")


def test_nothing_is_overwritten(tmp_path, data):
    """A run wrote into the folder of another run, or into a folder of unrelated files."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("...")
    (tmp_path / "file").write_text("...")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("{}")
    for name, match in (("thesis", "is not empty"), ("file", "is a file"), ("run", "--resume")):
        with pytest.raises(ValueError, match=match):
            finetune(quick_recipe(data, tmp_path / name))
    with pytest.raises(ValueError, match="give 9 weights, one for each channel"):
        finetune(quick_recipe(data, tmp_path / "new", channel_loss_weights=[4, 1]))
    assert not (tmp_path / "new").exists()
    for name, match in (("data", "`data` is empty"), ("output", "`output` is empty")):
        with pytest.raises(ValueError, match=match):
            finetune(quick_recipe(data, tmp_path / "new").change({name: [] if name == "data" else '""'}))


def test_a_mistake_leaves_no_folder(tmp_path, data):
    """A failed attempt left a folder that blocked the next attempt."""
    with pytest.raises(ValueError, match="holds no prepared clips"):
        finetune(quick_recipe(str(tmp_path), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_one_run_at_a_time(tmp_path, data, stop_at):
    """Two concurrent commands trained into one folder, and overwrote each other's checkpoints."""
    recipe = quick_recipe(data, tmp_path / "run")
    stop_at(3)
    with pytest.raises(StoppedError):
        finetune(recipe)
    assert not (tmp_path / "run" / ".lock").exists()
    with open(tmp_path / "run" / ".lock", "w") as lock:
        pytest.importorskip("fcntl").flock(lock, 2)
        with pytest.raises(ValueError, match="another process is training"):
            finetune(recipe, resume=True)


@pytest.mark.parametrize("moment", ["the lock", "the data", "the recipe"])
def test_killed_before_it_began(tmp_path, data, monkeypatch, moment):
    """A run killed in its first second left files that blocked the same command from then on."""
    from dia_hf.training import run_dir

    with monkeypatch.context() as patch:
        if moment == "the lock":
            patch.setattr(room, "note_beginning", die)
        elif moment == "the data":
            patch.setattr(run_dir, "atomic_write", die)
        else:
            patch.setattr(Recipe, "save", die)
        assert stunned(lambda: finetune(quick_recipe(data, tmp_path / "run")), math.inf)
    assert (tmp_path / "run" / ".lock").exists()
    assert finetune(quick_recipe(data, tmp_path / "run"))["step"] == 6
    assert not list((tmp_path / "run").glob(".*"))
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data.json").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        finetune(quick_recipe(data, tmp_path / "run"))


def test_a_resumed_run_keeps_its_recipe(tmp_path, data, stop_at):
    """A run was resumed with a changed recipe, or refused because its folder had been moved."""
    recipe = quick_recipe(data, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        finetune(recipe, resume=True)
    stop_at(3)
    with pytest.raises(StoppedError):
        finetune(recipe)
    stop_at(None)
    with pytest.raises(ValueError, match=r"`training.learning_rate` 0.001, but is to be resumed with 0.1"):
        finetune(recipe.change({"training.learning_rate": 0.1}), resume=True)
    (tmp_path / "run").rename(tmp_path / "moved")
    kept = Recipe.load(tmp_path / "moved" / "recipe.yaml").change({"output": str(tmp_path / "moved")})
    assert finetune(kept, resume=True)["step"] == 6


def test_a_resumed_run_keeps_its_data(tmp_path, stop_at):
    """A run whose data were prepared again was resumed with other clips without an error."""
    recipe = quick_recipe(write_prepared(tmp_path / "data"), tmp_path / "run")
    stop_at(3)
    with pytest.raises(StoppedError):
        finetune(recipe)
    stop_at(None)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    write_prepared(tmp_path / "data", num_clips=5)
    with pytest.raises(ValueError, match=r"was started with \d+ clips for training; now there are 5"):
        finetune(recipe, resume=True)
    recipe.data = [str(tmp_path / "moved")]
    finetune(recipe, resume=True)


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path):
    """Sorted by name, checkpoint-9 is newer than checkpoint-10."""
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert newest_checkpoint(tmp_path).endswith("checkpoint-10")
