"""Replicas on this machine: a Ray of its own, Ray Serve in it, and a shutdown that finishes what is being spoken.

Called by `dia-hf serve --replicas`. A cluster is deployed to by Serve's own commands, see `ray.py`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable

import torch

from .._extras import import_extra
from .ray import AppArguments, app
from .server import listen

__all__ = ["LocalCluster", "cores_of_machine", "share_of_machine"]

logger = logging.getLogger(__name__)

_APP = "dia"
_ERROR = re.compile(r"[\w.]+(Error|Exception|Interrupt): ")
_POLL = 0.05  # seconds
_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def cores_of_machine() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_of_machine(replicas: int, device: str | None) -> dict[str, float]:
    """Return `num_cpus` and `num_gpus` of each of some replicas, so that all of them fit on this machine.

    Args:
        replicas (`int`): Number of replicas.
        device (`str`, *optional*): Device that the user asks for.

    Raises:
        ValueError: If it is one of several GPUs: Ray assigns them.
    """
    if device is not None and ":" in device:
        raise ValueError(
            f"`--device {device}` names one device, and Ray assigns them to replicas; give {device.partition(':')[0]}, "
            "and choose by CUDA_VISIBLE_DEVICES."
        )
    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    return {
        "num_cpus": math.floor(1000 * cores_of_machine() / replicas) / 1000,
        "num_gpus": 1 / math.ceil(replicas / gpus) if gpus else 0,
    }


class LocalCluster:
    """Ray and Serve in processes of their own. `run()` returns after the shutdown.

    Usage statistics and the dashboard are off: nothing leaves the machine. Serve's settings in the environment
    (`RAY_SERVE_…`) are obeyed.

    Args:
        arguments (`AppArguments`): Arguments of the application.
        host (`str`, defaults to `"127.0.0.1"`): Address to listen on.
        port (`int`, defaults to 8000): Port; 0 for a free one.
        temp_dir (`str`, *optional*): Folder of Ray's sockets and logs; Ray's own, /tmp/ray, unless given.

    Attributes:
        port (`int`): Port in use.

    Raises:
        OSError: If the address cannot be used.
    """

    def __init__(
        self, arguments: AppArguments, host: str = "127.0.0.1", port: int = 8000, temp_dir: str | None = None
    ) -> None:
        self._arguments, self._host = arguments, host
        with listen(host, port) as probe:
            self.port: int = probe.getsockname()[1]
        self._ray, self._serve = import_extra("ray"), import_extra("ray.serve")
        self._temp_dir = temp_dir
        self._signals = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start Ray and the replicas; returns when these are ready.

        Raises:
            ValueError: If they cannot be started; its message has the reason.
        """
        logger.info("starting Ray and %d replicas; each loads the model", self._arguments.replicas)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(_CALLBACK, "dia_hf_command.ray_proxy:middlewares")
        self._ray.init(
            "local",
            num_cpus=cores_of_machine(),
            include_dashboard=False,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
            _temp_dir=self._temp_dir,
        )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._serve.start(
            proxy_location="HeadOnly",
            http_options={"host": self._host, "port": self.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
        self.deploy(self._arguments)

    def deploy(self, arguments: AppArguments) -> None:
        """Deploy the application, or another version of it in place of the one that runs.

        Args:
            arguments (`AppArguments`): Arguments of the application.

        Raises:
            ValueError: If the replicas cannot be started; its message has the reason.
        """
        self._arguments = arguments
        try:
            self._serve.run(app(arguments), name=_APP)
        except RuntimeError as error:
            raise ValueError(f"the replicas cannot be started: {self._reason() or error}") from error

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; then finish what is being spoken.

        A second signal ends the replicas at once.
        """
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._stopped.wait()
            self._drain()
        finally:
            self.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Begin the shutdown; from any thread."""
        self._stopped.set()

    def close(self) -> None:
        """End the replicas, Serve and Ray, which are processes of Ray's."""
        self._ray.shutdown()

    def _handle(self, *_: object) -> None:
        self._signals += 1
        self.stop()

    def _reason(self) -> str:
        """Return the last line of the traceback of a replica that could not be started; "" without one."""
        deployments = self._serve.status().applications[_APP].deployments.values()
        lines = [line.strip() for one in deployments for line in one.message.splitlines()]
        return next((line for line in reversed(lines) if _ERROR.match(line)), "")

    def _drain(self) -> None:
        """Take the application out of the proxy, which refuses requests from then on, and wait for the replicas."""
        timeout = self._arguments.shutdown_timeout
        logger.info("shutting down: running requests are finished within %g s", timeout)
        self._serve.delete(_APP, _blocking=False)
        # Serve ends the replicas at the time limit; the rest is for its own bookkeeping.
        end = time.monotonic() + timeout + 10
        self._wait(lambda: _APP not in self._serve.status().applications, end)

    def _wait(self, condition: Callable[[], bool], end: float) -> None:
        while self._signals < 2 and time.monotonic() < end and not condition():
            time.sleep(_POLL)
