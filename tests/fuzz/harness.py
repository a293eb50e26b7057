"""One case of the fuzzer: `dia-hf` or a call from Python, in process, with limits of time, memory and output."""

import contextlib
import hashlib
import io
import linecache
import os
import re
import resource
import signal
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dia_hf import cli

MAX_SECONDS = 60
MAX_BYTES = 6 * 2**30  # more than the process holds when the case begins
MAX_MESSAGE = 500
ROOM = f"{os.sep}dia_hf{os.sep}"


@dataclass
class Case:
    """A command or call, in a folder of its own.

    Attributes:
    argv: Arguments of the command.
    call: A call from Python, instead of the command.
    stdin: Content of standard input; `None` for a closed one.
    outputs: Files and folders, relative to the case's own, that the command may make or change.
    """

    argv: list[str] = field(default_factory=list)
    call: Callable[[], object] | None = None
    stdin: bytes | None = b""
    outputs: tuple[str, ...] = ()


class TooLongError(BaseException):
    """The time limit of a case is exceeded."""


def _ring(signum: int, frame: types.FrameType | None) -> None:
    raise TooLongError


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, _ring)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, limits[1]))
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _call(work: Callable[[], object]) -> int:
    """Call from Python: invalid arguments must raise an exception of a documented class, by a `raise` statement."""
    try:
        work()
    except (ValueError, TypeError, OSError, ImportError) as error:
        while (cause := error.__traceback__) is not None and cause.tb_next is not None:
            error = error.with_traceback(cause.tb_next)
        assert cause is not None
        file = cause.tb_frame.f_code.co_filename
        is_meant = linecache.getline(file, cause.tb_lineno).lstrip().startswith("raise")  # possibly in transformers
        names_file = isinstance(error, OSError) and error.filename is not None
        if ROOM not in file and not is_meant and not names_file:
            raise RuntimeError(f"{type(error).__name__} in {file} {cause.tb_lineno}: {error}") from error
        sys.stderr.write(f"dia-hf: error: {error}\n")
        return 2
    return 0


def _content(folder: Path, outputs: tuple[str, ...]) -> dict[str, str]:
    """Map all files that the case must not change to their content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not any(name == output or name.startswith((f"{output}/", f"{output}.chunks")) for output in outputs):
            is_file = path.is_file() and not path.is_symlink()
            found[name] = hashlib.blake2b(path.read_bytes()).hexdigest() if is_file else "other"
    return found


def run(case: Case, folder: Path) -> str | None:
    """Run a case whose inputs are in `folder`; return the fault of its end, or `None`."""
    before = _content(folder, case.outputs)
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", "replace"), io.StringIO()
    stdin = None if case.stdin is None else io.TextIOWrapper(io.BytesIO(case.stdin), "utf-8", "replace")
    here, stdin_before = os.getcwd(), sys.stdin
    trace, status = "", -1
    try:
        os.chdir(folder)
        sys.stdin = stdin  # type: ignore[assignment]
        os.environ["DIA_HF_TRACEBACK"] = "1"
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = cli.main(case.argv) if case.call is None else _call(case.call)
    except SystemExit as end:  # argparse's own
        status = end.code if isinstance(end.code, int) else -1
    except TooLongError:
        return f"longer than {MAX_SECONDS} s"
    except BaseException:
        trace = traceback.format_exc()
    finally:
        sys.stdin = stdin_before
        os.chdir(here)
        del os.environ["DIA_HF_TRACEBACK"]
    said = err.getvalue()
    if trace:
        return f"traceback: {_last_lines(trace)}"
    if "not foreseen" in said:
        return f"not foreseen: {_last_lines(said)}"
    if status not in (0, 2, 130):
        return f"exit status {status}: {said[-300:]}"
    errors = re.findall(r"^dia-hf[a-z ]*: error: (.*)$", said, re.MULTILINE)
    if status == 2 and len(errors) != 1:
        return f"{len(errors)} error messages: {said[-300:]}"
    for message in (*errors, *re.findall(r"^dia-hf: warning: (.*)$", said, re.MULTILINE)):
        if len(message) > MAX_MESSAGE:
            return f"a message of {len(message)} characters: {message[:200]}"
    after = _content(folder, case.outputs)
    if before != after:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        return f"changed, made or lost: {changed[:5]} (status {status})"
    if hidden := [str(path) for path in folder.rglob(".dia-hf-*")]:
        return f"left over: {hidden[:3]} (status {status})"
    return None


def _last_lines(trace: str) -> str:
    """Return the innermost lines of a traceback, and the exception."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    places = [re.sub(r'File ".*?([^/]+/[^/]+)", line', r"\1", line) for line in lines if line.startswith("File ")]
    last = next((line for line in reversed(lines) if "Error" in line or "Exception" in line), lines[-1])
    ours = [place for place in places if "dia_hf" in place or place.split("/")[0] in _ROOMS]
    return f"{last[:250]} | {' < '.join([*places[-2:][::-1], *ours[-1:]])}"


_ROOMS = {"speech", "training", "conversion", "generation", "evaluation", "frames", "cli"}
