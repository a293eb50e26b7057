"""`dia-hf prepare`: recordings and their transcripts, made training data."""

from __future__ import annotations

import argparse
import sys

from ..assets import MINIATURE
from .arguments import MINIATURE_CODES_NOTE, print_result, read_tags

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf prepare`."""
    from transformers.utils import logging

    from .._extras import import_extra
    from ..data import PrepareConfig, prepare_dataset
    from ..processing_dia import DiaProcessor
    from ..speech.dia import resolve_device
    from ..tokenization_dia import speaker_tag

    speaker_tags = {}
    for option in args.speaker_tag:
        name, _, tag = option.rpartition("=")
        if not name or not tag:
            raise ValueError(f"--speaker-tag {option!r} is no NAME=TAG, such as anna=S1.")
        speaker_tags[name] = speaker_tag(tag)
    roles = ("audio", "text", "speaker", "language", "id", "session")
    rates = ("min_characters_per_second", "max_characters_per_second")
    settings = PrepareConfig(
        **{f"{role}_column": getattr(args, f"{role}_column") for role in roles},
        audio_root=args.audio_root,
        tiers=args.tier,
        join_turns=args.join_turns,
        dialogue_seconds=args.dialogue_seconds,
        max_pause=args.max_pause,
        max_overlap=args.max_overlap,
        turn_gap=args.turn_gap,
        speaker_tags=speaker_tags,
        extra_tags=read_tags(args.extra_tag),
        loudness=None if args.no_loudness else args.loudness,
        keep_silence=None if args.no_trim else 0.1,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        **dict(zip(rates, args.characters_per_second or (), strict=False)),
    )
    logging.disable_progress_bar()
    import_extra("datasets").disable_progress_bars()
    if args.model == MINIATURE and not args.quiet:
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
            use_ray=args.ray,
            device=str(resolve_device(args.device)),
            verbose=not args.quiet,
        )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("what is encoded is kept; the same command goes on from there.") from error
    result = {
        "path": args.dest,
        "clips": len(report.clips),
        "rejected": len(report.rejected),
        "seconds": round(report.seconds, 3),
    }
    print_result(args, f"{report}\n{args.dest}: read report.md and rejected.jsonl there", result)
