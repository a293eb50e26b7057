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
from dia_hf.cli import serve
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


def test_keys(tmp_path, monkeypatch):
    """Keys of one source replaced those of another, or a blank line was a key."""
    file = tmp_path / "keys"
    file.write_text("two\n\n three \n", encoding="utf-8")
    monkeypatch.setenv("DIA_HF_API_KEY", "four")
    assert serve._api_keys(parse("--api-key", "one", "--api-key-file", str(file))) == ["one", "two", "three", "four"]
    monkeypatch.delenv("DIA_HF_API_KEY")
    assert serve._api_keys(parse()) == []
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no key"):
        serve._api_keys(parse("--api-key-file", str(file)))


def test_names_of_models(tmp_path):
    """The id of a model told the path of its folder to all clients."""
    assert serve.model_name(serve.MINIATURE) == "miniature"
    assert serve.model_name(str(tmp_path)) == tmp_path.name
    assert serve.model_name("nari-labs/Dia-1.6B-0626") == "nari-labs/Dia-1.6B-0626"


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
