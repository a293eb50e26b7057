"""`dia-hf batch`, run through `main`."""

import json
from pathlib import Path

import pytest

from batch.tables import short_rows, write_table
from cli.command import run as run_command
from dia_hf.audio.io import read_audio


def run(*args: str) -> int:
    return run_command("batch", *args)


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    """A table of three rows in the working directory."""
    monkeypatch.chdir(tmp_path)
    return write_table(Path("texts.jsonl"), short_rows(3))


def manifest():
    return [json.loads(line) for line in Path("speech/metadata.jsonl").read_text("utf-8").splitlines()]


def test_speaks_a_table(capsys):
    """The summary did not say how many rows have audio, or where the manifest is."""
    assert run("texts.jsonl", "speech") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("3 of 3 rows have audio, 0.7 s; 3 of this run in ")
    assert captured.out.splitlines()[1] == "3 are implausible or cut at a limit; the manifest says why"
    assert captured.out.splitlines()[2] == "speech: read metadata.jsonl there"
    assert "note: this is the embedded miniature" in captured.err and "3/3" in captured.err
    assert [entry["file_name"] for entry in manifest()] == [f"audio/0000/row-{i}.wav" for i in range(3)]


def test_options_arrive():
    """An option was parsed and had no effect."""
    write_table(Path("texts.csv"), [{"text": "[S1] Hello."}])
    args = ["--format", "flac", "--sample-rate", "24000", "--seed", "5", "--device", "cpu", "--dtype", "float32"]
    args += ["--max-batch-size", "2", "--max-seconds", "0.48", "--speed", "2", "--loudness", "-20", "--cfg-scale", "2"]
    args += ["--cfg-filter-top-k", "30", "--temperature", "0.9", "--top-p", "0.9", "--voice", "default", "--quiet"]
    assert run("texts.csv", "speech", *args) == 0
    assert json.loads(Path("speech/batch.json").read_text()).items() >= {
        "format": "flac",
        "sample_rate": 24000,
        "seed": 5,
        "options": {
            "cfg_scale": 2.0,
            "cfg_filter_top_k": 30,
            "temperature": 0.9,
            "top_p": 0.9,
            "voice": "default",
            "max_seconds": 0.48,
            "speed": 2.0,
            "loudness": -20.0,
        },
    }.items()  # fmt: skip
    (waveform,), rate = read_audio(f"speech/{manifest()[0]['file_name']}")
    assert rate == 24000 and len(waveform) == pytest.approx(0.24 * rate, abs=2)


def test_a_result_for_programs(capsys):
    """A script had to parse counts from a summary, and a run with failures looked like one without."""
    write_table(Path("texts.jsonl"), [*short_rows(2), {"id": "bad"}])
    assert run("texts.jsonl", "speech", "--json", "--quiet") == 3
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result.pop("speed") > 0 and captured.err == ""
    assert result == {"path": "speech", "rows": 3, "done": 2, "failed": 1, "implausible": 2, "seconds": 0.44}
    assert json.loads(Path("speech/failed.jsonl").read_text())["id"] == "bad"


def test_ids_that_a_terminal_cannot_show(capsys):
    """After all rows had been spoken, the summary failed at an id, and the command with it."""
    Path("texts.jsonl").write_text(
        '{"id": "\\ud83d", "text": ""}\n{"id": "a", "text": "[S1] Hi.", "max_seconds": 0.2}\n'
    )
    assert run("texts.jsonl", "speech") == 3
    assert "row 1 (\\ud83d): `text` is missing" in capsys.readouterr().out


def test_failures_are_told_quietly(capsys):
    """With --quiet a run with failures printed nothing, and its exit status 3 was a riddle."""
    write_table(Path("texts.jsonl"), [*short_rows(1), {"id": "bad"}])
    assert run("texts.jsonl", "speech", "--quiet") == 3
    told = capsys.readouterr().err
    assert told == f"dia-hf: warning: 1 of 2 rows failed; read {Path('speech', 'failed.jsonl')}\n"


def test_a_run_with_nothing_to_do(capsys):
    """It claimed a speed of 0.00 × real time."""
    run("texts.jsonl", "speech", "--quiet")
    assert run("texts.jsonl", "speech") == 0
    assert capsys.readouterr().out.splitlines()[0] == "3 of 3 rows have audio, 0.7 s; 0 of this run"


def test_strict_is_about_implausible_audio():
    """A pipeline that must not pass implausible audio on could not tell."""
    assert run("texts.jsonl", "speech", "--quiet") == 0
    assert run("texts.jsonl", "speech", "--quiet", "--strict") == 3


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["none.csv", "x"], "there is no table at 'none.csv'"),
        (["texts.jsonl", "texts.jsonl"], "OUTPUT"),
        (["texts.jsonl", "."], "was not made by `dia-hf batch`"),
        (["texts.jsonl", "x", "--format", "pcm"], "invalid choice: 'pcm'"),
        (["texts.jsonl", "x", "--sample-rate", "1"], "`sample_rate` is 1"),
        (["texts.jsonl", "x", "--speed", "3"], "`speed` is 3"),
        (["texts.jsonl", "x", "--actors", "2"], "of --ray, which is missing"),
        (["texts.jsonl", "x", "--model", "./none"], "./none"),
        (["texts.jsonl"], "OUTPUT"),
    ],
)
def test_errors_end_in_a_line(args, error, capsys):
    """A mistake caused a traceback, or left a folder."""
    assert run(*args) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and error in last
    assert not Path("x").exists()


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    """An interrupt did not say that spoken rows are kept."""

    def add(self, entry):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dia_hf.batch.output.BatchFolder.add", add)
        assert run("texts.jsonl", "speech") == 130
    assert "interrupted; rows that are spoken are kept; the same command goes on from there." in capsys.readouterr().err
    assert run("texts.jsonl", "speech") == 0 and len(manifest()) == 3
