"""What verbs share: types of numbers, `--model`, sampling, the published model, and what is said of the miniature."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..assets import MINIATURE
from ..atomic_write import find_held

__all__ = [
    "DTYPES",
    "MINIATURE_CODES_NOTE",
    "MINIATURE_NOTE",
    "REAL_MODEL",
    "add_model",
    "add_sampling",
    "check_apart",
    "check_writable",
    "find_miniature",
    "sampling_of",
]

REAL_MODEL = "nari-labs/Dia-1.6B-0626"

DTYPES = ["float32", "bfloat16", "float16"]

MINIATURE_NOTE = f"""\
note: this is the embedded miniature: two voices, and a few hundred words of English, one after the other.
      For anything else, use the real model (1.6 billion parameters, downloaded at the first use):
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


def find_miniature(name: str | None) -> str | None:
    """Return the embedded checkpoint for "miniature", as files say how they were made, unless a folder is called so."""
    return MINIATURE if name == "miniature" and not os.path.exists(name) else name


def check_apart(option: str, output: str | Path, inputs: dict[str, str | None]) -> None:
    """Refuse an output that is one of the inputs, also by way of links: it would be replaced by what is made of it."""
    for name, path in inputs.items():
        if find_held(output, [path]) is not None:
            raise ValueError(
                f"{option} {str(output)!r} is what {name} {str(path)!r} reads, and would replace it; give another file."
            )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, the miniature unless given."""
    parser.add_argument(
        "--model",
        default=MINIATURE,
        metavar="DIR|ID",
        help=f"such as {REAL_MODEL}; default: miniature, the embedded one",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling, which `sampling_of` reads."""
    sampling = parser.add_argument_group("sampling", "defaults: the checkpoint's generation_config.json")
    sampling.add_argument("--cfg-scale", type=positive, metavar="X", help="guidance; 1 switches it off")
    sampling.add_argument("--cfg-filter-top-k", type=count, metavar="N", help="tokens that guidance lets pass")
    sampling.add_argument("--temperature", type=not_negative, metavar="X", help="0: always the best token")
    sampling.add_argument("--top-p", type=probability, metavar="X", help="nucleus")


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of sampling as `Dia` takes them, `None` for what was left out."""
    return {name: getattr(args, name) for name in ("cfg_scale", "cfg_filter_top_k", "temperature", "top_p")}
