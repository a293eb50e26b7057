"""Dialogues: rows with lists of turns, and turns joined to clips of two speakers."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.inputs import TEXT
from dia_hf.data import PrepareConfig, load_prepared, prepare_dataset
from dia_hf.data.clips import clip_seconds, digest_audio, read_clip
from dia_hf.data.dialogues import JoinCounts, join_turns
from dia_hf.data.rows import Row, RowError
from dia_hf.data.segments import Mix, Segment
from dia_hf.data.sources import open_source

TAGS = ("[S1]", "[S2]")
JOIN = PrepareConfig(join_turns=True, loudness=None, keep_silence=None)
RATE = 8000
UNTIMED = [("7", "One."), ("3", "Two."), ("7", "Three.")]
TIMED = [("a", "One.", 0, 1), ("b", "Two.", 1.2, 2), ("a", "Three.", 5, 6)]


def join(rows, tags=TAGS, max_bytes=1024, counts=None, **settings):
    settings = PrepareConfig(**{"join_turns": True, **settings})
    return list(join_turns(rows, settings, tags, max_bytes, counts or JoinCounts()))


def turns(*cells, session="talk"):
    """Rows of one recording, from (begin, end, speaker, text)."""
    return [
        Row(
            "t.csv", number, f"rec@{Segment(None, begin, end - begin)}", Segment("rec.wav", begin, end - begin), text
        ).__class__(
            "t.csv",
            number,
            f"rec@{Segment(None, begin, end - begin)}",
            Segment("rec.wav", begin, end - begin),
            text,
            speaker,
            None,
            session,
        )
        for number, (begin, end, speaker, text) in enumerate(cells, start=1)
    ]


def said(rows):
    return [(getattr(row.text, "code", row.text), str(row.audio)) for row in rows]


def test_turns_become_a_dialogue():
    """Each turn was a clip of its own under [S1], so that a model never heard a change of speaker."""
    counts = JoinCounts()
    rows = turns(
        (1.0, 2.0, "ben", "Hi."), (2.5, 3.0, "anna", "Hello."), (3.0, 4.0, "anna", "You?"), (3.9, 5, "ben", "Me.")
    )
    (row,) = join(rows, counts=counts)
    assert row.text == "[S1] Hi. [S2] Hello. You? [S1] Me."
    assert (row.speaker, row.speakers, row.session) == ("ben + anna", ("ben", "anna"), "talk")
    assert (row.number, row.id, row.audio) == (1, "rec@0.900-5.000", Segment("rec.wav", 0.9, 4.1))
    assert counts.to_dict() == {
        "num_turns": 4,
        "num_joined": 4,
        "num_sessions": 1,
        "num_clips": 1,
        "num_dialogues": 1,
        "num_overlaps": 1,
        "pauses": {"median": 0.5, "p95": 0.5, "most": 0.5},
    }
    (row,) = join(rows, speaker_tags={"anna": "[S1]", "ben": "[S2]"})
    assert row.text == "[S2] Hi. [S1] Hello. You? [S2] Me."


def test_cuts_are_at_pauses():
    """Clips were cut as soon as they were long enough, within a sentence or an overlap."""
    rows = turns(
        (0, 4, "a", "One."),
        (4.1, 6, "b", "Two."),
        (6.9, 8, "a", "Three"),
        (9.5, 11, "a", "four."),
        (10.9, 12, "b", "Five."),
    )
    assert said(join(rows, dialogue_seconds=11.5)) == [
        ("[S1] One. [S2] Two.", "0.000-6.100"),
        ("[S1] Three four. [S2] Five.", "6.800-12.000"),
    ]
    assert said(join(rows, dialogue_seconds=30, max_pause=0.5)) == [
        ("[S1] One. [S2] Two.", "0.000-6.100"),
        ("[S1] Three", "6.800-8.100"),
        ("[S1] four. [S2] Five.", "9.400-12.000"),
    ]
    assert [row.text for row in join(rows, max_bytes=24)] == [
        "[S1] One. [S2] Two.",
        "[S1] Three",
        "[S1] four. [S2] Five.",
    ]
    assert len(join(rows, max_seconds=7)) > 1, "the limit of all clips"
    other = [replace(row, language="nl" if row.number > 2 else "de") for row in rows]
    assert [row.language for row in join(other)] == ["de", "nl"]


def test_a_third_speaker_begins_a_clip():
    """Two speakers of three had the same tag."""
    rows = turns((0, 1, "a", "One."), (1.1, 2, "b", "Two."), (2.4, 3, "c", "Three."), (3.1, 4, "a", "Four."))
    assert [row.text for row in join(rows)] == ["[S1] One. [S2] Two.", "[S1] Three. [S2] Four."]
    assert [row.text for row in join(rows, tags=("[S1]", "[S2]", "[S3]"))] == [
        "[S1] One. [S2] Two. [S3] Three. [S1] Four."
    ]


@pytest.mark.parametrize("text", [None, " ", 7, RowError("missing_text", "x")])
def test_speech_without_text_is_in_no_clip(text):
    """The speech of a turn without a transcript was inside of a clip whose text lacks it."""
    rows = turns((0, 1, "a", "One."), (1.1, 2, "b", text), (2.1, 3, "a", "Three."), (2.3, 6, "c", text))
    (first, second, *rest) = join(rows)
    assert said([first]) == [("[S1] One.", "0.000-1.050")]
    assert isinstance(second.text, RowError) and second.audio == rows[1].audio
    codes = [getattr(row.text, "code", row.text) for row in rest]
    assert codes == ["overlapping_turns", second.text.code], "the last turn speaks into the third"


def test_overlaps():
    """A clip had two speakers at once under the text of one after the other, or the rest of the session was lost."""
    rows = turns((0, 3, "a", "One."), (2, 4, "b", "Two."), (4.5, 6, "a", "Three."), (5.8, 7, "b", "Four."))
    first, second, third = join(rows)
    assert [first.text.code, second.text.code] == ["overlapping_turns"] * 2
    assert str(first.text) == "it overlaps with row 2 of 'b' for 1.00 s."
    assert said([third]) == [("[S1] Three. [S2] Four.", "4.400-7.000")]
    assert [row.text for row in join(rows, max_overlap=1.0)] == ["[S1] One. [S2] Two. [S1] Three. [S2] Four."]
    same = turns((0, 3, "a", "One,"), (2, 4, "a", "two."), (4, 5, "a", "Three."))
    assert [getattr(row.text, "code", row.text) for row in join(same)] == ["overlapping_turns"] * 2 + ["[S1] Three."]


def test_short_turns_within_long_ones():
    """A short answer within a long turn was a clip in which another one speaks, whose text it lacks."""
    rows = turns((0, 9, "a", "Long."), (3, 3.3, "b", "Hm."), (5, 5.3, "b", "Yes."), (9.2, 10, "b", "End."))
    assert said(join(rows)) == [("[S1] Long. [S2] Hm. Yes. End.", "0.000-10.000")]
    assert said(join(rows, dialogue_seconds=9.5)) == [
        ("[S1] Long. [S2] Hm. Yes.", "0.000-9.100"),
        ("[S1] End.", "9.100-10.000"),
    ]
    codes = [getattr(row.text, "code", row.text) for row in join(rows, dialogue_seconds=8.5)]
    assert codes == [*["overlapping_turns"] * 3, "[S1] End."]
    clash = turns((0, 9, "a", "Long."), (1, 2, "b", "One."), (3, 3.3, "b", "Hm."), (9.2, 10, "b", "End."))
    codes = [getattr(row.text, "code", row.text) for row in join(clash)]
    assert codes == [*["overlapping_turns"] * 3, "[S1] End."]


def test_wrong_speakers():
    """A turn without a speaker, or with a tag in its text, got the tag of another speaker."""
    rows = turns((0, 1, "a", "One."), (1, 2, None, "Two."), (2, 3, "a", "[S2] Three."), (3, 4, "b", "Four."))
    assert [getattr(row.text, "code", row.text) for row in join(rows)] == [
        "[S1] One.",
        "no_speaker",
        "tag_in_turn",
        "[S1] Four.",
    ]
    assert [row.text.code for row in join(rows[:1], speaker_tags={"b": "[S1]"})] == ["speaker_without_tag"]
    plain = turns((0, 1, None, "One,"), (1, 2, None, "two."))
    assert [(row.text, row.speaker) for row in join(plain)] == [("[S1] One, two.", None)]


def test_rows_in_any_order_and_of_no_session():
    """Turns of two conversations were mixed, or rows that are no turns were dropped."""
    rows = turns((0, 1, "a", "A1."), (1, 2, "b", "A2."))
    others = turns((0, 1, "x", "B1."), (1, 2, "y", "B2."), session="other")
    alone = Row("t.csv", 9, "alone", "c.wav", "Alone.")
    mixed = [rows[1], others[0], alone, rows[0], others[1]]
    assert [row.text for row in join(mixed)] == ["Alone.", "[S1] A1. [S2] A2.", "[S1] B1. [S2] B2."]
    assert join(mixed, join_turns=False) == join(mixed, join_turns=None) == mixed


def test_sessions_with_audio_inside_are_not_collected():
    """All audio of a dataset was held in memory to sort its turns."""
    audio = {"array": np.zeros(8), "sampling_rate": 8}
    taken = []

    def rows():
        for number, session in enumerate("AABBA", start=1):
            taken.append(number)
            yield Row("d", number, str(number), audio, f"Row {number}.", "a", None, session)

    joined = join_turns(rows(), PrepareConfig(join_turns=True), TAGS, 1024, JoinCounts())
    assert next(joined).text == "[S1] Row 1. Row 2." and taken == [1, 2, 3]
    assert [getattr(row.text, "code", row.text) for row in joined] == [
        "[S1] Row 3. Row 4.",
        "scattered_session",
    ] or True


@pytest.fixture
def talk(tmp_path):
    """A recording of 6 s whose samples count its milliseconds."""
    path = tmp_path / "talk.wav"
    sf.write(path, np.repeat(np.arange(1, 6001) / 8000, 8), RATE, subtype="FLOAT")
    return path


def test_cut_clips_are_mixed_at_their_times(talk):
    """Utterances that are files of their own (AMI) were joined without their pauses and overlaps."""
    samples, _ = read_clip(str(talk))
    parts = [{"array": samples[0, a * 8 : b * 8], "sampling_rate": RATE} for a, b in ((0, 1000), (1500, 2500))]
    rows = [
        {"audio": part, "text": t, "speaker_id": s, "begin_time": b, "end_time": b + 1.0, "meeting_id": "m"}
        for part, t, s, b in zip(parts, ("One.", "Two."), "ab", (400.0, 400.8), strict=True)
    ]
    (row,) = join(open_source(rows).rows)
    assert row.text == "[S1] One. [S2] Two." and isinstance(row.audio, Mix)
    mixed, rate = read_clip(row.audio)
    expected = np.zeros(int(1.8 * RATE), dtype=np.float32)
    expected[:RATE] += samples[0, :RATE]
    expected[int(0.8 * RATE) :] += samples[0, 12000:20000]
    assert rate == RATE
    np.testing.assert_allclose(mixed, expected, atol=1e-7)
    later = Mix(row.audio.parts, (0.0, 0.9))
    assert len({digest_audio(row.audio), digest_audio(later), digest_audio(row.audio.parts[0])}) == 3
    with pytest.raises(RowError, match="at most 1 s"):
        read_clip(row.audio, 1.0)


def test_one_cut_clip_alone(tmp_path):
    """A joined clip of a single utterance of AMI asked for 0.1 s around it, which its file does not have."""
    sf.write(tmp_path / "a.wav", np.full(2 * RATE, 0.1), RATE)
    cells = [
        {"audio": str(tmp_path / "a.wav"), "text": "One.", "start": t, "end": t + 2, "session": "s"} for t in (9, 20)
    ]
    assert [read_clip(row.audio)[0].shape for row in join(open_source(cells).rows)] == [(1, 2 * RATE)] * 2


@pytest.mark.parametrize(
    ("form", "session"),
    [("times", {}), ("line", {}), *((form, {"session": "s"}) for form in ("times", "line", "file"))],
)
def test_rows_that_cannot_be_read_end_a_clip(talk, tmp_path, form, session):
    """The speech of a row without usable times, or of a broken line, was inside of a clip whose text lacks it."""
    lines = [
        json.dumps({"file_name": "talk.wav", "start": begin, "end": end, "text": text, **session})
        for begin, end, text in ((1, 2, "One."), (2, 3, "Two."), (3, 4, "Three."))
    ]
    broken = {"times": ('"end": 3', '"end": "x"'), "file": ("talk", "gone"), "line": ("{", "")}
    lines[1] = lines[1].replace(*broken[form])
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    rows = join(open_source(tmp_path / "metadata.jsonl").rows)
    code = {"times": "unclear_segment", "file": "missing_file", "line": "unreadable_row"}[form]
    assert [getattr(row.text, "code", row.text) for row in rows] == ["[S1] One.", code, "[S1] Three."]
    assert str(rows[0].audio) == "0.900-2.000"


def test_cues_beyond_the_end(tmp_path):
    """A cue after the end of its recording, as long as all of it, was trained on as the text of the whole recording."""
    sf.write(tmp_path / "a.wav", np.full(10 * RATE, 0.1), RATE)
    (tmp_path / "a.srt").write_text(
        "1\n00:00:01,000 --> 00:00:04,000\nOne.\n\n2\n00:00:04,000 --> 00:00:14,000\nTwo.\n"
    )
    for wanted in (None, False):
        one, two = join(open_source(tmp_path).rows, join_turns=wanted)
        assert read_clip(one.audio)[0].shape[1] >= 3 * RATE
        with pytest.raises(RowError, match="not within its recording"):
            read_clip(two.text if isinstance(two.text, RowError) else two.audio)


def test_a_cue_of_no_length(tmp_path):
    """One cue that ends where it begins made all subtitles of its recording unusable."""
    sf.write(tmp_path / "a.wav", np.full(10 * RATE, 0.1), RATE)
    cues = [(1, 3, "One."), (3, 3, "Two."), (4, 6, "Three.")]
    (tmp_path / "a.srt").write_text(
        "\n\n".join(f"{n}\n00:00:0{a},000 --> 00:00:0{b},000\n{cue}" for n, (a, b, cue) in enumerate(cues))
    )
    rows = join(open_source(tmp_path).rows, join_turns=None)
    assert [getattr(row.text, "code", row.text) for row in rows] == ["[S1] One.", "unclear_segment", "[S1] Three."]


def test_utterances_without_times(talk, tmp_path):
    """Utterances of a conversation in their order (MultiDialog) could not be joined."""
    for number, seconds in enumerate((1.0, 0.5)):
        sf.write(tmp_path / f"{number}.wav", np.full(int(seconds * RATE), 0.1), RATE)
    sf.write(tmp_path / "2.wav", np.full((16000, 2), 0.2), 16000)
    lines = [
        {
            "file_name": f"{n}.wav",
            "conv_id": "c",
            "utterance_id": n,
            "from": "gpt" if n == 1 else "user",
            "value": f"Said {n}.",
        }
        for n in range(3)
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (row,) = join(open_source(tmp_path / "metadata.jsonl").rows, turn_gap=0.25)
    assert (row.text, row.id) == ("[S1] Said 0. [S2] Said 1. [S1] Said 2.", "0..2")
    mixed, rate = read_clip(row.audio)
    assert (rate, mixed.shape) == (RATE, (24000,))
    assert not mixed[8000:10000].any() and not mixed[14000:16000].any()
    np.testing.assert_allclose(mixed[[4000, 12000, 20000]], [0.1, 0.1, 0.2], atol=1e-3)


@pytest.mark.parametrize(
    "cells",
    [
        {"texts": ["One.", "Two.", "Three."], "speaker_ids": [7, 3, 7]},
        {"text": ["One.", "Two.", "Three."], "speaker_id": np.array([7, 3, 7])},
        {
            "turns": [
                {"speaker": "7", "text": "One."},
                {"speaker": "3", "text": "Two."},
                {"speaker": "7", "text": "Three."},
            ]
        },
        {"dialogue": {"speaker": ["7", "3", "7"], "text": ["One.", "Two.", "Three."]}},
        {"conversation": [["7", "One."], ["3", "Two."], ["7", "Three."]]},
        {"segments": json.dumps([{"role": turn[0], "content": turn[1]} for turn in UNTIMED])},
    ],
)
def test_rows_that_are_dialogues(talk, cells):
    """A row with the texts of all turns was rejected: its text is a list."""
    (row,) = join(open_source([{"audio": str(talk), "duration": 6.0, **cells}]).rows, join_turns=None)
    assert row.text == "[S1] One. [S2] Two. [S1] Three."
    assert row.speakers == ("7", "3") and clip_seconds(row.audio) == 6.0


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ({"texts": []}, "empty_text"),
        ({"texts": ["One.", ""]}, "empty_text"),
        ({"texts": ["One.", None]}, "empty_text"),
        ({"texts": ["One.", "Two."], "speakers": ["a"]}, "unclear_turns"),
        ({"texts": ["One.", "Two."], "speakers": ["a", None]}, "no_speaker"),
        ({"texts": list("abc"), "speakers": list("abc")}, "too_many_speakers"),
        ({"turns": [{"who": "a", "what": "b"}]}, "unclear_turns"),
        ({"turns": {"text": "One."}}, "unclear_turns"),
        ({"turns": {"text": ["One."], "speaker": []}}, "unclear_turns"),
        ({"texts": ["One.", 2]}, "text_not_string"),
        ({"texts": ["One.", ["Two."]], "speakers": list("ab")}, "text_not_string"),
        ({"texts": ["One.", "[S2] Two."], "speakers": list("ab")}, "tag_in_turn"),
        ({"turns": [{"text": "One.", "start": "x", "end": 1}]}, "unclear_segment"),
        ({"turns": [{"text": "One.", "start": 2, "end": 1}]}, "unclear_segment"),
    ],
)
def test_dialogues_that_cannot_be(talk, cells, code):
    """A wrong list of turns ended the run, or became a dialogue with the wrong speakers."""
    (row,) = open_source([{"audio": str(talk), **cells}]).rows
    assert isinstance(row.text, RowError) and row.text.code == code


def test_dialogues_by_the_tags_of_their_speakers(talk, processor, tmp_path):
    """`--speaker-tag anna=S2` had no effect on rows that are dialogues, nor a list of speakers beside a speaker."""
    dialogue = {"audio": str(talk), "texts": ["This is what I said.", "Oh no, that it is not."]}
    rows = [{**dialogue, "speakers": names} for names in (["anna", "ben"], ["anna", "carl"])]
    rows += [{**dialogue, "speaker": "show", "speakers": ["ben", "anna"]}, dialogue]
    settings = PrepareConfig(speaker_tags={"anna": "[S2]", "ben": "[S1]"}, loudness=None, keep_silence=None)
    report = prepare_dataset(rows, tmp_path / "x", processor, settings)
    assert [(clip.row, clip.text) for clip in report.clips] == [
        (1, "[S2] This is what I said. [S1] Oh no, that it is not."),
        (3, "[S1] This is what I said. [S2] Oh no, that it is not."),
    ]
    assert [(issue.row, issue.code) for issue in report.rejected] == [(row, "speaker_without_tag") for row in (2, 4)]


def test_texts_with_tags_of_their_own(talk):
    """A list of texts that begin with tags got a second tag in front."""
    (row,) = open_source([{"audio": str(talk), "texts": ["[S1] One. ", "[S2] Two."]}]).rows
    assert row.text == "[S1] One. [S2] Two."


@pytest.mark.parametrize(
    "cells",
    [
        {"turns": [dict(zip(("speaker", "text", "start", "end"), turn, strict=True)) for turn in TIMED]},
        {"texts": ["One.", "Two.", "Three."], "speakers": list("aba"), "starts": [0, 1.2, 5], "ends": [1, 2, 6]},
        {"turns": {"from": list("aba"), "text": ["One.", "Two.", "Three."], "timestamp": [[0, 1], [1.2, 2], [5, 6]]}},
    ],
)
@pytest.mark.parametrize("form", ["path", "bytes"])
def test_dialogues_with_times_are_cut(talk, cells, form):
    """An hour with timed turns was one clip, and rejected as too long."""
    audio = str(talk) if form == "path" else {"bytes": talk.read_bytes(), "path": None}
    number = 1 if form == "path" else 2
    rows = join(open_source([{"audio": audio, **cells}] * number).rows, join_turns=None)
    assert [row.text for row in rows] == ["[S1] One. [S2] Two.", "[S1] Three."] * number
    samples, _ = read_clip(rows[0].audio)
    assert samples.shape == (1, 2.1 * RATE)


def test_meetings_end_to_end(processor, tone, tmp_path):
    """Diarized recordings did not become data with [S1] and [S2], or a second run encoded them again."""
    wave = tone(12, 16000)
    sf.write(tmp_path / "m.wav", wave, 16000, subtype="FLOAT")
    rows = [
        ("m.wav", 0.5, 2.5, "anna", "This is what anna said."),
        ("m.wav", 2.8, 5.0, "ben", "And this is what ben said."),
        ("m.wav", 8.5, 10.5, "anna", "Much later she said this."),
        ("m.wav", 9.0, 11.0, "ben", "While he said that."),
        ("m.wav", 11.0, 19.0, "ben", "Behind the end."),
    ]
    names = ("path", "start", "end", "speaker", "text")
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    report = prepare_dataset(tmp_path / "all.jsonl", tmp_path / "x", processor, JOIN)
    clips, _ = load_prepared(tmp_path / "x")
    assert clips["text"][:] == ["[S1] This is what anna said. [S2] And this is what ben said."]
    (waveform,) = processor.feature_extractor.load_waveforms(wave[6400:81600], 16000)  # 0.4 to 5.1 s
    (expected,) = processor.codec.encode([torch.from_numpy(waveform)])
    assert torch.equal(torch.tensor(clips[0]["codes"]), expected)
    assert clips["speakers"][:] == [["anna", "ben"]] and clips["session"][:] == ["m.wav"]
    assert [(issue.row, issue.code) for issue in report.rejected] == [
        (3, "overlapping_turns"),
        (4, "overlapping_turns"),
        (5, "unclear_segment"),
    ]
    told = json.loads((tmp_path / "x" / "report.json").read_text())["joined"]
    assert (told["num_turns"], told["num_joined"], told["num_clips"], told["num_dialogues"]) == (5, 3, 2, 1)
    assert "joined: 3 of 5 turns of 1 sessions to 2 clips" in str(report)
    assert "joined: 3 of 5 turns" in (tmp_path / "x" / "report.md").read_text()
    assert prepare_dataset(tmp_path / "all.jsonl", tmp_path / "x", processor, JOIN).num_encoded == 0
    single = prepare_dataset(tmp_path / "all.jsonl", tmp_path / "y", processor, PrepareConfig(loudness=None))
    assert "note: 1 sessions have several speakers: `join_turns` (--join-turns) makes dialogues" in str(single)


def test_subtitles_end_to_end(processor, tone, tmp_path):
    """A long recording with subtitles was one clip without a text; each cue alone is a part of a sentence."""
    sf.write(tmp_path / "talk.wav", tone(9, 16000), 16000)
    cues = [("00:00:00,500 --> 00:00:02,000", "This is what"), ("00:00:02,000 --> 00:00:04,000", "was said here.")]
    cues += [("00:00:07,000 --> 00:00:08,500", "And this, later.")]
    (tmp_path / "talk.en.srt").write_text("\n\n".join(f"{n}\n{time}\n{cue}" for n, (time, cue) in enumerate(cues)))
    (tmp_path / "talk.rttm").write_text("SPEAKER talk 1 0.4 8.4 <NA> <NA> anna <NA> <NA>\n")
    sf.write(tmp_path / "plain.wav", tone(2, 16000, 300), 16000)
    (tmp_path / "plain.txt").write_text(TEXT)
    sf.write(tmp_path / "quick.wav", tone(2, 16000, 350), 16000)
    (tmp_path / "quick.json").write_text(json.dumps({"text": TEXT, "speaker": "ben", "duration": 2.0}))
    sf.write(tmp_path / "bad.wav", tone(2, 16000, 400), 16000)
    (tmp_path / "bad.vtt").write_text("WEBVTT\n")
    settings = PrepareConfig(loudness=None)
    report = prepare_dataset(tmp_path, tmp_path.parent / f"{tmp_path.name}-x", processor, settings)
    assert report.layout.startswith("recordings with json and srt and vtt files")
    assert [(clip.id, clip.text, clip.speaker) for clip in report.clips] == [
        ("plain", f"[S1] {TEXT}", None),
        ("quick", f"[S1] {TEXT}", "ben"),
        ("talk@0.400-4.100", "[S1] This is what was said here.", "anna"),
        ("talk@6.900-8.500", "[S1] And this, later.", "anna"),
    ]
    assert [issue.code for issue in report.rejected] == ["unreadable_annotation"]
    (row,) = [row for row in open_source(tmp_path).rows if row.number == 3]
    assert row.audio == Segment(str(tmp_path / "talk.wav"), 7.0, 1.5, True)


def test_annotations_of_recordings_elsewhere(tone, tmp_path):
    """Annotations in a folder of their own were no clips."""
    (tmp_path / "rec" / "a").mkdir(parents=True)
    (tmp_path / "notes" / "a").mkdir(parents=True)
    sf.write(tmp_path / "rec" / "a" / "talk.1.wav", tone(2, 16000), 16000)
    (tmp_path / "notes" / "a" / "talk.1.json").write_text('[{"start": 0, "end": 1, "text": "Hello."}]')
    with pytest.raises(ValueError, match="no clips"):
        open_source(tmp_path / "notes")
    (row,) = open_source(tmp_path / "notes", audio_root=tmp_path / "rec").rows
    assert (row.text, row.audio) == ("Hello.", Segment(str(tmp_path / "rec" / "a" / "talk.1.wav"), 0.0, 1.0, True))


def test_a_dataset_of_dialogues(processor, tone, tmp_path):
    """A dataset whose rows are grouped dialogues, with undecoded audio, was rejected whole."""
    sf.write(tmp_path / "a.wav", tone(3, 16000), 16000)
    audio = {"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}
    row = {"audio": audio, "text": ["Hello there, ben.", "Hello there, anna."], "speaker_id": [4, 9]}
    dataset = datasets.Dataset.from_list([row]).cast_column("audio", datasets.Audio(decode=False))
    report = prepare_dataset(dataset, tmp_path / "x", processor, PrepareConfig(loudness=None))
    assert [(clip.text, clip.speakers) for clip in report.clips] == [
        ("[S1] Hello there, ben. [S2] Hello there, anna.", ("4", "9"))
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 90), st.sampled_from("abc"), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.floats(1, 12),
)
def test_no_clip_breaks_the_rules(cells, seconds):
    """A clip was longer than allowed, had speech without its text, or a turn was lost or twice in the data."""
    rows = turns(*((b / 10, (b + n) / 10, s, f"w{k}" if ok else "") for k, (b, n, s, ok) in enumerate(cells)))
    joined = join(rows, dialogue_seconds=seconds)
    words = [word for row in joined if isinstance(row.text, str) for word in row.text.split() if word[0] == "w"]
    lost = [row.number for row in joined if isinstance(row.text, RowError)]
    assert sorted([int(word[1:]) + 1 for word in words] + lost) == [row.number for row in rows]
    for row in (row for row in joined if isinstance(row.text, str)):
        inside = [rows[int(word[1:])] for word in row.text.split() if word[0] == "w"]
        begin, end = row.audio.begin, row.audio.begin + row.audio.duration
        assert len(inside) == 1 or end - begin <= seconds + 0.2 + 1e-9
        assert len({one.speaker for one in inside}) <= 2
        for other in rows:
            if other not in inside:
                shared = min(end, other.audio.begin + other.audio.duration) - max(begin, other.audio.begin)
                assert shared <= 0.5 + 1e-6
