"""Rows that are segments of longer recordings: columns, units, and errors."""

import json

import numpy as np
import pytest
import soundfile as sf

from dia_hf.data.clips import digest_audio, file_of, read_clip
from dia_hf.data.rows import RowError
from dia_hf.data.segments import Segment
from dia_hf.data.sources import open_source


@pytest.fixture
def long(tmp_path):
    """A recording of 3 s at 8 kHz whose samples count its milliseconds."""
    sf.write(tmp_path / "long.wav", np.repeat(np.arange(3000) / 4000, 8), 8000, subtype="FLOAT")
    return tmp_path / "long.wav"


def row_of(audio, **cells):
    """The row of a table with these cells beside audio and text."""
    audio = audio if isinstance(audio, dict) else str(audio)
    (row,) = open_source([{"audio": audio, "text": "Hello.", **cells}]).rows
    return row


def milliseconds(audio):
    """First and last millisecond of the samples that are read from `long`."""
    samples, rate = read_clip(audio)
    assert rate == 8000
    return round(4000 * float(samples.flat[0])), round(4000 * float(samples.flat[-1]))


@pytest.mark.parametrize(
    "cells",
    [
        {"offset": 1.0, "duration": 0.5},
        {"start": 1, "end": 1.5},
        {"begin": "1.0", "stop": "1.5"},
        {"start_time": 1.0, "end_time": 1.5},
        {"begin_time": 1.0, "end_time": 1.5},
        {"Start": "00:01", "End": "00:00:01.500"},
        {"start": "0:00:01,0", "end": "0:00:01,5"},
        {"segment_start": 1.0, "segment_end": 1.5},
        {"segmentStart": 1.0, "segmentDuration": 0.5},
        {"startTime": 1.0, "endTime": 1.5},
        {"start_ms": 1000, "end_ms": 1500},
        {"Start (ms)": 1000, "Duration [ms]": 500},
        {"start_sec": 1.0, "duration_seconds": 0.5},
        {"start_ts": 1.0, "end_ts": 1.5},
        {"onset": 1.0, "offset": 1.5},
        {"onset_s": 1.0, "offset_s": 1.5},
        {"onset": 1.0, "duration": 0.5},
        {"xmin": 1.0, "xmax": 1.5},
        {"start": 1.0, "length": 0.5},
        {"end": 1.5, "duration": 0.5},
        {"start": "1,0", "end": "1,5"},
        {"timestamp": [1.0, 1.5]},
        {"segment": (1, 1.5), "timestamp": "2024-05-01"},
        {"start": 1.0, "end": 1.5, "duration": 3.0},
        {"start": 1.0, "end": 1.5, "frame_offset": 8000},
        {"start": np.float32(1.0), "end": np.float64(1.5)},
    ],
)
def test_segments(long, cells):
    """For a row of half a second of an hour, the whole hour was taken."""
    row = row_of(long, **cells)
    assert milliseconds(row.audio) == (1000, 1499)
    assert file_of(row.audio) == str(long)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"start": 2.5}, (2500, 2999)),
        ({"start": 2.5, "end": None}, (2500, 2999)),
        ({"offset": 0, "duration": 3.0}, (0, 2999)),
        ({"offset": 0.0, "duration": 3.05}, (0, 2999)),
        ({"start": 2.0, "end": 3.05}, (2000, 2999)),
        ({"duration": 3.0}, (0, 2999)),
        ({"duration": 3000}, (0, 2999)),
        ({"duration": 2.95}, (0, 2999)),
        ({"duration": "unknown"}, (0, 2999)),
        ({"duration": -1}, (0, 2999)),
        ({"length": 6}, (0, 2999)),
        ({"start": None, "end": ""}, (0, 2999)),
        ({"timestamp": [2.0, None]}, (2000, 2999)),
        ({"timestamp": "2024-05-01", "segment": "one"}, (0, 2999)),
        ({"start": 401.0, "end": 404.0}, (0, 2999)),
        ({"begin_time": 401.76, "end_time": 404.79}, (0, 2999)),
        ({"frame_offset": 0, "num_frames": -1}, (0, 2999)),
    ],
)
def test_what_is_the_whole_recording(long, cells, expected):
    """A duration equal to the file's, or a recording that is already cut, was taken for a segment."""
    row = row_of(long, **cells)
    assert milliseconds(row.audio) == expected


def test_a_duration_that_was_rounded(tmp_path):
    """A column of rounded seconds only describes the recordings; all of them were rejected."""
    sf.write(tmp_path / "a.wav", np.zeros(8000 * 7 // 2), 8000)
    for duration, is_read in ((3, True), (4, True), (2, False), (3.2, False)):
        row = row_of(tmp_path / "a.wav", duration=duration)
        if is_read:
            assert read_clip(row.audio)[0].shape == (1, 28000)
        else:
            with pytest.raises(RowError, match=r"its recording 3\.5 s; add its begin"):
                read_clip(row.audio)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"duration": 1.0}, r"lasts 1 s and its recording 3\.0 s; add its begin"),
        ({"end": 1.0}, "the end of a segment, 1 s, but no begin"),
        ({"start": 2.0, "end": 1.0}, "begins at 2 s and lasts -1 s"),
        ({"start": -1.0, "end": 1.0}, "begins at -1 s and lasts 2 s"),
        ({"start": 1.0, "duration": 0.0}, "lasts 0 s"),
        ({"start": 1.0, "duration": "long"}, "'long' in column 'duration' is not a number of seconds"),
        ({"start": "0,500", "end": 1.0}, "'0,500' in column 'start' is not a number"),
        ({"timestamp": [0.5, "end"]}, "'end' in column 'timestamp' is not a number"),
        ({"timestamp": [None, 0.5]}, r"the end of a segment, 0\.5 s, but no begin"),
        ({"start": "first", "end": 1.0}, "'first' in column 'start' is not a number"),
        ({"start": True, "end": 2}, "True in column 'start' is not a number"),
        ({"start": float("inf"), "end": 2}, "inf in column 'start' is not a number"),
        ({"start": [1], "end": 2}, r"\[1\] in column 'start' is not a number"),
        ({"start": 3.0}, r"the segment 3\.000- s is not within its recording of 3\.0 s"),
        ({"start": 2.0, "end": 3.5}, r"2\.000-3\.500 s is not within"),
        ({"start": 8000, "end": 12000}, "is not within .* segments are in seconds"),
        ({"frame_offset": 8000, "num_frames": 4000}, "'frame_offset' counts samples or frames; give .* in seconds"),
        ({"start_sample": 8000, "end_sample": 12000}, "'start_sample' counts samples or frames"),
    ],
)
def test_segments_that_cannot_be(long, cells, message):
    """An impossible segment was cut wrongly, or its error did not name the row."""
    row = row_of(long, **cells)
    with pytest.raises(RowError, match=message) as caught:
        read_clip(row.audio)
    assert caught.value.code == "unclear_segment"


@pytest.mark.parametrize("form", ["path", "bytes", "mono", "channels", "soundfile"])
def test_segments_of_every_form(long, form):
    """Samples were sliced in the wrong dimension: the second channel, or nothing, instead of the second second."""
    samples, rate = sf.read(long, dtype="float32")
    arrays = {"mono": samples, "channels": np.stack([samples] * 2), "soundfile": np.stack([samples] * 2, axis=1)}
    audio = str(long) if form == "path" else {"bytes": long.read_bytes()}
    if form in arrays:
        audio = {"array": arrays[form], "sampling_rate": rate}
    row = row_of(audio, start=1.0, end=1.5)
    assert milliseconds(row.audio) == (1000, 1499)
    assert max(read_clip(row.audio, 0.6)[0].shape) == 4000, "the limit is for the segment"
    with pytest.raises(RowError) as caught:
        read_clip(row.audio, 0.4)
    assert caught.value.code == "too_long"


def test_ids_of_segments(long):
    """All segments of a recording but the first were rejected as its duplicates."""
    content = [{"audio": "long.wav", "text": "Hello.", "start": n / 2, "end": n / 2 + 0.5} for n in range(3)]
    path = long.parent / "segments.jsonl"
    path.write_text("\n".join(map(json.dumps, content)))
    assert [row.id for row in open_source(path).rows] == ["long@0.000-0.500", "long@0.500-1.000", "long@1.000-1.500"]
    path.write_text(json.dumps(content[1] | {"id": "mine"}))
    assert [row.id for row in open_source(path).rows] == ["mine"]
    path.write_text(json.dumps({"audio": "long.wav", "text": "Hello.", "duration": 3.0}))
    assert [row.id for row in open_source(path).rows] == ["long"]


def test_a_column_that_is_asked_for_is_no_segment(long):
    """A column "start" that the caller declares as the ids was taken for the start of segments."""
    rows = [{"audio": str(long), "text": "Hello.", "start": "first"}]
    assert [(row.id, row.audio) for row in open_source(rows, {"id": "start"}).rows] == [("first", str(long))]


def test_segments_have_digests_of_their_own(long):
    """The cache gave all segments of a recording the codes of the first one, or a changed file its old codes."""
    whole, first, second = str(long), Segment(str(long), 0.0, 0.5), Segment(str(long), 0.5, 0.5)
    of_bytes = Segment(long.read_bytes(), 0.0, 0.5)
    before = digest_audio(first)
    assert len({digest_audio(whole), before, digest_audio(second)}) == 3
    assert digest_audio(of_bytes) == before
    sf.write(long, np.zeros(24000), 8000, subtype="FLOAT")
    assert digest_audio(first) != before
    long.unlink()
    with pytest.raises(RowError) as caught:
        digest_audio(first)
    assert caught.value.code == "missing_file"
