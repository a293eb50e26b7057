"""`dia-hf bench`, run through `main`."""

import json

import pytest
from transformers.utils import logging

from dia_hf import MINIATURE, cli
from dia_hf.bench import speed


@pytest.fixture(autouse=True)
def small_matrix(monkeypatch):
    monkeypatch.setattr(speed, "read_bandwidth", lambda device: 1e9)


FAST = ["bench", "--device", "cpu", "--frames", "20", "--text-bytes", "10"]


def test_speed(tmp_path, capsys):
    """The table, the file of figures and the progress output were mixed, or a figure was missing."""
    pytest.importorskip("matplotlib")
    output, plot = tmp_path / "bench.json", tmp_path / "steps.png"
    options = ["--repeats", "1", "--output", str(output), "--plot", str(plot), "--dtype", "bfloat16"]
    verbosity = logging.get_verbosity()
    assert cli.main([*FAST, *options, "--batch-size", "2", "--greedy"]) == 0
    captured = capsys.readouterr()
    assert "transformers, eager" in captured.out and "step, ms" in captured.out
    assert "iteration 1 of 1" in captured.err and "iteration 1 of 1" not in captured.out
    settings = json.loads(output.read_text("utf-8"))["speed"]["settings"]
    expected = {"size": "toy", "batch_size": 2, "frames": 20, "text_bytes": 10, "dtype": "bfloat16", "repeats": 1}
    assert expected.items() <= settings.items()
    assert settings["sampling"]["do_sample"] is False
    assert plot.stat().st_size > 1000
    assert logging.get_verbosity() == verbosity


def test_a_checkpoint_against_nobody(capsys):
    """Random weights ran in place of the given ones, or a baseline ran without being requested."""
    assert cli.main([*FAST, "--model", MINIATURE, "--against", "none", "--repeats", "1"]) == 0
    captured = capsys.readouterr()
    assert f"loading {MINIATURE}" in captured.err
    assert "transformers" not in captured.out


@pytest.mark.parametrize("source", [[], ["--model", MINIATURE, "--text", "[S1] Hi.", "--text", "[S2] Hello, you."]])
def test_parity(tmp_path, capsys, source):
    """The second scheme quantized the rounded weights of the first one and not the float32 weights."""
    output = tmp_path / "parity.json"
    assert cli.main([*FAST, *source, "--parity", "bfloat16", "float16", "--output", str(output)]) == 0
    assert "float16" in capsys.readouterr().out
    reports = json.loads(output.read_text("utf-8"))["parity"]
    assert reports["bfloat16"]["num_texts"] == (2 if source else 1)
    assert (
        0 < 2 * reports["float16"]["conditional"]["relative_rms"] < reports["bfloat16"]["conditional"]["relative_rms"]
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--parity", "bfloat16", "--dtype", "float16", "--plot", "p.png"], "--dtype and --plot belong to speed"),
        (["--text", "[S1] Hi."], "--text is for --parity"),
        (["--model", MINIATURE, "--codec", "full"], "brings its own"),
        (["--frames", "5"], "at least 20"),
        (["--device", "warp"], "the device 'warp' is not available here"),
        (["--output", f"{__file__}/bench.json"], "is no folder to write into"),
        (["--plot", f"{__file__}/bench.png"], "is no folder to write into"),
    ],
)
def test_what_does_not_fit_together(capsys, options, match):
    """An option that has no effect in the chosen benchmark was ignored without an error."""
    assert cli.main([*FAST, *options]) == 2
    assert match in capsys.readouterr().err
