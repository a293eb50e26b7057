"""Candidates in processes of their own that measure on command, so that versions of one package alternate in one run.

A worker loads its model once and then answers requests, each a line of JSON. While it waits, it uses no processor.
Used by `cpu_steps.py` and `cpu_ggml.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Worker", "answer_requests", "describe_machine", "ratio", "say", "spread", "wrap"]


class Worker:
    """Process that answers requests.

    Args:
        name (`str`): Its name in errors.
        command (`Sequence[str]`): The process.
        source (`Path`, *optional*): Folder that takes the place of `PYTHONPATH`.
        threads (`int`, defaults to 2): Threads of an operator.
        seconds (`float`, defaults to 240): Time for the start and for each answer; afterwards the process is killed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        source: Path | None = None,
        threads: int = 2,
        seconds: float = 240.0,
    ) -> None:
        self.name, self.seconds = name, seconds
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        if source is not None:
            environment["PYTHONPATH"] = str(source)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=environment, text=True
        )

    def read_line(self) -> str:
        """Wait for a line of its output.

        Raises:
            RuntimeError: If it ends before, or does not answer in time.
        """
        assert self.process.stdout is not None
        timer = threading.Timer(self.seconds, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line.endswith("\n"):
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.log.read()[-2000:]}")
        return line

    def ask_line(self, line: str) -> str:
        """Send a line, and return the line that answers it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read_line()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, and return the answer."""
        return json.loads(self.ask_line(json.dumps(request)))

    def close(self) -> None:
        """End the process, and free its memory."""
        self.process.kill()
        self.process.communicate()
        self.log.close()


def answer_requests(prepare: Callable[[], tuple[Any, Callable[..., Any]]]) -> None:
    """Be a worker: prepare, write the first answer, and answer requests until the input ends.

    Args:
        prepare (`Callable`): Returns the first answer and the function that answers requests, by keyword arguments.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not mix with answers
    first, answer = prepare()
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


def describe_machine(machine: dict[str, Any], threads: int, load_before: float) -> str:
    """Return hardware, versions and load as sentences."""
    versions = machine["versions"]
    return (
        f"{machine['cores']} cores ({_processor()}), {threads} threads, {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"Python {versions['python']}, PyTorch {versions['torch']}, transformers {versions['transformers']}; "
        f"{time.strftime('%Y-%m-%d')}. Load average before the run: {load_before:.1f}."
    )


def _processor() -> str:
    """Return the processor's name, family and model, and the instructions that matter here."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return "unknown processor"
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "amx_tile": "AMX"}
    numbers = f"family {fields.get('cpu family')}, model {fields.get('model')}"
    return ", ".join([fields.get("model name", "unknown"), numbers, *(known[flag] for flag in known if flag in flags)])


def ratio(theirs: Iterable[float], ours: Iterable[float]) -> float:
    """Return how many times as fast ours is: the median over turns, each ratio taken within its turn."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Format the median with the lowest and the highest value."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def wrap(text: str) -> str:
    """Break a paragraph into lines, but no word."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)
