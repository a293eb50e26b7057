"""`dia-hf align`."""

import csv
import json
import os
import shutil

import numpy as np
import pysubs2
import pytest

from cli.command import run
from dia_hf import Dia
from dia_hf.audio.io import read_audio, write_audio
from dia_hf.data.clips import read_clip
from dia_hf.data.sources import open_source

TEXT = "[S1] Good morning, father. [S2] One two three four."
OTHER = "[S1] Hello, I am Dia."


@pytest.fixture(scope="module")
def spoken():
    """The audio of the two texts, and its rate."""
    dia = Dia.from_pretrained(device="cpu")
    return [dia.generate(text, temperature=0) for text in (TEXT, OTHER)], dia.sampling_rate


@pytest.fixture
def recording(tmp_path, spoken):
    (tmp_path / "speech.txt").write_text(TEXT, "utf-8")
    write_audio(tmp_path / "speech.wav", spoken[0][0], spoken[1])
    return tmp_path / "speech.wav"


def align(*args):
    return run("align", *map(str, args), "--device", "cpu")


@pytest.mark.parametrize("kind", ["srt", "vtt", "json", "TextGrid"])
def test_times_are_written_by_the_ending(recording, tmp_path, capsys, kind):
    """An ending was refused in capitals, or the transcript beside the recording not found."""
    file = tmp_path / f"new/speech.{kind}"
    assert align(recording, "-o", file, "--quiet") == 0
    content = file.read_text("utf-8")
    if kind in ("srt", "vtt"):
        assert [event.plaintext for event in pysubs2.load(str(file))] == [
            "Good morning, father.",
            "One two three four.",
        ]
    elif kind == "json":
        words = json.loads(content)["words"]
        assert [word["text"] for word in words] == TEXT.replace("[S1] ", "").replace("[S2] ", "").split()
        assert all(TEXT[word["start_char"] : word["end_char"]] == word["text"] for word in words)
        assert {type(word["evidence"]) for word in words} == {float}
    else:
        assert content.count('name = "S1 - words"') == content.count('name = "S2 - words"') == 1
        assert 'text = "morning,"' in content


def test_a_transcript_in_another_form_of_unicode(recording, tmp_path):
    """The transcript "é.txt" was not beside "é.wav" if one of the two names came from macOS."""
    recording.with_suffix(".txt").rename(tmp_path / "e\u0301.TXT")
    assert align(recording.rename(tmp_path / "\u00e9.wav"), "-o", tmp_path / "times.json", "--quiet") == 0


def test_the_result_is_told(recording, capsys):
    """`--json` lacked what was found."""
    assert (
        align(recording, "-o", recording.with_suffix(".srt"), "--text", TEXT.replace("three", "thirteen"), "--json")
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["words"] == 7 and 1 <= result["unlikely_words"] <= 3
    assert result["seconds"] == pytest.approx(len(read_audio(recording)[0][0]) / 16000, abs=0.01)


def test_clips_are_read_by_prepare(recording, tmp_path, capsys):
    """The table's times were taken for a segment of the clips, or a clip had the words of another one."""
    folder = tmp_path / "clips"
    assert align(recording, "--clips", folder, "--max-clip-seconds", "1") == 0
    rows = list(open_source(str(folder)).rows)
    # What the model does not take for its own speech is left out, and listed.
    left_out = [json.loads(line)["text"] for line in (folder / "left_out.jsonl").read_text("utf-8").splitlines()]
    assert [*(row.text for row in rows), *left_out] == ["[S1] Good morning, father.", "[S2] One two three four."]
    assert rows
    lengths = [read_clip(row.audio)[0].shape[-1] for row in rows]
    with open(folder / "metadata.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    whole, rate = read_audio(recording)
    for row, line, length in zip(rows, table, lengths, strict=True):
        first, last = round(float(line["start"]) * rate), round(float(line["end"]) * rate)
        assert length == last - first
        assert np.allclose(read_clip(row.audio)[0], whole[:, first:last], atol=1e-4)
    assert f"{len(rows)} clips" in capsys.readouterr().out


def test_transcripts_that_do_not_fit_are_listed(tmp_path, spoken, capsys):
    """Two transcripts that were exchanged passed; or a row without audio ended the run."""
    waveforms, rate = spoken
    for name, waveform in zip("abc", [*waveforms, waveforms[1]], strict=True):
        write_audio(tmp_path / f"{name}.wav", waveform, rate)
    lines = [["file_name", "text"], ["a.wav", TEXT], ["b.wav", OTHER], ["c.wav", "[S1] The green bread was cold."]]
    with open(tmp_path / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([*lines, ["d.wav", "No audio."], ["a.wav", ""]])
    out = tmp_path / "aligned"
    assert align(tmp_path / "metadata.csv", "-o", out, "--format", "srt") == 0
    rows = [json.loads(line) for line in (out / "alignment.jsonl").read_text("utf-8").splitlines()]
    assert rows[0]["id"] == "c"
    assert {row["id"]: row["fits"] for row in rows} == {"a": True, "b": True, "c": False}
    assert all((out / row["file"]).read_text("utf-8").startswith("1\n") for row in rows if row["fits"])
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert [row["row"] for row in rejected] == [4, 5]
    told = capsys.readouterr().out
    assert "3 recordings" in told and "2 rejected" in told and "  c: -" in told


def test_recordings_of_similar_names(recording, tmp_path):
    """Of `a/x.wav` and `a_x.wav`, each the first row of a source of its own, one file replaced the other."""
    folder = tmp_path / "many"
    for name in ("a/x.wav", "a_x.wav"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recording, path)
        path.with_suffix(".txt").write_text(TEXT, "utf-8")
    assert align(folder, "-o", tmp_path / "aligned") == 0
    rows = [json.loads(line) for line in (tmp_path / "aligned" / "alignment.jsonl").read_text("utf-8").splitlines()]
    assert sorted(row["file"] for row in rows) == ["000001-a_x.json", "000002-a_x.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["speech.wav"], "nothing would be written"),
        (["speech.wav", "-o", "speech.sub"], "must end in one of .srt, .vtt"),
        (["speech.wav", "-o", "speech.srt", "--text", " "], "no words"),
        (["missing.wav", "-o", "a.srt", "--text", "Hello."], "there is no audio file"),
        (["other.wav", "-o", "a.srt"], "give --text or --text-file"),
        (["speech.wav", "--clips", "."], "exists; give a new folder"),
        (["table.csv", "-o", "out.srt"], "must be a new folder"),
        (["table.csv", "-o", "out", "--text", "Hello."], "--text is for one recording"),
    ],
)
def test_what_cannot_be_done_is_told(recording, monkeypatch, capsys, args, message):
    """A mistake was found after the work, or ended in a traceback."""
    monkeypatch.chdir(recording.parent)
    assert align(*args) == 2
    assert message in capsys.readouterr().err


def test_a_recording_of_something_else_is_told(recording, capsys):
    """Subtitles of a wrong transcript were written without a word."""
    assert align(recording, "-o", recording.with_suffix(".srt"), "--text", "[S1] The green bread was cold. " * 3) == 0
    assert "the transcript does not fit the recording" in capsys.readouterr().err


def test_names_that_are_not_in_unicode(tmp_path, spoken, monkeypatch, capsys):
    """A file name in an old encoding ended the alignment of a whole folder at its end, and nothing was written."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    try:
        write_audio(f"{name}/{name}.wav", spoken[0][0], spoken[1])
    except OSError:
        pytest.skip("the file system has names in Unicode alone")
    (tmp_path / name / f"{name}.txt").write_text(TEXT, "utf-8")
    assert align(name, "-o", "all", "--quiet") == 0
    (line,) = (tmp_path / "all/alignment.jsonl").read_text("utf-8").splitlines()
    assert name in json.loads(line)["audio"]
    assert align(f"{name}/{name}.wav", "--clips", "clips", "--quiet") == 0
    assert "caf\\udce9.wav" in (tmp_path / "clips/metadata.csv").read_text("utf-8")


@pytest.mark.parametrize(("output", "clips"), [("new/all.json", "new"), ("new.json", "new.json")])
def test_outputs_that_would_replace_each_other(recording, tmp_path, capsys, output, clips):
    """The folder of the clips replaced the file of the words."""
    assert align(recording, "-o", tmp_path / output, "--clips", tmp_path / clips) == 2
    assert "are one place; give two" in capsys.readouterr().err.splitlines()[-1]


def test_recordings_with_names_alike_keep_their_words(tmp_path, spoken, capsys):
    """The words of "a b.wav" were replaced by those of "a_b.wav", and names alike in their first 80 letters."""
    texts = {"a b": TEXT, "a_b": OTHER, "x" * 100 + "1": TEXT, "x" * 100 + "2": OTHER}
    for name, text in texts.items():
        write_audio(tmp_path / f"in/{name}.wav", spoken[0][text == OTHER], spoken[1])
        (tmp_path / f"in/{name}.txt").write_text(text, "utf-8")
    assert align(tmp_path / "in", "-o", tmp_path / "out", "--quiet") == 0
    lines = map(json.loads, (tmp_path / "out/alignment.jsonl").read_text("utf-8").splitlines())
    found = {line["id"]: json.loads((tmp_path / "out" / line["file"]).read_text("utf-8"))["words"] for line in lines}
    assert {name: len(words) for name, words in found.items()} == {
        name: len(text.split()) - text.count("[S") for name, text in texts.items()
    }
