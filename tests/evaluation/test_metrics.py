"""Metrics: sums over sentences, and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.evaluation.metrics import METRICS, Measure, summarize

MEASURES = st.lists(st.builds(Measure, st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=9)


@given(MEASURES)
def test_a_metric_is_a_quotient_of_sums(measures):
    """A long sentence counted as much as a short one."""
    summary = summarize(measures)
    assert summary.value == pytest.approx(sum(m.total for m in measures) / sum(m.weight for m in measures))
    assert summary.low <= summary.high and summary.sentences == len(measures)
    values = [measure.value for measure in measures]
    assert min(values) - 1e-9 <= summary.low and summary.high <= max(values) + 1e-9


def test_an_interval_covers_what_it_says():
    """The interval was of another confidence than 95 %, or of a normal distribution."""
    draw, hits = np.random.default_rng(3), 0
    for _ in range(200):
        summary = summarize([Measure(float(value)) for value in draw.exponential(2.0, 60)])
        hits += summary.low <= 2.0 <= summary.high
    assert 0.88 <= hits / 200 <= 0.99


def test_nothing_to_summarize():
    """No measure, or none with a weight, was a division by zero, or a value of 0."""
    assert summarize([]) is None and summarize([Measure(2, 0)]) is None
    assert Measure(2, 0).value is None
    assert summarize([Measure(2, 0), Measure(1, 4)]).value == 3 / 4


def test_every_metric_says_what_it_is():
    """A report had a metric without a unit or a direction that its readers know."""
    for name, metric in METRICS.items():
        assert metric.name == name and metric.meaning and metric.title
        assert metric.unit in ("%", "", "s", "words/s", "1/s") and metric.better in ("lower", "higher", None)
    assert METRICS["wer"].number(0.1234) == "12.3" and METRICS["wer"].heading == "word errors, %"
    assert METRICS["pace"].number(2.347) == "2.35" and METRICS["pace"].heading == "pace, words/s"
    assert METRICS["sim"].number(0.98765) == "0.988" and METRICS["sim"].heading == "speaker similarity"
