"""Subtitles, TextGrids, segments in JSON, and RTTM beside recordings."""

import json
import re

import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.data.annotations import find_annotation, read_annotation, speaker_at
from dia_hf.data.rows import RowError

SRT = (
    "1\n00:00:00,500 --> 00:00:01,500\nANNA: Hello\nthere.\n\n2\n00:00:02,000 --> 00:00:03,000\n<i>How</i> is 1 < 2?\n"
)
VTT = """WEBVTT

00:00.500 --> 00:01.500
<v Anna>Q &amp; A, <00:00:01.000><c>please.</c></v>

00:02.000 --> 00:03.000 align:start
<v.loud Ben>No.
"""
WHISPERX = {
    "segments": [
        {"start": 2.0, "end": 3.0, "text": " No. ", "speaker": "SPEAKER_01"},
        {"start": 0.5, "end": 1.5, "text": " Yes.", "speaker": "SPEAKER_00", "words": []},
    ],
    "language": "en",
}


def textgrid(**tiers):
    """Write a TextGrid in Praat's long form; a tier is a list of (begin, end, label)."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", "xmax = 4", "tiers? <exists>"]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), start=1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
        ]
        lines += ["        xmax = 4", f"        intervals: size = {len(intervals)}"]
        for place, (begin, end, label) in enumerate(intervals, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {begin}", f"            xmax = {end}"]
            lines += [f'            text = "{label}"']
    return "\n".join(lines) + "\n"


ANNA = [(0, 0.5, ""), (0.5, 1.5, "Hello."), (1.5, 4, "")]
BEN = [(0, 2, "sil"), (2, 3, "No."), (3, 4, "")]


def read(folder, name, content, **options):
    path = folder / name
    path.write_text(content, "utf-8")
    return [(t.begin, t.end, t.speaker, getattr(t.text, "code", t.text)) for t in read_annotation(path, **options)]


def test_subtitles(tmp_path):
    """Cues kept their markup, references and speaker labels as text."""
    assert read(tmp_path, "a.srt", SRT) == [
        (0.5, 1.5, "ANNA", "Hello there."),
        (2.0, 3.0, "ANNA", "How is 1 < 2?"),
    ]
    assert read(tmp_path, "a.vtt", VTT) == [(0.5, 1.5, "Anna", "Q & A, please."), (2.0, 3.0, "Ben", "No.")]
    by_whisperx = (
        "WEBVTT\n\n00:00.500 --> 00:01.500\n[SPEAKER_00]: Yes.\n\n00:02.000 --> 00:03.000\n[SPEAKER_01]: No.\n"
    )
    assert read(tmp_path, "b.vtt", by_whisperx) == [(0.5, 1.5, "SPEAKER_00", "Yes."), (2.0, 3.0, "SPEAKER_01", "No.")]


def test_angles_that_are_no_markup(tmp_path):
    """Words between two angles were cut out of the text."""
    (found,) = read(tmp_path, "a.srt", "1\n00:00:01,000 --> 00:00:02,000\n<i>If a < b, then c</i> > d.\n")
    assert found[-1] == "If a < b, then c > d."


def test_substation_alpha(tmp_path):
    """The speakers of lines were lost, and comments were read as speech."""
    head = "[Script Info]\nScriptType: v4.00+\n\n[Events]\n"
    head += "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    lines = ["Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,No.", "Comment: 0,0:00:00.50,0:00:01.50,x,,0,0,0,,Note"]
    lines.append("Dialogue: 0,0:00:00.50,0:00:01.50,Default,Anna,0,0,0,,{\\i1}Yes,{\\i0} I\\Ndo.")
    assert read(tmp_path, "a.ass", head + "\n".join(lines)) == [
        (0.5, 1.5, "Anna", "Yes, I do."),
        (2.0, 3.0, None, "No."),
    ]


def test_rolling_captions_are_read_once(tmp_path):
    """Each line of rolling captions was in the text twice or three times."""
    cues = ["one two", "one two\nthree four", "three four", "three four\nfive six", "five six\none two"]
    text = "WEBVTT\n\n" + "".join(f"00:0{n}.000 --> 00:0{n + 1}.000\n{cue}\n\n" for n, cue in enumerate(cues))
    assert [turn[3] for turn in read(tmp_path, "a.vtt", text)] == ["one two", "three four", "five six", "one two"]


def test_two_speakers_in_one_cue(tmp_path):
    """The dashes of two speakers in one cue became part of the text, without a change of speaker."""
    (turn,) = read(tmp_path, "a.srt", "1\n00:00:01,000 --> 00:00:02,000\n- Hello.\n- Hi.\n")
    assert turn[3] == "several_speakers"


def test_textgrids(tmp_path):
    """Phones were read as texts, or the speakers of the tiers were lost."""
    both = [(0.5, 1.5, "anna", "Hello."), (2.0, 3.0, "ben", "No.")]
    assert read(tmp_path, "a.TextGrid", textgrid(anna=ANNA, ben=BEN, phones=ANNA)) == both
    aligned = {"anna - words": ANNA, "anna - phones": ANNA, "ben - words": BEN, "ben - phones": BEN}
    assert read(tmp_path, "a.TextGrid", textgrid(**aligned)) == both
    short = "\n".join(re.findall(r'"[^"]*"|(?<= )[\d.]+$|<exists>', textgrid(anna=ANNA, ben=BEN), re.MULTILINE))
    assert read(tmp_path, "a.TextGrid", short) == both
    quoted = textgrid(words=[(0, 4, 'item [2]: she said ""name = 3"" ß')])
    (tmp_path / "b.TextGrid").write_text(quoted, "utf-16")
    assert read_annotation(tmp_path / "b.TextGrid")[0].text == 'item [2]: she said "name = 3" ß'
    one = textgrid(words=[(0, 1, "Hello"), (1, 2, "spn"), (2, 4, "")], phones=ANNA)
    assert read(tmp_path, "a.TextGrid", one) == [(0.0, 1.0, None, "Hello"), (1.0, 2.0, None, "missing_text")]
    more = textgrid(sentences=ANNA, words=BEN, notes=BEN)
    assert read(tmp_path, "a.TextGrid", more) == [(0.5, 1.5, None, "Hello.")]
    assert read(tmp_path, "a.TextGrid", more, tiers=["notes"]) == [(2.0, 3.0, None, "No.")]
    with pytest.raises(RowError, match=r"interval tiers are 'sentences', 'words', 'notes'; there is no \['x'\]"):
        read(tmp_path, "a.TextGrid", more, tiers=["x"])


def test_segments_of_whisperx(tmp_path):
    """Diarized transcripts of WhisperX were not read."""
    expected = [(0.5, 1.5, "SPEAKER_00", "Yes."), (2.0, 3.0, "SPEAKER_01", "No.")]
    assert read(tmp_path, "a.json", json.dumps(WHISPERX)) == expected
    assert read(tmp_path, "a.json", json.dumps(WHISPERX["segments"])) == expected
    whole = {"id": "x", "text": "All of it.", "speaker": "anna", "duration": 3.2}
    assert read(tmp_path, "a.json", json.dumps(whole)) == [(0.0, None, "anna", "All of it.")]


def test_which_file_is_the_annotation(tmp_path):
    """The subtitles of one of two languages were taken at random."""
    recording = tmp_path / "a.wav"
    sf.write(recording, [0.0] * 100, 8000)
    assert find_annotation(recording) is None
    (tmp_path / "ab.srt").write_text(SRT)
    (tmp_path / "a.en.srt").write_text(SRT)
    assert find_annotation(recording) == tmp_path / "a.en.srt"
    (tmp_path / "a.de.srt").write_text(SRT)
    with pytest.raises(RowError, match=r"'a\.de\.srt', 'a\.en\.srt' beside 'a\.wav'; leave one") as caught:
        find_annotation(recording)
    assert caught.value.code == "several_annotations"
    (tmp_path / "a.SRT").write_text(SRT)
    assert find_annotation(recording) == tmp_path / "a.SRT"


def test_speakers_by_rttm(tmp_path):
    """A text of two speakers was given to one of them, and one that nobody speaks to the nearest."""
    recording = str(tmp_path / "a.wav")
    assert speaker_at(recording, 0, 1) is None
    lines = [
        "SPEAKER a 1 0.0 1.0 <NA> <NA> anna <NA> <NA>",
        "SPKR-INFO a 1",
        "SPEAKER a 1 0.9 1.1 <NA> <NA> ben <NA> <NA>",
    ]
    (tmp_path / "a.rttm").write_text("\n".join(lines))
    assert [speaker_at(recording, *times) for times in ((0.0, 1.0), (1.0, 2.0))] == ["anna", "ben"]
    for times, code in (((0.5, 1.5), "several_speakers"), ((5.0, 6.0), "no_speaker")):
        with pytest.raises(RowError) as caught:
            speaker_at(recording, *times)
        assert caught.value.code == code
    (tmp_path / "b.rttm").write_text("SPEAKER b 1 0.0\n")
    with pytest.raises(RowError, match=r"line 1 of '.*b\.rttm' is not `SPEAKER"):
        speaker_at(str(tmp_path / "b.wav"), 0, 1)


@given(
    turns=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from("abc")), min_size=1),
    begin=st.integers(0, 40),
    seconds=st.integers(1, 9),
)
def test_speakers_are_those_of_all_turns(tmp_path_factory, turns, begin, seconds):
    """A long turn that began before many others was not looked at."""
    path = tmp_path_factory.mktemp("rttm") / "a.rttm"
    path.write_text("".join(f"SPEAKER a 1 {first} {length} . . {name} . .\n" for first, length, name in turns))
    shares = dict.fromkeys("abc", 0)
    for first, length, name in turns:
        shares[name] += max(min(first + length, begin + seconds) - max(first, begin), 0)
    _, next_most, most = sorted(shares.values())
    try:
        found = speaker_at(str(path.with_suffix(".wav")), begin, begin + seconds)
    except RowError as error:
        found = error.code
    expected = {name for name, share in shares.items() if share == most}
    if most == 0:
        expected = {"no_speaker"}
    elif next_most > seconds / 4:
        expected = {"several_speakers"}
    assert found in expected


HOSTILE = {
    "empty.srt": "",
    "times.srt": "1\n00:00:01,000 --> 00:00:02,000\nHello.\n\n2\n00:00:0x,000 --> 00:00:04,000\nNo.\n",
    "back.srt": "1\n00:00:02,000 --> 00:00:01,000\nHello.\n",
    "no.vtt": "Hello.",
    "no.ass": "[Events]\nDialogue: 0,x\n",
    "no.json": "{",
    "deep.json": "[" * 100_000,
    "other.json": '{"transcript": "Hello."}',
    "number.json": '{"text": 7}',
    "nan.json": '[{"start": NaN, "end": 1, "text": "a"}]',
    "texts.json": '[{"start": "a", "end": 1, "text": "a"}]',
    "row.json": "[1, 2]",
    "negative.json": '[{"start": -5, "end": 1, "text": "a"}]',
    "no.TextGrid": "Hello.",
    "cut.TextGrid": textgrid(anna=ANNA, ben=BEN)[:-150],
    "count.TextGrid": textgrid(anna=ANNA).replace("intervals: size = 3", "intervals: size = 999999999"),
    "back.TextGrid": textgrid(anna=[(3, 1, "Hello.")]),
    "nan.TextGrid": textgrid(anna=[("nan", "inf", "Hello.")]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_annotations(tmp_path, name):
    """A truncated or wrong annotation gave other texts, ended in a traceback, or took all memory."""
    with pytest.raises(RowError, match=rf"^[^\n]*{name}' cannot be read as \w+ \([^\n]+\)\.$") as caught:
        read(tmp_path, name, HOSTILE[name])
    assert caught.value.code == "unreadable_annotation"


def test_a_textgrid_is_read_whole_or_not_at_all(tmp_path):
    """A truncated TextGrid had fewer turns: the speech of the rest would be trained on without its text."""
    whole = textgrid(anna=ANNA, ben=BEN).rstrip("\n")
    for length in range(0, len(whole), 7):
        with pytest.raises(RowError, match=r"truncated|no timed texts|where a"):
            read(tmp_path, "a.TextGrid", whole[:length])
    assert len(read(tmp_path, "a.TextGrid", whole)) == 2


def test_large_annotations_are_not_read(tmp_path):
    """A file of terabytes beside a recording was read into memory."""
    with open(tmp_path / "a.srt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RowError, match="at most 67,108,864 are read"):
        read_annotation(tmp_path / "a.srt")


@given(
    cues=st.lists(
        st.tuples(st.integers(1, 5000), st.from_regex(r"[a-zäß,&<']{1,8}( [a-zäß.?&]{1,8}){0,3}", fullmatch=True)),
        min_size=1,
        max_size=5,
    )
)
def test_segments_come_back_as_they_were(tmp_path_factory, cues):
    """Times or texts of segments in JSON changed."""
    begins = [sum(length for length, _ in cues[:place]) / 1000 for place in range(len(cues))]
    written = [(b, b + length / 1000, None, said) for b, (length, said) in zip(begins, cues, strict=True)]
    content = {"segments": [{"start": begin, "end": end, "text": said} for begin, end, _, said in written]}
    assert read(tmp_path_factory.mktemp("json"), "a.json", json.dumps(content)) == written
