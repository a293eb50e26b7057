"""`dia-hf voices`: voices under names, for `dia-hf generate --voice`."""

from __future__ import annotations

import argparse

from ..atomic_write import LOCK, remove_stale_lock
from .arguments import add_model

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf voices`."""
    voices = verbs.add_parser("voices", help="keep voices", description="Keep voices under names.")
    voices_verbs = voices.add_subparsers(dest="voices_verb", required=True, metavar="VERB")
    add = voices_verbs.add_parser("add", help="make a voice of a recording")
    add.set_defaults(run=_add_voice)
    add.add_argument("name", metavar="NAME")
    add.add_argument("recording", metavar="RECORDING", help="5 to 10 seconds of speech")
    transcript = add.add_mutually_exclusive_group(required=True)
    transcript.add_argument("--transcript", metavar="TEXT", help="what the recording says, word for word")
    transcript.add_argument("--transcribe", metavar="MODEL", help="let a speech recognizer write it")
    add_model(add)
    add.add_argument("--force", action="store_true", help="replace a voice of this name")
    show = voices_verbs.add_parser("list", help="show the voices there are")
    show.set_defaults(run=_list_voices)
    remove = voices_verbs.add_parser("remove", help="remove a voice")
    remove.set_defaults(run=_remove_voice)
    remove.add_argument("name", metavar="NAME")


def _add_voice(args: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..processing_dia import DiaProcessor
    from ..speech.voices import Voice, VoiceLibrary, transcribe

    logging.disable_progress_bar()
    library = VoiceLibrary()
    if not args.force and args.name in library:
        remove_stale_lock(library.folder / LOCK)
        raise ValueError(f"there is a voice {args.name!r} already; choose another name, or replace it with --force.")
    transcript = args.transcript
    if transcript is None:
        transcript = transcribe(args.recording, args.transcribe)
        print(f"transcript: {transcript}")
    voice = Voice.from_audio(args.recording, transcript, DiaProcessor.from_pretrained(args.model))
    print(f"{args.name}: {voice.seconds:.1f} s, {library.add(args.name, voice, force=args.force)}")


def _list_voices(args: argparse.Namespace) -> None:
    from ..speech.voices import VoiceLibrary

    library = VoiceLibrary()
    voices = library.list()
    for name, voice in voices.items():
        print(f"{name}: {voice if isinstance(voice, str) else f'{voice.seconds:.1f} s, {voice.transcript}'}")
    if not voices:
        print(f"no voices in {library.folder}; make one: dia-hf voices add NAME RECORDING --transcript TEXT")


def _remove_voice(args: argparse.Namespace) -> None:
    from ..speech.voices import VoiceLibrary

    VoiceLibrary().remove(args.name)
