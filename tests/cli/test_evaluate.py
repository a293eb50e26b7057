"""`dia-hf evaluate`, run on a trained model."""

import json
import os
import sys
from pathlib import Path

import pytest

from cli.command import FAST, run
from dia_hf import MINIATURE, DiaProcessor
from dia_hf.audio.io import read_audio, write_audio
from dia_hf.speech.voices import Voice

ASR = ["--asr", "pocketsphinx"]


@pytest.fixture
def sentences(tmp_path, tone, monkeypatch):
    """A table of two sentences, one with a recording, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_audio("clips/a.wav", tone(0.4, 16000), 16000)
    Path("table.csv").write_text("text,audio\n[S1] Hello there.,clips/a.wav\n[S2] Good bye!,\n", "utf-8")
    return "table.csv"


def test_evaluate(sentences, capsys):
    """The table, the file of figures, the generated audio and the progress output were mixed or incomplete."""
    args = ["--sentences", sentences, *ASR, *FAST, "--output", "new/report.json", "--keep", "kept"]
    assert run("evaluate", *args) == 0
    captured = capsys.readouterr()
    rows = [line.split("|")[1].strip() for line in captured.out.splitlines() if line.startswith("|")]
    assert rows[2:5] == ["reference", "codec", "model"]
    assert "× real time" in captured.out and "evaluating" not in captured.out
    assert "evaluating: 100%" in captured.err and "new/report.json: all metrics" in captured.err
    report = json.loads(Path("new/report.json").read_text("utf-8"))
    expected = {"model": "miniature", "sentences": "table.csv", "asr": "pocketsphinx", "vocabulary": None, "seed": 1}
    assert expected.items() <= report["settings"].items()
    assert [line["text"] for line in report["sentences"]] == ["[S1] Hello there.", "[S2] Good bye!"]
    assert report["sentences"][0]["reference"] and report["sentences"][1]["reference"] is None
    assert report["metrics"]["word_errors"]["model"]["words"] == 4
    for place, line in enumerate(report["sentences"]):
        assert Path(line["model"]["file"]) == Path("kept", f"000{place}.wav")
        samples, rate = read_audio(line["model"]["file"])
        assert samples.shape[-1] / rate == pytest.approx(line["seconds"], abs=1e-3)


def test_options_arrive(sentences):
    """An option was parsed and had no effect."""
    Path("words.txt").write_text("hello\n\nthere DH EH R\ngood\nbye\nzorg  Z AO R G\n", "utf-8")
    args = ["--vocabulary", "words.txt", "--temperature", "0.7", "--top-p", "0.8", "--cfg-scale", "1.5"]
    args += ["--cfg-filter-top-k", "9", "--batch-size", "1", "--dtype", "bfloat16", "-o", "report.json"]
    assert run("evaluate", "--sentences", sentences, *ASR, *FAST, *args) == 0
    settings = json.loads(Path("report.json").read_text("utf-8"))["settings"]
    expected = {
        "vocabulary": "words.txt",
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "cfg_scale": 1.5,
        "cfg_filter_top_k": 9,
        "batch_size": 1,
        "dtype": "bfloat16",
        "seed": 1,
    }
    assert expected.items() <= settings.items()
    assert 0 < settings["max_seconds"] <= 0.2


def test_a_vocabulary_with_comments(sentences, monkeypatch):
    """A vocabulary with several comments was refused: "#" occurs in it twice."""
    asked = []
    monkeypatch.setattr(
        "dia_hf.asr.recognizers.load_recognizer",
        lambda *args, **kwargs: asked.append(args) or pytest.fail("it is known"),
    )
    lines = ["# what it says", "", "# greeting", "Hello", "there", "  # more", "good", "bye", "Dia D IY AH", ""]
    Path("words.txt").write_text("\n".join(lines), "utf-8")
    with pytest.raises(pytest.fail.Exception):
        run("evaluate", "--sentences", sentences, *ASR, *FAST, "--vocabulary", "words.txt")
    assert asked == [("pocketsphinx", ["Hello", "there", "good", "bye", "Dia"], {"Dia": "D IY AH"})]


def test_another_recognizer(sentences, monkeypatch, capsys):
    """A recognizer of transformers was not loaded on the chosen device, or required a vocabulary."""
    asked = []

    class Ears:
        sampling_rate = 16000

        def transcribe(self, waveform, sampling_rate):
            return "Hello there."

    monkeypatch.setattr(
        "dia_hf.asr.recognizers.load_recognizer", lambda *args, **kwargs: asked.append((args, kwargs)) or Ears()
    )
    assert run("evaluate", "--sentences", sentences, "--asr", "someone/ears", *FAST) == 0
    assert [(args, {name: str(value) for name, value in kwargs.items()}) for args, kwargs in asked] == [
        (("someone/ears",), {"device": "cpu"})
    ]
    assert "| model     |      50.0 % |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ([*ASR], "--sentences"),
        (["--sentences", "table.csv"], "--asr"),
        (["--sentences", "nowhere.txt", *ASR], "no file or folder 'nowhere.txt'"),
        (["--sentences", "clips", *ASR], "holds no prepared clips"),
        (["--sentences", "zorg.txt", *ASR], "does not have 'zorg'"),
        (["--sentences", "table.csv", *ASR, "--vocabulary", "few.txt"], "lacks 2 words of the sentences, which could"),
        (["--sentences", "table.csv", *ASR, "--vocabulary", "twice.txt"], "line 3: 'one' occurs twice"),
        (["--sentences", "table.csv", "--asr", "someone/ears", "--vocabulary", "few.txt"], "is for --asr pocketsphinx"),
        (["--sentences", "table.csv", *ASR, "--output", "clips"], "is a folder"),
        (["--sentences", "table.csv", *ASR, "--output", "table.csv"], "is what --sentences 'table.csv' reads"),
        (["--sentences", "table.csv", *ASR, "--output", "link.csv"], "is what --sentences 'table.csv' reads"),
        (["--sentences", "table.csv", *ASR, "--output", "clips/a.wav"], "is what sentence 1 "),
        (["--sentences", "table.csv", *ASR, "--vocabulary", "few.txt", "-o", "few.txt"], "is what --vocabulary"),
        (["--sentences", "clips", *ASR, "--output", "clips/a.wav"], "is a file of --sentences 'clips'"),
        (["--sentences", "table.csv", *ASR, "--keep", "clips"], "'clips' is not empty, and was not made by"),
        (["--sentences", "table.csv", *ASR, "--keep", "table.csv"], "is no folder to write into"),
        (["--sentences", "table.csv", *ASR, "--temperature", "-1"], "is not a number above 0"),
        (["--sentences", "table.csv", *ASR, "--device", "warp"], "the device 'warp' is not available here"),
    ],
)
def test_what_is_wrong_shows_before_the_work(sentences, args, error, capsys, monkeypatch):
    """A typing error was reported after the model had been loaded, or after all sentences had been generated."""
    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    Path("link.csv").symlink_to("table.csv")
    Path("few.txt").write_text("hello\ngood\n", "utf-8")
    Path("twice.txt").write_text("one\ntwo\none W AH N\n", "utf-8")
    Path("zorg.txt").write_text("Hello, Zorg.\n", "utf-8")
    assert run("evaluate", *args) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in last and error in last


def test_a_result_for_programs(sentences, capsys):
    """A script had to parse the word error rate from a table."""
    assert run("evaluate", "--sentences", sentences, *ASR, *FAST, "--json", "--quiet", "-o", "report.json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    metrics = json.loads(Path("report.json").read_text("utf-8"))["metrics"]
    assert captured.err == ""
    assert result == {
        "path": "report.json",
        "seconds": metrics["end"]["seconds"],
        "seed": 1,
        "speed": metrics["speed"]["real_time"],
        "word_error_rate": metrics["word_errors"]["model"]["rate"],
        "measures": {name: row["model"]["value"] for name, row in metrics["measures"].items()},
    }


def test_two_evaluations_are_compared(sentences, capsys):
    """The comparison needed a model, or its order was that of the sentences."""
    for seed, name in (("1", "a.json"), ("2", "b.json")):
        assert run("evaluate", "--sentences", sentences, *ASR, *FAST, "--seed", seed, "-o", name) == 0
    capsys.readouterr()
    assert run("evaluate", "--compare", "a.json", "b.json", "-o", "both.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["A: a.json", "B: b.json", "2 sentences"] and lines[4].startswith("| metric")
    assert any(line.startswith("| word errors") for line in lines)
    row = json.loads(Path("both.json").read_text("utf-8"))["differences"][0]
    assert row["metric"] == "wer" and row["low"] <= row["difference"] <= row["high"] and row["p"] > 0.05
    assert run("evaluate", "--compare", "a.json", "missing.json") == 2
    assert "there is no file 'missing.json'; give a file of" in capsys.readouterr().err
    assert run("evaluate", "--compare", "a.json", "table.csv") == 2
    assert run("evaluate", "--compare", "a.json", "b.json", "--sentences", sentences) == 2
    assert "leave out --sentences" in capsys.readouterr().err
    for option in (["--quality", "dnsmos"], ["--speaker-model", "x"], ["--voice", "x"], ["--top-p", "0.5"]):
        assert run("evaluate", "--compare", "a.json", "b.json", *option) == 2
        assert f"leave out {option[0]}" in capsys.readouterr().err
    assert run("evaluate", "--sentences", sentences) == 2
    assert "give --sentences and --asr; or --compare" in capsys.readouterr().err


def test_a_report_has_the_audio_of_all_sources(sentences, capsys):
    """The report had no audio without `--keep`, or the results named files of a folder that is gone."""
    assert (
        run("evaluate", "--sentences", sentences, *ASR, *FAST, "--report", "new/report.html", "-o", "report.json") == 0
    )
    page = Path("new/report.html").read_text("utf-8")
    for key in ("0-reference", "0-codec", "0-model", "1-model"):
        assert f'"{key}": "data:audio/flac;base64,' in page
    rows = json.loads(Path("report.json").read_text("utf-8"))["sentences"]
    assert rows[0]["model"]["file"] is rows[0]["codec"]["file"] is None
    assert Path(rows[0]["reference"]["file"]).is_file()
    assert run("evaluate", "--sentences", sentences, *ASR, "--report", "report.txt") == 2
    assert "must end in .html" in capsys.readouterr().err


def test_judges_and_audio_that_exists(sentences, capsys):
    """A judge was not loaded, or the audio of another system was generated instead of judged."""
    judges = ["--speaker-model", "resemblyzer", "--quality", "dnsmos"]
    assert run("evaluate", "--sentences", sentences, *ASR, *judges, *FAST, "--keep", "kept", "-o", "ours.json") == 0
    args = ["--sentences", sentences, "--asr", "whisper-tiny.en", *judges, "--normalizer", "words", "--audio", "kept"]
    assert run("evaluate", *args, "-o", "theirs.json") == 0
    ours, theirs = (json.loads(Path(f"{name}.json").read_text("utf-8")) for name in ("ours", "theirs"))
    assert ours["settings"]["speaker_model"] == theirs["settings"]["speaker_model"] == "resemblyzer"
    assert (ours["settings"]["normalizer"], theirs["settings"]["normalizer"]) == ("words", "words")
    assert theirs["settings"]["audio"] == "kept" and "model" not in theirs["settings"]
    assert [line["seconds"] for line in ours["sentences"]] == pytest.approx(
        [line["seconds"] for line in theirs["sentences"]], abs=1e-3
    )
    first = ours["sentences"][0]["model"]["measures"]["dnsmos"]["value"]
    assert first == pytest.approx(theirs["sentences"][0]["model"]["measures"]["dnsmos"]["value"], abs=0.05)  # 16 bits
    assert "DNSMOS" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["voice", "prompt"])
def test_voices(sentences, option, monkeypatch):
    """`--voice` or `--audio-prompt` did not reach the generation."""
    heard = []
    monkeypatch.setattr(
        "dia_hf.evaluation.evaluate", lambda *args, voices, **options: heard.append(voices) or sys.exit(7)
    )
    if option == "voice":
        Voice.from_audio("clips/a.wav", "Hello.", DiaProcessor.from_pretrained(MINIATURE)).save("voice.safetensors")
        args = ["--voice", "S2=voice.safetensors"]
    else:
        args = ["--audio-prompt", "clips/a.wav", "--prompt-text", "Hello."]
    run("evaluate", "--sentences", sentences, *ASR, *FAST, *args)
    voice = heard[0]["[S2]"] if option == "voice" else heard[0]
    assert voice.transcript == "Hello."


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--audio", "nowhere"], "'nowhere' is no folder"),
        (
            ["--audio", "clips"],
            "sentence 1; name it '0000.wav', or give the name of its file in the column `id` of a table",
        ),
        (["--audio", "clips", "--keep", "kept"], "--keep is for generated speech"),
        (["--audio", "clips", "--model", "mine"], "--model is for generated speech"),
        (["--audio", "clips", "--voice", "anna"], "--voice is for generated speech"),
        (["--audio", "clips", "--max-seconds", "3"], "--max-seconds is for generated speech"),
        (["--audio", "clips", "--temperature", "0"], "--temperature is for generated speech"),
        (["--audio-prompt", "clips/a.wav"], "go together; give both"),
        (["--prompt-text", "Hello."], "go together; give both"),
        (["--voice", "a", "--audio-prompt", "clips/a.wav", "--prompt-text", "Hi."], "either --voice or --audio-prompt"),
        (["--voice", "nobody"], "nobody"),
        (["--speaker-model", "./nowhere"], "nowhere"),
        (["--quality", "pesq"], "invalid choice: 'pesq'"),
        (["--normalizer", "german"], "invalid choice: 'german'"),
    ],
)
def test_judging_that_cannot_begin(sentences, args, error, capsys, monkeypatch):
    """A wrong option of the judges showed after the model had been loaded."""
    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    assert run("evaluate", "--sentences", sentences, *ASR, *args) == 2
    assert error in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "args",
    [
        ["--report", "new.html", "-o", "./new.html"],
        ["--keep", "new", "-o", "new"],
        ["--keep", "new.html", "--report", "new.html"],
        ["--keep", "new", "-o", "new/0000.wav"],
        ["--report", "new.html", "-o", "new.html/all.json"],
    ],
)
def test_outputs_that_would_replace_each_other(sentences, args, capsys, monkeypatch):
    """A new file was two outputs: the second replaced the first, or could not be written after all the work."""
    monkeypatch.setattr("dia_hf.speech.Dia.from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    assert run("evaluate", "--sentences", sentences, *ASR, *args) == 2
    assert "are one place; give two" in capsys.readouterr().err.splitlines()[-1]


def test_names_that_are_not_in_unicode(tone, tmp_path, monkeypatch, capsys):
    """A file name in an old encoding ended the evaluation when all was done, and its results were lost."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    try:
        write_audio(f"{name}/0000.wav", tone(0.4, 16000), 16000)
    except OSError:
        pytest.skip("the file system has names in Unicode alone")
    Path(f"{name}.txt").write_text("[S1] Hello there.", "utf-8")
    args = ["--sentences", f"{name}.txt", *ASR, "--audio", name, "--json"]
    assert run("evaluate", *args, "-o", "all.json", "--report", "all.html") == 0
    assert json.loads(Path("all.json").read_text("utf-8"))["settings"]["audio"] == name
    assert json.loads(capsys.readouterr().out)["path"] == "all.json" and Path("all.html").is_file()
    assert run("evaluate", *args, "--quiet", "-o", f"{name}.json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == f"{name}.json"


def test_a_closed_pipe_loses_nothing(sentences, monkeypatch):
    """`dia-hf evaluate … | head -1` ended before the results were written."""

    def close(*args):
        raise BrokenPipeError

    monkeypatch.setattr("dia_hf.cli.evaluate.print_result", close)
    run("evaluate", "--sentences", sentences, *ASR, *FAST, "-o", "all.json", "--report", "all.html")
    assert Path("all.json").is_file() and Path("all.html").is_file()
    run("evaluate", "--compare", "all.json", "all.json", "-o", "both.json")
    assert Path("both.json").is_file()
