"""The verbs of the command `dia-hf`: a file each, over the packages below; `arguments.py` has the shared checks.

The arguments are defined in `dia_hf_command`, which imports neither PyTorch nor transformers. A user error ends in one
line on standard error and status 2.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dia_hf_command.parser import make_parser, one_line

from .arguments import find_miniature

__all__ = ["main", "run"]

_TRACEBACK = "DIA_HF_TRACEBACK"

# Libraries whose warnings say nothing that a user of the command could act on.
_QUIET = ("torch", "torchao", "transformers", "accelerate", "datasets", "huggingface_hub", "peft")


def main(argv: list[str] | None = None) -> int:
    """Parse arguments and run the command; return its exit status: 0, 2 for an error, 130 when interrupted.

    3 is `generate --strict` where the audio that was written cannot be right.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; those of the process unless given.

    Raises:
        SystemExit: From argparse, after `--help`, `--version` or a wrong argument.
    """
    return run(make_parser().parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Run a verb; return its exit status, as `main` does.

    Args:
        args (`argparse.Namespace`): From `dia_hf_command.parser`.
    """
    with warnings.catch_warnings(), _quiet_libraries(), _noted_interrupts() as interrupts:
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            if hasattr(args, "model"):
                args.model = find_miniature(args.model)
            status: int | None = importlib.import_module(f".{args.verb}", __name__).run(args)
        except KeyboardInterrupt as error:
            return _end_interrupted(str(error))
        except Exception as error:
            if interrupts:
                return _end_interrupted()
            if isinstance(error, ValueError | OSError | ImportError):
                return _fail(str(error) or type(error).__name__)
            return _fail(
                f"{type(error).__name__}: {error} (not foreseen, and so a fault of dia-hf's; with {_TRACEBACK}=1 in "
                "the environment it is told where)"
            )
    return status or 0


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep log lines below ERROR of other libraries off the screen; warnings of this package are Python warnings."""
    loggers = [logging.getLogger(name) for name in _QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Note each Ctrl-C beside raising it: some libraries make an error of their own of a KeyboardInterrupt."""
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or an application's own
        yield interrupts
        return
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread, which alone hears signals
        yield interrupts
        return
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_interrupted(advice: str = "") -> int:
    print(f"dia-hf: interrupted; {advice or 'no file is half-written.'}", file=sys.stderr)
    return 130


def _fail(message: str) -> int:
    """Say in one line what is wrong, after the traceback where that is asked for."""
    if os.environ.get(_TRACEBACK, "0") not in ("", "0"):
        traceback.print_exc()
    print("dia-hf: error:", one_line(message), file=sys.stderr)
    return 2


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, UserWarning):
        print("dia-hf: warning:", one_line(message), file=sys.stderr)
