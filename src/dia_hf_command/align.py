"""The arguments of `dia-hf align`."""

from __future__ import annotations

import argparse

from .options import add_device, add_dtype, add_model, add_result, positive

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf align`."""
    align = verbs.add_parser(
        "align",
        help="find the times of the words of recordings",
        description="Align recordings with their transcripts: times of words, transcripts that do not fit, "
        "and clips for `dia-hf prepare`.",
    )
    align.add_argument(
        "source",
        metavar="SOURCE",
        help="a recording of any length; or many with their transcripts, as `dia-hf prepare` reads them: a folder, a "
        "table, a dataset",
    )
    text = align.add_mutually_exclusive_group()
    text.add_argument("--text", metavar="TEXT", help="transcript of the recording; default: the .txt beside it")
    text.add_argument("--text-file", metavar="F", help="read the transcript from a file (UTF-8)")
    align.add_argument(
        "--output",
        "-o",
        metavar="F|DIR",
        help="ends in .srt, .vtt, .json (every word) or .TextGrid (Praat); for many recordings a new folder",
    )
    align.add_argument(
        "--format",
        choices=["srt", "vtt", "json", "TextGrid"],
        default="json",
        help="of the files of many recordings (json)",
    )
    align.add_argument(
        "--clips", metavar="DIR", help="cut the recording at sentences, into a new folder that `dia-hf prepare` reads"
    )
    align.add_argument(
        "--max-clip-seconds", type=positive, default=15.0, metavar="S", help="join sentences up to this duration (15)"
    )
    align.add_argument("--chunk-seconds", type=positive, default=10.0, metavar="S", help="read at once (10)")
    add_model(align)
    add_device(align)
    add_dtype(align)
    add_result(align, "path, seconds, words, unlikely_words; of many recordings also recordings, rejected, suspects")
