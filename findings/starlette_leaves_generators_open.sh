#!/usr/bin/env bash
# A plain generator of a StreamingResponse is left open when the client goes, until Python's garbage collector runs.
#
# Versions: starlette 1.10.0, uvicorn 0.54.0; Python 3.11.
# Input: an app that streams from a generator, asynchronous or not, with a `finally`. Ten clients read the beginning and
#   close the connection. The collector is off, as it would run at some time or other.
# Expected: as soon as the response has ended, the generator is closed, and its `finally` has run.
# Seen: so for all asynchronous generators. The plain ones, which StreamingResponse takes as well, all stay open,
#   although nothing reads from them again: they are left in a cycle of references. The background task of the response
#   does run.
# Why it matters: `finally` is where a speech server takes a request out of the batch. Each listener who stops before
#   the end leaves one that is generated on; a server that keeps the collector away from its weights, by gc.freeze or a
#   high threshold, frees them minutes later. Stream from asynchronous generators; or free the request in the background
#   task.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet starlette==1.10.0 uvicorn==0.54.0 anyio==4.16.0
cat >try.py <<'PYTHON'
import asyncio
import gc
import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Route

num_open = 0
has_ended = threading.Event()


def plain():
    global num_open
    num_open += 1
    try:
        while True:
            yield bytes(4800)
            time.sleep(0.005)
    finally:
        num_open -= 1


async def asynchronous():
    global num_open
    num_open += 1
    try:
        while True:
            yield bytes(4800)
            await asyncio.sleep(0.005)
    finally:
        num_open -= 1


def route(generator):
    async def endpoint(request):
        return StreamingResponse(generator(), media_type="audio/pcm", background=BackgroundTask(has_ended.set))

    return Route(f"/{generator.__name__}", endpoint)


app = Starlette(routes=[route(plain), route(asynchronous)])
server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    time.sleep(0.01)
address = server.servers[0].sockets[0].getsockname()
gc.disable()
for generator in (asynchronous, plain):
    for _ in range(10):
        has_ended.clear()
        with socket.create_connection(address) as client:
            client.sendall(f"GET /{generator.__name__} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            client.recv(1000)
        has_ended.wait()
    before = num_open
    gc.collect()
    print(f"{generator.__name__}: {before} of 10 generators open after the responses, {num_open} after a collection")
server.should_exit = True
thread.join()
PYTHON
env/bin/python try.py 2>messages | tee seen
diff seen - <<'SEEN'
asynchronous: 0 of 10 generators open after the responses, 0 after a collection
plain: 10 of 10 generators open after the responses, 0 after a collection
SEEN
