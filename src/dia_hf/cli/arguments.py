"""Shared by the verbs: checks of paths, sampling options, the result, and notes about the miniature."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from dia_hf_command.options import REAL_MODEL

from ..assets import MINIATURE
from ..atomic_write import find_held
from ..tokenization_dia import speaker_tag

__all__ = [
    "MINIATURE_CODES_NOTE",
    "MINIATURE_NOTE",
    "check_apart",
    "check_writable",
    "find_miniature",
    "load_voices",
    "print_result",
    "read_tags",
    "sampling_of",
]

MINIATURE_NOTE = f"""\
note: this is the embedded miniature, a small model: English in two voices, with errors here and there.
      For natural speech, use the real model (1.6 billion parameters, downloaded at the first use):
      dia-hf generate --model {REAL_MODEL} "[S1] Hello. [S2] Hi!"
"""

MINIATURE_CODES_NOTE = f"""\
note: these are codes of the embedded miniature. To train the real model, use its codec: --model {REAL_MODEL}
"""


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


def load_voices(args: argparse.Namespace) -> Any:
    """Load what `--voice` names, as `Dia.dialogue` takes it, and look at `--audio-prompt`, before the model."""
    from ..audio.io import read_audio
    from ..speech.voices import load_voice

    if args.audio_prompt is not None:
        read_audio(args.audio_prompt)
    named = {}
    for option in args.voice:
        match = re.fullmatch(r"(?:\[?(S\d+)\]?|\[([^\[\]\s]+)\])=(.+)", option)
        if match is None and len(args.voice) > 1:
            raise ValueError(
                f"--voice {option!r} names no speaker; with several, write --voice S1=NAME --voice S2=NAME."
            )
        if match is None:
            return load_voice(option)
        named[f"[{match[1] or match[2]}]"] = load_voice(match[3])
    return named or None


def check_apart(option: str, output: str | Path, inputs: dict[str, str | None]) -> None:
    """Refuse an output that is one of the inputs, also by way of links: it would be replaced by what is made of it."""
    for name, path in inputs.items():
        if find_held(output, [path]) is not None:
            raise ValueError(
                f"{option} {str(output)!r} is what {name} {str(path)!r} reads, and would replace it; give another file."
            )


def check_outputs_apart(outputs: dict[str, str | Path | None]) -> None:
    """Refuse outputs of which one would replace another, or lie inside it; none of them need exist."""
    places = {name: Path(os.path.realpath(path)) for name, path in outputs.items() if path is not None}
    for (name, place), (other, around) in itertools.permutations(places.items(), 2):
        if around in (place, *place.parents):
            raise ValueError(
                f"{name} {str(outputs[name])!r} and {other} {str(outputs[other])!r} are one place; give two."
            )


def read_tags(options: list[str]) -> dict[str, int | None]:
    """Return the tags of `--extra-tag TAG[=ID]` with their ids; brackets, patterns to some shells, are added.

    Raises:
        ValueError: If an id is no number, or a tag is given twice.
    """
    tags: dict[str, int | None] = {}
    for option in options:
        name, _, number = option.partition("=")
        tag = speaker_tag(name)
        if "=" in option and not (number.isascii() and number.isdigit()):
            raise ValueError(f"--extra-tag {option!r} is no TAG or TAG=ID, such as S3 or nl=14.")
        if tag in tags:
            raise ValueError(f"--extra-tag names {tag} twice; give it once.")
        tags[tag] = int(number) if number else None
    return tags


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of sampling as `Dia` takes them, `None` for what was left out."""
    return {name: getattr(args, name) for name in ("cfg_scale", "cfg_filter_top_k", "temperature", "top_p")}


def print_result(args: argparse.Namespace, line: str, result: dict[str, Any]) -> None:
    """Print the result of a verb: with `--json` the object, otherwise the line, unless `--quiet`."""
    encoding = sys.stdout.encoding or "utf-8"  # which may lack characters of names and ids
    if args.json:
        content = json.dumps(result, ensure_ascii=False)
        is_complete = content.encode(encoding, "ignore").decode(encoding) == content
        print(content if is_complete else json.dumps(result))
    elif not args.quiet:
        print(line.encode(encoding, "backslashreplace").decode(encoding))
