"""The HTML report of an evaluation."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dia_hf.asr.wer import word_errors
from dia_hf.audio.io import read_audio, write_audio
from dia_hf.evaluation.html_report import format_report, write_report
from dia_hf.evaluation.metrics import Measure
from dia_hf.evaluation.results import EvaluationReport, SentenceReport, SourceReport

HOSTILE = "[S1] </script><script>alert(1)</script> <img src=x onerror=alert(2)> \"quotes\" 'and' &amp; {braces}"


class Reader(HTMLParser):
    """Elements with their attributes, and the texts of scripts and of the rest."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.scripts, self.texts, self.within = [], [], [], None
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.within = tag

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        (self.scripts if self.within == "script" else self.texts).append(data)


@pytest.fixture
def report(tmp_path):
    def source(number, heard, name):
        file = tmp_path / f"{number}{name}.wav"
        write_audio(file, np.sin(np.arange(8000) * (number + 1) / 50).astype(np.float32) / 2, 16000)
        measures = {"dnsmos": Measure(1 + number / 10), "pace": Measure(number, 2)}
        return SourceReport(heard, word_errors("one two", heard), 0.5, str(file), None, measures)

    lines = [
        SentenceReport(
            text=HOSTILE if number == 3 else "[S1] One two.",
            seed=number,
            seconds=0.5,
            ended=True,
            model=source(number, ["one two", "one three", "<b>two</b>"][number % 3], ""),
            codec=source(number, "one two", ".codec"),
            id=f"<{number}>",
        )
        for number in range(14)
    ]
    return EvaluationReport({"model": "</title><script>", "seed": 0}, {"torch": "2"}, lines, 1.0)


def test_hostile_texts_are_text(report):
    """A text or a transcript ended the document's script, or was an element of it."""
    content = format_report(report, "</title><script>alert(3)</script>")
    page = Reader(content)
    known = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "table", "tr", "th", "td", "br"}
    known |= {"small", "details", "summary", "audio", "script", "del", "ins", "svg", "line"}
    assert {tag for tag, _ in page.elements} <= known
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert "alert" not in "".join(page.scripts)
    assert "<img" in "".join(page.texts) and "alert(3)" in "".join(page.texts)


def test_nothing_is_loaded_from_elsewhere(report):
    """The file had to be online, or told somebody that it was opened."""
    content = format_report(report)
    page = Reader(content)
    outside = "".join(
        [*page.scripts[1:], *(str(attributes) for _, attributes in page.elements), content.split("<body>")[0]]
    )
    assert not re.search(r"(?:https?:)?//\w|@import|url\(", outside)
    assert not {"src", "href", "srcset", "action"} & {name for _, attributes in page.elements for name in attributes}
    (policy,) = [attributes["content"] for tag, attributes in Reader(content).elements if "http-equiv" in attributes]
    assert "default-src 'none'" in policy and "unsafe-inline'; media-src data:" in policy


def test_the_worst_can_be_heard(report, tmp_path):
    """Players had another sentence's audio, or the ten best were listed."""
    content = format_report(report)
    page = Reader(content)
    clips = json.loads(page.scripts[0])
    players = [attributes["data-clip"] for tag, attributes in page.elements if tag == "audio"]
    assert set(players) == set(clips) and len(players) == 2 * 2 * 10
    by_quality = [key for key in players if key.endswith("model")][-10:]
    assert by_quality == [f"{number}-model" for number in range(10)]  # 0 has the lowest score
    for key in ("2-model", "5-codec"):
        file = tmp_path / f"{key}.flac"
        file.write_bytes(base64.b64decode(clips[key].removeprefix("data:audio/flac;base64,")))
        number, source = key.split("-")
        expected = read_audio(tmp_path / f"{number}{'.codec' if source == 'codec' else ''}.wav")[0]
        assert np.allclose(read_audio(file)[0], expected, atol=1e-4)


def test_wrong_words_are_marked(report):
    """A tag, capitals or a full stop were told to be wrong words."""
    content = format_report(report)
    assert "[S1] One <del>two.</del> <ins>three</ins>" in content
    assert "[S1] One two.</td>" in content


def test_values_and_intervals_are_those_of_the_table(report):
    """The page rounded or scaled the metrics in its own way."""
    content = format_report(report)
    for summaries in report.metrics()["measures"].values():
        assert summaries["model"] is not None
    wer = report.metrics()["measures"]["wer"]["model"]
    assert f"{100 * wer['value']:.1f} <small>{100 * wer['low']:.1f} to {100 * wer['high']:.1f}</small>" in content


def test_audio_that_is_gone_is_told(report, tmp_path):
    """A report failed because a reference had been moved."""
    for file in tmp_path.glob("*.codec.wav"):
        file.unlink()
    write_report(report, tmp_path / "report.html")
    assert "no audio" in (tmp_path / "report.html").read_text("utf-8")
