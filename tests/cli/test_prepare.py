"""`dia-hf prepare`, run through `main`."""

import csv
import json
from pathlib import Path

import pytest
import soundfile as sf

from dia_hf import cli
from dia_hf.data.prepared import load_prepared

SENTENCES = ["This is the first one.", "And here is another.", ""]


@pytest.fixture
def recordings(tmp_path, tone, monkeypatch):
    """A folder "recordings" in the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "recordings"
    folder.mkdir()
    rows = [["file_name", "text", "speaker"]]
    for number, text in enumerate(SENTENCES):
        sf.write(folder / f"{number}.wav", tone(1.5, 16000, pitch=200 + 10 * number), 16000)
        rows.append([f"{number}.wav", text, "anna" if number else "ben"])
    with open(folder / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def run(*args: str) -> int:
    """Run the command; argparse's own errors end in SystemExit."""
    try:
        return cli.main(["prepare", *args])
    except SystemExit as end:
        return end.code


def test_prepares_a_folder(recordings, capsys):
    """The summary did not state how many clips were kept or rejected, or why."""
    assert run("recordings", "prepared") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("2 of 3 clips kept, 3.0 s; 2 encoded in this run\nsource: table: audio 'file_name',")
    assert "empty_text  1\n    metadata.csv row 3: the transcript is empty." in captured.out
    assert "prepared: read report.md and rejected.jsonl there" in captured.out
    assert "codec: --model nari-labs/Dia-1.6B-0626" in captured.err
    assert "preparing: 100%" in captured.err and "1 rejected" in captured.err
    assert run("recordings", "prepared") == 0
    assert "; 0 encoded in this run" in capsys.readouterr().out


def test_prepares_a_folder_of_texts(tmp_path, tone, monkeypatch, capsys):
    """`dia-hf prepare rec out` found none of the clips: it looked for them in rec/rec."""
    monkeypatch.chdir(tmp_path)
    Path("rec").mkdir()
    for number, text in enumerate(SENTENCES[:2]):
        sf.write(f"rec/{number}.wav", tone(1.5, 16000, pitch=200 + 10 * number), 16000)
        Path(f"rec/{number}.txt").write_text(text)
    assert run("rec", "out") == 0
    assert capsys.readouterr().out.startswith("2 of 2 clips kept, 3.0 s; 2 encoded in this run\n")
    assert load_prepared("out")[0]["id"][:] == ["0", "1"]


def test_the_tier_arrives(recordings, capsys):
    """`--tier` was parsed and had no effect."""
    assert run("recordings", "prepared", "--tier", "anna") == 2
    assert "`tiers` (--tier) are those of TextGrids" in capsys.readouterr().err


def test_options_arrive(recordings):
    """An option was parsed and had no effect."""
    args = ["recordings", "prepared", "--speaker-tag", "anna=S3", "--speaker-tag", "ben=[S1]", "--extra-tag", "S3"]
    args += [
        "--language-column",
        "speaker",
        "--loudness",
        "-20",
        "--no-trim",
        "--min-seconds",
        "1",
        "--max-seconds",
        "9",
    ]
    turns = [
        "--no-join-turns",
        "--dialogue-seconds",
        "20",
        "--max-pause",
        "1",
        "--max-overlap",
        "0.1",
        "--turn-gap",
        "0",
    ]
    turns += ["--session-column", "speaker", "--audio-root", "recordings"]
    args += ["--characters-per-second", "1", "30", "--text-column", "text", "--audio-column", "file_name"]
    assert (
        run(*args, "--id-column", "text", "--speaker-column", "speaker", "--num-proc", "1", "--device", "cpu", *turns)
        == 0
    )
    dataset, info = load_prepared("prepared")
    assert dataset["text"][:] == [f"[ben] [S1] {SENTENCES[0]}", f"[anna] [S3] {SENTENCES[1]}"]
    assert info["settings"] == {
        "audio_column": "file_name",
        "text_column": "text",
        "speaker_column": "speaker",
        "language_column": "speaker",
        "id_column": "text",
        "session_column": "speaker",
        "audio_root": "recordings",
        "tiers": [],
        "join_turns": False,
        "dialogue_seconds": 20.0,
        "max_pause": 1.0,
        "max_overlap": 0.1,
        "turn_gap": 0.0,
        "speaker_tags": {"anna": "[S3]", "ben": "[S1]"},
        "extra_tags": ["[S3]"],
        "loudness": -20.0,
        "keep_silence": None,
        "min_seconds": 1.0,
        "max_seconds": 9.0,
        "min_characters_per_second": 1.0,
        "max_characters_per_second": 30.0,
        "source": "recordings",
        "split": None,
        "config": None,
    }
    assert run("recordings", "prepared", "--no-loudness") == 0
    assert load_prepared("prepared")[1]["settings"]["loudness"] is None


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["nowhere", "x"], "no file or folder 'nowhere'"),
        (["recordings", "recordings"], "was not made by"),
        (["recordings", "x", "--text-column", "words"], "'file_name', 'text', 'speaker'"),
        (["recordings", "x", "--speaker-tag", "anna"], "no NAME=TAG"),
        (["recordings", "x", "--speaker-tag", "anna=S3"], "--extra-tag"),
        (["recordings", "x", "--min-seconds", "70"], "in this order"),
        (["recordings", "x", "--min-seconds", "5"], "none of the 3 rows"),
        (["recordings", "x", "--split", "train"], "is not a dataset"),
        (["recordings", "x", "--config", "en"], "is not a Hub dataset"),
        (["recordings", "x", "--loudness", "-9", "--no-loudness"], "not allowed with"),
        (["recordings", "x", "--num-proc", "0"], "from 1 up"),
        (["recordings", "x", "--device", "warp"], "the device 'warp' is not available here"),
        (["recordings"], "DEST"),
    ],
)
def test_errors_end_in_a_line(recordings, args, error, capsys):
    """A mistake caused a traceback."""
    assert run(*args) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and error in last
    assert not Path("x").exists() or "none of the 3 rows" in last


def test_an_interruption_says_what_is_kept(recordings, monkeypatch, capsys):
    """An interrupt did not report that the encoded clips are kept."""

    def stop(self, waveforms):
        raise KeyboardInterrupt

    monkeypatch.setattr("dia_hf.audio.dac.DacCodec.encode", stop)
    assert run("recordings", "prepared") == 130
    assert "interrupted; what is encoded is kept; the same command goes on" in capsys.readouterr().err


def test_what_was_rejected_is_a_file_for_programs(recordings):
    """Rejected rows were not written as one JSON object a line, with file and row."""
    assert run("recordings", "prepared") == 0
    with open("prepared/rejected.jsonl", encoding="utf-8") as file:
        (line,) = map(json.loads, file)
    expected = {"source": "metadata.csv", "row": 3, "id": "2", "code": "empty_text"}
    assert {name: line[name] for name in expected} == expected


def test_a_result_for_programs(recordings, capsys):
    """A script had to parse the number of clips from a summary."""
    assert run("recordings", "prepared", "--json", "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {"path": "prepared", "clips": 2, "rejected": 1, "seconds": 3.0}
