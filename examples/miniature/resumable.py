"""The loop of the trainings that `dia-hf finetune` does not do: it keeps its state, and goes on from it.

Batches have to be drawn from the step alone; then a run in pieces ends with the same weights as one in one.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

LOG_EVERY, KEEP_EVERY = 25, 250  # steps
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    name: str,
    work: Path,
    parts: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    compute_loss: Callable[[int], tuple[torch.Tensor, ...]],
    steps: int,
    max_norm: float,
    measure: Callable[[], float] | None = None,
) -> None:
    """Train parts of a model, from where an earlier run stopped; losses are in WORK/NAME.csv, states in NAME.state.pt.

    Args:
        compute_loss: The losses of a step; the first one is what is learned.
        measure: Computes a figure that is written whenever the state is kept.
    """
    weights = [weight for part in parts for weight in part.parameters()]
    file, step = work / f"{name}.state.pt", 0
    if file.exists():
        state = torch.load(file, map_location=DEVICE)
        step = state["step"]
        for part, values in zip(parts, state["parts"], strict=True):
            part.load_state_dict(values)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    losses = work / f"{name}.csv"
    written = list(csv.reader(losses.read_text().splitlines())) if losses.exists() else []
    start, recent = time.perf_counter(), []
    with open(losses, "w", newline="") as journal, tqdm(total=steps, initial=step, mininterval=5) as bar:
        rows = csv.writer(journal)
        rows.writerows(row for row in written if int(row[0]) <= step)  # later steps were lost, and are repeated
        while step < steps:
            found = compute_loss(step)
            optimizer.zero_grad()
            found[0].backward()
            nn.utils.clip_grad_norm_(weights, max_norm)
            optimizer.step()
            schedule.step()
            step += 1
            recent.append([value.item() for value in found])
            bar.update()
            is_kept = step % KEEP_EVERY == 0 or step == steps
            if step % LOG_EVERY == 0 or is_kept:
                figures = [f"{value:.4f}" for value in np.mean(recent, axis=0)]
                if measure is not None:
                    figures.append(f"{measure():.4f}" if is_kept else "")
                rows.writerow([step, *figures, f"{time.perf_counter() - start:.1f}"])
                journal.flush()
                bar.set_description(f"{name} {' '.join(figures)}")
                recent = []
            if is_kept:
                values = [part.state_dict() for part in parts]
                kept = {"step": step, "parts": values, "optimizer": optimizer.state_dict()}
                torch.save({**kept, "schedule": schedule.state_dict()}, file.with_suffix(".new"))
                file.with_suffix(".new").replace(file)
