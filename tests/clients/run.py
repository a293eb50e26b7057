"""Run real clients against `dia-hf serve`: `python tests/clients/run.py [CLIENT ...]`.

Makes environments for the clients in build/clients, starts a server with the miniature and one whose requests fail
after half of their audio, and runs each client's script with the URLs of both. A client that cannot be installed here
(no npm, no Python that is new enough) is skipped, with the reason. Exit status 1: a client failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMEOUT_S = 600
START_S = 180
NODE = "node@22.23.3"  # the package of npm that brings it, where the installed one is too old


CLIENTS = {
    "openai-python": "openai_python.py",
    "openai-javascript": "openai_javascript.mjs",
    "livekit": "livekit_tts.py",
    "pipecat": "pipecat_tts.py",
    "wyoming": "wyoming_proxy.py",
}
"""Names of the clients, and their scripts."""


class CannotInstallError(Exception):
    """A client cannot be installed on this machine, and why."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that has to succeed and return its output."""
    result = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stderr[-4000:]}")
    return result.stdout.strip()


def find_python(minor: int) -> str:
    """Return an interpreter of Python 3.`minor` or later.

    Raises:
        CannotInstallError: If there is none.
    """
    names = [sys.executable, *(f"python3.{number}" for number in (minor, minor + 1, minor + 2)), "python3"]
    versions = Path.home() / ".pyenv" / "versions"
    for name in (*names, *map(str, sorted(versions.glob("3.*/bin/python")))):
        if shutil.which(name) is None:
            continue
        program = f"import sys, venv; sys.exit(not ((3, {minor}) <= sys.version_info[:2] < (3, 15)))"
        if not subprocess.run([name, "-c", program], capture_output=True, check=False).returncode:
            return name
    raise CannotInstallError(f"it needs Python 3.{minor} or later, and none was found")


def install_python(folder: Path, minor: int, requirements: str) -> str:
    """Make an environment with a requirements file, or reuse the one that was made from the same file.

    Returns:
        Its interpreter.
    """
    python = folder / "bin" / "python"
    installed = folder / requirements
    if not installed.exists() or installed.read_bytes() != (HERE / requirements).read_bytes():
        run(find_python(minor), "-m", "venv", "--clear", folder)
        run(python, "-m", "pip", "install", "--quiet", "--requirement", HERE / requirements)
        shutil.copy(HERE / requirements, installed)
    return str(python)


def install_node(folder: Path) -> str:
    """Install the packages of package.json, and Node.js if the installed one is older than these ask for.

    Returns:
        The interpreter. Scripts in `folder` find the packages.
    """
    if shutil.which("npm") is None:
        raise CannotInstallError("there is no npm")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", folder)
    run("npm", "install", "--no-audit", "--no-fund", "--silent", cwd=folder)
    node = shutil.which("node")
    if node is None or int(run(node, "--version").lstrip("v").split(".")[0]) < 22:
        node = str(folder / "node_modules" / ".bin" / "node")
        if not Path(node).exists():
            run("npm", "install", "--no-audit", "--no-fund", "--silent", "--no-save", NODE, cwd=folder)
    return node


def command_of(client: str, folder: Path) -> list[str]:
    """Install a client into `folder` and return the command that runs its script.

    Raises:
        CannotInstallError: If that is impossible on this machine.
    """
    script = HERE / CLIENTS[client]
    if script.suffix == ".mjs":
        node = install_node(folder / "node")
        return [node, shutil.copy(script, folder / "node")]
    if client == "wyoming":
        return [install_python(folder / "wyoming", 12, "requirements-wyoming.txt"), str(script)]
    return [install_python(folder / "python", 11, "requirements.txt"), str(script)]


@contextmanager
def open_server(folder: Path) -> Iterator[str]:
    """Start a server with the miniature on a free port and give its URL."""
    port_file = folder / "port"
    with open(folder / "server.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dia_hf.cli", "serve", "--host", "127.0.0.1", "--port", "0",
             "--port-file", port_file, "--voices", folder / "voices", "--max-batch-size", "4", "--max-queue", "4"],
            stdout=log, stderr=log, env={"OMP_NUM_THREADS": "1", **os.environ},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            while not is_ready(port_file):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start:\n{(folder / 'server.log').read_text('utf-8')}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port_file.read_text('utf-8').strip()}"
        finally:
            process.terminate()
            if process.wait(60):
                raise RuntimeError(f"the server ended with {process.returncode} after SIGTERM")


@contextmanager
def open_failing_server() -> Iterator[str]:
    """Start a server whose requests end with an error after four chunks, in this process, and give its URL."""
    sys.path.insert(0, str(ROOT / "tests"))
    from dia_hf.serving import Server, ServerStatus, create_app
    from serving.fakes import FakeEngine, FakeVoices, Script

    engine, status = FakeEngine(Script(error=RuntimeError("the device is lost"))), ServerStatus()
    server = Server(create_app(engine, FakeVoices(), status=status), engine, status, port=0)
    logging.disable()  # each failure would be logged
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join()


def is_ready(port_file: Path) -> bool:
    """Return whether the server has written its port and answers `/ready` with 200."""
    try:
        url = f"http://127.0.0.1:{port_file.read_text('utf-8').strip()}/ready"
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (OSError, ValueError, urllib.error.URLError):
        return False


def run_client(name: str, command: list[str]) -> bool:
    """Run a client's script and print its lines, each after the client's name."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        print(f"{name}: FAILED: it did not end in {TIMEOUT_S} s\n{error.stdout}\n{error.stderr}", flush=True)
        return False
    for line in result.stdout.splitlines():
        print(f"{name}: {line}", flush=True)
    if result.returncode:
        print(f"{name}: FAILED\n{result.stderr[-6000:]}", flush=True)
    return not result.returncode


def main() -> int:
    """Run the clients that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CLIENTS)}; default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "clients", help="environments (build/clients)")
    arguments = parser.parse_args()
    unknown = set(arguments.clients) - set(CLIENTS)
    if unknown:
        parser.error(f"unknown clients: {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}")
    commands = {}
    for name in arguments.clients or CLIENTS:
        try:
            commands[name] = command_of(name, arguments.folder.resolve())
        except CannotInstallError as error:
            print(f"{name}: skipped: {error}", flush=True)
    if not commands:
        return 0
    with (
        tempfile.TemporaryDirectory() as temporary,
        open_server(Path(temporary)) as url,
        open_failing_server() as failing,
    ):
        failed = [name for name, command in commands.items() if not run_client(name, [*command, url, failing])]
        if failed:
            print((Path(temporary) / "server.log").read_text("utf-8")[-3000:])
    print(f"failed: {', '.join(failed)}" if failed else f"{len(commands)} of {len(CLIENTS)} clients passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
