"""The arguments of `dia-hf prepare`."""

from __future__ import annotations

import argparse

from .options import add_device, add_extra_tag, add_model, add_result, count, not_negative, positive

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf prepare`."""
    prepare = verbs.add_parser(
        "prepare",
        help="make training data of recordings",
        description="Make a dataset of text and codes of recordings and their transcripts (dia-hf[train]).",
    )
    prepare.add_argument(
        "source",
        metavar="SOURCE",
        help="folder with metadata.csv, of a known corpus, or with a .txt, subtitles or a TextGrid beside each "
        "recording; table (csv, tsv, jsonl, parquet); dataset saved to disk, or name on the Hub",
    )
    prepare.add_argument("dest", metavar="DEST", help="folder to be made, or brought up to date")
    add_model(prepare)
    prepare.add_argument("--split", metavar="NAME", help="of a dataset or corpus with several")
    prepare.add_argument("--config", metavar="NAME", help="of a dataset on the Hub with several")
    prepare.add_argument("--num-proc", type=count, default=1, metavar="N", help="processes that encode (1)")
    prepare.add_argument("--ray", action="store_true", help="encode in N actors of Ray instead (dia-hf[ray])")
    add_device(prepare)
    columns = prepare.add_argument_group("columns", "found by their usual names unless given")
    for role in ("audio", "text", "speaker", "id", "session"):
        columns.add_argument(f"--{role}-column", metavar="NAME")
    columns.add_argument("--language-column", metavar="NAME", help="what it says becomes a tag before the text: [nl]")
    columns.add_argument("--audio-root", metavar="FOLDER", help="of the recordings, if not that of the table")
    columns.add_argument(
        "--tier", action="append", default=[], metavar="NAME", help="of TextGrids that holds texts; repeatable"
    )
    turns = prepare.add_argument_group("dialogues", "of turns of one session, or segments of one recording")
    turns.add_argument(
        "--join-turns",
        action=argparse.BooleanOptionalAction,
        help="to clips with [S1] and [S2] (default: only subtitles, and lists of turns with times)",
    )
    turns.add_argument("--dialogue-seconds", type=positive, default=30.0, metavar="S", help="of a joined clip (30)")
    turns.add_argument("--max-pause", type=not_negative, default=2.0, metavar="S", help="within a joined clip (2)")
    turns.add_argument("--max-overlap", type=not_negative, default=0.5, metavar="S", help="of two speakers (0.5)")
    turns.add_argument("--turn-gap", type=not_negative, default=0.2, metavar="S", help="of turns without times (0.2)")
    tags = prepare.add_argument_group("tags")
    tags.add_argument(
        "--speaker-tag",
        action="append",
        default=[],
        metavar="NAME=TAG",
        help="anna=S1, once for each; default: S1 for all",
    )
    add_extra_tag(tags, "that texts hold, such as S3, or nl=14 with its byte")
    sound = prepare.add_argument_group("sound")
    loudness = sound.add_mutually_exclusive_group()
    loudness.add_argument("--loudness", type=float, default=-23.0, metavar="LUFS", help="-23; needs dia-hf[audio]")
    loudness.add_argument("--no-loudness", action="store_true", help="leave it as it is")
    sound.add_argument("--no-trim", action="store_true", help="leave silence at both ends")
    limits = prepare.add_argument_group("limits", "beyond which a clip is rejected")
    limits.add_argument("--min-seconds", type=not_negative, default=0.5, metavar="S", help="(0.5)")
    limits.add_argument("--max-seconds", type=positive, default=60.0, metavar="S", help="(60)")
    limits.add_argument(
        "--characters-per-second",
        type=not_negative,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="(3 40)",
    )
    add_result(prepare, "path, clips, rejected, seconds")
