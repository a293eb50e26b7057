"""`dia-hf serve`, up to the socket and through it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

pytest.importorskip("fastapi")

from cli.command import run
from dia_hf import serving
from dia_hf_command.parser import make_parser


@pytest.fixture(autouse=True)
def loggers():
    """Loggers as they were, after a command that writes its log to standard error."""
    known = [logging.getLogger(name) for name in ("dia_hf", "uvicorn")]
    before = [(one.handlers, one.propagate, one.level) for one in known]
    yield
    for one, (handlers, propagate, level) in zip(known, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture
def never_serves(monkeypatch):
    """The arguments of each `Server` that was made; it ends at once."""
    made = []

    class Ended(serving.Server):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

        def run(self):
            self._socket.close()

    monkeypatch.setattr(serving, "Server", Ended)
    return made


def parse(*args):
    return make_parser().parse_args(["serve", *args])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--port", "65536"], "65536 is not a port"),
        (["--port", "x"], "invalid port value"),
        (["--voice-name", "alloy"], "NAME=VOICE"),
        (["--max-batch-size", "0"], "from 1 up"),
        (["--shutdown-timeout", "-1"], "above 0"),
        (["--api-key", "two words"], "API key 1 of 1 is blank"),
        (["--api-key", ""], "API key 1 of 1 is blank"),
        (["--api-key-file", "nonesuch"], "nonesuch"),
        (["--port-file", "."], "--port-file '.' is a folder"),
        (["--voice-name", "alloy=nobody"], "there is no voice 'nobody'"),
        (["--adapter", "anna"], "NAME=DIR"),
        (["--adapter", "anna=nonesuch"], "the adapter 'anna': there is no adapter in 'nonesuch'"),
        (["--replicas", "2", "--device", "cuda:1"], "names one device"),
        (["--replicas", "2", "--adapter", "anna=nonesuch"], "the adapter 'anna': there is no adapter in 'nonesuch'"),
        (["--replicas", "2", "--api-key", "two words"], "API key 1 of 1 is blank"),
        (["--replicas", "2", "--model", "./nonesuch"], "nonesuch"),
    ],
)
def test_wrong_arguments(capsys, tmp_path, never_serves, args, message):
    """A wrong argument was found when the first request needed it."""
    assert run("serve", "--port", "0", "--voices", str(tmp_path), "--no-warmup", *args) == 2
    assert message in capsys.readouterr().err


def test_options_reach_the_server(tmp_path, never_serves, capsys):
    """An option had no effect."""
    options = "--port 0 --no-warmup --max-batch-size 3 --max-input 7 --shutdown-timeout 2 --cors-origin * --api-key k"
    port = tmp_path / "port"
    assert run("serve", *options.split(), "--voices", str(tmp_path), "--port-file", str(port)) == 0
    (server,) = never_serves
    assert int(port.read_text()) == server.port
    assert server.engine.max_batch_size == 3 and server.engine.max_queue == 12 and server.shutdown_timeout == 2
    assert server.status.is_ready
    log = capsys.readouterr().err
    assert "miniature is served at http://127.0.0.1" in log
    assert "--model nari-labs/" in log and "dia-hf generate" not in log  # the remedy is an option of this command


def test_options_reach_the_replicas(tmp_path, monkeypatch):
    """An option of the server without Ray had no effect with it, or a path was that of another folder there."""
    local_cluster = pytest.importorskip("dia_hf.serving.local_cluster")
    made = []

    class Ended:
        port = 1234

        def __init__(self, *args):
            made.append(args)

        def start(self):
            pass

        run = start

    monkeypatch.setattr(local_cluster, "LocalCluster", Ended)
    monkeypatch.chdir(tmp_path)
    port = tmp_path / "port"
    known = vars(parse())
    own = {"replicas", "adapter", "voice_name", "api_key", "cors_origin", "no_warmup"}
    values = {name: 7 for name, value in known.items() if isinstance(value, int | float) and name not in own}
    values = {name: value for name, value in values.items() if not isinstance(known[name], bool)} | {"max_queue": 7}
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    options += ["--voices", "new", "--voice-name", "alloy=anna", "--api-key", "k", "--cors-origin", "*", "--no-warmup"]
    assert run("serve", "--replicas", "3", *options, "--port-file", str(port)) == 0
    ((arguments, host, number),) = made
    for name, value in values.items():
        assert number == 7 if name == "port" else getattr(arguments, name) == value, name
    assert arguments.voices == str(tmp_path / "new") and arguments.voice_names == {"alloy": "anna"}
    assert arguments.api_keys == ["k"] and arguments.cors_origins == ["*"] and not arguments.warmup
    assert host == "127.0.0.1" and port.read_text() == "1234\n" and arguments.replicas == 3
    assert arguments.deployment_options()["num_replicas"] == 3


def test_replicas_without_ray(monkeypatch, capsys):
    """The error of a missing package did not name the extra that brings it."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "ray" or one.startswith("dia_hf.serving.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "dia_hf.serving.local_cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run("serve", "--replicas", "2") == 2
    assert '`pip install "dia-hf[ray]"`' in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
def test_the_command(tmp_path):
    """The command as a whole: ready, speech, no text in the log, status 0 after Ctrl-C."""
    port, log = tmp_path / "port", tmp_path / "log"
    command = "from dia_hf_command import main; import sys; sys.exit(main(sys.argv[1:]))"
    options = ["serve", "--port", "0", "--port-file", str(port), "--voices", str(tmp_path), "--device", "cpu"]
    with (
        open(log, "wb") as file,
        subprocess.Popen([sys.executable, "-c", command, *options, "--api-key", "my-key"], stderr=file) as process,
    ):
        try:
            while not (port.exists() and port.read_text().endswith("\n")):
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            with httpx.Client(base_url=f"http://127.0.0.1:{port.read_text().strip()}", timeout=60) as client:
                while client.get("/ready").status_code != 200:
                    time.sleep(0.05)
                assert client.post("/v1/audio/speech", content=b"{}").status_code == 401
                body = json.dumps({"input": "Hello, zebra (lauhgs).", "response_format": "wav", "max_seconds": 0.5})
                headers = {"authorization": "Bearer my-key", "content-type": "application/json"}
                assert client.post("/v1/audio/speech", content=body, headers=headers).content[:4] == b"RIFF"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    told = log.read_text()
    assert (
        "speech: wav, 22 characters" in told and "zebra" not in told and "lauhgs" not in told and "my-key" not in told
    )
    assert "Traceback" not in told
