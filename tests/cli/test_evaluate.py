"""`dia-hf evaluate`, run on a trained model."""

import json
from pathlib import Path

import pytest

from cli.command import FAST, run
from dia_hf.audio.io import read_audio, write_audio

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
    assert "evaluating: 100%" in captured.err and "new/report.json: all figures" in captured.err
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
    """The miniature's own vocabulary was refused: "#" occurs in it twice."""
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
