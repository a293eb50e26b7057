"""Audio of rows: paths that are found, audio that is refused, and digests by content."""

import csv
import json

import numpy as np
import pytest
import soundfile as sf

from dia_hf.data.clips import digest_audio, file_of, read_clip
from dia_hf.data.rows import RowError
from dia_hf.data.sources import open_source


def rows_of(source, columns=None, **options):
    return list(open_source(source, columns, **options).rows)


def write_csv(path, rows, delimiter=","):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def test_names_with_blanks_at_their_ends(recordings):
    """A file whose name begins or ends with blanks was not found, nor one whose cell in a table does."""
    (recordings / "0.wav").rename(recordings / " 0 .wav")
    (recordings / " 0 .txt").write_text("Hello.")
    assert file_of(rows_of(recordings)[0].audio) == str(recordings / " 0 .wav")
    write_csv(recordings / "metadata.csv", [["file_name", "text"], [" 0 .wav", "a"], [" 1.wav ", "b"]])
    assert [row.audio for row in rows_of(recordings)] == [str(recordings / name) for name in (" 0 .wav", "1.wav")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_paths_of_windows(recordings, kind):
    """A table made on Windows has backslashes in its paths: none of its files was found on other systems."""
    (recordings / "wavs" / "deep").mkdir(parents=True)
    (recordings / "0.wav").rename(recordings / "wavs" / "deep" / "a.wav")
    name = "wavs\\deep\\a.wav"
    if kind == "csv":
        (recordings / "metadata.csv").write_bytes(f"file_name,text\r\n{name},Hello.\r\n".encode())
    else:
        (recordings / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "Hello."}))
    (row,) = rows_of(recordings)
    assert (row.audio, row.id) == (str(recordings / "wavs" / "deep" / "a.wav"), "wavs/deep/a")
    (row,) = rows_of([{"audio": "C:\\gone\\a.wav", "text": "Hello."}])
    assert row.audio.code == "missing_file"


@pytest.mark.parametrize(("place", "name"), [("wav", "0"), ("clips", "0.wav"), ("wavs", "0.wav")])
def test_recordings_in_a_folder_of_the_usual_name(recordings, place, name):
    """Common Voice's tables omit their folder "clips", and LJSpeech-like ones "wav": no file was found."""
    (recordings / place).mkdir()
    (recordings / "0.wav").rename(recordings / place / "0.wav")
    (recordings / "metadata.csv").write_text(f"path\tsentence\n{name}\tHello.\n")
    assert [row.audio for row in rows_of(recordings)] == [str(recordings / place / "0.wav")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "missing_audio"),
        ("", "missing_audio"),
        (float("nan"), "missing_audio"),
        ("gone.wav", "missing_file"),
        ("gone", "missing_file"),
        ("\0.wav", "missing_file"),
        ("What was said here.", "audio_not_path"),
        ("What was said here. " * 50, "audio_not_path"),
        (7, "audio_not_path"),
        ({"bytes": None, "path": None}, "missing_audio"),
        ({"array": [0.0], "sampling_rate": None}, "unreadable_audio"),
        ({"array": [0.0], "sampling_rate": float("nan")}, "unreadable_audio"),
        ({"array": [[0.0], [0.0, 1.0]], "sampling_rate": 8000}, "unreadable_audio"),
        ({"array": [0.0, None], "sampling_rate": 8000}, "unreadable_audio"),
    ],
)
def test_audio_that_is_none(value, code):
    """Audio in a row of mixed-up columns, or of a missing file, had an error that did not name the cause."""
    (row,) = rows_of([{"audio": value, "text": "Hello."}])
    assert row.audio.code == code


@pytest.mark.parametrize("form", ["file", "bytes"])
def test_broken_files(tmp_path, form):
    """One broken file ended the whole run."""
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF" + bytes(100))
    audio = str(path) if form == "file" else path.read_bytes()
    for limit in (None, 60.0):
        with pytest.raises(RowError) as caught:
            read_clip(audio, limit)
        assert caught.value.code == "unreadable_audio"


def test_a_file_that_is_far_too_long_is_not_read(tmp_path, monkeypatch):
    """A recording of a night among the clips was read whole, and filled the memory."""
    sf.write(tmp_path / "long.wav", np.zeros(80000), 8000)
    monkeypatch.setattr("dia_hf.data.clips.read_audio", None)
    with pytest.raises(RowError) as caught:
        read_clip(str(tmp_path / "long.wav"), 9.0)
    assert caught.value.code == "too_long"
    with pytest.raises(RowError) as caught:
        read_clip({"array": np.zeros((2, 80000)), "sampling_rate": 8000}, 9.0)
    assert caught.value.code == "too_long"


def test_the_same_content_has_the_same_digest(recordings):
    """The cache missed files that were only moved, or returned the codes of another clip."""
    path = recordings / "0.wav"
    assert digest_audio(str(path)) == digest_audio(path.read_bytes())
    assert digest_audio(str(path)) != digest_audio(str(recordings / "1.wav"))
    array = np.arange(4, dtype=np.int16)
    slow, fast = ({"array": array, "sampling_rate": rate} for rate in (8000, 16000))
    assert digest_audio(slow) == digest_audio(dict(slow))
    assert len({digest_audio(slow), digest_audio(fast), digest_audio({**slow, "array": array.view(np.uint16)})}) == 3
