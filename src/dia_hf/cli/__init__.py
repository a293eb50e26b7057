"""The command `dia-hf`: verbs over the rooms below, heavy imports inside the verb.

Each verb is a file of its own, which adds its parser and does its work; `arguments.py` holds what they share.
An error of the user's ends in one line on standard error and status 2.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from types import FrameType
from typing import Any, NoReturn

from . import bench, convert, evaluate, finetune, generate, prepare, voices
from .arguments import find_miniature

__all__ = ["main"]

_TRACEBACK = "DIA_HF_TRACEBACK"


_LONGEST = 480  # characters of a message; what is given in it, such as a text, may be of any length


def _one_line(message: object) -> str:
    """Join lines, and leave out the middle of what nobody would read."""
    line = " ".join(str(message).split("\n"))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 + 3 :]}"


class _Parser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        for argument in takewhile(lambda argument: argument != "--", args):
            if argument.startswith("--") and argument.endswith("=--"):  # a list without a value, to argparse
                self.error(f"argument {argument[:-3]}: the value is '--'")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        super().error(_one_line(message))


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dia-hf", description="Dia: text to dialogue.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (generate, voices, convert, finetune, bench, prepare, evaluate):
        verb.add_parser(verbs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 2 for an error, 130 when interrupted.

    3 is `generate --strict` where the sound that was written cannot be right.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; the process's own unless given.
    """
    with warnings.catch_warnings(), _noted_interrupts() as interrupts:
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            args = _make_parser().parse_args(argv)
            if hasattr(args, "model"):
                args.model = find_miniature(args.model)
            status: int | None = args.run(args)
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
    print("dia-hf: error:", _one_line(message), file=sys.stderr)
    return 2


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, UserWarning):
        print("dia-hf: warning:", _one_line(message), file=sys.stderr)
