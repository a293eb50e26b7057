"""The folder of a run: free or the run's own, held by one process at a time, with what it began with.

Knows nothing of models and of training; called by `finetune.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic_write import atomic_write, is_leftover, locked, remove_stale_lock
from ..text_files import read_json
from .checkpoint import check_checkpoint, checkpoints_in
from .recipe import Recipe

if TYPE_CHECKING:
    import datasets

__all__ = [
    "advise_other",
    "check_resumable",
    "check_same_data",
    "checkpoints_of",
    "has_result",
    "held_alone",
    "identify_data",
    "newest_checkpoint",
    "note_beginning",
    "open_output",
]

_LOCK = ".lock"


def open_output(recipe: Recipe, resume: bool | str | os.PathLike) -> str | None:
    """Make sure that the output is free, or find the checkpoint to resume; there may be none yet."""
    for name in ("data", "output"):
        if not getattr(recipe, name):
            raise ValueError(f"the recipe's `{name}` is empty; a run needs prepared data and a folder for its result.")
    output = Path(recipe.output)
    kept = output / "recipe.yaml"
    if resume is False:
        if kept.is_file():
            raise ValueError(
                f"{str(output)!r} holds a run already; go on with it (`--resume`), or give another folder."
            )
        if output.is_dir() and not _is_free(output):
            raise ValueError(f"{str(output)!r} is not empty; give a new folder for the result.")
        if output.exists() and not output.is_dir():
            raise ValueError(f"{str(output)!r} is a file; give a new folder for the result.")
        return None
    if not kept.is_file():
        raise FileNotFoundError(f"there is no run to resume in {str(output)!r}: it has no recipe.yaml.")
    before, now = (_flatten(one) for one in (Recipe.load(kept), recipe))
    for name in {**before, **now}:
        # Folders may have been moved; what is in the data's is compared later.
        if name not in ("output", "data", "eval_data") and before.get(name) != now.get(name):
            raise ValueError(
                f"the run in {str(output)!r} has the `{name}` {before.get(name)!r}, but is to be resumed with "
                f"{now.get(name)!r}; a resumed run keeps its recipe: leave that out (in Python, resume "
                f"`Recipe.load({str(kept)!r})`), or begin another run."
            )
    if resume is True:
        if has_result(output) and (output / "metrics.jsonl").is_file():  # which is written last
            remove_stale_lock(output / _LOCK)
            raise ValueError(f"the run in {str(output)!r} is finished; begin another one, in another folder.")
        return newest_checkpoint(checkpoints_of(recipe))
    if not Path(resume, "trainer_state.json").is_file():
        raise FileNotFoundError(f"there is no checkpoint of a run in {os.fspath(resume)!r}.")
    return os.fspath(resume)


def identify_data(train_set: datasets.Dataset, eval_set: datasets.Dataset | None) -> dict[str, Any]:
    """Say which clips a run has, so that it is noticed when others come in their place."""
    about = {}
    for name, clips in (("training", train_set), ("evaluation", eval_set)):
        if clips is not None:
            seconds = [round(float(value), 3) for value in clips["seconds"]]
            key = json.dumps([list(clips["id"]), list(clips["text"]), seconds]).encode("utf-8")
            digest = hashlib.blake2b(key, digest_size=8).hexdigest()
            about[name] = {"clips": len(clips), "seconds": round(sum(seconds), 3), "digest": digest}
    return about


def note_beginning(recipe: Recipe, data: dict[str, Any]) -> None:
    """Keep the recipe of a run, and which clips it has."""
    with atomic_write(Path(recipe.output, "data.json")) as beside:
        beside.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    recipe.save(Path(recipe.output, "recipe.yaml"))


def check_same_data(recipe: Recipe, now: dict[str, Any]) -> None:
    """Raise `ValueError` if a run began with other clips."""
    file = Path(recipe.output, "data.json")
    before = read_json(file) if file.is_file() else now
    for name, one in before.items():
        if not isinstance(one, dict) or type(one.get("clips")) is not int:
            raise ValueError(f"{str(file)!r} is damaged: its {name[:60]!r} does not say how many `clips` there were.")
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            counts = [(one.get(name) or {"clips": 0})["clips"] for one in (before, now)]
            raise ValueError(
                f"the run in {recipe.output!r} began with {counts[0]} clips for {name}; now there are {counts[1]}, or "
                "their texts have changed. A resumed run keeps its data; begin another run."
            )


@contextmanager
def held_alone(recipe: Recipe, is_first: bool) -> Iterator[None]:
    """Let no other run into the output meanwhile; left empty, it goes."""
    if not is_first:
        yield
        return
    output = Path(recipe.output)
    output.mkdir(parents=True, exist_ok=True)
    taken = f"another process is training in {str(output)!r}; give another folder."
    try:
        with locked(output / _LOCK, taken):
            yield
    finally:
        if output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def _is_free(output: Path) -> bool:
    """Whether a folder is empty but for what a run leaves that was killed before it had its recipe there."""
    names = {path.name for path in output.iterdir() if not is_leftover(path)}
    checkpoints = output / "checkpoints"
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        names.discard("checkpoints")
    return names <= ({_LOCK, "data.json"} if _LOCK in names else set())


def checkpoints_of(recipe: Recipe) -> Path:
    """Say where a run keeps its checkpoints."""
    return Path(recipe.output, "checkpoints")


def newest_checkpoint(folder: Path) -> str | None:
    """Find the newest checkpoint that was written to its end."""
    found = checkpoints_in(folder)
    return str(found[0]) if found else None


def check_resumable(recipe: Recipe, checkpoint: str | None) -> None:
    """Raise `ValueError` if a run cannot go on from a checkpoint; the message says from which it could."""
    if checkpoint is None:
        return
    try:
        check_checkpoint(Path(checkpoint))
    except (ValueError, OSError) as error:
        raise ValueError(f"{str(error).removesuffix('.')}. {advise_other(recipe, checkpoint)}") from error


def advise_other(recipe: Recipe, checkpoint: str) -> str:
    """Say from which checkpoint a run could go on instead of one."""
    for other in checkpoints_in(checkpoints_of(recipe)):
        if not os.path.samefile(other, checkpoint):
            try:
                check_checkpoint(other)
            except (ValueError, OSError):
                continue
            name = os.path.basename(os.path.normpath(checkpoint))
            return f"The run can go on from {other.name}: move {name} elsewhere, and resume."
    return "No other checkpoint of the run can be used; begin another run, in another folder."


def has_result(output: Path) -> bool:
    """Whether weights were written there at the end of a run."""
    return any(output.glob("model*.safetensors"))


def _flatten(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's values by key, `training.learning_rate` for one."""
    flat: dict[str, Any] = {}
    for name, value in asdict(recipe).items():
        flat.update(
            {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        )
    return flat
