"""Clusters of Ray: connected to or started, the share of each actor, and errors in a line.

Used by `batch/ray.py` and `data/encoding.py`; the server's replicas have needs of their own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._extras import import_extra
from .text_files import first_line

__all__ = ["cluster", "resources_of"]


@contextmanager
def cluster() -> Iterator[Any]:
    """Connect to the cluster of `RAY_ADDRESS`, or start one of this machine's own; yield the package `ray`.

    A cluster to which the process is connected already is used, and left as it is. One that is started sends no usage
    statistics and has no dashboard.

    Raises:
        ImportError: If Ray is not installed.
        ValueError, OSError, ImportError: Those of an actor, in a line.
        RuntimeError: For other errors of an actor.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray")
    import_extra("ray.data")
    if ray.is_initialized():
        with _translated_errors(ray):
            yield ray
        return
    options = {}
    if not os.environ.get("RAY_ADDRESS"):
        options["include_dashboard"] = False
        # Ray Data's actors have arguments in the object store, of which each run is told as an error.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        with _translated_errors(ray):
            yield ray
    finally:
        ray.shutdown()


def resources_of(ray: Any, num_actors: int | None, device: str | None) -> tuple[int, dict[str, int]]:
    """Choose the number of actors and the share of the cluster for each.

    Args:
        ray: The package, connected.
        num_actors (`int`, *optional*): Actors; one for each GPU of the cluster unless given, or one without GPUs.
        device (`str`, *optional*): Device of an actor; `"cpu"` leaves GPUs alone.

    Returns:
        `tuple[int, dict[str, int]]`: The number, and `num_cpus` and `num_gpus` of each.

    Raises:
        ValueError: If the cluster is too small for so many.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
    has_gpus = any(gpus) and not str(device).startswith("cpu")
    number = num_actors or (sum(gpus) if has_gpus else 1)
    most, kind = (sum(gpus), "GPUs") if has_gpus else (sum(cpus), "CPUs")
    if number > most:
        raise ValueError(f"`num_actors` is {number}, and the cluster has {most} {kind}; give at most as many.")
    if has_gpus:
        return number, {"num_cpus": 1, "num_gpus": 1}
    share = most // number
    while sum(there // share for there in cpus) < number:  # an actor is on one machine
        share -= 1
    return number, {"num_cpus": share}


@contextmanager
def _translated_errors(ray: Any) -> Iterator[None]:
    """Say in a line what Ray says in a traceback."""
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        for kind in (ValueError, OSError, ImportError):  # the user's
            if isinstance(cause, kind):
                raise kind(first_line(cause, 500)) from error
        raise RuntimeError(f"an actor failed: {type(cause).__name__}: {first_line(cause, 500)}") from error
