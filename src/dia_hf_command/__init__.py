"""The command `dia-hf`, up to where it can be heard: Ctrl-C while PyTorch and transformers are imported is one line.

A package of its own, because whatever lies in `dia_hf` is there only when all of that has been imported.
"""

import os
import signal
import sys
from types import FrameType

__all__ = ["main"]


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has been written yet, and libraries that are half imported may swallow an exception."""
    os.write(2, b"dia-hf: interrupted; nothing was written.\n")
    os._exit(130)


def _flush(status: int) -> int:
    """Write what standard output still holds, if there is one; Python would end in a traceback where nobody reads."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"dia-hf: error: standard output: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # it is flushed once more at the end
        return status or 2
    return status


def main() -> int:
    """Import the command and run it; return its exit status, as `dia_hf.cli.main` does.

    Example:
    ```python
    >>> from dia_hf_command import main
    >>> callable(main)
    True

    ```
    """
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if is_heard:
        signal.signal(signal.SIGINT, _leave)
    from dia_hf import cli

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = _flush(cli.main())
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done, and has been told
    return status
