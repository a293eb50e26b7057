"""The whole command: how it starts, and how it ends."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf

import dia_hf
from cli.command import FAST, run
from dia_hf import MINIATURE

SOURCE = Path(dia_hf.__file__).parent


def test_as_a_command(tmp_path):
    """In a process of its own the command failed, or its exit status was wrong."""
    command = [sys.executable, "-m", "dia_hf.cli", "generate", "[S1] Hi.", "-o", str(tmp_path / "a.ogg"), *FAST]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sf.info(tmp_path / "a.ogg").format == "OGG"
    done = subprocess.run([*command, "--model", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_interrupted(tmp_path, capsys, monkeypatch):
    """Ctrl-C printed forty lines of traceback; or nothing after "interrupted;", for an exception without a message."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", interrupt)
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav")) == 130
    assert "dia-hf: interrupted; no file is half-written." in capsys.readouterr().err


def fail_with(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", fail)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("two\nlines"), ValueError("two\nlines"), MemoryError()])
def test_any_error_is_one_line(tmp_path, capsys, monkeypatch, error):
    """An unexpected error printed forty lines of traceback and returned status 1."""
    monkeypatch.delenv("DIA_HF_TRACEBACK", raising=False)
    fail_with(monkeypatch, error)
    command = ["generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav")]
    assert run(*command) == 2
    told = capsys.readouterr().err
    line = told.splitlines()[-1]
    assert line.startswith("dia-hf: error: ")
    assert "Traceback" not in told
    assert "lines" in line or "lines" not in str(error)
    assert isinstance(error, ValueError) or (type(error).__name__ in line and "DIA_HF_TRACEBACK=1" in line)
    monkeypatch.setenv("DIA_HF_TRACEBACK", "1")
    assert run(*command) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_standard_input(capsys, monkeypatch):
    """`<&-`, and some schedulers, close standard input: an AttributeError of None."""
    monkeypatch.setattr(sys, "stdin", None)
    assert run("generate", "-") == 2
    assert "standard input, which is closed" in capsys.readouterr().err


def test_the_miniature_by_its_name(tmp_path, capsys, monkeypatch):
    """`--model miniature`, the model's name in written files, was looked up on the Hub."""
    asked = []
    monkeypatch.setattr(
        "dia_hf.speech.Dia.from_pretrained", lambda model, *args, **kwargs: asked.append(model) or {}["x"]
    )
    monkeypatch.chdir(tmp_path)
    run("generate", "[S1] Hi.", "--model", "miniature")
    (tmp_path / "miniature").mkdir()
    run("generate", "[S1] Hi.", "--model", "miniature")
    assert asked == [MINIATURE, "miniature"]


def test_install_hints_are_quoted():
    """`pip install dia-hf[train]` finds no match in zsh."""
    for path in [*SOURCE.rglob("*.py"), *SOURCE.parents[1].glob("docs/*.md"), SOURCE.parents[1] / "README.md"]:
        assert not re.search(r"pip install dia-hf\[", path.read_text("utf-8")), path


def test_messages_are_short(tmp_path, capsys):
    """An error repeated a text of a thousand characters in full."""
    for command in (["voices", "remove", "x" * 2000], ["generate", "hi", "--seed", "x" * 2000], ["--" + "x" * 2000]):
        assert run(*command) == 2
        assert len(capsys.readouterr().err.splitlines()[-1]) <= 520


def test_a_value_of_two_dashes(capsys):
    """argparse parses "--" as a value to an empty list, which caused an AttributeError."""
    for option in ("--voice=--", "--output=--"):
        assert run("generate", "[S1] Hi.", option) == 2
        assert "the value is '--'" in capsys.readouterr().err


def test_an_interrupt_that_a_library_swallows(capsys, monkeypatch):
    """Ctrl-C while torch reads a file was reported as an error in that file, with status 2."""

    def swallow(*args, **kwargs):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", swallow)
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run("generate", "[S1] Hi.") == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "dia-hf: interrupted; no file is half-written."
