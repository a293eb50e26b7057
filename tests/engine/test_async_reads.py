"""Reads of the host: order, delay and errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.engine.async_reads import AsyncReads


def test_on_a_cpu_nothing_waits():
    """On a CPU, values were delivered some steps late without need."""
    got = []
    reads = AsyncReads(got.append)
    reads.send(torch.tensor([1, 2]))
    assert [value.tolist() for value in got] == [[1, 2]]


@given(max_pending=st.integers(0, 4), moves=st.lists(st.sampled_from(["send", "flush"]), max_size=20))
def test_all_arrive_in_order(max_pending, moves):
    """A value was lost, delivered twice, out of order, or waited for too early."""
    got, num_sent = [], 0
    reads = AsyncReads(lambda value: got.append(int(value)), max_pending)
    flushed = 0
    for move in moves:
        if move == "send":
            reads.send(torch.tensor(num_sent))
            num_sent += 1
        else:
            reads.flush()
            flushed = num_sent
        assert got == list(range(max(flushed, num_sent - max_pending)))
    reads.flush()
    assert got == list(range(num_sent))


def test_a_value_is_what_it_was_when_it_was_sent():
    """The next step overwrites the tensor while its copy is in flight."""
    got, value = [], torch.zeros(2)
    reads = AsyncReads(got.append, max_pending=2)
    reads.send(value)
    value.fill_(7)
    reads.flush()
    assert got[0].tolist() == [0, 0]


def test_an_error_of_the_receiver_is_raised():
    """The receiver detects broken logits; if its error is swallowed, the call continues."""
    reads = AsyncReads(lambda value: 1 / 0, max_pending=1)
    reads.send(torch.zeros(1))
    with pytest.raises(ZeroDivisionError):
        reads.flush()
