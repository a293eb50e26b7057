"""Reports: the same figures for people and for programs."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.data.prepare import prepare_dataset
from dia_hf.data.prepare_report import Clip, Issue, PrepareReport, find_outliers, plot_report, write_jsonl


def make_clip(number, seconds=4.0, num_characters=60, loudness=-20.0, **options):
    return Clip(
        f"{number}", "[S1] Hello.", "m.csv", number, "", seconds, seconds, num_characters, 44100, loudness, **options
    )


def make_report(clips=(), rejected=(), warnings=()):
    return PrepareReport("recordings", len(clips) + len(rejected), clips, rejected, warnings, num_encoded=len(clips))


@pytest.mark.parametrize(
    ("odd", "measure", "why"),
    [
        ({"seconds": 20.0, "num_characters": 300}, "seconds", "20.0 s"),
        ({"num_characters": 140}, "characters_per_second", "35.0 characters per second"),
        ({"num_characters": 14}, "characters_per_second", "below the median of 14.9"),
        ({"loudness": -45.0}, "loudness", "-45.0 LUFS"),
    ],
)
def test_the_odd_one_is_found(odd, measure, why):
    """With mean and standard deviation, outliers mask each other."""
    usual = [make_clip(n, 4 + 0.1 * (n % 5), 60 + n % 7, -20 - 0.1 * (n % 3)) for n in range(20)]
    outliers = find_outliers([*usual, make_clip(99, **odd)], count=3)
    assert len(outliers) == 3
    assert (outliers[0].clip.id, outliers[0].measure) == ("99", measure)
    assert why in outliers[0].why


def test_alike_clips_are_not_odd():
    """A spread of zero caused a division by zero, or hid the one clip that differs."""
    assert find_outliers([]) == []
    assert find_outliers([make_clip(n, loudness=None) for n in range(5)]) == []
    (outlier,) = find_outliers([*(make_clip(n) for n in range(5)), make_clip(9, loudness=-30.0)])
    assert outlier.clip.id == "9"


values = st.floats(0.01, 1e4)


@given(st.lists(st.tuples(values, st.integers(1, 5000), st.none() | st.floats(-70, 0)), max_size=20), st.randoms())
def test_the_order_of_the_clips_does_not_matter(measures, random):
    """Deviations were no numbers, unsorted, more than ten, or dependent on the order of the clips."""
    clips = [make_clip(n, *measure) for n, measure in enumerate(measures)]
    outliers = find_outliers(clips)
    sizes = [abs(outlier.deviation) for outlier in outliers]
    assert len(outliers) <= 10 and sizes == sorted(sizes, reverse=True)
    random.shuffle(clips)
    assert [abs(outlier.deviation) for outlier in find_outliers(clips)] == pytest.approx(sizes)


def test_the_summary_counts_and_shows():
    """Three hundred rejected rows scrolled the important one off the screen."""
    rejected = [Issue("m.csv", n, f"{n}", None, "silent", "all of it.") for n in range(1, 301)]
    rejected.append(Issue("m.csv", 301, "301", "a.wav", "nan", "1 of 9 samples."))
    warned = [Issue("m.csv", 400, "400", "b.wav", "clipping", "distorted.")]
    clips = [make_clip(400, 1800.0, speaker="anna"), make_clip(401, 3600.0, speaker="ben")]
    summary = str(make_report(clips, rejected, warned))
    assert summary.splitlines() == [
        "2 of 303 clips kept, 1.50 h; 2 encoded in this run",
        "  ben: 1 clip, 1.00 h",
        "  anna: 1 clip, 30.0 min",
        "rejected: 301",
        "  silent    300",
        "    m.csv row 1: all of it.",
        "    m.csv row 2: all of it.",
        "    m.csv row 3: all of it.",
        "  nan       1",
        "    m.csv row 301: 1 of 9 samples.",
        "kept with warnings: 1",
        "  clipping  1",
        "    m.csv row 400: distorted.",
    ]


def test_the_page_shows_what_the_file_says():
    """A bar in a transcript broke the page's table, or a speaker's name its markup."""
    clips = [make_clip(1), make_clip(2, speaker="a|b"), make_clip(3, 40.0)]
    rejected = [Issue("m.csv", 4, "4", None, "text_is_path", "'a|b.wav' is a file.")]
    report = make_report(clips, rejected)
    content, page = report.to_dict(), report.to_markdown()
    assert content["seconds"] == 48.0 and content["num_rows"] == 4
    assert content["rejected"] == {"text_is_path": 1}
    assert content["speakers"]["a|b"] == {"num_clips": 1, "seconds": 4.0}
    assert content["quantiles"]["seconds"]["median"] == 4.0
    assert content["outliers"][0]["id"] == "3"
    assert json.loads(json.dumps(content)) == content
    assert "| `text_is_path` | 1 | m.csv row 4: 'a\\|b.wav' is a file. |" in page
    assert "| a\\|b | 1 | 4.0 s |" in page
    assert "# Outliers" in page


def test_names_that_are_no_unicode(tmp_path):
    """A file name in another encoding ended the report of all others."""
    write_jsonl(tmp_path / "x.jsonl", [Issue("m.csv", 1, "caf\udce9", None, "silent", "Grüße")])
    assert "Grüße" in (tmp_path / "x.jsonl").read_text("utf-8")


def test_plot(tmp_path):
    """A plot of clips without loudness, or of one clip, failed."""
    for clips in ([make_clip(1, loudness=None)], [make_clip(n, 1.0 + n) for n in range(30)]):
        plot_report(tmp_path / "report.png", make_report(clips))
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_a_note(processor, tone, tmp_path, monkeypatch):
    """Without matplotlib the run failed after the encoding."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    rows = [{"audio": {"array": tone(1.0, 16000), "sampling_rate": 16000}, "text": "A tone, this."}]
    report = prepare_dataset(rows, tmp_path / "x", processor)
    assert "matplotlib" in str(report) and "matplotlib" in (tmp_path / "x" / "report.md").read_text()
    assert not (tmp_path / "x" / "report.png").exists()
