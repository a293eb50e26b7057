"""Metrics of an evaluation: what each is called, its unit and direction, and its value with a confidence interval.

The value of every metric in a sentence is a pair of sums, `Measure`; over several sentences both are added up, so that
a long sentence counts more in word errors, and as much as any other in a mean. Knows nothing of audio and judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["CONFIDENCE", "METRICS", "Measure", "Metric", "Summary", "blocks", "resample", "summarize"]

CONFIDENCE = (2.5, 97.5)
"""Percentiles of a confidence interval."""

_NUM_RESAMPLES = 2000
_BLOCK = 1 << 22  # numbers that are drawn at once


@dataclass(frozen=True)
class Metric:
    """Metric of generated speech.

    Args:
        name (`str`): Key in reports.
        title (`str`): Name for people.
        unit (`str`): "%" for a share, which is stored as a fraction; "s", "words/s", "1/s", or "" for a score.
        better (`str`, *optional*): Direction: "lower", "higher", or `None` for a description without a better side.
        meaning (`str`): Definition.
    """

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher"] | None
    meaning: str

    @property
    def heading(self) -> str:
        """Title with the unit, such as "pace, words/s"."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def number(self, value: float) -> str:
        """Return a value as text in the metric's unit, without it; a share in percent."""
        return f"{100 * value:.1f}" if self.unit == "%" else f"{value:.{2 if self.unit else 3}f}"


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("wer", "word errors", "%", "lower", "substituted, deleted and inserted words per word of the text"),
        Metric("cpwer", "cpWER", "%", "lower", "word errors of each speaker's own words, in dialogues"),
        Metric("attribution", "attribution", "%", "higher", "turns that are in the voice of their own speaker"),
        Metric("sim", "speaker similarity", "", "higher", "cosine of the embeddings of a speaker's turns and voice"),
        Metric("dnsmos", "DNSMOS", "", "higher", "overall quality by DNSMOS P.835 (OVRL), 1 to 5"),
        Metric("dnsmos_sig", "DNSMOS speech", "", "higher", "quality of the speech by DNSMOS P.835 (SIG), 1 to 5"),
        Metric("dnsmos_bak", "DNSMOS noise", "", "higher", "absence of noise by DNSMOS P.835 (BAK), 1 to 5"),
        Metric("dnsmos_p808", "DNSMOS P.808", "", "higher", "overall quality by DNSMOS P.808, 1 to 5"),
        Metric("silent", "silent", "%", "lower", "sentences without any sound"),
        Metric("truncated", "truncated", "%", "lower", "sentences whose last words were not heard"),
        Metric("endless", "endless", "%", "lower", "sentences that did not end before the limit"),
        Metric("abrupt", "abrupt ends", "%", "lower", "sentences that sound at their last moment: a cut word"),
        Metric("lead", "silence before", "s", None, "silence at the beginning"),
        Metric("tail", "silence after", "s", None, "silence at the end"),
        Metric("pace", "pace", "words/s", None, "words of the text per second from the first sound to the last"),
        Metric("pauses", "pauses", "1/s", None, "silences of 0.25 s or more inside, per second"),
        Metric("longest_pause", "longest pause", "s", None, "longest silence inside"),
    )
}
"""Metrics by name, in the order of the table."""


@dataclass(frozen=True)
class Measure:
    """Value of a metric in one sentence: `total / weight`.

    Args:
        total (`float`): Sum, such as the wrong words, or a score itself.
        weight (`float`): Number of what is summed over, such as the words; 1 for a score. Above 0, or 0 together with
            a metric that has no value in the sentence, but a total: inserted words in a speaker's silence.
    """

    total: float
    weight: float = 1.0

    @property
    def value(self) -> float | None:
        """Value in the sentence; `None` without weight."""
        return self.total / self.weight if self.weight else None


@dataclass(frozen=True)
class Summary:
    """Value of a metric over sentences.

    Args:
        value (`float`): Sum of the totals divided by the sum of the weights.
        low, high (`float`): 95 % confidence interval: percentiles of a bootstrap over sentences with a fixed seed.
        weight (`float`): Sum of the weights.
        sentences (`int`): Sentences with a measure.
    """

    value: float
    low: float
    high: float
    weight: float
    sentences: int


def summarize(measures: Iterable[Measure]) -> Summary | None:
    """Summarize the measures of sentences, independently of their order; `None` without any, or without weight.

    Example:
    ```python
    >>> from dia_hf.evaluation.metrics import Measure, summarize
    >>> summary = summarize([Measure(1, 2), Measure(0, 8)])
    >>> summary.value, summary.low, summary.high, summary.sentences
    (0.1, 0.0, 0.5, 2)

    ```
    """
    pairs = np.array(sorted((measure.total, measure.weight) for measure in measures), dtype=np.float64).reshape(-1, 2)
    total, weight = pairs.sum(axis=0)
    if weight <= 0:
        return None
    sums = resample(pairs)
    sums = sums[sums[:, 1] > 0]
    low, high = np.percentile(sums[:, 0] / sums[:, 1], CONFIDENCE)
    return Summary(float(total / weight), float(low), float(high), float(weight), len(pairs))


def resample(measures: np.ndarray) -> np.ndarray:
    """Draw sentences with replacement, as many as there are, and sum up their measures: a bootstrap, with a fixed seed.

    Args:
        measures (`np.ndarray` of shape `[sentences, ...]`): Measures of each sentence.

    Returns:
        `np.ndarray` of shape `[2000, ...]`: Their sums in each resample.
    """
    draw, number = np.random.default_rng(0), len(measures)
    sizes = blocks(_NUM_RESAMPLES, number)
    return np.concatenate([measures[draw.integers(0, number, (size, number))].sum(axis=1) for size in sizes])


def blocks(number: int, width: int) -> list[int]:
    """Divide rows of draws into blocks that fit into memory.

    Args:
        number (`int`): Rows.
        width (`int`): Numbers in a row.

    Returns:
        `list[int]`: Rows of each block.
    """
    rows = max(_BLOCK // (4 * max(width, 1)), 1)
    return [min(rows, number - start) for start in range(0, number, rows)]
