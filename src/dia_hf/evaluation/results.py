"""What was measured, sentence by sentence, and what it comes to: metrics, a table for people, JSON for programs.

Measures nothing.
"""

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
    """What the recognizer wrote down.

    Args:
        text (`str`): Its words.
        errors (`WordErrors`): Against what was to be said.
    """

    text: str
    errors: WordErrors


@dataclass(frozen=True)
class SentenceReport:
    """A sentence.

    Args:
        text (`str`): What was to be said.
        seed (`int`): Of its noise.
        seconds (`float`): How long the model spoke.
        ended (`bool`): Whether it ended by itself, not by the limit.
        model (`Transcript`): What was heard of the model.
        reference (`Transcript`, *optional*): What was heard of the recording.
        codec (`Transcript`, *optional*): Of the reference after the codec: an upper bound for the model.
        reference_seconds (`float`, *optional*): How long the reference is: its codes, or else the recording.
        within_a_frame (`bool`, *optional*): Whether the model spoke as long as the reference codes, to one frame.
        same_first_channel, same_codes (`bool`, *optional*): Whether its codes in channel 0, and in all channels, are
            those of the reference.
        file (`str`, *optional*): Where what it said was kept.
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
    """An evaluation.

    Args:
        settings (`dict`): How it was done.
        versions (`dict[str, str]`): With what.
        sentences (`list[SentenceReport]`): In their order.
        elapsed (`float`): Seconds that speaking took, codec included, recognizer not.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    sentences: list[SentenceReport]
    elapsed: float

    def metrics(self) -> dict[str, Any]:
        """Sum up.

        Returns:
            `dict`: `word_errors`, of `reference`, `codec` and `model` as far as there are such: `rate` with its 95 %
            interval (`low`, `high`: percentiles of a bootstrap over sentences, the same each time), `substitutions`,
            `deletions`, `insertions`, `words`, `sentences`; `end`: share that `ended` and `seconds`; `length`, against
            references: `difference` and `absolute_difference` in seconds (means), share `within_a_frame`, `sentences`;
            `codes`, against reference codes: shares `same_first_channel` and `same_codes`, `sentences`; `speed`:
            `elapsed` seconds and `real_time`, seconds of speech in a second. `None` for what has no reference.
        """
        lines = self.sentences
        sources = {
            name: [heard.errors for line in lines if (heard := getattr(line, name)) is not None] for name in _SOURCES
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
        """Return all of it as JSON can carry it: `settings`, `versions`, `metrics` and `sentences`."""
        return {
            "settings": self.settings,
            "versions": self.versions,
            "metrics": self.metrics(),
            "sentences": [asdict(line) for line in self.sentences],
        }

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_dict` to a file.

        Raises:
            OSError: If it cannot be written; what was there before is still there.
        """
        with atomic_write(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")

    def table(self) -> str:
        """Lay out the figures as Markdown: a row for reference, codec and model each, and lines for the rest."""
        metrics = self.metrics()
        rows = [["heard of", "word errors", "95 %", "wrong", "missing", "extra", "words"]]
        for name in _SOURCES:
            if (row := metrics["word_errors"][name]) is not None:
                interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
                counts = (row["substitutions"], row["deletions"], row["insertions"], row["words"])
                rows.append([name, f"{100 * row['rate']:.1f} %", interval, *map(str, counts)])
        end, length, codes = metrics["end"], metrics["length"], metrics["codes"]
        lines = [
            _markdown(rows),
            "",
            f"- {len(self.sentences)} sentences, {end['seconds']:.1f} s; {end['ended']:.1%} ended by themselves",
        ]
        if length is not None:
            within = "" if codes is None else f"; {length['within_a_frame']:.1%} within one frame"
            lines.append(
                f"- length against the reference: {length['difference']:+.3f} s in the mean, "
                f"{length['absolute_difference']:.3f} s off{within}"
            )
        if codes is not None:
            lines.append(
                f"- codes of the reference: {codes['same_first_channel']:.1%} in channel 0, {codes['same_codes']:.1%} "
                "in all channels"
            )
        lines.append(f"- {metrics['speed']['real_time']:.2f} × real time, codec included")
        return "\n".join(lines)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _sum_up(counts: Sequence[WordErrors]) -> dict[str, Any]:
    """Sum up the word errors of some sentences, whatever their order."""
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
    """Align a table whose first row is its head, names on the left and numbers on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [f":{'-' * (width - 1)}" if place == 0 else f"{'-' * (width - 1)}:" for place, width in enumerate(widths)]
    lines = []
    for first, *others in [rows[0], rule, *rows[1:]]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
