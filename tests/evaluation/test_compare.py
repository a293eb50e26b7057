"""Comparison of two evaluations."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from dia_hf.evaluation.compare import compare


def run(rows, metric="wer"):
    """An evaluation whose sentences have these totals and weights."""
    sentences = [
        {
            "id": f"{place}",
            "text": f"[S1] {place}.",
            "model": {"measures": {metric: {"total": total, "weight": weight}}},
        }
        for place, (total, weight) in enumerate(rows)
    ]
    return {"sentences": sentences}


def test_intervals_and_tests_are_those_of_definitions():
    """The two sides of a sentence were drawn apart, which hides a difference that every sentence has."""
    draw = np.random.default_rng(1)
    hard = draw.uniform(0, 50, 40)  # sentences differ much more than the sides
    first, second = [(x, 1.0) for x in hard], [(x - 1 + draw.normal(0, 0.3), 1.0) for x in hard]
    row = compare(run(first, "dnsmos"), run(second, "dnsmos")).differences[0]
    change = np.array([b[0] - a[0] for a, b in zip(first, second, strict=True)])
    assert row.difference == pytest.approx(change.mean())
    margin = 1.96 * change.std() / np.sqrt(len(change))
    assert (row.low, row.high) == pytest.approx((change.mean() - margin, change.mean() + margin), abs=0.02)
    assert row.p < 0.001 and row.better == "first"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=7))
@settings(max_examples=40, deadline=None)
def test_p_is_that_of_scipy(pairs):
    """Exchanges of some sentences were counted twice, or only in one direction."""
    first, second = [(float(a), 1.0) for a, _ in pairs], [(float(b), 1.0) for _, b in pairs]
    row = compare(run(first, "dnsmos"), run(second, "dnsmos")).differences[0]
    expected = permutation_test(
        ([a for a, _ in first], [b for b, _ in second]),
        lambda x, y, axis: np.abs(np.mean(y, axis=axis) - np.mean(x, axis=axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert row.p == pytest.approx(expected.pvalue)


def test_p_of_a_ratio_counts_all_exchanges():
    """Word errors were tested as the mean of the sentences' rates."""
    first, second = [(5, 10), (0, 2), (3, 4), (9, 9)], [(4, 10), (2, 2), (1, 4), (0, 9)]
    sizes = []
    for swaps in itertools.product([0, 1], repeat=4):
        a = [pair[swap] for pair, swap in zip(zip(first, second, strict=True), swaps, strict=True)]
        b = [pair[1 - swap] for pair, swap in zip(zip(first, second, strict=True), swaps, strict=True)]
        rates = [sum(t for t, _ in side) / sum(w for _, w in side) for side in (a, b)]
        sizes.append(abs(rates[1] - rates[0]))
    row = compare(run(first), run(second)).differences[0]
    assert row.p == pytest.approx(np.mean([size >= sizes[0] - 1e-12 for size in sizes]))


def test_a_drawn_test_is_near_the_exact_one():
    """The drawn exchanges of more sentences were not even."""
    rows = [(x % 3, 1) for x in range(14)]
    other = [(x % 2, 1) for x in range(14)]
    drawn = compare(run(rows), run(other)).differences[0].p
    exact = compare(run(rows[:13]), run(other[:13])).differences[0].p
    assert 0 < drawn <= 1 and 0 < exact <= 1
    assert compare(run(rows), run(rows)).differences[0].p == 1.0


def test_many_metrics_are_corrected():
    """Of twenty metrics without a difference one was told to be better."""
    draw, names = np.random.default_rng(3), ["wer", "cpwer", "attribution", "sim", "dnsmos", "silent", "truncated"]
    reports = [{"sentences": []}, {"sentences": []}]
    for place in range(30):
        for report in reports:
            measures = {name: {"total": draw.normal(), "weight": 1.0} for name in names}
            measures["pace"] = {"total": draw.normal() + 5 * (report is reports[1]), "weight": 1.0}
            report["sentences"].append({"id": str(place), "text": "", "model": {"measures": measures}})
    found = compare(*reports)
    assert [row.better for row in found.differences] == [None] * 8
    assert next(row for row in found.differences if row.metric == "pace").p < 0.001  # without a better side


def test_the_order_of_files_and_sentences_changes_nothing(tmp_path):
    """Sentences were paired by their place."""
    first, second = run([(3, 4), (0, 5), (2, 6)]), run([(1, 4), (0, 5), (0, 6)])
    (tmp_path / "a.json").write_text(json.dumps(first), "utf-8")
    second["sentences"].reverse()
    found = compare(tmp_path / "a.json", second)
    back = compare(second, first)
    assert found.names == (str(tmp_path / "a.json"), "B")
    row, other = found.differences[0], back.differences[0]
    assert (row.difference, row.p) == (pytest.approx(-other.difference), other.p)
    assert found.table().splitlines()[4].startswith("| metric")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report["sentences"].pop(), "is not in B"),
        (lambda report: report["sentences"][0].update(text="Other."), "is not in"),
        (lambda report: report["sentences"].append(report["sentences"][0]), "twice"),
        (lambda report: report.clear(), "is no evaluation"),
        (lambda report: report["sentences"].clear(), "has no sentences"),
        (lambda report: report["sentences"][0]["model"].clear(), "is no evaluation"),
        (
            lambda report: report["sentences"][0]["model"]["measures"].update(wer={"total": float("nan"), "weight": 1}),
            "finite",
        ),
        (lambda report: report["sentences"].insert(0, "a"), "is no evaluation: its fields are not"),
        *(
            (
                lambda report, total=total: report["sentences"][0]["model"]["measures"]["wer"].update(total=total),
                "is no evaluation: its fields are not",
            )
            for total in (None, "1", 10**400)
        ),
        (lambda report: report["sentences"][0]["model"]["measures"]["wer"].update(weight=-1), "weights below 0"),
    ],
)
def test_what_cannot_be_compared_is_told(change, message):
    """Sentences of one side were left out without a word; a number too large, or a text, gave an error of Python's."""
    report = run([(1, 2), (1, 3)])
    change(report)
    with pytest.raises(ValueError, match=message):
        compare(run([(1, 2), (1, 3)]), report)
