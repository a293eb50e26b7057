"""`dia-hf finetune`, run through `main`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dia_hf import MINIATURE, Dia, cli
from dia_hf.training import DiaTrainer, Recipe
from training.clips import write_prepared

QUICK = [
    *("--model", MINIATURE, "--set", "training.max_steps=4", "--set", "training.save_strategy=steps"),
    *("--set", "training.save_steps=2", "--set", "training.use_cpu=true", "--set", "training.report_to=none"),
    *("--set", "training.eval_strategy=steps", "--set", "training.eval_steps=2", "--set", "eval_fraction=0.3"),
    *("--set", "training.per_device_train_batch_size=2", "--set", "training.gradient_accumulation_steps=1"),
]


def run(*args: str) -> int:
    """Run the command; argparse's own errors end in SystemExit."""
    try:
        return cli.main(["finetune", *map(str, args)])
    except SystemExit as end:
        return end.code


@pytest.fixture
def data(tmp_path):
    return write_prepared(tmp_path / "data")


def test_from_data_to_a_voice(tmp_path, data, capsys):
    """The shipped recipe did not make a checkpoint that generates."""
    assert run(data, tmp_path / "run", *QUICK) == 0
    captured = capsys.readouterr()
    assert "run: 4 steps; loss: training" in captured.out and "evaluation" in captured.out
    weights = load_file(Path(MINIATURE, "model.safetensors"))
    added = 32 * sum(sum(weight.shape) for name, weight in weights.items() if name.endswith("_proj.weight"))
    everything = added + sum(weight.numel() for weight in weights.values())
    assert f"training {added:,} of {everything:,} weights" in captured.err and "2 clips per step" in captured.err
    assert "'loss_channel_0'" not in captured.out, "forty numbers a line hide the one that is looked for"
    Dia.from_pretrained(tmp_path / "run", device="cpu").generate("[S1] Hi.", max_seconds=0.2)
    kept = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert (kept.lora, kept.training["learning_rate"]) == ({"r": 32, "lora_alpha": 32}, 2e-4)


def test_resuming_gives_the_same_weights(tmp_path, data, capsys, monkeypatch):
    """The interrupted command, repeated with --resume, gave other weights than an uninterrupted run."""
    full = [*QUICK, "--recipe", "full"]
    assert run(data, tmp_path / "whole", *full) == 0
    original = DiaTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DiaTrainer, "training_step", training_step)
    assert run(data, tmp_path / "run", *full) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(data, tmp_path / "run", *full) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert run(data, tmp_path / "run", "--resume", "--set", "seed=1") == 2
    assert "`seed` 0, but is to be resumed with 1" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert run("data", "run", *full, "--resume") == 0, "the same command and --resume"
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert run(data, tmp_path / "run", "--resume") == 2
    assert "is finished" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lora", "full", "scratch", "ddp", "fsdp2"])
def test_shows_what_it_ships(tmp_path, capsys, name):
    """A recipe inside the package could not be listed, shown or copied."""
    assert run("--show", name) == 0
    shown = capsys.readouterr().out
    if name in ("lora", "full", "scratch"):
        (tmp_path / "mine.yaml").write_text(shown, "utf-8")
        assert Recipe.load(tmp_path / "mine.yaml") == Recipe.load(name)
    else:
        assert "num_processes" in shown


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--set", "training.learning_rat=1"], "did you mean 'learning_rate'"),
        (["--set", "seed"], "write KEY=VALUE"),
        (["--recipe", "nowhere.yaml"], "one of full, lora, scratch"),
        (["--resume"], "no run to resume"),
        (["--show", "all"], "choose from ddp, fsdp2, full, lora, scratch"),
        (["--model", MINIATURE, "--set", "training.optim=galore_adamw"], "install `galore_torch`"),
        (["--model", MINIATURE, "--set", "training.lr_scheduler_type=slow"], "slow"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, data, capsys, options, match):
    """A mistake caused a traceback, which does not say what to change."""
    assert run(data, tmp_path / "run", *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dia-hf") and match in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [[], ["--recipe", "full"], ["--recipe", "full", "--resume"], ["--model", "other/model"], ["--set", "model=a/b"]],
)
def test_the_model_is_the_datas(tmp_path, data, monkeypatch, options):
    """Data of one model were trained on the published model unless `--model` was given again.

    With --resume the same command was refused, as if it had to resume with the published model.
    """
    about = json.loads(Path(data, "prepared.json").read_text())
    Path(data, "prepared.json").write_text(json.dumps({**about, "model": "miniature"}))
    recipes = []
    monkeypatch.setattr("dia_hf.training.finetune", lambda recipe, **kw: recipes.append(recipe) or {"step": 0})
    assert run(data, tmp_path / "run", *options) == 0
    expected = {"--model": "other/model", "--set": "a/b"}.get(options[0] if options else "", MINIATURE)
    assert recipes[0].model == expected


def test_data_of_two_models(tmp_path, data, monkeypatch, capsys):
    """With data of two models, one of the two was taken without an error."""
    other = write_prepared(tmp_path / "other")
    about = json.loads(Path(other, "prepared.json").read_text())
    Path(other, "prepared.json").write_text(json.dumps({**about, "model": "miniature"}))
    assert run(data, other, tmp_path / "run") == 2
    assert "several models (one that is not noted, miniature); give --model" in capsys.readouterr().err


def test_a_result_for_programs(tmp_path, data, capsys):
    """Log lines of `Trainer` were printed between the JSON of the result."""
    assert run(data, tmp_path / "run", *QUICK, "--json", "--quiet") == 0
    captured = capsys.readouterr()
    assert all(line.startswith("dia-hf: warning: ") for line in captured.err.splitlines())
    result = json.loads(captured.out)
    assert set(result) == {"path", "steps", "seconds", "train_loss", "eval_loss"}
    assert result["path"] == str(tmp_path / "run") and result["steps"] > 0 and result["train_loss"] > 0
