"""What verbs share: types of numbers, `--model`, the published model, and what is said of the miniature instead."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..assets import MINIATURE

__all__ = ["DTYPES", "MINIATURE_CODES_NOTE", "MINIATURE_NOTE", "REAL_MODEL", "add_model", "check_writable"]

REAL_MODEL = "nari-labs/Dia-1.6B-0626"

DTYPES = ["float32", "bfloat16", "float16"]

MINIATURE_NOTE = f"""\
note: this is the embedded miniature. It is untrained: what it says is noise, not speech.
      For speech, use the real model (1.6 billion parameters, downloaded at the first use):
      dia-hf generate --model {REAL_MODEL} "[S1] Hello. [S2] Hi!"
"""

MINIATURE_CODES_NOTE = f"""\
note: these are codes of the embedded miniature. To train the real model, use its codec: --model {REAL_MODEL}
"""

# argparse's errors tell the names of these: "invalid count value: 'x'".


def positive(value: str) -> float:
    """Read a number above 0."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a number above 0")
    return number


def not_negative(value: str) -> float:
    """Read a number of 0 or more."""
    return 0.0 if float(value) == 0 else positive(value)


def probability(value: str) -> float:
    """Read a number above 0 and at most 1."""
    number = float(value)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{value} does not lie in (0, 1]")
    return number


def count(value: str) -> int:
    """Read a whole number of 1 or more."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 1 up")
    return number


def seed(value: str) -> int:
    """Read what a generator can be seeded with."""
    number = int(value)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 0 to {2**63 - 1}")
    return number


def check_writable(option: str, path: Path) -> None:
    """Refuse an output that could not be written, before the work instead of after it."""
    if path.is_dir():
        raise ValueError(f"{option} {str(path)!r} is a folder; give a file.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"{option} {str(path)!r} cannot be written: {str(folder)!r} is no folder to write into.")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, the miniature unless given."""
    parser.add_argument(
        "--model", default=MINIATURE, metavar="DIR|ID", help=f"such as {REAL_MODEL}; default: the embedded miniature"
    )
