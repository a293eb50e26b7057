import pytest
import torch
from transformers import StoppingCriteria

from dia_hf.generation import DiaCancelStoppingCriteria, DiaSampleStoppingCriteria

IDS = torch.zeros(6, 4, dtype=torch.long)


class Say(StoppingCriteria):
    def __init__(self, done):
        self.done = done

    def __call__(self, input_ids, scores, **kwargs):
        return self.done


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([False] * 6, [False] * 6),
        ([False, True, False, False, False, False], [True] * 3 + [False] * 3),
        ([False] * 5 + [True], [False] * 3 + [True] * 3),
        ([True] * 6, [True] * 6),
    ],
)
def test_one_channel_ends_its_sample(said, expected):
    """A channel was padded while the others of its sample continued."""
    assert DiaSampleStoppingCriteria(Say(torch.tensor(said)), 3)(IDS, None).tolist() == expected


@pytest.mark.parametrize("said", [True, False])
def test_one_word_for_all(said):
    """A criterion in the older form of transformers returns one bool."""
    assert DiaSampleStoppingCriteria(Say(said), 3)(IDS, None).tolist() == [said] * 6


def test_cancel():
    """Cancellation is polled once a step, and ends all samples."""
    answers = iter([False, True])
    criterion = DiaCancelStoppingCriteria(lambda: next(answers))
    assert criterion(IDS, None).tolist() == [False] * 6
    assert criterion(IDS, None).tolist() == [True] * 6
