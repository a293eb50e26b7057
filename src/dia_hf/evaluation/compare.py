"""Comparison of two evaluations of the same sentences: differences of all metrics, with intervals and tests.

Both are paired by sentence. The interval of a difference is a bootstrap over sentences, which draws a sentence's two
measures together. The test is a permutation test: if both were alike, a sentence's two measures could be exchanged; p
is the share of exchanges whose difference is at least as large (Phipson and Smyth 2010). A side is better where p stays
below 5 % after Holm's correction (1979) for the number of metrics that have a better side.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..atomic_write import atomic_write
from ..text_files import read_json, shortened
from .metrics import CONFIDENCE, METRICS, blocks, resample
from .results import markdown_table

__all__ = ["Comparison", "Difference", "compare"]

_NUM_EXCHANGES = 10_000
_LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between two evaluations.

    Args:
        metric (`str`): Name in `METRICS`.
        first, second (`float`): Values over the sentences that both have measured.
        difference (`float`): The second minus the first.
        low, high (`float`): 95 % confidence interval of the difference.
        p (`float`): Of the paired permutation test, without correction.
        sentences (`int`): Sentences that both have measured.
        better (`str`, *optional*): "first" or "second", `None` for no significant difference or a metric without a
            better side.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    sentences: int
    better: Literal["first", "second"] | None = None


@dataclass(frozen=True)
class Comparison:
    """Two evaluations of the same sentences.

    Args:
        names (`tuple[str, str]`): What they are called.
        sentences (`int`): Sentences of both.
        differences (`list[Difference]`): In the order of `METRICS`.
    """

    names: tuple[str, str]
    sentences: int
    differences: list[Difference]

    def table(self) -> str:
        """Return a Markdown table of the differences."""
        rows = [["metric", "A", "B", "B − A", "95 %", "p", "better"]]
        for row in self.differences:
            metric = METRICS[row.metric]
            first, second, low, high = map(metric.number, (row.first, row.second, row.low, row.high))
            change, p = metric.number(row.difference), f"{row.p:.4f}" if row.p >= 1e-4 else "< 0.0001"
            better = {"first": "A", "second": "B", None: "" if metric.better is None else "–"}[row.better]
            rows.append([metric.heading, first, second, change, f"{low} to {high}", p, better])
        head = f"A: {self.names[0]}\nB: {self.names[1]}\n{self.sentences} sentences\n\n"
        return head + markdown_table(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON-serializable values."""
        return asdict(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_dict` to a file.

        Raises:
            OSError: If it cannot be written; an existing file is kept then.
        """
        with atomic_write(path) as beside:
            content = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
            beside.write_text(content, "utf-8", "backslashreplace")  # lone surrogates, of file names


def compare(
    first: Mapping[str, Any] | str | os.PathLike,
    second: Mapping[str, Any] | str | os.PathLike,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """Compare two evaluations of the same sentences.

    Args:
        first, second (`Mapping`, `str` or `os.PathLike`): Each is a file of `EvaluationReport.save`, or what its
            `to_dict` returns.
        names (`tuple[str, str]`, *optional*): What to call them; their files unless given.

    Returns:
        `Comparison`: Of the metrics that both have measured.

    Raises:
        ValueError: If a file is no evaluation, or the sentences differ; the error names one.
        OSError: If a file cannot be read.

    Example:
    ```python
    >>> from dia_hf.evaluation.compare import compare
    >>> def run(*wrong):
    ...     rows = enumerate(wrong)
    ...     measures = [{"wer": {"total": number, "weight": 10}} for number in wrong]
    ...     return {"sentences": [{"id": str(i), "text": "", "model": {"measures": measures[i]}} for i, _ in rows]}
    >>> row = compare(run(5, 4, 3, 5, 4, 5, 3), run(1, 0, 1, 1, 0, 1, 0)).differences[0]
    >>> row.metric, round(row.difference, 3), row.better
    ('wer', -0.357, 'second')

    ```
    """
    found = [_read(one) for one in (first, second)]
    if names is None:
        names = _name_of(first, "A"), _name_of(second, "B")
    _check_same(found[0], found[1], names)
    rows: list[Difference] = []
    for metric in METRICS:
        pairs = [
            (mine[metric], theirs[metric])
            for key, mine in found[0].items()
            if metric in mine and metric in (theirs := found[1][key])
        ]
        if (row := _compare_metric(metric, pairs)) is not None:
            rows.append(row)
    return Comparison(names, len(found[0]), _correct(rows))


def _name_of(given: Mapping[str, Any] | str | os.PathLike, name: str) -> str:
    return os.fspath(given) if isinstance(given, str | os.PathLike) else name


def _read(given: Mapping[str, Any] | str | os.PathLike) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """Return the measures of each sentence, by its name and text."""
    name = _name_of(given, "what is given")
    try:
        content = read_json(given) if isinstance(given, str | os.PathLike) else given
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {name!r}; give a file of `dia-hf evaluate --output`.") from error
    measures: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
    try:
        for place, line in enumerate(content["sentences"]):
            key = str(line.get("id", place)), str(line["text"])
            if key in measures:
                raise ValueError(f"{name} has the sentence {key[0]!r} twice; it cannot be paired.")
            measures[key] = {
                metric: (_number(one["total"]), _number(one["weight"]))
                for metric, one in line["model"]["measures"].items()
            }
    except KeyError as error:
        raise ValueError(
            f"{name} is no evaluation: it lacks {error}; give a file of `dia-hf evaluate --output`."
        ) from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{name} is no evaluation: its fields are not those of one ({error}); give a file of `dia-hf evaluate "
            "--output`."
        ) from error
    if not measures:
        raise ValueError(f"{name} has no sentences.")
    if not all(math.isfinite(x) for one in measures.values() for pair in one.values() for x in pair):
        raise ValueError(f"{name} has measures that are not finite.")
    if any(weight < 0 for one in measures.values() for _, weight in one.values()):
        raise ValueError(f"{name} has measures with weights below 0.")
    return measures


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{shortened(value)} is no number")
    return float(value)


def _check_same(first: Mapping[Any, Any], second: Mapping[Any, Any], names: tuple[str, str]) -> None:
    for mine, theirs, name, other in ((first, second, *names), (second, first, *reversed(names))):
        for key, text in mine:
            if (key, text) not in theirs:
                raise ValueError(
                    f"the sentence {key!r} of {name} ({text[:60]!r}) is not in {other}; compare evaluations of the "
                    "same sentences."
                )


def _compare_metric(name: str, pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> Difference | None:
    measures = np.array(sorted(pairs), dtype=np.float64).reshape(-1, 2, 2)  # sentence, side, total and weight
    if not (measures.sum(0)[:, 1] > 0).all():
        return None
    first, second = (float(total / weight) for total, weight in measures.sum(0))
    low, high = _interval(measures)
    return Difference(name, first, second, second - first, low, high, _p_value(measures), len(measures))


def _interval(measures: np.ndarray) -> tuple[float, float]:
    """Return the percentiles of the difference where sentences are drawn with replacement."""
    sums = resample(measures)
    sums = sums[(sums[:, :, 1] > 0).all(1)]
    values = sums[:, :, 0] / sums[:, :, 1]
    low, high = np.percentile(values[:, 1] - values[:, 0], CONFIDENCE)
    return float(low), float(high)


def _p_value(measures: np.ndarray) -> float:
    """Return the p-value of the two-sided permutation test; exact where there are at most 13 sentences."""
    number = len(measures)
    base, change = measures[:, 0].sum(0), measures[:, 1] - measures[:, 0]
    total = measures.sum((0, 1))
    is_exact = number <= int(math.log2(_NUM_EXCHANGES))

    def size_of(exchanged: np.ndarray) -> np.ndarray:
        """Return the size of the difference for rows of exchanges `[rows, sentences]`."""
        first = base + exchanged @ change
        second = total - first
        with np.errstate(invalid="ignore", divide="ignore"):
            sizes = np.abs(second[:, 0] / second[:, 1] - first[:, 0] / first[:, 1])
        return np.where((first[:, 1] > 0) & (second[:, 1] > 0), sizes, 0.0)

    least = size_of(np.zeros((1, number)))[0] * (1 - 1e-9)
    if is_exact:
        bits = (np.arange(2**number)[:, None] >> np.arange(number)) & 1
        return float((size_of(bits.astype(np.float64)) >= least).mean())
    draw, count = np.random.default_rng(0), 1
    for size in blocks(_NUM_EXCHANGES, number):
        count += int((size_of(draw.integers(0, 2, (size, number)).astype(np.float64)) >= least).sum())
    return count / (_NUM_EXCHANGES + 1)


def _correct(rows: list[Difference]) -> list[Difference]:
    """Set who is better by Holm's step-down correction over the metrics that have a better side."""
    tested = sorted((row for row in rows if METRICS[row.metric].better is not None), key=lambda row: row.p)
    better: dict[str, Literal["first", "second"]] = {}
    for place, row in enumerate(tested):
        if row.p > _LEVEL / (len(tested) - place) or row.difference == 0:
            break
        is_second = (row.difference < 0) == (METRICS[row.metric].better == "lower")
        better[row.metric] = "second" if is_second else "first"
    return [Difference(**{**vars(row), "better": better.get(row.metric)}) for row in rows]
