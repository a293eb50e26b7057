"""Fixtures of the audio tests."""

import os
from collections.abc import Callable

import pytest


@pytest.fixture
def resident_memory() -> Callable[[], int]:
    """A function that returns the memory of this process in bytes, that of libraries included."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("reads Linux's /proc")

    def measure() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    return measure
