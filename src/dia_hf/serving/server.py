"""The app on a socket: uvicorn with a shutdown that finishes what is being spoken.

After SIGTERM or SIGINT, requests are refused with 503 while those that run are finished, within a time; then the socket
is closed, and the process ends with status 0.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import time
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..speech.engine import SpeechEngine
from .adapters import AdapterEngines
from .errors import ApiError
from .settings import ServerStatus

__all__ = ["Server", "listen"]

logger = logging.getLogger(__name__)

_HEAD_TIMEOUT = 30.0  # seconds from a connection, or the first byte of a later request, to the end of its head

_MAX_MESSAGE = 2**24  # bytes of a message of a WebSocket, of which only a recording in `session.config` has many


class _Protocol(H11Protocol):
    """HTTP/1.1 whose requests know their transport, and whose errors are JSON as all others."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does it for sockets that were made with `proto=IPPROTO_TCP`, unlike those of `socket.create_server`;
        # without it, each second small write waits 40 ms for the client's acknowledgment.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}
        self._head_timer: asyncio.TimerHandle | None = None
        self._time_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._time_head()

    def _time_head(self) -> None:
        """Run a timer as long as a head is incomplete; uvicorn's own stops at its first byte."""
        is_incomplete = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if is_incomplete and self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_TIMEOUT, self.transport.abort)
        elif not is_incomplete and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        body = ApiError(400, "the request is no HTTP/1.1; send it again, from another client.").response().body
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + bytes(body))
        self.transport.close()


def listen(host: str, port: int, backlog: int = 100) -> socket.socket:
    """Return a socket that listens.

    Args:
        host (`str`): Address.
        port (`int`): Port; 0 for a free one.
        backlog (`int`, defaults to 100): Connections that may wait.

    Raises:
        OSError: If the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(
            f"{host}:{port} cannot be listened on ({reason}); give another address or port; 0 is a free port."
        ) from error


class Server(uvicorn.Server):
    """A listening server. `run()` returns after the shutdown.

    Args:
        app (`ASGIApp`): From `create_app`.
        engine (`SpeechEngine` or `AdapterEngines`): Its engine, which the shutdown closes.
        status (`ServerStatus`): Its status.
        host (`str`, defaults to `"127.0.0.1"`): Address to listen on.
        port (`int`, defaults to 8000): Port; 0 for a free one.
        shutdown_timeout (`float`, defaults to 30.0): Seconds for requests that run to be finished at a shutdown.

    Attributes:
        port (`int`): Port in use.
        warm_up_error (`Exception`, *optional*): Error of the warm-up, after which the server shut down.

    Raises:
        OSError: If the address cannot be used.
    """

    def __init__(
        self,
        app: ASGIApp,
        engine: SpeechEngine | AdapterEngines,
        status: ServerStatus,
        host: str = "127.0.0.1",
        port: int = 8000,
        shutdown_timeout: float = 30.0,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="websockets-sansio",
            ws_max_size=_MAX_MESSAGE,
            ws_per_message_deflate=False,  # audio has no redundancy for it
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        super().__init__(config)
        self.warm_up_error: Exception | None = None
        self.engine, self.status, self.shutdown_timeout = engine, status, shutdown_timeout
        self._socket = listen(host, port, config.backlog)
        self.port: int = self._socket.getsockname()[1]

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM, SIGINT or `stop`."""
        super().run(sockets or [self._socket])

    def stop(self) -> None:
        """Begin the shutdown; from any thread."""
        self.status.is_draining = True
        self.should_exit = True

    def warm_up(self) -> None:
        """Generate in batches of all sizes, so that no request waits for compilation and allocation; then be ready."""
        begin = time.perf_counter()
        try:
            self.engine.warm_up()
        except Exception as error:
            if not self.status.is_draining:
                logger.error("the warm-up failed (%s: %s); the server shuts down", type(error).__name__, error)
                self.warm_up_error = error
                self.stop()
            return
        gc.collect()
        gc.freeze()  # the modules and weights, which a collection would look through for a third of a second
        self.status.is_ready = True
        logger.info("ready after a warm-up of %.1f s", time.perf_counter() - begin)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown; end at once at a second signal.

        uvicorn's own notes the signal and raises it again at the end, and the exit status would not be 0.
        """
        self.force_exit = self.should_exit
        self.stop()

    async def main_loop(self) -> None:
        """Serve; then finish what is being spoken, while new requests are refused."""
        await super().main_loop()
        end = time.monotonic() + self.shutdown_timeout
        logger.info("shutting down: %d samples are finished within %g s", self.engine.num_active, self.shutdown_timeout)
        closing = threading.Thread(target=self.engine.close, args=(self.shutdown_timeout,), daemon=True)
        closing.start()
        while closing.is_alive() and not self.force_exit:
            await asyncio.sleep(0.02)
        # The rest of the time is for clients that read more slowly than their audio was generated.
        sessions = self.status.sessions
        while any(one.is_speaking for one in sessions) and not self.force_exit and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(1, round(end - time.monotonic()))
