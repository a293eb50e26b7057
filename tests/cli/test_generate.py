"""`dia-hf generate`: in a process of its own where that matters, otherwise through `main`."""

import io
import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file

from cli.command import FAST, run
from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
from dia_hf.audio.effects import measure_loudness
from dia_hf.audio.io import read_metadata
from dia_hf.conversion import load_checkpoint
from dia_hf.speech.chunk_folder import ChunkFolder
from dia_hf.speech.dialogue import Dialogue
from dia_hf.speech.voices import Voice
from dia_hf.training import attach_lora
from other_formats import random_v0_1, write_tts_cpp
from tiny import random_codec


def test_says_a_text(tmp_path, capsys, monkeypatch):
    """A first command with a text wrote no file, or did not print the line that describes it."""
    out = tmp_path / "new" / "hello.wav"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("generate", "[S1] Hello. [S2] Hi!", "--output", str(out), *FAST) == 0
    captured = capsys.readouterr()
    codec = DiaProcessor.from_pretrained(MINIATURE).codec
    seconds = int(0.2 * codec.frame_rate) / codec.frame_rate
    assert (sf.info(out).samplerate, sf.info(out).duration) == (codec.sampling_rate, pytest.approx(seconds))
    assert str(out) in captured.out and f"{seconds:.2f} s of audio" in captured.out
    assert "× real time" in captured.out and "seed 1" in captured.out
    assert "miniature" in captured.err and "nari-labs/Dia-1.6B-0626" in captured.err
    assert "0.2/0.2 s of audio" in captured.err


@pytest.mark.parametrize("kind", ["srt", "vtt", "json"])
def test_writes_subtitles(tmp_path, capsys, kind):
    """Subtitles were of the audio before its silence was cut and its speed changed."""
    pytest.importorskip("pedalboard")
    out, subtitles = tmp_path / "a.wav", tmp_path / f"a.{kind}"
    text = "[S1] Hello, I am Dia. [S2] Good morning, father."
    options = ["--temperature", "0", "--trim-silence", "--speed", "2", "--subtitles", str(subtitles)]
    assert run("generate", text, "-o", str(out), *options) == 0
    assert capsys.readouterr().out.endswith(f"; subtitles in {subtitles}\n")
    content = subtitles.read_text("utf-8")
    if kind == "json":
        words = json.loads(content)["words"]
        assert [word["text"] for word in words][:2] == ["Hello,", "I"]
        assert words[0]["start"] < 0.1
        assert sf.info(out).duration - 0.2 < words[-1]["end"] <= sf.info(out).duration + 0.05
    else:
        assert ("<v S2>Good morning, father.</v>" if kind == "vtt" else "Good morning, father.") in content


def test_refuses_subtitles_that_cannot_be_written(tmp_path, capsys):
    """An hour of speech was generated before the error."""
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), "--subtitles", str(tmp_path / "a.sub")) == 2
    assert "must end in one of .srt, .vtt, .json, .textgrid" in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()


def test_the_seed_that_is_told_reproduces_the_file(tmp_path, capsys):
    """The random seed was not printed, or the printed one was not used, so a file could not be reproduced."""
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), "--max-seconds", "0.2") == 0
    seed = capsys.readouterr().out.split("seed ")[1].strip()
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "b.wav"), "--max-seconds", "0.2", "--seed", seed) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("source", ["file", "stdin", "stdin as file"])
def test_text_from_elsewhere(tmp_path, source, monkeypatch):
    """A text from a file or a pipe had a trailing newline, and generated other audio than as an argument."""
    direct, other = tmp_path / "a.wav", tmp_path / "b.wav"
    assert run("generate", "[S1] Héllo.", "-o", str(direct), *FAST) == 0
    (tmp_path / "text.txt").write_text("[S1] Héllo.\n", "utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("[S1] Héllo.\n"))
    where = {"file": ["--text-file", str(tmp_path / "text.txt")], "stdin": ["-"], "stdin as file": ["--text-file", "-"]}
    assert run("generate", *where[source], "-o", str(other), *FAST) == 0
    assert direct.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_text_of_an_editor_that_marks_its_files(tmp_path, source, monkeypatch):
    """The byte order mark before [S1] was taken for text before the first turn."""
    direct, other = tmp_path / "a.wav", tmp_path / "b.wav"
    assert run("generate", "[S1] Héllo.\n[S2] Hi.", "-o", str(direct), *FAST) == 0
    content = "\ufeff[S1] Héllo.\r\n[S2] Hi.\r\n".encode()
    (tmp_path / "text.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "cp1252"))
    where = ["--text-file", str(tmp_path / "text.txt")] if source == "file" else ["-"]
    assert run("generate", *where, "-o", str(other), *FAST) == 0
    assert direct.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_text_in_another_encoding(tmp_path, source, encoding, monkeypatch, capsys):
    """A text in another encoding was refused after the model was loaded, without the file's name or a remedy."""
    content = "[S1] Grüße!".encode(encoding)
    (tmp_path / "text.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    where = ["--text-file", str(tmp_path / "text.txt")] if source == "file" else ["-"]
    assert run("generate", *where, "-o", str(tmp_path / "a.wav")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ("text.txt" if source == "file" else "standard input") in line and "save it as UTF-8" in line


RECORDINGS = {
    "stereo-48k.wav": (48000, 2, "PCM_16"),
    "mono-16k.flac": (16000, 1, None),
    "mono-44k.mp3": (44100, 1, None),
    "mono-22k.ogg": (22050, 1, None),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_voice_prompt_from_a_real_file(tmp_path, tone, checkpoint, name):
    """A prompt of 48 kHz or in stereo, which transformers refuses, was refused."""
    rate, channels, subtype = RECORDINGS[name]
    prompt, out = tmp_path / name, tmp_path / "out.wav"
    sf.write(prompt, np.stack([tone(0.8, rate)] * channels, axis=1), rate, subtype=subtype)
    options = ["-o", str(out), "--model", checkpoint, "--temperature", "0", *FAST]
    voice = ["--audio-prompt", str(prompt), "--prompt-text", "[S1] A tone."]
    assert run("generate", "[S2] And on.", *voice, *options) == 0
    with_prompt = sf.read(out)[0]
    assert len(with_prompt) == 17 * 512, "the prompt is not part of the result"
    assert run("generate", "[S1] A tone. [S2] And on.", *options) == 0
    assert not np.array_equal(with_prompt, sf.read(out)[0]), "the prompt has no effect"


def make_voice_file(path, num_frames=20):
    codec = DiaProcessor.from_pretrained(MINIATURE).codec
    codes = torch.arange(num_frames * 9).reshape(num_frames, 9)
    Voice(codes, "Some words.", codec.fingerprint, codec.sampling_rate, codec.hop_length).save(path)


def make_bad_input(kind, tmp_path, tone):
    """Return invalid arguments, and a word that the error must contain."""
    text, prompt = "[S1] Hi.", tmp_path / "prompt.wav"
    if kind == "empty text":
        return [""], "empty"
    if kind == "blank text":
        return ["  \n"], "empty"
    if kind == "long text in one chunk":
        sf.write(prompt, tone(0.1, 44100), 44100)
        return ["x" * 2000, "--audio-prompt", str(prompt)], "2000"
    if kind == "no text":
        return [], "TEXT"
    if kind == "two texts":
        return [text, "--text-file", "f"], "either"
    if kind == "missing text file":
        return ["--text-file", str(tmp_path / "nowhere.txt")], "nowhere.txt"
    if kind == "text file that is no text":
        (tmp_path / "text.txt").write_bytes(b"\xff\xfe\xfa")
        return ["--text-file", str(tmp_path / "text.txt")], "UTF-8"
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
    if kind == "two transcripts":
        return [text, "--audio-prompt", str(prompt), "--prompt-text", "a", "--transcribe", "b"], "either"
    if kind == "voice and prompt":
        return [text, "--voice", "anna", "--audio-prompt", str(prompt)], "either"
    if kind == "voice that is not there":
        return [text, "--voice", "nobody-has-this-name"], "nobody-has-this-name"
    if kind == "two voices for nobody":
        return [text, "--voice", "anna", "--voice", "S1=bert"], "--voice S1=NAME"
    if kind == "voice for nobody":
        make_voice_file(tmp_path / "voice.safetensors")
        return [text, "--voice", f"S7={tmp_path / 'voice.safetensors'}"], "[S7]"
    if kind == "sound of the whole while it streams":
        return [text, "--output", "-", "--speed", "1.2"], "while it is spoken"
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
        "seed too large": ["--seed", str(2**63)],
        "loudness": ["--loudness", "3"],
        "peak": ["--peak", "5"],
        "unknown option": ["--loud"],
    }[kind]
    return [text, *option], option[-1]


@pytest.mark.parametrize(
    "kind",
    [
        "empty text",
        "blank text",
        "long text in one chunk",
        "no text",
        "two texts",
        "missing text file",
        "text file that is no text",
        "prompt that is no audio",
        "missing prompt",
        "prompt of 0 samples",
        "prompt of NaN",
        "transcript without prompt",
        "two transcripts",
        "voice and prompt",
        "voice that is not there",
        "two voices for nobody",
        "voice for nobody",
        "sound of the whole while it streams",
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
        "seed too large",
        "loudness",
        "peak",
        "unknown option",
    ],
)
def test_bad_input_ends_in_one_line_and_no_file(tmp_path, tone, capsys, kind):
    """Invalid input caused a traceback, or left an incomplete file."""
    args, word = make_bad_input(kind, tmp_path, tone)
    before = sorted(tmp_path.rglob("*"))
    assert run("generate", "--output", str(tmp_path / "out" / "a.wav"), *args) == 2
    captured = capsys.readouterr()
    assert "error: " in captured.err and word in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["a.aac", "a", "folder.wav", "file/a.wav"])
def test_output_that_cannot_be_written(tmp_path, capsys, monkeypatch, target):
    """An output that cannot be written was refused after the generation."""
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", None)
    assert run("generate", "[S1] Hi.", "--output", str(tmp_path / target)) == 2
    assert target in capsys.readouterr().err


LONG = " ".join(f"[S{1 + i % 2}] Turn number {i} of this conversation is here to be spoken." for i in range(5))


@pytest.mark.parametrize("spelling", ["S1={}", "[S1]={}", "{}"])
def test_a_voice_by_name(library, tmp_path, spelling):
    """`--voice` had no effect, or gave other audio than the same voice in Python."""
    make_voice_file(tmp_path / "voices" / "anna.safetensors")
    out, options = tmp_path / "a.wav", ["--temperature", "0", *FAST]
    assert run("generate", "[S1] Hi.", "--voice", spelling.format("anna"), "-o", str(out), *options) == 0
    expected = Dia.from_pretrained(device="cpu").generate("[S1] Hi.", voice="anna", temperature=0, max_seconds=0.2)
    np.testing.assert_allclose(sf.read(out)[0], expected, atol=1e-4)


@pytest.mark.parametrize("temperature", ["0.9", "0"])
def test_a_file_says_how_to_make_it_again(tmp_path, temperature):
    """An audio file did not contain the settings that reproduce it."""
    out = tmp_path / "a.flac"
    options = ["--temperature", temperature, "--cfg-scale", "2", "--max-seconds", "0.3"]
    assert run("generate", "[S1] Héllo. [S2] Hi!", "-o", str(out), *options) == 0
    record = read_metadata(out)
    assert record["text"] == "[S1] Héllo. [S2] Hi!" and record["model"] == "miniature"
    arguments = record["arguments"] | {"seed": record["seed"]}
    again = Dia.from_pretrained(MINIATURE, device="cpu").dialogue(record["text"], **arguments).generate()
    np.testing.assert_allclose(sf.read(out)[0], again, atol=1e-4)


def test_sound_of_the_file(tmp_path, checkpoint):
    """Loudness, speed and trimming were reported and not applied."""
    options = ["--seed", "1", "--device", "cpu", "--max-seconds", "2", "--model", checkpoint]
    plain, changed = tmp_path / "a.wav", tmp_path / "b.wav"
    assert run("generate", "[S1] Hi.", "-o", str(plain), *options) == 0
    sound = ["--speed", "1.25", "--loudness", "-30", "--trim-silence"]
    assert run("generate", "[S1] Hi.", "-o", str(changed), *sound, *options) == 0
    (before, rate), (after, _) = sf.read(plain), sf.read(changed)
    assert len(after) == pytest.approx(len(before) / 1.25, rel=0.06)
    assert measure_loudness(after.astype(np.float32), rate) == pytest.approx(-30, abs=0.1)
    assert run("generate", "[S1] Hi.", "-o", str(changed), "--peak", "-40", *options) == 0
    assert np.abs(sf.read(changed)[0]).max() == pytest.approx(0.01, abs=1e-4)


def test_a_long_script_goes_on_where_it_was_interrupted(tmp_path, capsys, monkeypatch):
    """Ctrl-C in the last of twenty minutes lost all chunks."""
    out, options = tmp_path / "a.wav", ["--device", "cpu", "--max-seconds", "7"]
    assert run("generate", LONG, "-o", str(tmp_path / "whole.wav"), "--seed", "3", *options) == 0
    assert not list(tmp_path.glob("*.chunks"))
    original = ChunkFolder.save

    def interrupt_after_the_first(self, index, codes):
        original(self, index, codes)
        raise KeyboardInterrupt

    monkeypatch.setattr(ChunkFolder, "save", interrupt_after_the_first)
    assert run("generate", LONG, "-o", str(out), "--seed", "3", *options) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not out.exists() and len(list((tmp_path / "a.wav.chunks").iterdir())) == 2
    monkeypatch.setattr(ChunkFolder, "save", original)
    assert run("generate", LONG, "-o", str(out), *options) == 0
    np.testing.assert_array_equal(sf.read(out)[0], sf.read(tmp_path / "whole.wav")[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "whole.wav"]


def test_chunks_of_another_text(tmp_path, capsys):
    """Chunks of an interrupted run blocked another text until they were removed by hand."""
    out, chunks = tmp_path / "a.wav", tmp_path / "a.wav.chunks"
    chunks.mkdir()
    (chunks / "dialogue.json").write_text('{"script": "[S1] Others.", "seed": 4}')
    (chunks / "chunk-00001.safetensors").write_bytes(b"theirs")
    assert run("generate", "[S1] Hi.", "-o", str(out), *FAST) == 2
    assert "dia-hf generate --force" in capsys.readouterr().err and len(list(chunks.iterdir())) == 2
    assert run("generate", "[S1] Hi.", "-o", str(out), "--force", *FAST) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert "force" not in read_metadata(out)["arguments"]
    chunks.mkdir()
    (chunks / "chunk-00001.safetensors").write_bytes(b"of no dialogue")
    assert run("generate", "[S1] Hi.", "-o", str(out), "--force", *FAST) == 2
    assert (chunks / "chunk-00001.safetensors").read_bytes() == b"of no dialogue"


def test_interrupted_when_the_file_is_written(tmp_path, capsys, monkeypatch):
    """An interrupt during the write reported that nothing was written, beside a complete file."""

    def interrupt(self):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Dialogue, "remove_kept", interrupt)
    out = tmp_path / "a.wav"
    assert run("generate", "[S1] Hi.", "-o", str(out), *FAST) == 130
    assert f"dia-hf: interrupted; {str(out)!r} was written before." in capsys.readouterr().err
    assert len(sf.read(out)[0]) > 0


def command(*args):
    return [sys.executable, "-m", "dia_hf.cli", "generate", *args, "--seed", "1", "--device", "cpu"]


def test_raw_pcm_on_standard_output(tmp_path):
    """Messages were printed between the samples, or the sample format differed from the documented one."""
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), *FAST) == 0
    done = subprocess.run(
        command("[S1] Hi.", "--output", "-", "--max-seconds", "0.2"),
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as here: with more threads, sums are rounded differently
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.frombuffer(done.stdout, "<i2"), sf.read(tmp_path / "a.wav", dtype="int16")[0])
    assert f"{sf.info(tmp_path / 'a.wav').duration:.2f} s of audio".encode() in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_closed_pipe_while_streaming(tmp_path, checkpoint):
    """`| head` caused a traceback, or the generation continued without a reader."""
    endless = command("[S1] Hi.", "--output", "-", "--model", checkpoint)
    process = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert len(process.stdout.read(1000)) == 1000
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=60) == 2
    assert "standard output has closed it" in errors and "Traceback" not in errors and "Exception" not in errors


def test_a_player(tmp_path, monkeypatch):
    """The player got other samples than the file."""
    played = []
    sampling_rate = DiaProcessor.from_pretrained(MINIATURE).codec.sampling_rate

    class OutputStream:
        def __init__(self, samplerate, channels, dtype):
            assert (samplerate, channels, dtype) == (sampling_rate, 1, "float32")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            played.append("the end was waited for")

        def write(self, samples):
            assert samples.ndim == 2 and samples.shape[1] == 1
            played.append(samples[:, 0])

    device = types.SimpleNamespace(OutputStream=OutputStream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), "--stream", *FAST) == 0
    assert len(played) > 2 and played.pop() == "the end was waited for"
    np.testing.assert_allclose(np.concatenate(played), sf.read(tmp_path / "a.wav")[0], atol=1e-4)


@pytest.mark.parametrize("missing", ["package", "sound card"])
def test_no_player(tmp_path, capsys, monkeypatch, missing):
    """Without a sound card there was a traceback."""

    def no_device(**kwargs):
        raise RuntimeError("Error querying device -1")

    device = types.SimpleNamespace(OutputStream=no_device, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", None if missing == "package" else device)
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), "--stream", *FAST) == 2
    assert {"package": "dia-hf[player]", "sound card": "device -1"}[missing] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "missing", "message"),
    [
        (["--stream"], "sounddevice", "dia-hf[player]"),
        (["--transcribe", "pocketsphinx"], "pocketsphinx", "dia-hf[evaluate]"),
        (["--transcribe", "./nowhere"], None, "'./nowhere'"),
        (["--transcribe", "./nowhere", "--model", "./no-model"], None, "'./no-model'"),
        (["--loudness", "-16"], "pyloudnorm", "dia-hf[audio]"),
        (["--speed", "1.25"], "pedalboard", "dia-hf[audio]"),
        (["--quantize", "int8", "--device", "cpu"], "torchao.quantization", "dia-hf[quantize]"),
    ],
)
def test_what_an_option_needs_is_looked_for_before_the_model(
    tmp_path, tone, capsys, monkeypatch, options, missing, message
):
    """A missing package was reported after the model had been loaded."""
    loaded = []
    for kind in (DiaForConditionalGeneration, DiaProcessor):
        monkeypatch.setattr(kind, "from_pretrained", lambda *args, **kwargs: loaded.append(args))
    if missing is not None:
        monkeypatch.setitem(sys.modules, missing, None)
    if "--transcribe" in options:
        sf.write(tmp_path / "prompt.wav", tone(1.0, 44100), 44100)
        options = [*options, "--audio-prompt", str(tmp_path / "prompt.wav")]
    assert run("generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), *options) == 2
    assert message in capsys.readouterr().err
    assert loaded == [] and not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize("has_codec", [False, True])
def test_a_gguf_file_with_an_adapter_and_another_codec(tmp_path, tone, capsys, has_codec):
    """A file was not taken for a model, or a voice prompt on its codec, which only decodes, was a traceback."""
    config, tensors = random_v0_1()
    write_tts_cpp(tmp_path / "dia.gguf", config, tensors, "Q8_0", random_codec())
    model, _ = load_checkpoint(tmp_path / "dia.gguf")
    attach_lora(model, {"r": 2}).save_pretrained(tmp_path / "anna")
    random_codec().save_pretrained(tmp_path / "dac")
    sf.write(tmp_path / "prompt.wav", tone(1.0, 44100), 44100)
    command = ["generate", "[S1] Hi.", "-o", str(tmp_path / "a.wav"), "--model", str(tmp_path / "dia.gguf"), *FAST]
    command += ["--adapter", str(tmp_path / "anna")]
    assert run(*command) == 0
    assert sf.info(tmp_path / "a.wav").samplerate == 44100
    prompt = ["--audio-prompt", str(tmp_path / "prompt.wav"), "--prompt-text", "[S1] Yes."]
    codec = ["--codec", str(tmp_path / "dac")] if has_codec else []
    assert run(*command, *prompt, *codec) == (0 if has_codec else 2)
    assert ("this codec can only decode" in capsys.readouterr().err) is not has_codec


def test_disk_full_while_writing(tmp_path, checkpoint):
    """A full disk replaced the previous file by an incomplete one."""
    out = tmp_path / "a.wav"
    out.write_bytes(b"the last take")
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); from dia_hf import cli; "
    limited += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); sys.exit(cli.main(sys.argv[1:]))"
    args = ["generate", "[S1] Hi.", "-o", str(out), "--model", checkpoint, *FAST]
    done = subprocess.run([sys.executable, "-c", limited, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "a.wav" in done.stderr and "Traceback" not in done.stderr
    assert out.read_bytes() == b"the last take"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("option", ["--audio-prompt", "--voice", "--text-file"])
def test_an_output_that_is_an_input(tmp_path, tone, capsys, option):
    """`--audio-prompt voice.wav -o voice.wav` overwrote the recording of the voice."""
    file, link = tmp_path / "voice.wav", tmp_path / "link.wav"
    sf.write(file, tone(1.0, 16000), 16000)
    link.symlink_to(file)
    if option == "--text-file":
        file.write_text("[S1] Hi.")
    before = file.read_bytes()
    text = [] if option == "--text-file" else ["[S1] Hi."]
    for output in (file, link, tmp_path / "." / "voice.wav"):
        value = f"S1={file}" if option == "--voice" else str(file)
        assert run("generate", *text, option, value, "-o", str(output), *FAST) == 2
        assert f"is what {option}" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.wav", "voice.wav"]


@pytest.mark.parametrize(("strict", "status"), [([], 0), (["--strict"], 3)])
def test_a_sound_that_is_cut(tmp_path, capsys, strict, status):
    """A script that was cut at --max-seconds was reported as complete."""
    out = tmp_path / "a.wav"
    assert run("generate", "[S1] Hello. [S2] Welcome, Dia.", "-o", str(out), *strict, *FAST) == status
    assert "warning: the sound is cut at --max-seconds (0.2), after 0.2 s" in capsys.readouterr().err
    assert out.exists() and "strict" not in read_metadata(out)["arguments"]


def test_strict_has_nothing_against_a_whole(tmp_path, capsys):
    """`--strict` returned status 3 for a complete generation."""
    assert run("generate", "[S1] Hello.", "-o", str(tmp_path / "a.wav"), "--strict", "--seed", "1") == 0
    assert "warning" not in capsys.readouterr().err


def test_the_last_line_counts_the_file(tmp_path, capsys):
    """The printed seconds included audio that had been trimmed, or ignored the speed."""
    out = tmp_path / "a.wav"
    assert run("generate", "[S1] Hello.", "-o", str(out), "--trim-silence", "--speed", "1.5", "--seed", "1") == 0
    assert f"{sf.info(out).duration:.2f} s of audio" in capsys.readouterr().out


def test_no_bar_without_a_terminal(tmp_path, capsys):
    """Logs contained the control characters of a progress bar."""
    assert run("generate", "[S1] Hello.", "-o", str(tmp_path / "a.wav"), "--seed", "1") == 0
    assert "s of audio [" not in capsys.readouterr().err


@pytest.mark.parametrize("voice", [["--voice", "nobody"], ["--audio-prompt", "nowhere.wav", "--prompt-text", "Hi."]])
def test_a_voice_that_is_missing_shows_before_the_model_is_loaded(library, tmp_path, capsys, monkeypatch, voice):
    """6 GB of weights were loaded before a missing voice was reported."""
    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", None)
    assert run("generate", "[S1] Hi.", *voice, "-o", str(tmp_path / "a.wav")) == 2
    assert voice[1] in capsys.readouterr().err


def test_a_result_for_programs(tmp_path, capsys):
    """A script had to parse seconds and seed from a sentence."""
    out = tmp_path / "a.wav"
    assert run("generate", "[S1] Hello.", "-o", str(out), "--json", *FAST) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert set(result) == {"path", "seconds", "seed", "speed"}
    assert (result["path"], result["seed"]) == (str(out), 1)
    assert result["seconds"] == pytest.approx(sf.info(out).duration) and result["speed"] > 0
    assert not {"quiet", "json"} & set(read_metadata(out)["arguments"])


def test_quiet(tmp_path, capsys, monkeypatch):
    """`--quiet` printed notes or progress, or suppressed a warning."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("generate", "[S1] Hello.", "-o", str(tmp_path / "a.wav"), "--quiet", "--seed", "1") == 0
    assert capsys.readouterr() == ("", "")
    assert run("generate", "[S1] Hello.", "-o", str(tmp_path / "b.wav"), "--quiet", "--json", *FAST) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["seed"] == 1
    (line,) = captured.err.splitlines()
    assert line.startswith("dia-hf: warning: the sound is cut")


def test_one_standard_output_for_one_thing(capsys):
    """JSON was printed after the samples of `--output -`."""
    assert run("generate", "[S1] Hello.", "--output", "-", "--json") == 2
    assert "--json and --output -" in capsys.readouterr().err


def test_a_missing_portaudio_is_named(tmp_path, monkeypatch, capsys):
    """The error of --stream did not say how to get the library of the system that sounddevice needs on Linux."""

    def fail(name):
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("dia_hf.speech.playback.import_extra", fail)
    assert run("generate", "[S1] Hello.", "--stream", "-o", str(tmp_path / "a.wav")) == 2
    assert "PortAudio library not found; on Debian, `apt install libportaudio2` brings it" in capsys.readouterr().err
