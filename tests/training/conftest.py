"""Fixtures for several files: prepared data, and runs that are stopped."""

from importlib import import_module

import pytest

from dia_hf.training.finetune import finetune
from dia_hf.training.trainer import DiaTrainer
from training.clips import StoppedError, quick_recipe, write_prepared

room = import_module("dia_hf.training.finetune")


@pytest.fixture
def data(tmp_path):
    return write_prepared(tmp_path / "data")


@pytest.fixture
def stop_at(monkeypatch):
    """Make a run fail at a step with `stop_at(step)`; let it continue with `stop_at(None)`."""

    def stop(step, error=StoppedError):
        original = DiaTrainer.training_step

        def training_step(self, *args, **kwargs):
            if self.state.global_step == step:
                raise error
            return original(self, *args, **kwargs)

        monkeypatch.setattr(DiaTrainer, "training_step", training_step)

    return lambda step, *error: monkeypatch.undo() if step is None else stop(step, *error)


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory):
    """A run with the checkpoints 2 and 4, stopped before its sixth step."""
    folder = tmp_path_factory.mktemp("kept")
    recipe = quick_recipe(write_prepared(folder / "data"), folder / "run")

    class Stops(DiaTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 5:
                raise StoppedError
            return super().training_step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "DiaTrainer", Stops)
        with pytest.raises(StoppedError):
            finetune(recipe)
    return folder
