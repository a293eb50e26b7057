"""The arguments of `dia-hf generate`."""

from __future__ import annotations

import argparse

from .options import (
    add_codec,
    add_device,
    add_dtype,
    add_model,
    add_result,
    add_sampling,
    add_voice,
    positive,
    seed,
)

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf generate`."""
    generate = verbs.add_parser(
        "generate",
        help="generate speech from text",
        description="Generate speech from a text and write it to an audio file.",
    )
    generate.add_argument(
        "text", nargs="?", metavar="TEXT", help='such as "[S1] Hello. [S2] Hi!"; - reads it from stdin'
    )
    generate.add_argument("--text-file", metavar="F", help="read the text from a file (UTF-8); - for stdin")
    generate.add_argument(
        "--output",
        "-o",
        default="output.wav",
        metavar="F",
        help="ends in .wav, .flac, .mp3 or .ogg; - for raw PCM on standard output while it is generated",
    )
    generate.add_argument(
        "--subtitles", metavar="F", help="times of words: ends in .srt, .vtt, .json (every word) or .TextGrid"
    )
    add_model(generate)
    generate.add_argument(
        "--seed", type=seed, metavar="N", help="make the result reproducible; default: random; printed"
    )
    add_codec(generate)
    generate.add_argument("--adapter", metavar="DIR|ID", help="LoRA adapter to merge into the weights (dia-hf[train])")
    add_device(generate)
    add_dtype(generate)
    generate.add_argument("--quantize", choices=["int8", "int4"], help="smaller weights (dia-hf[quantize])")
    generate.add_argument("--max-seconds", type=positive, metavar="S", help="limit of the new audio")
    generate.add_argument("--stream", action="store_true", help="play the audio while it is generated (dia-hf[player])")
    generate.add_argument(
        "--force", action="store_true", help="start over where OUTPUT.chunks holds chunks of an interrupted run"
    )
    generate.add_argument(
        "--strict",
        action="store_true",
        help="exit status 3 if the audio is empty, silent, cut off or of an unlikely length; the file is written",
    )
    voice = add_voice(generate)
    voice.add_argument(
        "--transcribe", metavar="MODEL", help="transcribe it with a speech recognizer (openai/whisper-small)"
    )
    script = generate.add_argument_group("long scripts", "a script too long for one chunk is generated in several")
    script.add_argument("--language", default="en", metavar="L", help="language for splitting into sentences (en)")
    script.add_argument(
        "--closing-tag", action="store_true", help="end each chunk with the other speaker's tag, to avoid cut-off ends"
    )
    sound = generate.add_argument_group("sound", "of the file; --loudness and --speed need dia-hf[audio]")
    sound.add_argument("--loudness", type=float, metavar="LUFS", help="by BS.1770, such as -16")
    sound.add_argument("--peak", type=float, metavar="DBFS", help="limit of the samples (-1 with --loudness)")
    sound.add_argument("--speed", type=positive, metavar="X", help="1.25: a quarter faster, at the same pitch")
    sound.add_argument("--trim-silence", action="store_true", help="cut silence off both ends")
    add_sampling(generate)
    add_result(generate, "path, seconds, seed, speed")
