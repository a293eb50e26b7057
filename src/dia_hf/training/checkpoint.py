"""Whether a run can go on from a checkpoint: all files there, whole, and of the step that the folder is named after.

`Trainer` goes on without what is missing, to other numbers, and takes damaged weights as they are. Knows nothing of
recipes; called by `run_folder.py` and `finetune.py`.
"""

from __future__ import annotations

import dataclasses
import random
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState

from ..text_files import first_line, read_json

__all__ = ["check_checkpoint", "check_weights", "checkpoints_in"]

_NAME = re.compile(r"checkpoint-(\d{1,18})")
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


def checkpoints_in(folder: Path) -> list[Path]:
    """Find the checkpoints that were written to their end, the newest first: their state is written last."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    found = [path for path in found if (path / "trainer_state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def check_checkpoint(folder: Path) -> None:
    """Raise `ValueError` if a run could not go on from a checkpoint to the same numbers; the message names the file."""
    step = _check_state(folder)
    folders = [path.name for path in folder.iterdir() if path.is_dir()]  # of FSDP, whose files are many
    if not any("model_fsdp" in name for name in folders):
        is_adapter = (folder / "adapter_config.json").is_file()
        names = (*(_WEIGHTS[::-1] if is_adapter else _WEIGHTS), "model.safetensors.index.json")
        _check_safetensors(_find(folder, names, "weights"))
    if not any("optimizer" in name for name in folders):
        optimizer = _read_torch(_find(folder, ("optimizer.pt", "optimizer.bin"), "state of the optimizer"))
        if not isinstance(optimizer, dict) or not optimizer:
            raise ValueError(f"{str(folder / 'optimizer.pt')!r} is damaged: it holds no state of an optimizer")
    schedule = _read_torch(_find(folder, ("scheduler.pt",), "state of the schedule"))
    last = schedule.get("last_epoch", step) if isinstance(schedule, dict) and schedule else None
    if type(last) is not int or last > step:
        raise ValueError(f"{str(folder / 'scheduler.pt')!r} is damaged: it holds no schedule until step {step}")
    _find(folder, [path.name for path in folder.glob("rng_state*.pth")] or ["rng_state.pth"], "state of chance")
    for path in sorted(folder.glob("rng_state*.pth")):
        _check_chance(path)


def check_weights(folder: Path, expected: dict[str, torch.Size]) -> None:
    """Raise `ValueError` if a file of all weights lacks some that are expected, or has them in another shape."""
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        return
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    for name, shape in expected.items():
        if found.get(name) != list(shape):
            raise ValueError(
                f"{str(path)!r} holds {name!r} as {found.get(name, 'nothing')}; the model has it as {list(shape)}"
            )


def _find(folder: Path, names: Iterable[str], what: str) -> Path:
    names = list(names)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"there is no {names[0]} in {str(folder)!r}, the {what}")
    return found


def _check_state(folder: Path) -> int:
    path = folder / "trainer_state.json"
    content = read_json(path)
    defaults = {field.name: field for field in dataclasses.fields(TrainerState)}
    if unknown := [name for name in content if name not in defaults]:
        raise ValueError(f"{str(path)!r} is damaged: it has a field {first_line(unknown[0], 60)!r}")
    kinds: dict[str, Any] = {
        "global_step": int, "max_steps": int, "num_train_epochs": int, "epoch": (int, float), "log_history": list,
        "stateful_callbacks": dict, "best_model_checkpoint": str, "best_metric": (int, float), "best_global_step": int,
        "train_batch_size": int, "logging_steps": (int, float), "eval_steps": (int, float), "save_steps": (int, float),
        "total_flos": (int, float), "num_input_tokens_seen": int,
    }  # fmt: skip
    needed = ("global_step", "log_history")
    for name, kind in kinds.items():
        value = content.get(name)
        is_missing = value is None and name not in needed
        if not is_missing and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{str(path)!r} is damaged: its `{name}` is {first_line(value, 60)}")
    if not all(isinstance(entry, dict) and isinstance(entry.get("step"), int) for entry in content["log_history"]):
        raise ValueError(f"{str(path)!r} is damaged: its `log_history` is no list of objects with a `step`")
    if not all(isinstance(state, dict | list) for state in (content.get("stateful_callbacks") or {}).values()):
        raise ValueError(f"{str(path)!r} is damaged: its `stateful_callbacks` hold something else than objects")
    step = int(content["global_step"])
    named = _NAME.fullmatch(folder.name)
    if step < 1 or (named is not None and int(named[1]) != step):
        raise ValueError(f"{str(path)!r} is damaged: its `global_step` is {first_line(step, 60)}")
    return step


def _check_safetensors(path: Path) -> None:
    paths = [path]
    if path.suffix == ".json":
        shards = read_json(path).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise ValueError(f"{str(path)!r} is damaged: its `weight_map` names no files")
        paths = [path.with_name(name) for name in sorted(set(shards.values()))]
    for one in paths:
        try:
            with safe_open(one, framework="pt") as file:
                broken = [name for name in sorted(file.keys()) if not file.get_tensor(name).isfinite().all()]
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{str(one)!r} is damaged ({first_line(error)})") from error
        if broken:
            raise ValueError(f"{str(one)!r} is damaged: {broken[0]!r} has values that are not finite")


def _read_torch(path: Path) -> Any:
    """Read a file of torch's once the sums of its parts are right, which torch itself does not look at."""
    from transformers.trainer_pt_utils import safe_globals

    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(info.file_size for info in archive.infolist())
            if held > path.stat().st_size:
                raise ValueError("it is smaller than what it says to hold")
            if broken := archive.testzip():
                raise ValueError(f"the sum of {broken!r} is wrong")
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # of zipfile, pickle and torch, whatever a damaged file makes of them
        raise ValueError(f"{str(path)!r} is damaged ({first_line(error)})") from error


def _check_chance(path: Path) -> None:
    states = _read_torch(path)
    try:
        random.Random().setstate(states["python"])
        np.random.RandomState().set_state(states["numpy"])
        torch.Generator().set_state(states["cpu"])
    except Exception as error:  # whatever states of another kind make of them
        raise ValueError(f"{str(path)!r} is damaged: it holds no state of chance ({first_line(error)})") from error
