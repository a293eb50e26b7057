"""`dia-hf prepare`: recordings and their transcripts, made training data."""

from __future__ import annotations

import argparse
import sys

from ..assets import MINIATURE
from .arguments import MINIATURE_CODES_NOTE, add_model, count, not_negative, positive

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf prepare`."""
    prepare = verbs.add_parser(
        "prepare",
        help="make training data of recordings",
        description="Make a dataset of text and codes of recordings and their transcripts (dia-hf[train]).",
    )
    prepare.set_defaults(run=_prepare)
    prepare.add_argument(
        "source",
        metavar="SOURCE",
        help="folder with metadata.csv or with a .txt beside each recording, table (csv, tsv, jsonl, parquet), dataset "
        "saved to disk, or name on the Hub",
    )
    prepare.add_argument("dest", metavar="DEST", help="folder to be made, or brought up to date")
    add_model(prepare)
    prepare.add_argument("--split", metavar="NAME", help="of a dataset with several")
    prepare.add_argument("--config", metavar="NAME", help="of a dataset on the Hub with several")
    prepare.add_argument("--num-proc", type=count, default=1, metavar="N", help="processes that encode (1)")
    prepare.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")
    columns = prepare.add_argument_group("columns", "found by their usual names unless given")
    for role in ("audio", "text", "speaker", "id"):
        columns.add_argument(f"--{role}-column", metavar="NAME")
    columns.add_argument("--language-column", metavar="NAME", help="what it says becomes a tag before the text: [nl]")
    tags = prepare.add_argument_group("tags")
    tags.add_argument(
        "--speaker-tag",
        action="append",
        default=[],
        metavar="NAME=TAG",
        help="anna=S1, once for each; default: S1 for all",
    )
    tags.add_argument("--extra-tag", action="append", default=[], metavar="TAG", help="that texts hold, such as S3")
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


def _prepare(args: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..data import PrepareConfig, prepare_dataset
    from ..data.sources import import_datasets
    from ..processing_dia import DiaProcessor
    from ..speech.dia import resolve_device

    speaker_tags = {}
    for option in args.speaker_tag:
        name, _, tag = option.rpartition("=")
        if not name or not tag:
            raise ValueError(f"--speaker-tag {option!r} is no NAME=TAG, such as anna=S1.")
        speaker_tags[name] = _as_tag(tag)
    rates = ("min_characters_per_second", "max_characters_per_second")
    settings = PrepareConfig(
        **{
            f"{role}_column": getattr(args, f"{role}_column") for role in ("audio", "text", "speaker", "language", "id")
        },
        speaker_tags=speaker_tags,
        extra_tags=[_as_tag(tag) for tag in args.extra_tag],
        loudness=None if args.no_loudness else args.loudness,
        keep_silence=None if args.no_trim else 0.1,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        **dict(zip(rates, args.characters_per_second or (), strict=False)),
    )
    logging.disable_progress_bar()
    import_datasets().disable_progress_bars()
    if args.model == MINIATURE:
        print(MINIATURE_CODES_NOTE, file=sys.stderr)
    try:
        report = prepare_dataset(
            args.source,
            args.dest,
            DiaProcessor.from_pretrained(args.model),
            settings,
            split=args.split,
            config=args.config,
            num_proc=args.num_proc,
            device=str(resolve_device(args.device)),
            verbose=True,
        )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("what is encoded is kept; the same command goes on from there.") from error
    print(report)
    print(f"{args.dest}: read report.md and rejected.jsonl there")


def _as_tag(option: str) -> str:
    """Put a tag into brackets, which some shells take for patterns."""
    return option if option.startswith("[") else f"[{option}]"
