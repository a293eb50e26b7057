"""`dia-hf wyoming`, up to the socket and through it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("wyoming")

from wyoming.client import AsyncTcpClient
from wyoming.tts import Synthesize

from cli.command import run
from cli.test_serve import loggers  # noqa: F401
from dia_hf_command.parser import make_parser


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--uri", "stdio://"], "is no tcp://HOST:PORT"),
        (["--uri", "tcp://127.0.0.1"], "is no tcp://HOST:PORT"),
        (["--uri", "tcp://127.0.0.1:99999"], "invalid uri value"),
        (["--max-input", "0"], "from 1 up"),
        (["--voice", "nobody"], "there is no voice 'nobody'"),
        (["--uri", "unix:///nonesuch/socket"], "cannot be listened on"),
    ],
)
def test_wrong_arguments(capsys, tmp_path, args, message):
    """A wrong argument was found when the first text needed it."""
    assert run("wyoming", "--voices", str(tmp_path), "--no-warmup", *args) == 2
    assert message in capsys.readouterr().err


def test_the_defaults():
    """The address was open to the network, or another one than Home Assistant's users expect."""
    assert make_parser().parse_args(["wyoming"]).uri == "tcp://127.0.0.1:10200"


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
def test_the_command(tmp_path):
    """The command as a whole: it listens, speaks, logs no text, and ends with status 0 after Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    command = "from dia_hf_command import main; import sys; sys.exit(main(sys.argv[1:]))"
    options = ["wyoming", "--uri", f"tcp://127.0.0.1:{port}", "--voices", str(tmp_path), "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *options, "--max-batch-size", "2"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            told = []
            while "listening on" not in (line := process.stderr.readline()):
                assert line, told
                told.append(line)

            async def speak():
                async with AsyncTcpClient("127.0.0.1", port, read_timeout=60) as client:
                    await client.write_event(Synthesize("Hello, zebra.").event())
                    return [(await client.read_event()).type for _ in range(2)]

            assert asyncio.run(speak()) == ["audio-start", "audio-chunk"]
            process.send_signal(signal.SIGINT)
            told.append(process.stderr.read())
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "speech: wyoming, 13 characters" in told[-1]
    assert "zebra" not in "".join(told) and "Traceback" not in "".join(told)
