"""`dia-hf serve --replicas` as a process."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from cluster.conftest import LONG
from waiting import wait_for

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def command(tmp_path):
    """A process that serves one replica, and its port."""
    file = tmp_path / "port"
    options = ["--replicas", "1", "--max-batch-size", "1", "--port", "0", "--port-file", str(file)]
    with tempfile.TemporaryDirectory(prefix="dia") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder, "PYTHONPATH": str(SOURCE), "DIA_HF_API_KEY": "one"}
        with subprocess.Popen(
            [sys.executable, "-m", "dia_hf_command", "serve", *options, "--voices", str(tmp_path / "voices")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wait_for(lambda: file.exists() or process.poll() is not None)
                assert file.exists(), process.stderr.read()
                yield process, int(file.read_text())
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    process.send_signal(signal.SIGTERM)


def test_sigterm(command):
    """SIGTERM broke off the speech, ended with another status than 0, or left processes of Ray."""
    process, port = command
    url, keys = f"http://127.0.0.1:{port}/v1/audio/speech", {"authorization": "Bearer one"}
    body = {"input": LONG, "response_format": "pcm", "seed": 1}
    assert httpx.post(url, json=body, timeout=60).status_code == 401
    whole = httpx.post(url, json=body, headers=keys, timeout=60).content
    with httpx.stream("POST", url, json=body, headers=keys, timeout=60) as response:
        parts = response.iter_raw()
        received = next(parts)
        process.send_signal(signal.SIGTERM)
        received += b"".join(parts)
    assert received == whole
    assert process.wait(60) == 0
    log = process.stderr.read()
    assert "is served at" in log and "Traceback" not in log
