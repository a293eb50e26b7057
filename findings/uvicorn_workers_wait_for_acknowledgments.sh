#!/usr/bin/env bash
# With --workers, uvicorn's connections have no TCP_NODELAY; with a single process they have it.
#
# Versions: uvicorn 0.54.0, uvloop 0.22.1, asyncio of Python 3.11.7; Linux.
# Input: an app that answers with the options of the socket that the request came by. The same command once as it is,
#   and once with --workers 2; with the event loop of asyncio and with uvloop.
# Expected: TCP_NODELAY each time. asyncio's documents say that it is set by default, and the number of processes should
#   not change how bytes are sent.
# Seen: with asyncio and --workers 2 it is off. asyncio sets it on sockets whose `proto` is IPPROTO_TCP only. uvicorn
#   makes the socket for workers itself, by `socket.socket(family)`, whose `proto` is 0 (as that of
#   `socket.create_server`), and accepted connections take it from there. uvloop sets it each time.
# Why it matters: a stream of speech is many small writes. Without the option each waits until the client's kernel has
#   acknowledged the one before, which it may put off for 40 ms: the first sound of a server comes later, and chunks in
#   pairs, once it has a second process. Set the option in `connection_made`, or use uvloop.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet uvicorn==0.54.0 uvloop==0.22.1
cat >app.py <<'PYTHON'
import os
import socket


def connections(client):
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.getpeername() == tuple(client):
                    yield connection
        except OSError:  # no socket, or one without a peer
            continue


async def app(scope, receive, send):
    (answer,) = [
        f"TCP_NODELAY {bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))}"
        for connection in connections(scope["client"])
    ]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer.encode()})
PYTHON
cat >try.py <<'PYTHON'
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request


def answer(url):
    while True:
        try:
            return urllib.request.urlopen(url).read().decode()
        except urllib.error.URLError:  # the workers do not listen yet
            time.sleep(0.1)


for loop in ("asyncio", "uvloop"):
    for name, options in (("one process", []), ("--workers 2", ["--workers", "2"])):
        options += ["--port", "0", "--loop", loop, "--no-access-log"]
        command = [sys.executable, "-m", "uvicorn", "app:app", *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                url = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.:]+", line)))
                print(f"{loop}, {name}: {answer(url)}")
            finally:
                server.terminate()
                server.stderr.read()
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
asyncio, one process: TCP_NODELAY True
asyncio, --workers 2: TCP_NODELAY False
uvloop, one process: TCP_NODELAY True
uvloop, --workers 2: TCP_NODELAY True
SEEN
