"""The peak memory that `benchmarks/training_memory.py` counts."""

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from tiny import random_batch, random_config, random_model
from training_memory import PeakMemory


def test_peak_memory_is_pytorchs():
    """Tensors counted twice, or not forgotten when they are freed; PyTorch's own tracker is the oracle."""
    model = random_model(random_config(4)).train()
    batch = random_batch(model.config)
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        step()
    state = [value for values in optimizer.state.values() for value in values.values()]
    with PeakMemory([*model.parameters(), *state]) as memory:
        step()
    assert memory.peak == sum(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())
