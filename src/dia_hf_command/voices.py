"""The arguments of `dia-hf voices`."""

from __future__ import annotations

import argparse

from .options import add_model

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf voices`."""
    voices = verbs.add_parser("voices", help="manage saved voices", description="Save voices under names.")
    voices_verbs = voices.add_subparsers(dest="voices_verb", required=True, metavar="VERB")
    add = voices_verbs.add_parser("add", help="make a voice from a recording")
    add.add_argument("name", metavar="NAME")
    add.add_argument("recording", metavar="RECORDING", help="5 to 10 seconds of speech")
    transcript = add.add_mutually_exclusive_group(required=True)
    transcript.add_argument("--transcript", metavar="TEXT", help="the words of the recording, exactly")
    transcript.add_argument("--transcribe", metavar="MODEL", help="transcribe with a speech recognizer instead")
    add_model(add)
    add.add_argument("--force", action="store_true", help="replace a voice of this name")
    folder = voices_verbs.add_parser("import", help="make a voice of each recording of a folder")
    folder.add_argument(
        "folder", metavar="FOLDER", help="recordings, each with its transcript beside it: anna.wav, anna.txt"
    )
    add_model(folder)
    folder.add_argument("--force", action="store_true", help="replace voices of these names")
    voices_verbs.add_parser("list", help="list the saved voices")
    remove = voices_verbs.add_parser("remove", help="remove a voice")
    remove.add_argument("name", metavar="NAME")
