"""`TrainingArguments` of a recipe."""

import warnings

import pytest
import transformers

from dia_hf import MINIATURE
from dia_hf.training.arguments import make_arguments
from dia_hf.training.finetune import finetune
from dia_hf.training.recipe import Recipe
from training.clips import quick_recipe


def test_the_best_model_makes_the_fewest_word_errors(tmp_path, data):
    """A higher word error rate was taken for better, and a resumed run began early stopping's patience anew."""
    training = {"metric_for_best_model": "eval_speech_wer", "eval_strategy": "steps", "eval_steps": 2}
    recipe = quick_recipe(data, tmp_path / "run", training, early_stopping_patience=2)
    arguments = make_arguments(recipe, has_evaluation=True)
    assert arguments.greater_is_better is False
    assert arguments.restore_callback_states_from_checkpoint


def test_nothing_to_evaluate_with(tmp_path, data):
    """With a small evaluation share no clip was left to evaluate; the run continues with a warning."""
    recipe = Recipe.load("lora").change(
        {
            "model": MINIATURE,
            "data": [data],
            "output": str(tmp_path / "run"),
            "eval_fraction": 0.001,
            "training.num_train_epochs": 1,
            "training.report_to": "none",
            "training.disable_tqdm": True,
            "training.use_cpu": True,
        }
    )
    with pytest.warns(UserWarning, match="no clips for evaluation"):
        finetune(recipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_arguments(quick_recipe(data, tmp_path / "quiet"), has_evaluation=False)


def test_several_gpus_in_one_process(tmp_path, data, monkeypatch):
    """With several GPUs in one process, `Trainer` copies the model at every step and gathers channels wrongly."""

    class TwoGPUs(transformers.TrainingArguments):
        def __post_init__(self):
            super().__post_init__()
            self._n_gpu = 2

    monkeypatch.setattr("dia_hf.training.arguments.TrainingArguments", TwoGPUs)
    with pytest.warns(UserWarning, match="2 GPUs were found, but only one is used.*accelerate launch"):
        assert make_arguments(quick_recipe(data, tmp_path / "run"), has_evaluation=False).n_gpu == 1
