"""What became of a source: which clips were kept, which rows were not and why, how much there is, what looks odd.

Lays out what `prepare.py` found, for people and for programs. Reads no audio and decides nothing.
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

__all__ = ["Clip", "Issue", "Outlier", "PrepareReport", "find_outliers", "plot_report", "write_jsonl"]

_NO_SPEAKER = "(no speaker)"
_SHOWN = 3  # examples of a reason in the summary
# What makes the median absolute deviation, and the mean one, of a normal distribution its standard deviation.
_MEDIAN_SCALE, _MEAN_SCALE = 1.4826, 1.2533
_QUANTILES = {"least": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "most": 1.0}


@dataclass(frozen=True)
class Clip:
    """A clip that was kept.

    Args:
        id (`str`): Unique.
        text (`str`): With its tags.
        source (`str`): File or dataset.
        row (`int`): Its row, from 1.
        key (`str`): Under which its codes are cached.
        seconds (`float`): As it will be learned, without the silence that was cut off.
        seconds_before (`float`): Of the whole recording, or of the whole segment of one.
        num_characters (`int`): Of the text without its tags.
        sampling_rate (`int`): Of the recording, in hertz.
        loudness (`float`, *optional*): Of the recording, in LUFS; `None` where it was not measured.
        speaker (`str`, *optional*): Who speaks.
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

    @property
    def characters_per_second(self) -> float:
        """How fast it is spoken."""
        return self.num_characters / self.seconds


@dataclass(frozen=True)
class Issue:
    """What is to be said about a row: why it was rejected, or what to look at though it was kept.

    Args:
        source (`str`): File or dataset.
        row (`int`): Its row, from 1.
        id (`str`): The clip's.
        audio (`str`, *optional*): The audio file, where there is one.
        code (`str`): For programs, such as "too_long".
        reason (`str`): The sentence for people.
    """

    source: str
    row: int
    id: str
    audio: str | None
    code: str
    reason: str


@dataclass(frozen=True)
class Outlier:
    """A clip that is unlike the others.

    Args:
        clip (`Clip`): Which.
        measure (`str`): In what.
        deviation (`float`): How many robust standard deviations off the median.
        why (`str`): In words.
    """

    clip: Clip
    measure: str
    deviation: float
    why: str


@dataclass(frozen=True)
class _Measure:
    """Something to compare clips by."""

    title: str
    unit: str
    is_ratio: bool  # half and double are equally far off

    def values(self, clips: Iterable[Clip], name: str) -> np.ndarray:
        found = (getattr(clip, name) for clip in clips)
        return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


_MEASURES = {
    "seconds": _Measure("seconds", " s", is_ratio=True),
    "characters_per_second": _Measure("characters a second", " characters a second", is_ratio=True),
    "loudness": _Measure("loudness before, LUFS", " LUFS", is_ratio=False),
}


def find_outliers(clips: Sequence[Clip], count: int = 10) -> list[Outlier]:
    """Find the clips that are least like the others in length, in speed of speech or in loudness.

    Each measure's deviation is counted from the median in robust standard deviations (1.4826 times the median absolute
    deviation), which the odd ones themselves do not widen; a clip's is its largest. Length and speed are compared by
    their logarithms.

    Args:
        clips (`Sequence[Clip]`): All of them.
        count (`int`, defaults to 10): How many to return at most.

    Returns:
        `list[Outlier]`: The oddest first; clips that are like all others in every measure are left out.

    Example:
    ```python
    >>> from dia_hf.data.report import Clip, find_outliers
    >>> def clip(number, seconds):
    ...     return Clip(f"{number}", "[S1] Hello.", "metadata.csv", number, "", seconds, seconds, 10, 44100)
    >>> [oddity.clip.id for oddity in find_outliers([clip(1, 4.0), clip(2, 4.4), clip(3, 40.0), clip(4, 3.7)], count=1)]
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
    oddities = []
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
        oddities.append(Outlier(clip, name, deviation, why))
    return sorted(oddities, key=lambda oddity: -abs(oddity.deviation))[:count]


def _deviations(values: np.ndarray, median: float) -> np.ndarray:
    off = values - median
    spread = _MEDIAN_SCALE * np.nanmedian(np.abs(off))
    if spread < 1e-9:  # more than half are the same
        spread = _MEAN_SCALE * np.nanmean(np.abs(off))
    return off / spread if spread >= 1e-9 else np.where(np.isnan(off), np.nan, 0.0)


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_dataset` did; `print` it for a summary.

    Args:
        source (`str`): What was prepared.
        num_rows (`int`): How many rows it has.
        clips (`Sequence[Clip]`): What was kept, in the order of the source.
        rejected (`Sequence[Issue]`): What was not.
        warnings (`Sequence[Issue]`): What was kept and should be looked at.
        num_encoded (`int`): How many clips this run encoded; the codes of the others were there.
        notes (`Sequence[str]`): What could not be done, such as a plot without matplotlib.
    """

    source: str
    num_rows: int
    clips: Sequence[Clip]
    rejected: Sequence[Issue]
    warnings: Sequence[Issue]
    num_encoded: int
    notes: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Seconds of speech that were kept."""
        return math.fsum(clip.seconds for clip in self.clips)

    @property
    def speakers(self) -> dict[str, tuple[int, float]]:
        """Clips and seconds of each speaker, the one with most first; all under one name where nobody is named."""
        seconds: dict[str, list[float]] = {}
        for clip in self.clips:
            seconds.setdefault(clip.speaker if clip.speaker is not None else _NO_SPEAKER, []).append(clip.seconds)
        totals = {speaker: (len(of_clips), math.fsum(of_clips)) for speaker, of_clips in seconds.items()}
        return dict(sorted(totals.items(), key=lambda item: (-item[1][1], item[0])))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can carry it, except which run encoded what: the same data gives the same report."""
        return {
            "version": 1,
            "source": self.source,
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
            "oddest": [
                {
                    "id": oddity.clip.id,
                    "source": oddity.clip.source,
                    "row": oddity.clip.row,
                    "measure": oddity.measure,
                    "deviation": round(oddity.deviation, 2),
                    "why": oddity.why,
                    "text": oddity.clip.text,
                }
                for oddity in find_outliers(self.clips)
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
        """Sum up for a terminal."""
        longest = max((len(code) for code, _ in (*_count(self.rejected), *_count(self.warnings))), default=0)
        kept = f"{len(self.clips)} of {self.num_rows} clips kept, {_duration(self.seconds)}"
        lines = [f"{kept}; {self.num_encoded} encoded now"]
        lines += [
            f"  {speaker}: {num_clips} {'clip' if num_clips == 1 else 'clips'}, {_duration(seconds)}"
            for speaker, (num_clips, seconds) in list(self.speakers.items())[:10]
            if speaker != _NO_SPEAKER
        ]
        if len(self.speakers) > 10:
            lines.append(f"  and {len(self.speakers) - 10} speakers more")
        for title, notices in (("rejected", self.rejected), ("kept, but look at them", self.warnings)):
            if notices:
                lines.append(f"{title}: {len(notices)}")
            for code, number in _count(notices):
                lines.append(f"  {code.ljust(longest)}  {number}")
                of_code = [notice for notice in notices if notice.code == code]
                lines += [f"    {notice.source} row {notice.row}: {notice.reason}" for notice in of_code[:_SHOWN]]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_markdown(self) -> str:
        """Lay the report out as a page."""
        content = self.to_dict()
        lines = [
            f"# {_cell(self.source)}, prepared",
            "",
            f"{len(self.clips)} of {self.num_rows} clips kept, {_duration(self.seconds)} "
            f"({_duration(content['seconds_before_trimming'])} before silence was cut off).",
            "",
            *_table(("", *_QUANTILES), [(_MEASURES[n].title, *q.values()) for n, q in content["quantiles"].items()]),
        ]
        for title, notices, file in (
            ("Rejected", self.rejected, "rejected.jsonl"),
            ("Kept, but look at them", self.warnings, "warnings.jsonl"),
        ):
            if notices:
                first = {notice.code: notice for notice in reversed(notices)}
                rows = [
                    (f"`{code}`", number, f"{first[code].source} row {first[code].row}: {first[code].reason}")
                    for code, number in _count(notices)
                ]
                lines += [f"## {title}", "", f"Each one is in `{file}`.", ""]
                lines += _table(("reason", "rows", "the first"), rows)
        lines += ["## Speakers", ""]
        lines += _table(
            ("speaker", "clips", "duration"),
            [(speaker, number, _duration(seconds)) for speaker, (number, seconds) in self.speakers.items()],
        )
        if content["oddest"]:
            lines += ["## The oddest clips", "", "Worth listening to: a wrong transcript is often among them.", ""]
            lines += _table(
                ("clip", "row", "why", "text"),
                [(o["id"], f"{o['source']} {o['row']}", o["why"], o["text"]) for o in content["oddest"]],
            )
        lines += [f"Note: {note}\n" for note in self.notes]
        return "\n".join(lines).rstrip() + "\n"


def _count(notices: Iterable[Issue]) -> list[tuple[str, int]]:
    """Count codes, the most frequent first."""
    counts = Counter(notice.code for notice in notices)
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


def write_jsonl(path: Path, notices: Iterable[Issue]) -> None:
    """Write notices, one a line."""
    lines = (json.dumps(asdict(notice), ensure_ascii=False) + "\n" for notice in notices)
    with atomic_write(path) as beside:
        # A file name that is no Unicode comes as lone surrogates, which UTF-8 cannot write.
        beside.write_text("".join(lines), "utf-8", errors="backslashreplace")


def plot_report(path: Path, report: PrepareReport) -> None:
    """Draw how length, speed of speech and loudness are spread.

    Args:
        path (`Path`): Where to; its ending chooses the format.
        report (`PrepareReport`): Of what.

    Raises:
        ImportError: If matplotlib is missing.
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
    figure.suptitle(f"{len(report.clips)} clips, {_duration(report.seconds)}; red: the median")
    with atomic_write(path) as beside:
        figure.savefig(beside)
