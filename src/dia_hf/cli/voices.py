"""`dia-hf voices`: voices under names, for `dia-hf generate --voice`."""

from __future__ import annotations

import argparse
import sys

from dia_hf_command.parser import one_line

from ..atomic_write import LOCK, remove_stale_lock

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf voices`."""
    verbs = {"add": _add_voice, "import": _import_voices, "list": _list_voices, "remove": _remove_voice}
    verbs[args.voices_verb](args)


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


def _import_voices(args: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..processing_dia import DiaProcessor
    from ..speech.voice_import import VoiceImportError, import_voices
    from ..speech.voices import VoiceLibrary

    logging.disable_progress_bar()
    library = VoiceLibrary()
    processor = DiaProcessor.from_pretrained(args.model)
    try:
        voices = import_voices(args.folder, processor, library, force=args.force, verbose=True)
    except VoiceImportError as error:
        remove_stale_lock(library.folder / LOCK)
        for name, reason in error.problems.items():
            print(f"{name}: {one_line(reason)}", file=sys.stderr)
        raise ValueError(f"{error.summary}; what is wrong with each is above.") from error
    for name, voice in voices.items():
        print(f"{name}: {voice.seconds:.1f} s, {library.find(name)}")


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
