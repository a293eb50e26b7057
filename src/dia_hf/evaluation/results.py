"""Results of an evaluation: values per sentence, metrics over all, a table and JSON. Filled by `evaluate.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..asr.wer import WordErrors
from ..atomic_write import atomic_write

__all__ = ["EvaluationReport", "SentenceReport", "Transcript"]

_NUM_RESAMPLES = 2000
_CONFIDENCE = (2.5, 97.5)  # percentiles
_SOURCES = ("reference", "codec", "model")


@dataclass(frozen=True)
class Transcript:
    """Transcript by the recognizer.

    Args:
        text (`str`): Recognized text.
        errors (`WordErrors`): Word errors relative to the sentence.
    """

    text: str
    errors: WordErrors


@dataclass(frozen=True)
class SentenceReport:
    """Results of one sentence.

    Args:
        text (`str`): Text of the sentence.
        seed (`int`): Random seed.
        seconds (`float`): Duration of the generated speech.
        ended (`bool`): Whether speech ended before the limit.
        model (`Transcript`): Transcript of the generated speech.
        reference (`Transcript`, *optional*): Transcript of the recording.
        codec (`Transcript`, *optional*): Transcript of the reference after the codec: an upper bound for the model.
        reference_seconds (`float`, *optional*): Duration of the reference codes, or else of the recording.
        within_a_frame (`bool`, *optional*): Whether the length equals that of the reference codes within one frame.
        same_first_channel, same_codes (`bool`, *optional*): Whether the codes of channel 0, and of all channels, equal
            those of the reference.
        file (`str`, *optional*): File of the generated speech.
    """

    text: str
    seed: int
    seconds: float
    ended: bool
    model: Transcript
    reference: Transcript | None = None
    codec: Transcript | None = None
    reference_seconds: float | None = None
    within_a_frame: bool | None = None
    same_first_channel: bool | None = None
    same_codes: bool | None = None
    file: str | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """Results of an evaluation.

    Args:
        settings (`dict`): Settings of the evaluation.
        versions (`dict[str, str]`): Package versions.
        sentences (`list[SentenceReport]`): Results per sentence, in order.
        elapsed (`float`): Seconds for generation, including the codec and without the recognizer.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    sentences: list[SentenceReport]
    elapsed: float

    def metrics(self) -> dict[str, Any]:
        """Compute metrics over all sentences.

        Returns:
            `dict`: `word_errors` of `reference`, `codec` and `model`, where available: `rate` with its 95 % confidence
            interval (`low`, `high`: percentiles of a bootstrap over sentences with a fixed seed), `substitutions`,
            `deletions`, `insertions`, `words`, `sentences`; `end`: fraction that `ended`, and `seconds`; `length`
            relative to references: mean `difference` and `absolute_difference` in seconds, fraction `within_a_frame`,
            `sentences`; `codes` relative to reference codes: fractions `same_first_channel` and `same_codes`,
            `sentences`; `speed`: `elapsed` seconds, and `real_time`, seconds of speech per second. `None` without
            references.
        """
        lines = self.sentences
        sources = {
            name: [transcript.errors for line in lines if (transcript := getattr(line, name)) is not None]
            for name in _SOURCES
        }
        lengths = [line.seconds - line.reference_seconds for line in lines if line.reference_seconds is not None]
        coded = [line for line in lines if line.same_codes is not None]
        seconds = sum(line.seconds for line in lines)
        return {
            "word_errors": {name: _sum_up(errors) if errors else None for name, errors in sources.items()},
            "end": {"ended": _mean([line.ended for line in lines]), "seconds": seconds},
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
            "speed": {"elapsed": self.elapsed, "real_time": seconds / self.elapsed},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON-serializable values: `settings`, `versions`, `metrics` and `sentences`."""
        return {
            "settings": self.settings,
            "versions": self.versions,
            "metrics": self.metrics(),
            "sentences": [asdict(line) for line in self.sentences],
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_dict` to a file.

        Raises:
            OSError: If it cannot be written; an existing file is kept then.
        """
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")

    def table(self) -> str:
        """Return a Markdown table with a row for reference, codec and model each, and lines for the other metrics."""
        metrics = self.metrics()
        rows = [["source", "word errors", "95 %", "substitutions", "deletions", "insertions", "words"]]
        for name in _SOURCES:
            if (row := metrics["word_errors"][name]) is not None:
                interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
                counts = (row["substitutions"], row["deletions"], row["insertions"], row["words"])
                rows.append([name, f"{100 * row['rate']:.1f} %", interval, *map(str, counts)])
        end, length, codes = metrics["end"], metrics["length"], metrics["codes"]
        lines = [
            _markdown(rows),
            "",
            f"- {len(self.sentences)} sentences, {end['seconds']:.1f} s; {end['ended']:.1%} ended before the limit",
        ]
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
        lines.append(f"- {metrics['speed']['real_time']:.2f} × real time, codec included")
        return "\n".join(lines)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _sum_up(counts: Sequence[WordErrors]) -> dict[str, Any]:
    """Summarize the word errors of sentences, independently of their order."""
    pairs = np.array(sorted((count.errors, count.words) for count in counts))
    errors, words = pairs.sum(axis=0)
    drawn = np.random.default_rng(0).integers(0, len(pairs), (_NUM_RESAMPLES, len(pairs)))
    sums = pairs[drawn].sum(axis=1)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], _CONFIDENCE)
    kinds = ("substitutions", "deletions", "insertions")
    return {
        "rate": float(errors / words),
        "low": float(low),
        "high": float(high),
        **{kind: sum(getattr(count, kind) for count in counts) for kind in kinds},
        "words": int(words),
        "sentences": len(pairs),
    }


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as an aligned Markdown table; the first row is the header, the first column is left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [f":{'-' * (width - 1)}" if place == 0 else f"{'-' * (width - 1)}:" for place, width in enumerate(widths)]
    lines = []
    for first, *others in [rows[0], rule, *rows[1:]]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
