"""Tests of the counter that bounds the fast path's host synchronizations."""

import threading

import numpy as np
import pytest
import torch
from transformers.generation import BaseStreamer

from dia_hf.bench import make_config, make_model, random_inputs
from host_syncs import HostSyncCounter

VALUES, MASK, ONE = torch.arange(6.0), torch.arange(6) > 2, torch.tensor(1)
COUNTS = torch.tensor([1, 2])


def write(index, value):
    VALUES.clone()[index] = value


WAITS = {
    "item": (lambda: ONE.item(), "item"),
    "tolist": (lambda: VALUES.tolist(), "tolist"),
    "numpy": (lambda: VALUES.numpy(), "numpy"),
    "np.asarray": (lambda: np.asarray(VALUES), "numpy"),
    "cpu": (lambda: VALUES.cpu(), "cpu"),
    "bool": (lambda: bool(MASK.any()), "bool"),
    "if": (lambda: 1 if MASK.any() else 0, "bool"),
    "not": (lambda: not MASK.any(), "bool"),
    "int": (lambda: int(ONE), "int"),
    "float": (lambda: float(ONE), "float"),
    "range": (lambda: range(ONE), "index"),
    "index of a list": (lambda: [1, 2][ONE], "index"),
    "index of a tensor": (lambda: VALUES[ONE], "item"),
    "end of a slice": (lambda: VALUES[:ONE], "item"),
    "in": (lambda: 1.0 in VALUES, "item"),
    "f-string": (lambda: f"{ONE}", "item"),
    "read by a mask": (lambda: VALUES[MASK], "boolean index"),
    "read by a mask inside": (lambda: VALUES[None][:, MASK], "boolean index"),
    "write by a mask": (lambda: write(MASK, torch.ones(3)), "boolean index"),
    "masked_select": (lambda: VALUES.masked_select(MASK), "masked_select"),
    "nonzero": (lambda: MASK.nonzero(), "nonzero"),
    "argwhere": (lambda: torch.argwhere(MASK), "nonzero"),
    "where of one": (lambda: torch.where(MASK), "nonzero"),
    "equal": (lambda: torch.equal(VALUES, VALUES), "equal"),
    "allclose": (lambda: torch.allclose(VALUES, VALUES), "allclose"),
    "unique": (lambda: torch.unique(VALUES), "unique"),
    "bincount": (lambda: torch.bincount(COUNTS), "bincount"),
    "repeat by a tensor": (lambda: VALUES[:2].repeat_interleave(COUNTS), "repeat_interleave"),
}
DOES_NOT_WAIT = {
    "arithmetic": lambda: (VALUES * 2).softmax(0).argmax(),
    "where of three": lambda: torch.where(MASK, VALUES, 0.0),
    "masked_fill": lambda: VALUES.masked_fill(MASK, 0.0),
    "write a number by a mask": lambda: write(MASK, 0.0),
    "read by numbers": lambda: VALUES[COUNTS],
    "read by a Python number": lambda: VALUES[1],
    "gather": lambda: VALUES.gather(0, COUNTS),
    "multinomial": lambda: torch.multinomial(VALUES, 1),
    "repeat by a number": lambda: VALUES.repeat_interleave(2),
    "repeat to a known size": lambda: VALUES[:2].repeat_interleave(COUNTS, output_size=3),
    "to where it is": lambda: VALUES.to(VALUES.device),
    "other dtype": lambda: VALUES.to(torch.float16),
    "copy": lambda: VALUES.clone().copy_(VALUES),
    "shape": lambda: VALUES.shape[0] + len(VALUES),
    "new": lambda: torch.tensor([1, 2]),
}


@pytest.mark.parametrize("name", WAITS)
def test_each_wait_counts_once(name):
    """A synchronization that is not counted stalls a GPU unnoticed; one that is counted twice is a false alarm."""
    call, expected = WAITS[name]
    with HostSyncCounter() as syncs:
        call()
    assert dict(syncs.counts) == {expected: 1}
    assert syncs.total == 1


@pytest.mark.parametrize("name", DOES_NOT_WAIT)
def test_what_does_not_wait_does_not_count(name):
    """A call that does not synchronize was counted, which would require slower code to avoid it."""
    with HostSyncCounter() as syncs:
        DOES_NOT_WAIT[name]()
    assert dict(syncs.counts) == {}


def test_counting_ends_with_the_block():
    """A mode that stays active slows down, and counts, all later code, even after an error."""
    syncs = HostSyncCounter()
    with pytest.raises(IndexError), syncs:
        [][ONE.item()]
    ONE.item()
    assert syncs.total == 1
    with syncs:  # the counts are kept
        ONE.item()
        with pytest.raises(RuntimeError, match="already"):
            syncs.__enter__()
    assert syncs.counts == {"item": 2}


def test_results_are_unchanged():
    """The counter changed the results of the code that it measures."""
    with HostSyncCounter():
        results = [VALUES[MASK], VALUES.tolist(), MASK.nonzero(), bool(MASK.any())]
    assert torch.equal(results[0], VALUES[3:])
    assert results[1] == [0, 1, 2, 3, 4, 5]
    assert results[2].flatten().tolist() == [3, 4, 5]
    assert results[3] is True


def test_numbers_of_the_host_do_not_count_for_a_gpu():
    """A loop counter in a CPU tensor, which needs no synchronization, was counted."""
    with HostSyncCounter("cuda") as syncs:
        for call, _ in WAITS.values():
            call()
    assert syncs.total == 0


def test_a_copy_between_devices_counts():
    """`.to(device)` of another device synchronizes; `meta` replaces it where there is only a CPU."""
    with HostSyncCounter() as syncs:
        VALUES.to("meta")
        torch.empty(6, device="meta").copy_(VALUES)
        VALUES.to("meta", non_blocking=True)
        torch.empty(6, device="meta").copy_(VALUES, non_blocking=True)
    assert syncs.counts == {"copy": 2}


def test_other_threads_are_not_seen():
    """Documented: calls in another thread must be counted in that thread."""
    with HostSyncCounter() as syncs:
        thread = threading.Thread(target=ONE.item)
        thread.start()
        thread.join()
    assert syncs.total == 0


def test_it_sees_a_whole_generation():
    """In transformers' loop a streamer costs a copy to the host a step, which the counter must find in `generate`."""

    class Deaf(BaseStreamer):
        def put(self, value):
            pass

        def end(self):
            pass

    config = make_config("toy")
    model, inputs = make_model(config), random_inputs(config, 1, 10)

    def count(num_frames):
        with HostSyncCounter() as syncs:
            model.generate(
                **inputs, streamer=Deaf(), min_new_tokens=num_frames, max_new_tokens=num_frames, use_fast_path=False
            )
        return syncs.counts["cpu"]

    assert count(9) - count(4) == 5
