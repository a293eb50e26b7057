"""`dia-hf voices`, run through `main`."""

import pytest
import soundfile as sf

from cli.command import FAST, run
from dia_hf import VoiceLibrary
from dia_hf.atomic_write import LOCK


def test_voices_come_and_go(library, tmp_path, tone, capsys):
    """A voice that was added could not be used, listed or removed by its name."""
    sf.write(tmp_path / "anna.wav", tone(3.5, 16000), 16000)
    assert run("voices", "list") == 0
    assert "no voices" in capsys.readouterr().out
    add = ["voices", "add", "anna", str(tmp_path / "anna.wav"), "--transcript"]
    assert run(*add, "These are my words.") == 0
    assert "anna: 3.5 s" in capsys.readouterr().out
    assert run(*add, "Other words.") == 2
    assert "--force" in capsys.readouterr().err
    assert library.get("anna").transcript == "These are my words."
    assert run(*add, "Other words.", "--force") == 0
    assert run("voices", "list") == 0
    assert "anna: 3.5 s, Other words." in capsys.readouterr().out
    assert run("voices", "remove", "anna") == 0
    assert run("voices", "remove", "anna") == 2
    assert "anna" in capsys.readouterr().err


def test_a_lock_of_a_killed_process_goes(library, tmp_path, tone, capsys):
    """`add`, killed during the write, left a hidden lock that blocked the same command from then on."""
    sf.write(tmp_path / "anna.wav", tone(2, 44100), 44100)
    add = ["voices", "add", "anna", str(tmp_path / "anna.wav"), "--transcript", "These are my words."]
    assert run(*add) == 0
    folder = VoiceLibrary().folder
    (folder / LOCK).touch()
    assert run(*add) == 2
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_short_recordings_are_warned_of(library, tmp_path, tone, capsys):
    """A prompt of one second generates noise, without a warning."""
    sf.write(tmp_path / "anna.wav", tone(1.0, 16000), 16000)
    assert run("voices", "add", "anna", str(tmp_path / "anna.wav"), "--transcript", "Words.") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("dia-hf: warning: the recording has 1.0 s")


def test_import(library, tmp_path, tone, capsys):
    """A folder of voices had to be added one by one; or faults were not told by file."""
    folder = tmp_path / "cast"
    folder.mkdir()
    for name in ("anna", "ben"):
        sf.write(folder / f"{name}.wav", tone(3.5, 16000), 16000)
        (folder / f"{name}.txt").write_text("These are my words.")
    assert run("voices", "import", str(folder)) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["anna: 3.5 s", "ben: 3.5 s"]
    (folder / "ben.txt").unlink()
    assert run("voices", "import", str(folder)) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("anna.wav: there is a voice 'anna' already")
    assert errors[1].startswith("ben.wav: there is a voice 'ben' already")
    summary = "2 of 2 recordings cannot be imported, and none was saved; what is wrong with each is above."
    assert errors[2:] == [f"dia-hf: error: {summary}"]
    assert run("voices", "import", str(folder), "--force") == 2
    assert "ben.wav: its transcript is missing" in capsys.readouterr().err
    assert list(library) == ["anna", "ben"]


@pytest.mark.parametrize("missing", ["transcript", "words"])
def test_a_voice_needs_a_transcript(library, tmp_path, tone, capsys, missing):
    """A voice without a transcript, which generates unintelligible speech, was accepted."""
    sf.write(tmp_path / "anna.wav", tone(3.5, 16000), 16000)
    transcript = [] if missing == "transcript" else ["--transcript", " "]
    assert run("voices", "add", "anna", str(tmp_path / "anna.wav"), *transcript) == 2
    assert "transcript" in capsys.readouterr().err
    assert list(library) == []


def test_transcribe(library, tmp_path, tone, capsys, monkeypatch):
    """The recognizer's transcript was not saved with the voice."""
    sf.write(tmp_path / "anna.wav", tone(3.5, 16000), 16000)
    monkeypatch.setattr("dia_hf.speech.voices.transcribe", lambda audio, model: f"What {model} hears.")
    recording = str(tmp_path / "anna.wav")
    assert run("voices", "add", "anna", recording, "--transcribe", "someone/ears") == 0
    assert library.get("anna").transcript == "What someone/ears hears."
    options = ["--audio-prompt", recording, "--transcribe", "someone/ears", *FAST]
    assert run("generate", "[S2] Hi.", "-o", str(tmp_path / "a.wav"), *options) == 0
    assert "What someone/ears hears." in capsys.readouterr().err
