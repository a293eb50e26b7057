#!/usr/bin/env bash
# Versions: uvicorn 0.54.0, websockets 17.4, httpx 0.28.1.
#
# A server sends three pieces, half a second apart, as a response and over a WebSocket. After the first ones a graceful
# shutdown begins, with ten seconds for what is running.
#
# Expected: both clients get their three pieces, as both handlers are done within the ten seconds.
# Seen: the response is finished. The WebSocket is closed at once, with code 1012: its client gets one piece. The ten seconds
#   are given to its handler, whose further pieces nobody gets.
#
# Why it matters for speech software: audio is streamed over both. A restart that lets responses end cuts what is spoken
# over WebSockets, the end of a sentence included that is generated already.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet uvicorn==0.54.0 websockets==17.4 httpx==0.28.1 2>/dev/null
"$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
import asyncio
import socket
import threading

import httpx
import uvicorn
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


async def app(scope, receive, send):
    await receive()
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    else:
        await send({"type": "websocket.accept"})
    for number in range(3):
        if scope["type"] == "http":
            await send({"type": "http.response.body", "body": b"x", "more_body": number < 2})
        else:
            await send({"type": "websocket.send", "bytes": b"x"})
        await asyncio.sleep(0.5)


def take_response():
    with httpx.stream("GET", f"http://127.0.0.1:{port}", trust_env=False) as response:
        for piece in response.iter_raw():
            begun["response"].set()
            pieces["response"] += len(piece)


def take_websocket():
    with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
        try:
            while True:
                pieces["websocket"] += len(client.recv())
                begun["websocket"].set()
        except ConnectionClosed as end:
            pieces["code"] = end.rcvd.code


listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
config = uvicorn.Config(app, lifespan="off", log_level="critical", ws="websockets-sansio", timeout_graceful_shutdown=10)
server = uvicorn.Server(config)
begun = {"response": threading.Event(), "websocket": threading.Event()}
pieces = {"response": 0, "websocket": 0}
threads = [threading.Thread(target=server.run, args=([listener],))]
threads += [threading.Thread(target=take) for take in (take_response, take_websocket)]
for thread in threads:
    thread.start()
for event in begun.values():
    event.wait(30)
server.should_exit = True
for thread in threads:
    thread.join(30)
print(f"response: {pieces['response']} of 3 pieces")
print(f"WebSocket: {pieces['websocket']} of 3 pieces, code {pieces['code']}")
PY
diff "$folder/seen" - <<'SEEN'
response: 3 of 3 pieces
WebSocket: 1 of 3 pieces, code 1012
SEEN
