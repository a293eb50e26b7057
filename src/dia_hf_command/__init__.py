"""The command `dia-hf`: arguments first, then the imports, then the work.

A package of its own, because importing any module of `dia_hf` imports PyTorch and transformers, which takes seconds.
`--help`, `--version` and a wrong argument need neither, and Ctrl-C during the imports ends in one line.
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
    """Write out standard output, if there is one; at exit Python would print a traceback where that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"dia-hf: error: standard output: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # it is flushed once more at the end
        return status or 2
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status, as `dia_hf.cli.main` does.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; those of the process unless given.

    Raises:
        SystemExit: From argparse, after `--help`, `--version` or a wrong argument.

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
    from .imports import import_cli
    from .parser import make_parser

    try:
        args = make_parser().parse_args(argv)
        cli = import_cli(args)
    except SystemExit as end:
        raise SystemExit(_flush(int(end.code or 0))) from None
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = _flush(cli.run(args))
    except KeyboardInterrupt:  # before or after the command's own handler
        sys.stderr.write("dia-hf: interrupted; no file is half-written.\n")
        status = 130
    finally:
        if is_heard:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done, and its result printed
    return status
