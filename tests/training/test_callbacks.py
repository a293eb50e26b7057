"""Callbacks of a run: the table in a notebook, TensorBoard."""

import pytest
import transformers

from dia_hf.training.finetune import finetune
from training.clips import quick_recipe


def test_the_table_in_a_notebook_leaves_the_channels_out(tmp_path, data, monkeypatch):
    """Eighteen columns of channel metrics left no room for the loss in a notebook's table."""
    shown = []

    class NotebookProgressCallback(transformers.TrainerCallback):
        def on_log(self, *args, logs=None, **kwargs):
            shown.append(logs)

        def on_evaluate(self, *args, metrics=None, **kwargs):
            metrics.pop("eval_loss")  # as `NotebookProgressCallback` does
            shown.append(metrics)

    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)
    training = {"max_steps": 1, "disable_tqdm": False, "eval_strategy": "steps", "eval_steps": 1}
    metrics = finetune(quick_recipe(data, tmp_path / "run", training, eval_fraction=0.3))
    assert any("loss" in logs for logs in shown)
    assert any("eval_runtime" in logs for logs in shown)
    assert not any("_channel_" in name for logs in shown for name in logs)
    assert "eval_loss" in metrics


def test_logs_for_tensorboard(tmp_path, data):
    """TensorBoard's logs were written outside the run's folder, and lost when it was moved."""
    pytest.importorskip("tensorboard")
    recipe = quick_recipe(["nowhere"], tmp_path / "run")
    recipe.data, recipe.training["max_steps"] = data, 1  # by hand, and a folder as a string
    del recipe.training["report_to"]
    finetune(recipe)
    assert [path.name.split(".")[0] for path in (tmp_path / "run" / "logs").iterdir()] == ["events"]
