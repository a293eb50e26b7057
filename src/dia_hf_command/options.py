"""Options that several verbs share: number types, `--model`, sampling, and the form of the result."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = [
    "DTYPES",
    "MINIATURE",
    "REAL_MODEL",
    "add_codec",
    "add_device",
    "add_dtype",
    "add_extra_tag",
    "add_model",
    "add_result",
    "add_sampling",
    "add_voice",
    "count",
    "not_negative",
    "positive",
    "probability",
    "seed",
]

MINIATURE = str(Path(__file__).parent.parent / "dia_hf" / "assets" / "miniature")
"""The value of `dia_hf.MINIATURE`, which cannot be imported without PyTorch."""

REAL_MODEL = "nari-labs/Dia-1.6B-0626"

DTYPES = ["float32", "bfloat16", "float16"]

# argparse's errors name these functions: "invalid count value: 'x'".


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
    """Read a seed of a random generator."""
    number = int(value)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 0 to {2**63 - 1}")
    return number


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`; the default is the miniature."""
    parser.add_argument(
        "--model",
        default=MINIATURE,
        metavar="DIR|ID",
        help=f"such as {REAL_MODEL}, or a weight file; default: miniature, the embedded one",
    )


def add_codec(parser: argparse.ArgumentParser) -> None:
    """Add `--codec`."""
    parser.add_argument(
        "--codec",
        metavar="SOURCE",
        help="another DAC: descript's .pth file, a GGUF file, a folder or a name; default: the checkpoint's, or "
        "descript/dac_44khz",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add `--dtype`."""
    parser.add_argument("--dtype", choices=DTYPES, help="default: that of the checkpoint")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the sampling options, which `dia_hf.cli.arguments.sampling_of` reads."""
    sampling = parser.add_argument_group("sampling", "defaults: the checkpoint's generation_config.json")
    sampling.add_argument("--cfg-scale", type=positive, metavar="X", help="guidance; 1 switches it off")
    sampling.add_argument("--cfg-filter-top-k", type=count, metavar="N", help="number of tokens that guidance keeps")
    sampling.add_argument("--temperature", type=not_negative, metavar="X", help="0: greedy")
    sampling.add_argument("--top-p", type=probability, metavar="X", help="nucleus sampling")


def add_extra_tag(parser: argparse._ActionsContainer, what: str) -> None:
    """Add `--extra-tag`, which `dia_hf.cli.arguments.read_tags` reads."""
    parser.add_argument("--extra-tag", action="append", default=[], metavar="TAG[=ID]", help=what)


def add_voice(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add `--voice`, `--audio-prompt` and `--prompt-text`, and return their group."""
    voice = parser.add_argument_group("voice")
    voice.add_argument(
        "--voice",
        action="append",
        default=[],
        metavar="[SPEAKER=]NAME",
        help="a voice of `dia-hf voices`, or its file; S1=anna gives each speaker one",
    )
    voice.add_argument("--audio-prompt", metavar="F", help="clone the voice of this recording (5 to 10 s)")
    voice.add_argument(
        "--prompt-text",
        metavar="TEXT",
        help="its transcript; without this option, TEXT begins with it",
    )
    return voice


def add_result(parser: argparse.ArgumentParser, fields: str) -> None:
    """Add `--quiet` and `--json`; `fields` lists the names in the JSON object for `--help`."""
    result = parser.add_argument_group("result")
    result.add_argument("--quiet", action="store_true", help="print warnings and errors only")
    result.add_argument(
        "--json", action="store_true", help=f"print the result as one JSON object on standard output: {fields}"
    )
