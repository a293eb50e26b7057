"""Results of an evaluation: measures per sentence, metrics over all, a table and JSON. Filled by `evaluate.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..asr.recognizers import HeardWord
from ..asr.wer import WordErrors
from ..atomic_write import atomic_write
from .metrics import METRICS, Measure, Summary, summarize

__all__ = ["SOURCES", "EvaluationReport", "SentenceReport", "SourceReport", "markdown_table"]

SOURCES = ("reference", "codec", "model")
"""What is judged: recordings, these through the codec, and the generated speech."""


@dataclass(frozen=True)
class SourceReport:
    """Judgement of one sentence in one source.

    Args:
        text (`str`): Transcript by the recognizer.
        errors (`WordErrors`): Word errors relative to the sentence.
        seconds (`float`, *optional*): Duration.
        file (`str`, *optional*): Audio file.
        words (`list[HeardWord]`, *optional*): Words of the sentence where the alignment found them.
        measures (`dict[str, Measure]`): Value of each metric of `METRICS` that was measured.
    """

    text: str
    errors: WordErrors
    seconds: float | None = None
    file: str | None = None
    words: list[HeardWord] | None = None
    measures: dict[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class SentenceReport:
    """Results of one sentence.

    Args:
        text (`str`): Text of the sentence.
        seed (`int`, *optional*): Random seed; `None` for audio that existed.
        seconds (`float`): Duration of the judged speech.
        ended (`bool`, *optional*): Whether speech ended before the limit; `None` for audio that existed.
        model (`SourceReport`): Judgement of the generated speech, or of the audio that existed.
        reference (`SourceReport`, *optional*): Judgement of the recording.
        codec (`SourceReport`, *optional*): Judgement of the reference after the codec: an upper bound for the model.
        reference_seconds (`float`, *optional*): Duration of the reference codes, or else of the recording.
        within_a_frame (`bool`, *optional*): Whether the length equals that of the reference codes within one frame.
        same_first_channel, same_codes (`bool`, *optional*): Whether the codes of channel 0, and of all channels, equal
            those of the reference.
        id (`str`): Name of the sentence: that of its source, or its number.
    """

    text: str
    seed: int | None
    seconds: float
    ended: bool | None
    model: SourceReport
    reference: SourceReport | None = None
    codec: SourceReport | None = None
    reference_seconds: float | None = None
    within_a_frame: bool | None = None
    same_first_channel: bool | None = None
    same_codes: bool | None = None
    id: str = ""


@dataclass(frozen=True)
class EvaluationReport:
    """Results of an evaluation.

    Args:
        settings (`dict`): Settings of the evaluation.
        versions (`dict[str, str]`): Package versions.
        sentences (`list[SentenceReport]`): Results per sentence, in order.
        elapsed (`float`, *optional*): Seconds for generation, including the codec and without the judges; `None` for
            audio that existed.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    sentences: list[SentenceReport]
    elapsed: float | None = None

    def metrics(self) -> dict[str, Any]:
        """Compute metrics over all sentences.

        Returns:
            `dict`: `measures`: for each measured metric of `METRICS`, its `Summary` of `reference`, `codec` and
            `model`, where available, as a dictionary. `word_errors` of the same sources: `rate` with its 95 %
            confidence interval (`low`, `high`: percentiles of a bootstrap over sentences with a fixed seed),
            `substitutions`, `deletions`, `insertions`, `words`, `sentences`; `end`: fraction that `ended` (`None` for
            audio that existed), and `seconds`; `length` relative to references: mean `difference` and
            `absolute_difference` in seconds, fraction `within_a_frame`, `sentences`; `codes` relative to reference
            codes: fractions `same_first_channel` and `same_codes`, `sentences`; `speed`: `elapsed` seconds, and
            `real_time`, seconds of speech per second. `None` without references, and `speed` for audio that existed.
        """
        lines = self.sentences
        sources = {
            name: [source.errors for line in lines if (source := getattr(line, name)) is not None] for name in SOURCES
        }
        lengths = [line.seconds - line.reference_seconds for line in lines if line.reference_seconds is not None]
        coded = [line for line in lines if line.same_codes is not None]
        seconds = sum(line.seconds for line in lines)
        return {
            "measures": self._summaries(),
            "word_errors": {name: _sum_up(errors) if errors else None for name, errors in sources.items()},
            "end": {"ended": _mean([line.ended for line in lines if line.ended is not None]), "seconds": seconds},
            "length": {
                "difference": _mean(lengths),
                "absolute_difference": _mean([abs(length) for length in lengths]),
                "within_a_frame": _mean([bool(line.within_a_frame) for line in coded]),
                "sentences": len(lengths),
            }
            if lengths
            else None,
            "codes": {
                "same_first_channel": _mean([bool(line.same_first_channel) for line in coded]),
                "same_codes": _mean([bool(line.same_codes) for line in coded]),
                "sentences": len(coded),
            }
            if coded
            else None,
            "speed": None
            if self.elapsed is None
            else {"elapsed": self.elapsed, "real_time": seconds / self.elapsed if self.elapsed else None},
        }

    def measures(self, metric: str, source: str = "model") -> list[Measure | None]:
        """Return a metric's measure in each sentence, in order; `None` where it was not measured.

        Args:
            metric (`str`): Name in `METRICS`.
            source (`str`, defaults to `"model"`): One of `SOURCES`.

        Raises:
            ValueError: If there is no such metric or source.
        """
        if metric not in METRICS or source not in SOURCES:
            raise ValueError(
                f"there is no metric {metric!r} of {source!r}; metrics are {', '.join(METRICS)}, of "
                f"{', '.join(SOURCES)}."
            )
        judged = [getattr(line, source) for line in self.sentences]
        return [None if one is None else _measures_of(one).get(metric) for one in judged]

    def _summaries(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        found: dict[str, dict[str, dict[str, Any] | None]] = {}
        for metric in METRICS:
            row: dict[str, Summary | None] = {
                source: summarize([one for one in self.measures(metric, source) if one is not None])
                for source in SOURCES
            }
            if any(row.values()):
                found[metric] = {source: None if one is None else asdict(one) for source, one in row.items()}
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON-serializable values.

        Returns:
            `dict`: `settings`, `versions`, `metrics`, `definitions`: `title`, `unit`, `better` ("lower", "higher" or
            `None`) and `meaning` of each measured metric; and `sentences`, in which each source has `measures`, by
            metric: `total`, `weight` and their quotient, `value`.
        """
        metrics = self.metrics()
        sentences = []
        for line in self.sentences:
            row = asdict(line)
            for source in SOURCES:
                if (one := getattr(line, source)) is not None:
                    measures = _measures_of(one)
                    row[source]["measures"] = {
                        name: {**asdict(measures[name]), "value": measures[name].value}
                        for name in METRICS
                        if name in measures
                    }
            sentences.append(row)
        return {
            "settings": self.settings,
            "versions": self.versions,
            "metrics": metrics,
            "definitions": {name: asdict(METRICS[name]) for name in metrics["measures"]},
            "sentences": sentences,
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_dict` to a file.

        Raises:
            OSError: If it cannot be written; an existing file is kept then.
        """
        with atomic_write(path) as beside:
            content = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
            beside.write_text(content, "utf-8", "backslashreplace")  # lone surrogates, of file names

    def table(self) -> str:
        """Return Markdown tables of word errors and other metrics by reference, codec and model, and further lines."""
        metrics = self.metrics()
        rows = [["source", "word errors", "95 %", "substitutions", "deletions", "insertions", "words"]]
        for name in SOURCES:
            if (row := metrics["word_errors"][name]) is not None:
                interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
                counts = (row["substitutions"], row["deletions"], row["insertions"], row["words"])
                rows.append([name, f"{100 * row['rate']:.1f} %", interval, *map(str, counts)])
        judged = [source for source in SOURCES if metrics["word_errors"][source] is not None]
        others = [["metric", *judged]]
        for name, summaries in metrics["measures"].items():
            if name != "wer":
                others.append([METRICS[name].heading, *(_interval(name, summaries[source]) for source in judged)])
        end, length, codes = metrics["end"], metrics["length"], metrics["codes"]
        ended = "" if end["ended"] is None else f"; {end['ended']:.1%} ended before the limit"
        lines = [markdown_table(rows), ""]
        if len(others) > 1:
            lines += [markdown_table(others), ""]
        lines.append(f"- {len(self.sentences)} sentences, {end['seconds']:.1f} s{ended}")
        if length is not None:
            within = "" if codes is None else f"; {length['within_a_frame']:.1%} within one frame"
            lines.append(
                f"- length relative to the reference: mean {length['difference']:+.3f} s, mean absolute "
                f"{length['absolute_difference']:.3f} s{within}"
            )
        if codes is not None:
            lines.append(
                f"- codes equal to the reference: {codes['same_first_channel']:.1%} in channel 0, "
                f"{codes['same_codes']:.1%} in all channels"
            )
        if metrics["speed"] is not None and metrics["speed"]["real_time"] is not None:
            lines.append(f"- {metrics['speed']['real_time']:.2f} × real time, codec included")
        return "\n".join(lines)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _measures_of(source: SourceReport) -> dict[str, Measure]:
    return {"wer": _as_measure(source.errors), **source.measures}


def _as_measure(errors: WordErrors) -> Measure:
    return Measure(errors.errors, errors.words)


def _sum_up(counts: Sequence[WordErrors]) -> dict[str, Any] | None:
    """Summarize the word errors of sentences, independently of their order; `None` without words."""
    if (summary := summarize(map(_as_measure, counts))) is None:
        return None
    kinds = ("substitutions", "deletions", "insertions")
    return {
        "rate": summary.value,
        "low": summary.low,
        "high": summary.high,
        **{kind: sum(getattr(count, kind) for count in counts) for kind in kinds},
        "words": int(summary.weight),
        "sentences": summary.sentences,
    }


def _interval(name: str, summary: dict[str, Any] | None) -> str:
    """Write a summary as text: the value, and its interval in brackets."""
    if summary is None:
        return ""
    value, low, high = (METRICS[name].number(summary[part]) for part in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as an aligned Markdown table; the first row is the header, the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [f":{'-' * (width - 1)}" if place == 0 else f"{'-' * (width - 1)}:" for place, width in enumerate(widths)]
    lines = []
    for first, *others in [rows[0], rule, *rows[1:]]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
