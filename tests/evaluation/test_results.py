"""Metrics computed from the sentences, in a table and in JSON."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.asr.wer import WordErrors
from dia_hf.evaluation import EvaluationReport, SentenceReport, SourceReport

COUNTS = st.builds(WordErrors, *[st.integers(0, 3)] * 3, st.integers(3, 9))
HEARD = st.builds(SourceReport, st.just("so"), COUNTS)
LINES = st.lists(
    st.builds(
        SentenceReport,
        text=st.just("So."),
        seed=st.integers(0, 9),
        seconds=st.integers(0, 40).map(lambda eighths: eighths / 8),
        ended=st.booleans(),
        model=HEARD,
        codec=st.none() | HEARD,
        reference_seconds=st.none() | st.integers(1, 40).map(lambda eighths: eighths / 8),
        same_first_channel=st.booleans(),
        same_codes=st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def make_report(lines):
    return EvaluationReport({"seed": 0}, {"python": "3"}, lines, elapsed=2.0)


def make_line(errors=(0, 0, 0, 4), **fields):
    return SentenceReport(
        **{"text": "[S1] One.", "seed": 0, "seconds": 1.0, "ended": True} | fields, model=heard(errors)
    )


def heard(errors, text="one"):
    return SourceReport(text, WordErrors(*errors))


def test_metrics():
    """Word errors were averaged by sentence, or lengths and codes included sentences without a reference."""
    lines = [
        make_line((1, 2, 0, 4), reference=heard((0, 0, 1, 4)), codec=heard((1, 0, 0, 4)), reference_seconds=1.5),
        make_line((0, 0, 0, 6), seconds=3.0, ended=False),
        make_line(
            seconds=2.0,
            codec=heard((0, 0, 0, 4)),
            reference_seconds=1.75,
            within_a_frame=True,
            same_first_channel=True,
            same_codes=False,
        ),
    ]
    metrics = make_report(lines).metrics()
    model = metrics["word_errors"]["model"]
    assert model["rate"] == 3 / 14
    assert [model[name] for name in ("substitutions", "deletions", "insertions", "words", "sentences")] == [
        1,
        2,
        0,
        14,
        3,
    ]
    assert 0 <= model["low"] <= 3 / 14 <= model["high"] <= 3 / 4
    assert metrics["word_errors"]["reference"]["rate"] == 1 / 4
    assert metrics["word_errors"]["codec"]["rate"] == 1 / 8
    assert metrics["end"] == {"ended": pytest.approx(2 / 3), "seconds": 6.0}
    assert metrics["length"] == {
        "difference": pytest.approx(-0.125),
        "absolute_difference": pytest.approx(0.375),
        "within_a_frame": 1.0,
        "sentences": 2,
    }
    assert metrics["codes"] == {"same_first_channel": 1.0, "same_codes": 0.0, "sentences": 1}
    assert metrics["speed"] == {"elapsed": 2.0, "real_time": 3.0}


@given(LINES, st.integers())
def test_the_order_does_not_matter(lines, seed):
    """The metrics, or the interval, depended on the order of the sentences."""
    shuffled = random.Random(seed).sample(lines, len(lines))
    ours, theirs = (flatten(make_report(some).metrics()) for some in (lines, shuffled))
    assert ours == pytest.approx(theirs)


def flatten(metrics, prefix=""):
    flat = {}
    for name, value in metrics.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return {name: -1.0 if value is None else value for name, value in flat.items()}


@given(LINES)
def test_an_interval_is_of_the_same_figures(lines):
    """The confidence interval was computed from other numbers than its rate."""
    row = make_report(lines).metrics()["word_errors"]["model"]
    rates = [line.model.errors.errors / line.model.errors.words for line in lines]
    assert min(rates) <= row["low"] <= row["high"] <= max(rates)
    assert min(rates) <= row["rate"] <= max(rates)


def test_more_sentences_make_a_narrower_interval():
    """An interval that does not narrow with more sentences resamples words, or nothing."""
    few, many = (
        make_report([make_line((place % 2, 0, 0, 4)) for place in range(count)]).metrics()["word_errors"]["model"]
        for count in (10, 1000)
    )
    assert few["rate"] == many["rate"] == 1 / 8
    assert 0 < 8 * (many["high"] - many["low"]) < 8 * 0.02 < few["high"] - few["low"] + 0.1


@given(LINES)
def test_the_table(lines):
    """A row was missing or out of order, or the table was too wide for a terminal."""
    report = make_report(lines)
    table = report.table().splitlines()
    rows = [line.split("|")[1].strip() for line in table if line.startswith("|")]
    assert rows[0] == "source" and set(rows[1]) == {":", "-"}
    assert rows[2:] == [*["codec"] * any(line.codec for line in lines), "model"]
    assert all(len(line) <= 100 for line in table)
    assert len({len(line) for line in table if line.startswith("|")}) == 1
    has_codes = any(line.same_codes is not None for line in lines)
    assert any("in channel 0" in line for line in table) == has_codes


def test_the_file(tmp_path):
    """The file lacked a sentence's fields, or was ASCII-escaped or no plain JSON."""
    report = make_report([make_line((1, 0, 0, 4), reference=heard((0, 0, 0, 4), "grüße"))])
    report.save(tmp_path / "new" / "report.json")
    text = (tmp_path / "new" / "report.json").read_text("utf-8")
    content = json.loads(text)
    assert content == report.to_dict()
    assert set(content) == {"settings", "versions", "metrics", "definitions", "sentences"}
    assert content["sentences"][0]["model"]["errors"]["substitutions"] == 1
    assert content["sentences"][0]["model"]["measures"]["wer"] == {"total": 1, "weight": 4, "value": 0.25}
    assert content["definitions"]["wer"]["better"] == "lower"
    assert "grüße" in text
