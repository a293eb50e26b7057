"""Damaged checkpoints of a run."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dia_hf.training.finetune import finetune
from training.clips import quick_recipe


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"\x80\x02") + 30] ^= 16  # within the pickle: bytes between the records have no effect
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = ["trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"]
DAMAGES = [
    *((name, Path.unlink) for name in FILES[1:]),
    *((name, cut) for name in FILES),
    *((name, flip) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
    *((name, lambda path: torch.save([1], path)) for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")),
    *(
        (FILES[0], lambda path, text=text: path.write_text(text))
        for text in ("null", "[]", "{}", '{"global_step": "4", "log_history": []}', "[" * 100_000)
    ),
    (FILES[-1], lambda path: save_file({"a": torch.zeros(1)}, path)),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint(tmp_path, kept_run, name, damage):
    """A run continued without optimizer, schedule, RNG state or weights, or failed with an error of pickle or zip."""
    shutil.copytree(kept_run / "run", tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "checkpoint-4" / name)
    recipe = quick_recipe(str(kept_run / "data"), tmp_path / "run")
    with pytest.raises(ValueError, match="can be resumed from checkpoint-2: move checkpoint-4 elsewhere") as refused:
        finetune(recipe, resume=True)
    assert name in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) <= 500
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-2")
    if name == "scheduler.pt":
        with pytest.raises(ValueError, match="No other checkpoint of the run can be used"):
            finetune(recipe, resume=True)
