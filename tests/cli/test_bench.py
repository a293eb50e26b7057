"""`dia-hf bench`, run through `main`."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
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


@pytest.mark.parametrize("options", [[], ["--size", "mid", "--quantize", "int4"]], ids=["toy", "int4"])
def test_kernels(capsys, options):
    """Nobody could tell whether a build has the fast kernels."""
    assert cli.main(["bench", "--device", "cpu", "--kernels", *options]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()][2:] == [
        "decoder steps",
        "decoder of the codec",
    ]


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
        (["--kernels", "--parity", "bfloat16"], "--kernels measures nothing"),
        (["--text", "[S1] Hi."], "--text is for --parity"),
        (["--model", MINIATURE, "--codec", "full"], "brings its own"),
        (["--frames", "5"], "at least 20"),
        (["--device", "warp"], "the device 'warp' is not available here"),
        (["--output", f"{__file__}/bench.json"], "is no folder to write into"),
        (["--plot", f"{__file__}/bench.png"], "is no folder to write into"),
        (["--rate", "1", "--served-model", "tts-1"], "--rate and --served-model belong to --serve"),
        (["--serve", "http://127.0.0.1:9"], "--device cannot be given with --serve"),
    ],
)
def test_what_does_not_fit_together(capsys, options, match):
    """An option that has no effect in the chosen benchmark was ignored without an error."""
    assert cli.main([*FAST, *options]) == 2
    assert match in capsys.readouterr().err


@pytest.fixture
def speech_server():
    """A server that answers each request with a second of a tone; yields its address and the requests."""
    requests = []
    tone = (8000 * np.sin(np.arange(24000) / 10)).astype("<i2").tobytes()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", str(len(tone)))
            self.end_headers()
            self.wfile.write(tone)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server(tmp_path, capsys, speech_server):
    """An option was lost on the way to the requests, or a figure on the way to the file."""
    pytest.importorskip("matplotlib")
    url, requests = speech_server
    texts, output, plot = tmp_path / "texts.txt", tmp_path / "load.json", tmp_path / "load.png"
    texts.write_text("[S1] Hello.\n[S1] Welcome.\n", "utf-8")
    options = ["--serve", url, "--rate", "200,400", "--concurrency", "2", "--requests", "4", "--texts", str(texts)]
    options += ["--voice", "anna", "--served-model", "tts-1", "--fields", '{"cfg_scale": 2}', "--seed", "1"]
    assert cli.main(["bench", *options, "--output", str(output), "--plot", str(plot)]) == 0
    captured = capsys.readouterr()
    assert "200 requests/s" in captured.out and "2 at once" in captured.out
    assert "concurrency 2" in captured.err
    assert len(requests) == 3 * 4 + 1
    assert {request.pop("input") for request in requests} == {"[S1] Hello.", "[S1] Welcome."}
    assert requests[0] == {"model": "tts-1", "voice": "anna", "response_format": "pcm", "cfg_scale": 2}
    report = json.loads(output.read_text("utf-8"))["serving"]
    assert [load["load"] for load in report["loads"]] == [200, 400, 2]
    assert report["settings"]["num_requests"] == 4 and report["settings"]["seed"] == 1
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--parity", "int8", "--dtype", "float16"], "--dtype and --parity cannot be given with --serve"),
        (["--fields", "[1]"], "--fields is [1]; give an object"),
        (["--fields", "{"], "--fields is no JSON"),
        (["--texts", "nowhere.txt"], "nowhere.txt"),
        (["--requests", "1"], "does not answer a first request"),
    ],
)
def test_what_does_not_fit_a_server(capsys, options, match):
    """A wrong option was ignored, or ended in a traceback."""
    assert cli.main(["bench", "--serve", "http://127.0.0.1:9", *options]) == 2
    assert match in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--rate", "0"], ["--rate", "1,,2"], ["--rate", "inf"], ["--concurrency", "1.5"]])
def test_loads_that_are_none(capsys, options):
    """A rate of 0 waited for ever."""
    with pytest.raises(SystemExit):
        cli.main(["bench", "--serve", "http://127.0.0.1:9", *options])
    assert options[0] in capsys.readouterr().err
