"""`dia-hf evaluate`: sentences spoken, heard by a recognizer, and what it understood as a table and JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..assets import MINIATURE
from ..atomic_write import find_held
from .arguments import DTYPES, add_model, add_sampling, check_apart, check_writable, count, positive, sampling_of, seed

if TYPE_CHECKING:
    from ..evaluation import Sentence

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf evaluate`."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="measure how well a model speaks",
        description="Let a model say sentences, and a speech recognizer judge them; with references also the "
        "recordings, and what the codec leaves of them (dia-hf[evaluate]).",
    )
    evaluate.set_defaults(run=_evaluate)
    add_model(evaluate)
    evaluate.add_argument(
        "--sentences",
        required=True,
        metavar="F",
        help=".txt, a text a line; .jsonl, .csv or .tsv with text and perhaps audio (.jsonl: codes); or a folder of "
        "`dia-hf prepare`",
    )
    evaluate.add_argument(
        "--asr",
        required=True,
        metavar="MODEL",
        help="pocketsphinx, which knows the words of the sentences alone, or a model such as openai/whisper-small",
    )
    evaluate.add_argument(
        "--vocabulary",
        metavar="F",
        help="what pocketsphinx knows: a word a line, perhaps with its pronunciation (dia D IY AH), # for comments; "
        "default: the words of the sentences",
    )
    evaluate.add_argument("--output", "-o", metavar="F", help="write all of it there, as JSON")
    evaluate.add_argument("--keep", metavar="DIR", help="keep what was said there, as WAV")
    evaluate.add_argument("--batch-size", type=count, default=8, metavar="N", help="sentences at once (8)")
    evaluate.add_argument("--max-seconds", type=positive, metavar="S", help="limit of a sentence")
    evaluate.add_argument("--seed", type=seed, default=0, metavar="N", help="of the noise (0)")
    evaluate.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")
    evaluate.add_argument("--dtype", choices=DTYPES, help="default: that of the checkpoint")
    add_sampling(evaluate)


def _evaluate(args: argparse.Namespace) -> None:
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
        verbose=True,
    )
    model = "miniature" if args.model == MINIATURE else args.model
    report.settings.update(model=model, sentences=args.sentences, asr=args.asr, vocabulary=args.vocabulary)
    print(report.table())
    if args.output is not None:
        report.save(args.output)
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
