"""Report of data preparation: kept clips, rejected rows with reasons, durations, speakers and outliers.

Formats the results of `prepare.py` as text, Markdown, JSON and plots. Reads no audio.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_write import atomic_write
from .dialogues import JoinCounts

__all__ = ["Clip", "Issue", "Outlier", "PrepareReport", "find_outliers", "plot_report", "write_jsonl"]

_NO_SPEAKER = "(no speaker)"
_SHOWN = 3  # examples per reason in the summary
# Ratio of the standard deviation to the median and the mean absolute deviation of a normal distribution.
_MEDIAN_SCALE, _MEAN_SCALE = 1.4826, 1.2533
_QUANTILES = {"least": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "most": 1.0}


@dataclass(frozen=True)
class Clip:
    """Kept clip.

    Args:
        id (`str`): Unique id.
        text (`str`): Text with its tags.
        source (`str`): File or dataset.
        row (`int`): Row in the source, from 1.
        key (`str`): Key of its codes in the cache.
        seconds (`float`): Duration after trimming.
        seconds_before (`float`): Duration of the whole recording or segment, before trimming.
        num_characters (`int`): Number of characters of the text without its tags.
        sampling_rate (`int`): Sampling rate of the recording in hertz.
        loudness (`float`, *optional*): Loudness of the recording in LUFS; `None` if it was not measured.
        speaker (`str`, *optional*): Speaker name; of a dialogue the names joined by " + ", in the order of their tags.
        speakers (`Sequence[str]`): Names of all speakers.
        session (`str`, *optional*): Conversation or recording that the clip belongs to.
    """

    id: str
    text: str
    source: str
    row: int
    key: str
    seconds: float
    seconds_before: float
    num_characters: int
    sampling_rate: int
    loudness: float | None = None
    speaker: str | None = None
    speakers: Sequence[str] = ()
    session: str | None = None

    @property
    def characters_per_second(self) -> float:
        """Speaking rate."""
        return self.num_characters / self.seconds


@dataclass(frozen=True)
class Issue:
    """Reason why a row was rejected, or a warning about a kept row.

    Args:
        source (`str`): File or dataset.
        row (`int`): Row in the source, from 1.
        id (`str`): Id of the clip.
        audio (`str`, *optional*): Audio file, if there is one.
        code (`str`): Code for programs, such as "too_long".
        reason (`str`): Message for people.
    """

    source: str
    row: int
    id: str
    audio: str | None
    code: str
    reason: str


@dataclass(frozen=True)
class Outlier:
    """Clip that differs from the others in one measure.

    Args:
        clip (`Clip`): The clip.
        measure (`str`): Name of the measure.
        deviation (`float`): Deviation from the median in robust standard deviations.
        why (`str`): Description for people.
    """

    clip: Clip
    measure: str
    deviation: float
    why: str


@dataclass(frozen=True)
class _Measure:
    """Measure by which clips are compared."""

    title: str
    unit: str
    is_ratio: bool  # compared by logarithms

    def values(self, clips: Iterable[Clip], name: str) -> np.ndarray:
        found = (getattr(clip, name) for clip in clips)
        return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


_MEASURES = {
    "seconds": _Measure("seconds", " s", is_ratio=True),
    "characters_per_second": _Measure("characters per second", " characters per second", is_ratio=True),
    "loudness": _Measure("loudness before, LUFS", " LUFS", is_ratio=False),
}


def find_outliers(clips: Sequence[Clip], count: int = 10) -> list[Outlier]:
    """Find outliers in duration, speaking rate or loudness.

    The deviation of a measure is its distance from the median in robust standard deviations (1.4826 times the median
    absolute deviation, which outliers do not inflate); the deviation of a clip is its largest. Duration and speaking
    rate are compared by their logarithms.

    Args:
        clips (`Sequence[Clip]`): All clips.
        count (`int`, defaults to 10): Maximum number of outliers.

    Returns:
        `list[Outlier]`: Outliers by decreasing deviation; clips without any deviation are left out.

    Example:
    ```python
    >>> from dia_hf.data.prepare_report import Clip, find_outliers
    >>> def clip(number, seconds):
    ...     return Clip(f"{number}", "[S1] Hello.", "metadata.csv", number, "", seconds, seconds, 10, 44100)
    >>> clips = [clip(1, 4.0), clip(2, 4.4), clip(3, 40.0), clip(4, 3.7)]
    >>> [outlier.clip.id for outlier in find_outliers(clips, count=1)]
    ['3']

    ```
    """
    if not clips:
        return []
    deviations = {}
    medians = {}
    for name, measure in _MEASURES.items():
        values = measure.values(clips, name)
        if measure.is_ratio:
            values = np.log(values)
        if np.isfinite(values).any():
            medians[name] = float(np.nanmedian(values))
            deviations[name] = _deviations(values, medians[name])
    outliers = []
    for place, clip in enumerate(clips):
        of_clip = [(float(values[place]), name) for name, values in deviations.items() if np.isfinite(values[place])]
        deviation, name = max(of_clip, key=lambda pair: abs(pair[0]), default=(0.0, ""))
        if deviation == 0:
            continue
        measure = _MEASURES[name]
        median = math.exp(medians[name]) if measure.is_ratio else medians[name]
        why = (
            f"{getattr(clip, name):.1f}{measure.unit}, {abs(deviation):.1f} robust standard deviations "
            f"{'above' if deviation > 0 else 'below'} the median of {median:.1f}"
        )
        outliers.append(Outlier(clip, name, deviation, why))
    return sorted(outliers, key=lambda outlier: -abs(outlier.deviation))[:count]


def _deviations(values: np.ndarray, median: float) -> np.ndarray:
    off = values - median
    spread = _MEDIAN_SCALE * np.nanmedian(np.abs(off))
    if spread < 1e-9:  # more than half of the values are equal
        spread = _MEAN_SCALE * np.nanmean(np.abs(off))
    return off / spread if spread >= 1e-9 else np.where(np.isnan(off), np.nan, 0.0)


@dataclass(frozen=True)
class PrepareReport:
    """Report of `prepare_dataset`; `print` it for a summary.

    Args:
        source (`str`): Name of the source.
        num_rows (`int`): Number of rows of the source.
        clips (`Sequence[Clip]`): Kept clips in the order of the source.
        rejected (`Sequence[Issue]`): Rejected rows.
        warnings (`Sequence[Issue]`): Warnings about kept clips.
        num_encoded (`int`): Number of clips encoded in this run; the codes of the others were cached.
        layout (`str`): Recognized layout and columns of the source.
        joined (`JoinCounts`, *optional*): Counts of turns that were joined, if there were any.
        notes (`Sequence[str]`): Notes about the run, such as a plot that needs matplotlib.
    """

    source: str
    num_rows: int
    clips: Sequence[Clip]
    rejected: Sequence[Issue]
    warnings: Sequence[Issue]
    num_encoded: int
    notes: Sequence[str] = ()
    layout: str = ""
    joined: JoinCounts | None = None

    @property
    def seconds(self) -> float:
        """Total duration of the kept clips in seconds."""
        return math.fsum(clip.seconds for clip in self.clips)

    @property
    def speakers(self) -> dict[str, tuple[int, float]]:
        """Number of clips and seconds by speaker, in decreasing order; clips without a speaker share one entry."""
        seconds: dict[str, list[float]] = {}
        for clip in self.clips:
            seconds.setdefault(clip.speaker if clip.speaker is not None else _NO_SPEAKER, []).append(clip.seconds)
        totals = {speaker: (len(of_clips), math.fsum(of_clips)) for speaker, of_clips in seconds.items()}
        return dict(sorted(totals.items(), key=lambda item: (-item[1][1], item[0])))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-serializable values without `num_encoded`: the same data gives the same report."""
        return {
            "version": 1,
            "source": self.source,
            "layout": self.layout,
            "joined": None if self.joined is None else self.joined.to_dict(),
            "num_rows": self.num_rows,
            "num_clips": len(self.clips),
            "seconds": round(self.seconds, 3),
            "seconds_before_trimming": round(math.fsum(clip.seconds_before for clip in self.clips), 3),
            "num_rejected": len(self.rejected),
            "rejected": dict(_count(self.rejected)),
            "warnings": dict(_count(self.warnings)),
            "speakers": {
                speaker: {"num_clips": num_clips, "seconds": round(seconds, 3)}
                for speaker, (num_clips, seconds) in self.speakers.items()
            },
            "quantiles": {name: values for name in _MEASURES if (values := self._quantiles(name)) is not None},
            "outliers": [
                {
                    "id": outlier.clip.id,
                    "source": outlier.clip.source,
                    "row": outlier.clip.row,
                    "measure": outlier.measure,
                    "deviation": round(outlier.deviation, 2),
                    "why": outlier.why,
                    "text": outlier.clip.text,
                }
                for outlier in find_outliers(self.clips)
            ],
            "notes": list(self.notes),
        }

    def _quantiles(self, name: str) -> dict[str, float] | None:
        values = _MEASURES[name].values(self.clips, name)
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        return {title: round(float(np.quantile(values, share)), 3) for title, share in _QUANTILES.items()}

    def __str__(self) -> str:
        """Return a summary for a terminal."""
        longest = max((len(code) for code, _ in (*_count(self.rejected), *_count(self.warnings))), default=0)
        kept = f"{len(self.clips)} of {self.num_rows} clips kept, {_duration(self.seconds)}"
        lines = [f"{kept}; {self.num_encoded} encoded in this run"]
        lines += [f"source: {self.layout}"] * bool(self.layout)
        lines += [] if self.joined is None else [self.joined.to_text()]
        lines += [
            f"  {speaker}: {num_clips} {'clip' if num_clips == 1 else 'clips'}, {_duration(seconds)}"
            for speaker, (num_clips, seconds) in list(self.speakers.items())[:10]
            if speaker != _NO_SPEAKER
        ]
        if len(self.speakers) > 10:
            lines.append(f"  and {len(self.speakers) - 10} more speakers")
        for title, issues in (("rejected", self.rejected), ("kept with warnings", self.warnings)):
            if issues:
                lines.append(f"{title}: {len(issues)}")
            for code, number in _count(issues):
                lines.append(f"  {code.ljust(longest)}  {number}")
                of_code = [issue for issue in issues if issue.code == code]
                lines += [f"    {issue.source} row {issue.row}: {issue.reason}" for issue in of_code[:_SHOWN]]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        content = self.to_dict()
        lines = [
            f"# {_cell(self.source)}, prepared",
            "",
            f"{len(self.clips)} of {self.num_rows} clips kept, {_duration(self.seconds)} "
            f"({_duration(content['seconds_before_trimming'])} before trimming).",
            "",
            *([f"Source: {_cell(self.layout)}", ""] if self.layout else []),
            *([] if self.joined is None else [f"{self.joined.to_text()}.", ""]),
            *_table(("", *_QUANTILES), [(_MEASURES[n].title, *q.values()) for n, q in content["quantiles"].items()]),
        ]
        for title, issues, file in (
            ("Rejected", self.rejected, "rejected.jsonl"),
            ("Kept with warnings", self.warnings, "warnings.jsonl"),
        ):
            if issues:
                first = {issue.code: issue for issue in reversed(issues)}
                rows = [
                    (f"`{code}`", number, f"{first[code].source} row {first[code].row}: {first[code].reason}")
                    for code, number in _count(issues)
                ]
                lines += [f"## {title}", "", f"All of them are in `{file}`.", ""]
                lines += _table(("reason", "rows", "first row"), rows)
        lines += ["## Speakers", ""]
        lines += _table(
            ("speaker", "clips", "duration"),
            [(speaker, number, _duration(seconds)) for speaker, (number, seconds) in self.speakers.items()],
        )
        if content["outliers"]:
            lines += ["## Outliers", "", "Listen to these clips: wrong transcripts are often among them.", ""]
            lines += _table(
                ("clip", "row", "why", "text"),
                [(o["id"], f"{o['source']} {o['row']}", o["why"], o["text"]) for o in content["outliers"]],
            )
        lines += [f"Note: {note}\n" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def _count(issues: Iterable[Issue]) -> list[tuple[str, int]]:
    """Count issues by code, in decreasing order."""
    counts = Counter(issue.code for issue in issues)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return (text if len(text) <= 120 else f"{text[:119]}…").replace("\\", "\\\\").replace("|", "\\|")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], ""]


def write_jsonl(path: Path, issues: Iterable[Issue]) -> None:
    """Write issues as JSON lines."""
    lines = (json.dumps(asdict(issue), ensure_ascii=False) + "\n" for issue in issues)
    with atomic_write(path) as beside:
        # File names that are not valid Unicode contain lone surrogates, which UTF-8 cannot encode.
        beside.write_text("".join(lines), "utf-8", errors="backslashreplace")


def plot_report(path: Path, report: PrepareReport) -> None:
    """Plot histograms of duration, speaking rate and loudness.

    Args:
        path (`Path`): Output file; its suffix determines the format.
        report (`PrepareReport`): Report to plot.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    spread: Mapping[str, np.ndarray] = {name: measure.values(report.clips, name) for name, measure in _MEASURES.items()}
    spread = {name: values[np.isfinite(values)] for name, values in spread.items() if np.isfinite(values).any()}
    figure = Figure(figsize=(4 * len(spread), 3), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(spread), squeeze=False)[0], spread.items(), strict=True):
        axes.hist(values, bins=min(50, max(10, len(values) // 5)), color="tab:blue", edgecolor="white")
        axes.axvline(float(np.median(values)), color="tab:red", linewidth=1)
        axes.set_xlabel(_MEASURES[name].title)
        axes.set_ylabel("clips")
    figure.suptitle(f"{len(report.clips)} clips, {_duration(report.seconds)}; red: median")
    with atomic_write(path) as beside:
        figure.savefig(beside)
