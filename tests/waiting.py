"""Waiting for what another thread does."""

import threading

import pytest


def wait_for(condition):
    """Wait until a condition holds; fail after a minute."""
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.02)
    pytest.fail("it did not come to that within a minute")
