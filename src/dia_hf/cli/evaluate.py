"""`dia-hf evaluate`: sentences spoken, heard by a recognizer, and what it understood as a table and JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..assets import MINIATURE
from ..atomic_write import find_held
from .arguments import check_apart, check_writable, print_result, sampling_of

if TYPE_CHECKING:
    from ..evaluation import Sentence

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf evaluate`."""
    if args.output is not None:
        check_writable("--output", Path(args.output))
        check_apart("--output", args.output, {"--sentences": args.sentences, "--vocabulary": args.vocabulary})
        if Path(args.sentences).is_dir() and find_held(args.sentences, [args.output]) is not None:
            raise ValueError(
                f"--output {args.output!r} is a file of --sentences {args.sentences!r}; give another file."
            )
    if args.keep is not None:
        check_writable("--keep", Path(args.keep, "0000.wav"))

    from transformers.utils import logging

    from .._extras import import_extra
    from ..asr.recognizers import POCKETSPHINX, load_recognizer
    from ..evaluation import evaluate, read_sentences
    from ..evaluation.evaluate import check_folder
    from ..speech import Dia
    from ..speech.dia import resolve_device

    if args.keep is not None:
        check_folder(args.keep)
    logging.disable_progress_bar()
    import_extra("jiwer")
    device = resolve_device(args.device)
    sentences = read_sentences(args.sentences)
    if args.output is not None:
        recordings = {f"sentence {n}": s.audio for n, s in enumerate(sentences, 1) if isinstance(s.audio, str | Path)}
        check_apart("--output", args.output, {name: str(path) for name, path in recordings.items()})
    if args.asr == POCKETSPHINX:
        recognizer = load_recognizer(args.asr, *_vocabulary(args.vocabulary, sentences))
    elif args.vocabulary is not None:
        raise ValueError(f"--vocabulary is for --asr {POCKETSPHINX}; {args.asr!r} has its own, leave it out.")
    else:
        recognizer = load_recognizer(args.asr, device=device)
    dia = Dia.from_pretrained(args.model, compute_dtype=args.dtype, device=device)
    report = evaluate(
        dia,
        sentences,
        recognizer,
        **sampling_of(args),
        seed=args.seed,
        batch_size=args.batch_size,
        max_seconds=args.max_seconds,
        folder=args.keep,
        verbose=not args.quiet,
    )
    model = "miniature" if args.model == MINIATURE else args.model
    report.settings.update(model=model, sentences=args.sentences, asr=args.asr, vocabulary=args.vocabulary)
    metrics = report.metrics()
    result = {
        "path": args.output,
        "seconds": metrics["end"]["seconds"],
        "seed": args.seed,
        "speed": metrics["speed"]["real_time"],
        "word_error_rate": metrics["word_errors"]["model"]["rate"],
    }
    print_result(args, report.table(), result)
    if args.output is not None:
        report.save(args.output)
    if args.output is not None and not args.quiet:
        print(f"{args.output}: all figures, and what was heard of each sentence", file=sys.stderr)


def _vocabulary(file: str | None, sentences: Sequence[Sentence]) -> tuple[list[str], dict[str, str]]:
    """Return the words that can be heard, and the pronunciations that are given."""
    from ..asr.wer import read_vocabulary, vocabulary_of, words_of

    spoken = vocabulary_of(sentence.text for sentence in sentences)
    if file is None:
        return spoken, {}
    words, pronunciations = read_vocabulary(file)
    known = {plain for word in words for plain in words_of(word)}
    if unknown := sorted({plain for word in spoken for plain in words_of(word)} - known):
        raise ValueError(
            f"--vocabulary {file!r} lacks {len(unknown)} words of the sentences, which could never be heard: "
            f"{', '.join(unknown[:20])}; add them, or leave the option out."
        )
    return words, pronunciations
