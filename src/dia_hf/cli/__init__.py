"""The command `dia-hf`: verbs over the rooms below, heavy imports inside the verb.

Each verb is a file of its own, which adds its parser and does its work; `arguments.py` holds what they share.
An error of the user's ends in one line on standard error and status 2.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from . import bench, convert, evaluate, finetune, generate, prepare, voices

__all__ = ["main"]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dia-hf", description="Dia: text to dialogue.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in (generate, voices, convert, finetune, bench, prepare, evaluate):
        verb.add_parser(verbs)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 2 for an error, 130 when interrupted.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; the process's own unless given.
    """
    args = _make_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            args.run(args)
        except (ValueError, OSError, ImportError) as error:
            print(f"dia-hf: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            print(f"dia-hf: interrupted; {error or 'nothing was written.'}", file=sys.stderr)
            return 130
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"dia-hf: warning: {message}", file=sys.stderr)
