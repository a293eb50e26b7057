"""The socket: protocol errors, shutdown, warm-up."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import httpx
import pytest

from dia_hf.serving import Server, ServerStatus, create_app, server
from serving.fakes import FakeEngine, FakeVoices, Script


def exchange(port, content):
    """Send bytes, and return all that comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(content)
        received = b""
        while part := connection.recv(2**16):
            received += part
    return received


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without a host
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_broken_requests(fake, content):
    """A request that is no HTTP was answered with plain text, or not at all."""
    received = exchange(fake.port, content)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"application/json" in head
    assert body.startswith(b'{"error":{"message":')
    assert fake.http.get("/health").status_code == 200


def test_small_writes_leave_at_once(fake):
    """Each response on a connection that was kept alive took 44 ms: head and body waited for an acknowledgment."""
    fake.http.get("/health")
    connections = list(fake.server.server_state.connections)
    assert connections
    for one in connections:
        assert one.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n"])
def test_a_connection_without_a_request(fake, monkeypatch, sent):
    """Connections without a request stayed open for ever, until there were no file descriptors left."""
    monkeypatch.setattr(server, "_HEAD_TIMEOUT", 0.05)
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.sendall(sent)
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_connection_with_half_of_a_second_request(fake, monkeypatch):
    """The timer of a head was that of the first request: half of a second one held its connection for ever."""
    monkeypatch.setattr(server, "_HEAD_TIMEOUT", 0.2)
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += connection.recv(2**16)
        connection.sendall(b"GET /health HT")
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_response_outlasts_the_timer_of_a_head(serve, monkeypatch):
    """A connection was closed while a request on it was being answered."""
    monkeypatch.setattr(server, "_HEAD_TIMEOUT", 0.05)
    running = serve(Script(hold_after=2))
    with running.stream(response_format="pcm") as response:
        threading.Timer(0.3, running.engine.release).start()
        assert len(response.read()) == 2 * 24000 * 4 * 5120 // 16000


def test_an_upgrade_to_a_websocket(fake, caplog):
    """A client that asks for a WebSocket where there is none, or by half a handshake, got a traceback."""
    headers = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    assert fake.http.get("/v1/audio/speech/stream", headers=headers).status_code == 400
    headers["sec-websocket-key"] = "A" * 22 + "=="
    assert fake.http.get("/v1/audio/speech", headers=headers).status_code == 403
    assert "Traceback" not in caplog.text


def test_a_port_in_use(fake):
    """The second server on a port ended the process without naming the port."""
    engine, status = FakeEngine(), ServerStatus()
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{fake.port} cannot be listened on \(Address[^(]*\);"):
        Server(create_app(engine, FakeVoices(), status=status), engine, status, port=fake.port)


def test_a_shutdown_finishes_what_is_spoken(serve):
    """A shutdown broke off running requests, or took new ones."""
    server = serve(Script(num_chunks=4, hold_after=2), shutdown_timeout=60)
    with server.stream(response_format="pcm") as response:
        parts = response.iter_raw()
        received = next(parts)
        server.server.stop()
        assert server.speak().status_code == 503
        server.engine.wait_until(lambda: server.engine.is_closed)
        server.engine.release()
        received += b"".join(parts)
    assert len(received) == 2 * 24000 * 4 * 5120 // 16000
    server.thread.join(30)
    assert not server.thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")


def test_a_shutdown_is_bounded(serve):
    """A request that does not end kept the server from ending; or it ended as if it were complete."""
    server = serve(Script(num_chunks=4, hold_after=2), shutdown_timeout=0.1)
    with server.stream(response_format="pcm") as response:
        server.server.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    server.thread.join(30)
    assert not server.thread.is_alive() and server.engine.handles[0].finish_reason == "canceled"


@pytest.mark.parametrize("is_forced", [True, False])
def test_a_shutdown_that_cancels_has_no_traceback(serve, caplog, is_forced):
    """Each request that a second signal or the end of the time broke off left sixty lines of a traceback in the log."""
    running = serve(Script(hold_after=2), shutdown_timeout=0.1)
    with suppress(httpx.RemoteProtocolError, httpx.ReadError), running.stream(response_format="pcm") as response:
        running.engine.close = lambda timeout=None: None  # an engine that leaves the request as it is
        running.server.force_exit = is_forced
        running.server.stop()
        response.read()
    running.thread.join(30)
    assert not running.thread.is_alive()
    assert "Exception in ASGI application" not in caplog.text


def test_the_warm_up(serve):
    """A server was ready before its warm-up, or never."""
    server = serve(Script(hold_after=1))
    server.status.is_ready = False
    warming = threading.Thread(target=server.server.warm_up)
    warming.start()
    assert server.engine.wait_until(lambda: server.engine.handles)
    assert server.http.get("/ready").status_code == 503
    server.engine.release()
    warming.join(30)
    assert server.http.get("/ready").status_code == 200


def test_a_warm_up_that_fails(serve):
    """A server whose model cannot generate ran on for ever, and was never ready."""
    server = serve(Script(error=RuntimeError("no kernel")))
    server.status.is_ready = False
    server.server.warm_up()
    server.thread.join(30)
    assert not server.thread.is_alive() and str(server.server.warm_up_error) == "no kernel"


@pytest.mark.skipif(os.name == "nt", reason="sends signals of POSIX")
def test_sigterm():
    """SIGTERM ended the process with a status that a service manager takes for a crash, or broke off the speech."""
    program = """
import sys, threading
sys.path[:0] = %r
from dia_hf.serving import Server, ServerStatus, create_app
from serving.fakes import FULL, FakeEngine, FakeVoices, Script
engine, status = FakeEngine(Script(hold_after=2)), ServerStatus()
server = Server(create_app(engine, FakeVoices(), status=status), engine, status, port=0)
print(server.port, flush=True)
def release():
    engine.wait_until(lambda: engine.is_closed, 60)
    engine.release()
threading.Thread(target=release, daemon=True).start()
server.run()
print("end", flush=True)
"""
    paths = [path for path in sys.path if path]
    with subprocess.Popen(
        [sys.executable, "-c", program % paths], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        port = int(process.stdout.readline())
        url = f"http://127.0.0.1:{port}/v1/audio/speech"
        body = {"input": "Hello.", "response_format": "pcm"}
        with httpx.stream("POST", url, json=body, timeout=60) as response:
            process.send_signal(signal.SIGTERM)
            assert len(response.read()) == 2 * 24000 * 4 * 5120 // 16000
        assert process.stdout.read() == "end\n"
        assert process.wait(30) == 0
