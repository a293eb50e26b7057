"""Subtitles, read back by two independent parsers."""

import html
import io
import itertools
import json
import re

import pysubs2
import pytest
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from dia_hf.speech.subtitles import format_subtitles, make_cues
from dia_hf.speech.timestamps import TimedText


def timed(words, speaker="[S1]", start=0.0, seconds=0.4, gap=0.1):
    found, place = [], 5
    for word in words:
        found.append(TimedText(word, start, start + seconds, place, place + len(word), speaker))
        start, place = start + seconds + gap, place + len(word) + 1
    return found


def test_cues_end_with_sentences_speakers_and_pauses():
    """A cue had words of two speakers, or stood over a long silence."""
    words = [
        *timed(["Hello,", "I", "am", "Dia.", "And", "you?"]),
        *timed(["Me"], "[S2]", start=4.0),
        *timed(["too"], "[S2]", start=7.0),
    ]
    cues = make_cues(words)
    assert [(cue.speaker, cue.text) for cue in cues] == [
        ("[S1]", "Hello, I am Dia."),
        ("[S1]", "And you?"),
        ("[S2]", "Me"),
        ("[S2]", "too"),
    ]
    assert (cues[0].start, cues[0].end) == (0.0, pytest.approx(1.9))


def test_long_sentences_are_divided():
    """A cue filled the screen, or stood for minutes."""
    cues = make_cues(timed(["word"] * 100))
    assert all(len(cue.text) <= 84 and cue.end - cue.start <= 7 for cue in cues)
    assert sum(len(cue.words) for cue in cues) == 100


def test_text_without_spaces_is_not_given_some():
    """Characters of Chinese text, timed one by one, were written with spaces between them."""
    characters = [TimedText(c, i / 4, (i + 1) / 4, i, i + 1, None) for i, c in enumerate("你好。")]
    assert make_cues(characters)[0].text == "你好。"


def test_hours_and_rounding():
    """59.9996 s was written as 59,1000, which no player reads."""
    words = [TimedText("x", 59.9996, 3600.0, 0, 1, None)]
    assert "00:01:00,000 --> 01:00:00,000" in format_subtitles(words, ".srt")


def test_an_unknown_format_is_refused():
    """An empty file was written."""
    with pytest.raises(ValueError, match=r"'.sub'; give one of .srt, .vtt, .json, .textgrid"):
        format_subtitles([], ".sub")


words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1, max_size=10).filter(
    lambda text: text.split() == [text]
)


@given(st.lists(words, min_size=1, max_size=12), st.sampled_from(["[S1]", "[S2]", None]))
@settings(max_examples=150)
def test_parsers_read_what_was_written(texts, speaker):
    """Text such as "-->", "&", "<i>" or a line end was read as markup, or ended the cue."""
    timed_words = timed(texts, speaker)
    expected = [(round(1000 * cue.start), round(1000 * cue.end), cue.text) for cue in make_cues(timed_words)]

    captions = webvtt.from_string(format_subtitles(timed_words, ".vtt"))
    assert [(c.start_in_seconds, c.end_in_seconds) for c in captions] == [
        (pytest.approx(start / 1000, abs=1), pytest.approx(end / 1000, abs=1)) for start, end, _ in expected
    ]
    assert len(captions) == len(expected)
    for caption in captions:
        assert caption.voice == (speaker.strip("[]") if speaker else None)

    subtitles = pysubs2.SSAFile.from_string(
        format_subtitles(timed_words, ".srt"), format_="srt", keep_unknown_html_tags=True
    )
    assert [(line.start, line.end) for line in subtitles] == [(start, end) for start, end, _ in expected]

    read = json.loads(format_subtitles(timed_words, ".json"))["words"]
    assert [TimedText(**word) for word in read] == timed_words


def test_the_text_is_read_back_exactly():
    """Quotes, accents and brackets were changed."""
    timed_words = timed(["„Grüße“,", "it's", "<5", "&", "a>b!"])
    text = "„Grüße“, it's <5 & a>b!"
    (caption,) = webvtt.from_string(format_subtitles(timed_words, ".vtt"))
    assert html.unescape(caption.text) == text  # webvtt-py 0.6.0 leaves character references as they are
    (line,) = pysubs2.SSAFile.from_string(format_subtitles(timed_words, ".srt"), format_="srt")
    assert line.plaintext == text


def test_empty_speech_has_an_empty_file():
    """Silence was an error after the audio had been written."""
    assert format_subtitles([], ".srt") == ""
    assert format_subtitles([], ".vtt") == "WEBVTT\n\n"
    assert list(webvtt.from_buffer(io.StringIO(format_subtitles([], ".vtt")))) == []


def read_text_grid(content):
    """Tiers of a TextGrid by Praat's rule for text files: only numbers, texts in quotes and flags in <> count."""
    tokens = re.findall(r'"(?:[^"]|"")*"|<[^>]*>|(?<=[= ])-?\d+(?:\.\d+)?(?=\s|$)', content)
    values = [t[1:-1].replace('""', '"') if t[0] == '"' else t if t[0] == "<" else float(t) for t in tokens]
    assert values[:2] == ["ooTextFile", "TextGrid"] and values[4] == "<exists>"
    last, place, tiers = values[3], 6, {}
    for _ in range(int(values[5])):
        assert values[place] == "IntervalTier" and values[place + 2 : place + 4] == [0.0, last]
        name, number = values[place + 1], int(values[place + 4])
        place += 5
        tiers[name] = [tuple(values[place + 3 * i : place + 3 * i + 3]) for i in range(number)]
        place += 3 * number
    assert place == len(values)
    return last, tiers


@given(
    words=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=5), st.booleans()),
        max_size=12,
    ),
    gap=st.sampled_from([0.0, 0.125]),
)
@settings(max_examples=80)
def test_a_text_grid_has_every_word_in_whole_tiers(words, gap):
    """A quote ended a text, or intervals of a tier left gaps, which Praat refuses."""
    found, start = [], gap
    for text, is_first in words:
        found.append(TimedText(text, start, start + 0.25, 0, 1, "[S1]" if is_first else "[S2]"))
        start += 0.25 + gap
    last, tiers = read_text_grid(format_subtitles(found, ".textgrid", start + 1))
    assert last == pytest.approx(start + 1)
    for intervals in tiers.values():
        assert intervals[0][0] == 0 and intervals[-1][1] == last
        assert all(a[1] == b[0] and a[0] < a[1] for a, b in itertools.pairwise(intervals))
    spoken = sorted((begin, text) for intervals in tiers.values() for begin, _, text in intervals if text)
    assert [text for _, text in spoken] == [word.text for word in found]
