"""The figures of `benchmarks/serving_load.py`."""

import pytest

from dia_hf.bench.serving import AnswerFigures, LoadFigures, measure_load
from serving_load import find_figures, saturated_rate


def load(
    kind: str, many: float, arrivals: list[float], seconds: float, audible: float, **changes: object
) -> LoadFigures:
    answers = [AnswerFigures(arrival, 0.0, audible, audible, audible, 1.0, 2.0, 0, 0.0, None) for arrival in arrivals]
    figures = measure_load(kind, many, seconds, answers)
    for name, value in changes.items():
        setattr(figures, name, value)
    return figures


def test_the_idle_end_is_no_part_of_the_saturated_rate():
    """The last answers of a closed loop, when clients were idle already, lowered the rate, and so the open loop's."""
    closed = load("concurrency", 2, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0], 60.0, 0.1)
    assert saturated_rate(closed) == 2.0


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"num_underruns": 1}, ["underruns at 60% of saturation, in sum"]),
        ({"errors": {"500": 1}}, ["errors, in sum"]),
    ],
)
def test_a_missed_aim_is_named(changes, missed):
    """An underrun or a failed request in one of the iterations was lost in the median."""
    alone, full = load("concurrency", 1, [0.0] * 4, 8.0, 0.1), load("concurrency", 8, [0.0] * 16, 8.0, 0.2)
    theirs, steady = load("concurrency", 1, [0.0] * 4, 8.0, 1.0), load("rate", 3, [0.0] * 16, 8.0, 0.1)
    spoiled = load("rate", 3, [0.0] * 16, 8.0, 0.1, **changes)
    figures = find_figures([[alone, full, theirs, steady]] * 2 + [[alone, full, theirs, spoiled]])
    assert [figure.value for figure in figures[:3]] == pytest.approx([4.0, 4.0, 2.0])
    assert [figure.name for figure in figures if not figure.is_met] == missed
