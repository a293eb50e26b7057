"""The command, run as people run it: in a process of its own where that matters, otherwise through `main`."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
from safetensors.torch import load_file, save_file

from dia_hf import MINIATURE, cli

FAST = ["--max-seconds", "0.2", "--seed", "1", "--device", "cpu"]


def run(*args: str) -> int:
    """Run the command; argparse's own errors end in SystemExit."""
    try:
        return cli.main(list(args))
    except SystemExit as end:
        return end.code


def test_says_a_text(tmp_path, capsys):
    """The first thing a newcomer runs: one command, one file, one line that tells what came out."""
    out = tmp_path / "new" / "hello.wav"
    assert run("generate", "[S1] Hello. [S2] Hi!", "--output", str(out), *FAST) == 0
    captured = capsys.readouterr()
    assert sf.info(out).samplerate == 44100
    assert str(out) in captured.out and "0.20 s of audio" in captured.out
    assert "× real time" in captured.out and "seed 1" in captured.out
    assert "untrained" in captured.err and "nari-labs/Dia-1.6B-0626" in captured.err
    assert "0.2/0.2 s of audio" in captured.err


def test_the_seed_that_is_told_reproduces_the_file(tmp_path, capsys):
    """A seed that is drawn but not told, or told but not used, cannot be gone back to."""
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), "--max-seconds", "0.2") == 0
    seed = capsys.readouterr().out.split("seed ")[1].strip()
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "b.wav"), "--max-seconds", "0.2", "--seed", seed) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("source", ["file", "stdin", "stdin as file"])
def test_text_from_elsewhere(tmp_path, source, monkeypatch):
    """A text from a file or a pipe is another text than the same words as an argument: a newline more."""
    direct, other = tmp_path / "a.wav", tmp_path / "b.wav"
    assert run("generate", "[S1] Héllo.", "-o", str(direct), *FAST) == 0
    (tmp_path / "text.txt").write_text("[S1] Héllo.\n", "utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("[S1] Héllo.\n"))
    where = {"file": ["--text-file", str(tmp_path / "text.txt")], "stdin": ["-"], "stdin as file": ["--text-file", "-"]}
    assert run("generate", *where[source], "-o", str(other), *FAST) == 0
    assert direct.read_bytes() == other.read_bytes()


RECORDINGS = {
    "stereo-48k.wav": (48000, 2, "PCM_16"),
    "mono-16k.flac": (16000, 1, None),
    "mono-44k.mp3": (44100, 1, None),
    "mono-22k.ogg": (22050, 1, None),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_voice_prompt_from_a_real_file(tmp_path, tone, name):
    """transformers refuses 48 kHz and stereo; nobody's recordings are 44.1 kHz mono."""
    rate, channels, subtype = RECORDINGS[name]
    prompt, out = tmp_path / name, tmp_path / "out.wav"
    sf.write(prompt, np.stack([tone(0.8, rate)] * channels, axis=1), rate, subtype=subtype)
    options = ["--audio-prompt", str(prompt), "--prompt-text", "[S1] A tone.", "-o", str(out), "--temperature", "0"]
    assert run("generate", "[S2] And on.", *options, *FAST) == 0
    with_prompt = sf.read(out)[0]
    assert len(with_prompt) == 17 * 512, "the prompt is not part of the result"
    assert run("generate", "[S1] A tone. [S2] And on.", "-o", str(out), "--temperature", "0", *FAST) == 0
    assert not np.array_equal(with_prompt, sf.read(out)[0]), "the prompt has no effect"


def make_bad_input(kind, tmp_path, tone):
    """Return arguments that cannot work, and a word that the error must hold."""
    text, prompt = "[S1] Hi.", tmp_path / "prompt.wav"
    if kind == "empty text":
        return [""], "empty"
    if kind == "blank text":
        return ["  \n"], "empty"
    if kind == "long text":
        return ["x" * 2000], "2000"
    if kind == "no text":
        return [], "TEXT"
    if kind == "two texts":
        return [text, "--text-file", "f"], "either"
    if kind == "missing text file":
        return ["--text-file", str(tmp_path / "nowhere.txt")], "nowhere.txt"
    if kind == "text file that is no text":
        (tmp_path / "text.txt").write_bytes(b"\xff\xfe\xfa")
        return ["--text-file", str(tmp_path / "text.txt")], "utf-8"
    if kind == "prompt that is no audio":
        prompt.write_text("not audio")
        return [text, "--audio-prompt", str(prompt)], "cannot be read as audio"
    if kind == "missing prompt":
        return [text, "--audio-prompt", str(tmp_path / "nowhere.wav")], "nowhere.wav"
    if kind == "prompt of 0 samples":
        sf.write(prompt, np.zeros(0), 44100)
        return [text, "--audio-prompt", str(prompt)], "0 samples"
    if kind == "prompt of NaN":
        sf.write(prompt, np.full(4410, np.nan), 44100, subtype="FLOAT")
        return [text, "--audio-prompt", str(prompt)], "NaN"
    if kind == "transcript without prompt":
        return [text, "--prompt-text", "[S1] a"], "--audio-prompt"
    if kind == "model without weights":
        folder = tmp_path / "model"
        shutil.copytree(MINIATURE, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        return [text, "--model", str(folder)], "model.safetensors"
    if kind == "empty model folder":
        (tmp_path / "model").mkdir()
        return [text, "--model", str(tmp_path / "model")], "model.safetensors"
    if kind == "model that lacks a tensor":
        folder = tmp_path / "model"
        shutil.copytree(MINIATURE, folder)
        weights = load_file(folder / "model.safetensors")
        weights.pop("logits_dense.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return [text, "--model", str(folder)], "logits_dense.weight"
    if kind in ("truncated model", "model that contradicts its config", "config of nonsense"):
        folder = tmp_path / "model"
        shutil.copytree(MINIATURE, folder)
        if kind == "truncated model":
            (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
        else:
            config = json.loads((folder / "config.json").read_text())
            change = {"intermediate_size": 100} if kind.startswith("model") else {"norm_eps": "tiny"}
            config["decoder_config"] |= change
            (folder / "config.json").write_text(json.dumps(config))
        return [text, "--model", str(folder)], "model"
    option = {
        "device": ["--device", "warp"],
        "dtype": ["--dtype", "int3"],
        "temperature": ["--temperature", "-1"],
        "temperature that is no number": ["--temperature", "hot"],
        "guidance": ["--cfg-scale", "0"],
        "top-p": ["--top-p", "1.5"],
        "top-k": ["--cfg-filter-top-k", "0"],
        "seconds": ["--max-seconds", "nan"],
        "seed": ["--seed", "x"],
        "unknown option": ["--loud"],
    }[kind]
    return [text, *option], option[-1]


@pytest.mark.parametrize(
    "kind",
    [
        "empty text",
        "blank text",
        "long text",
        "no text",
        "two texts",
        "missing text file",
        "text file that is no text",
        "prompt that is no audio",
        "missing prompt",
        "prompt of 0 samples",
        "prompt of NaN",
        "transcript without prompt",
        "model without weights",
        "empty model folder",
        "model that lacks a tensor",
        "truncated model",
        "model that contradicts its config",
        "config of nonsense",
        "device",
        "dtype",
        "temperature",
        "temperature that is no number",
        "guidance",
        "top-p",
        "top-k",
        "seconds",
        "seed",
        "unknown option",
    ],
)
def test_bad_input_ends_in_one_line_and_no_file(tmp_path, tone, capsys, kind):
    """A traceback, or half a file that looks like a result."""
    args, word = make_bad_input(kind, tmp_path, tone)
    before = sorted(tmp_path.rglob("*"))
    assert run("generate", *args, "--output", str(tmp_path / "out" / "a.wav")) == 2
    captured = capsys.readouterr()
    assert "error: " in captured.err and word in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["a.aac", "a", "folder.wav", "file/a.wav"])
def test_output_that_cannot_be_written(tmp_path, capsys, monkeypatch, target):
    """The refusal came after the generation instead of before it."""
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", None)
    assert run("generate", "[S1] Hi.", "--output", str(tmp_path / target)) == 2
    assert target in capsys.readouterr().err


def test_interrupted(tmp_path, capsys, monkeypatch):
    """Control-C printed forty lines of stack."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", interrupt)
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav")) == 130
    assert "interrupted" in capsys.readouterr().err


def test_as_a_command(tmp_path):
    """The entry point named in pyproject.toml, and the exit status that a shell sees."""
    command = [sys.executable, "-m", "dia_hf.cli", "generate", "[S1] Hi.", "-o", str(tmp_path / "a.ogg"), *FAST]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sf.info(tmp_path / "a.ogg").format == "OGG"
    done = subprocess.run([*command, "--model", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
