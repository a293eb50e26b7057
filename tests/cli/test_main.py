"""The command as a whole: how it is started, and how it ends."""

import subprocess
import sys

import soundfile as sf

from cli.command import FAST, run


def test_as_a_command(tmp_path):
    """The entry point named in pyproject.toml, and the exit status that a shell sees."""
    command = [sys.executable, "-m", "dia_hf.cli", "generate", "[S1] Hi.", "-o", str(tmp_path / "a.ogg"), *FAST]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sf.info(tmp_path / "a.ogg").format == "OGG"
    done = subprocess.run([*command, "--model", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_interrupted(tmp_path, capsys, monkeypatch):
    """Control-C printed forty lines of stack."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", interrupt)
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav")) == 130
    assert "interrupted" in capsys.readouterr().err
