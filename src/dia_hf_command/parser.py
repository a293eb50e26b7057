"""The argument parser of `dia-hf`; one file a verb adds the verb's arguments.

Imports the standard library only, so that `--help` and a wrong argument take no import of PyTorch. The work of each
verb is in the file of the same name in `dia_hf.cli`.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from itertools import takewhile
from typing import Any, NoReturn

from . import align, batch, bench, convert, evaluate, finetune, generate, heads, prepare, serve, ui, voices, wyoming

__all__ = ["make_parser", "one_line"]

_VERBS = (generate, voices, align, batch, serve, ui, wyoming, prepare, finetune, evaluate, convert, heads, bench)

_LONGEST = 480  # characters of a message, which may repeat a text of any length


def one_line(message: object) -> str:
    """Join the lines of a message, and leave out the middle of a long one."""
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
        super().error(one_line(message))


class _Version(argparse.Action):
    """Print the version; its metadata are read only then."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        parser._print_message(f"dia-hf {version('dia-hf')}\n", sys.stdout)
        parser.exit()


class _PrintCompletion(argparse.Action):
    """Print a script that completes the command in a shell."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error(f"{option} needs shtab: pip install shtab")
        parser._print_message(shtab.complete(parser, shell=str(values)), sys.stdout)
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command.

    The result of its `parse_args` has the verb's name as `verb` and the verb's arguments.

    Example:
    ```python
    >>> from dia_hf_command.parser import make_parser
    >>> args = make_parser().parse_args(["generate", "[S1] Hello.", "--seed", "7"])
    >>> args.verb, args.text, args.seed, args.output
    ('generate', '[S1] Hello.', 7, 'output.wav')

    ```
    """
    parser = _Parser(prog="dia-hf", description="Dia: text to dialogue.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=["bash", "zsh", "fish"],
        metavar="SHELL",
        help="print a completion script for bash, zsh or fish and exit",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_parser(verbs)
    return parser
