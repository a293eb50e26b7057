"""Report of an evaluation as one HTML file: metrics with intervals, and the worst sentences to read and to hear.

The file needs nothing else: audio is in it as FLAC, each clip once, and a content security policy keeps it from loading
anything. Texts are escaped, wherever they come from.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import os
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from ..atomic_write import atomic_write
from ..audio.io import read_audio, write_audio
from .metrics import METRICS, Metric
from .results import SOURCES, EvaluationReport, SentenceReport

__all__ = ["format_report", "write_report"]

_NUM_WORST = 10
_MOST_WORDS = 30  # that were heard in place of others, in a row
_MOST_SECONDS = 60.0  # of a clip; the rest of a longer one is left out

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d8dbe0, #3a3f47); --soft: light-dark(#f4f5f7, #1d2126);
  --text: light-dark(#1b1f24, #e6e8eb); --dim: light-dark(#5b6470, #a2abb6); --mark: light-dark(#0b62c4, #6cb2ff);
  --wrong: light-dark(#b3261e, #ff9a91); --page: light-dark(#ffffff, #14171a); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p, .dim { color: var(--dim); margin: .25rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem .45rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--dim); font-size: .85rem; }
td.number { white-space: nowrap; }
small { color: var(--dim); }
svg { display: block; width: 11rem; height: .8rem; margin-top: .2rem; }
svg line { stroke: var(--mark); stroke-width: 2; vector-effect: non-scaling-stroke; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; background: var(--soft); }
summary { padding: .6rem .9rem; cursor: pointer; font-weight: 600; }
details > div { padding: 0 .9rem .6rem; }
audio { display: block; width: 15rem; height: 2.2rem; }
del { color: var(--wrong); } ins { color: var(--wrong); font-weight: 600; text-decoration: none; }
.text { min-width: 16rem; overflow-wrap: anywhere; }
"""

_SCRIPT = """
const clips = JSON.parse(document.getElementById("clips").textContent);
for (const player of document.querySelectorAll("audio[data-clip]")) player.src = clips[player.dataset.clip];
"""


def write_report(report: EvaluationReport, path: str | os.PathLike, title: str = "Evaluation") -> None:
    """Write an evaluation as an HTML file.

    Args:
        report (`EvaluationReport`): The evaluation. Of sources whose `file` is there, the worst sentences can be heard.
        path (`str` or `os.PathLike`): The file.
        title (`str`, defaults to `"Evaluation"`): Its heading.

    Raises:
        OSError: If it cannot be written; an existing file is kept then.
    """
    content = format_report(report, title)
    with atomic_write(path) as beside:
        beside.write_text(content, "utf-8", "backslashreplace")  # lone surrogates, of file names


def format_report(report: EvaluationReport, title: str = "Evaluation") -> str:
    """Return the HTML of `write_report`.

    Args:
        report, title: As `write_report` takes them.

    Returns:
        `str`: The document.
    """
    metrics = report.metrics()
    judged = [source for source in SOURCES if any(getattr(line, source) is not None for line in report.sentences)]
    clips: dict[str, str] = {}
    sections: list[str] = []
    for name, summaries in metrics["measures"].items():
        if METRICS[name].better is not None and summaries["model"] is not None:
            sections.append(_worst(report, METRICS[name], judged, clips, is_open=not sections))
    facts = [f"{len(report.sentences)} sentences", f"{metrics['end']['seconds']:.1f} s"]
    if metrics["end"]["ended"] is not None:
        facts.append(f"{metrics['end']['ended']:.1%} ended before the limit")
    if metrics["speed"] is not None and metrics["speed"]["real_time"] is not None:
        facts.append(f"{metrics['speed']['real_time']:.2f} × real time")
    script = hashlib.sha256(_SCRIPT.encode()).digest()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; media-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{base64.b64encode(script).decode()}'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(" · ".join(facts))}</p>
<h2>Metrics</h2>
<p>Values of all sentences together, with 95 % confidence intervals of a bootstrap over sentences. The reference shows
what the judges find in recordings, the codec what it leaves of them: no model can be expected to be better.</p>
<div class="wide"><table>
{_metrics_table(metrics["measures"], judged)}
</table></div>
<h2>Worst sentences</h2>
<p>The ten worst by each metric of the model's speech. Words that were not heard are <del>struck out</del>, others that
were heard are <ins>bold</ins>.</p>
{"".join(sections)}
<h2>Settings</h2>
<details><summary>Settings and versions</summary><div class="wide"><table>
{_settings_table({**report.settings, **{f"version of {name}": one for name, one in report.versions.items()}})}
</table></div></details>
<script id="clips" type="application/json">{_json(clips)}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _json(content: Any) -> str:
    """Return JSON that cannot end a script element."""
    return json.dumps(content).replace("<", "\\u003c")


def _metrics_table(measures: dict[str, dict[str, dict[str, Any] | None]], judged: list[str]) -> str:
    heads = "".join(f"<th>{source}</th>" for source in judged)
    rows = [f"<tr><th>metric</th><th>better</th>{heads}<th>sentences</th></tr>"]
    for name, summaries in measures.items():
        metric, found = METRICS[name], [one for one in summaries.values() if one is not None]
        low, high = min(one["low"] for one in found), max(one["high"] for one in found)
        cells = []
        for source in judged:
            if (one := summaries[source]) is None:
                cells.append("<td></td>")
                continue
            value, begin, end = (metric.number(one[part]) for part in ("value", "low", "high"))
            bar = _bar(one["low"], one["value"], one["high"], low, high)
            cells.append(f'<td class="number">{value} <small>{begin} to {end}</small>{bar}</td>')
        number = max(one["sentences"] for one in found)
        label = f"{escape(metric.heading)}<br><small>{escape(metric.meaning)}</small>"
        rows.append(
            f'<tr><td class="text">{label}</td><td>{metric.better or ""}</td>{"".join(cells)}<td>{number}</td></tr>'
        )
    return "\n".join(rows)


def _bar(low: float, value: float, high: float, least: float, most: float) -> str:
    """Draw an interval on the scale of a metric's row."""
    span = most - least or 1.0
    begin, middle, end = (4 + 92 * (one - least) / span for one in (low, value, high))
    return (
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="interval"><line x1="{begin:.1f}" '
        f'y1="5" x2="{end:.1f}" y2="5"/><line x1="{middle:.1f}" y1="1" x2="{middle:.1f}" y2="9"/></svg>'
    )


def _worst(report: EvaluationReport, metric: Metric, judged: list[str], clips: dict[str, str], is_open: bool) -> str:
    """List the worst sentences of the model by a metric, and add their audio to `clips`."""
    measured = [
        (measure.value, place)
        for place, measure in enumerate(report.measures(metric.name))
        if measure is not None and measure.value is not None
    ]
    measured.sort(key=lambda one: (one[0] if metric.better == "higher" else -one[0], one[1]))
    heads = "".join(f"<th>{source}</th>" for source in judged)
    rows = [f"<tr><th>sentence</th>{heads}</tr>"]
    others = {source: report.measures(metric.name, source) for source in judged}
    for _, place in measured[:_NUM_WORST]:
        line, cells = report.sentences[place], []
        for source in judged:
            measure = others[source][place]
            value = "" if measure is None or measure.value is None else metric.number(measure.value)
            cells.append(f'<td class="number">{value}{_player(line, place, source, clips)}</td>')
        name = escape(line.id or str(place))
        rows.append(f'<tr><td class="text"><small>{name}</small><br>{_heard(line)}</td>{"".join(cells)}</tr>')
    opened = " open" if is_open else ""
    return (
        f'<details{opened}><summary>{escape(metric.heading)}</summary><div class="wide"><table>\n'
        + "\n".join(rows)
        + "\n</table></div></details>\n"
    )


def _heard(line: SentenceReport) -> str:
    """Return the text of a sentence with what was heard instead of it."""
    said, heard = line.text.split(), line.model.text.split()
    plain = [["".join(filter(str.isalnum, word)).lower() for word in words] for words in (said, heard)]
    tags = [word.startswith("[") and word.endswith("]") for word in said]
    parts = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, plain[0], plain[1], autojunk=False).get_opcodes():
        for place in range(a, b):
            word = escape(said[place])
            parts.append(word if kind == "equal" or tags[place] else f"<del>{word}</del>")
        if kind != "equal" and c < d:
            rest = " …" if d - c > _MOST_WORDS else ""  # recognizers repeat themselves at times
            parts.append(f"<ins>{escape(' '.join(heard[c : min(d, c + _MOST_WORDS)]))}{rest}</ins>")
    return " ".join(parts)


def _player(line: SentenceReport, place: int, source: str, clips: dict[str, str]) -> str:
    """Return a player for a source of a sentence, if there is its audio."""
    judged = getattr(line, source)
    if judged is None or judged.file is None:
        return ""
    key = f"{place}-{source}"
    if key not in clips:
        try:
            clips[key] = _embed(judged.file)
        except (OSError, ValueError):  # moved or removed since
            return "<br><small>no audio</small>"
    return f'<audio controls preload="none" data-clip="{key}" aria-label="{source}"></audio>'


def _embed(file: str) -> str:
    """Return audio as a data URL of FLAC, which all browsers play, without loss."""
    samples, rate = read_audio(file, 0.0, None)
    samples = samples[..., : int(_MOST_SECONDS * rate)]
    with tempfile.TemporaryDirectory() as folder:
        flac = Path(folder, "clip.flac")
        write_audio(flac, samples.mean(0), rate)
        return "data:audio/flac;base64," + base64.b64encode(flac.read_bytes()).decode()


def _settings_table(settings: dict[str, Any]) -> str:
    shown = {name: value for name, value in settings.items() if value is not None}
    return "\n".join(f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>" for k, v in shown.items())
