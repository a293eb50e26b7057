"""`dia-hf evaluate`: sentences spoken, heard by a recognizer, and what it understood as a table and JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import MINIATURE
from ..atomic_write import find_held
from .arguments import check_apart, check_outputs_apart, check_writable, load_voices, print_result, sampling_of

if TYPE_CHECKING:
    from ..evaluation import Sentence, SentenceReport

__all__ = ["run"]


_OF_JUDGES = ("vocabulary", "normalizer", "speaker_model", "quality")
_OF_SPEECH = (
    "voice",
    "audio_prompt",
    "prompt_text",
    "max_seconds",
    "cfg_scale",
    "cfg_filter_top_k",
    "temperature",
    "top_p",
)


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf evaluate`."""
    if args.compare is not None:
        _compare(args)
        return
    _check_options(args)
    with nullcontext() if args.report is None or args.keep is not None else tempfile.TemporaryDirectory() as folder:
        _evaluate(args, args.keep or folder)


def _compare(args: argparse.Namespace) -> None:
    from ..evaluation.compare import compare

    if unused := _given(args, "sentences", "asr", *_OF_JUDGES, "report", "keep", "audio", *_OF_SPEECH):
        raise ValueError(f"--compare reads two files of earlier evaluations; leave out {', '.join(unused)}.")
    if args.output is not None:
        check_writable("--output", Path(args.output))
        check_apart("--output", args.output, dict(zip(("A", "B"), args.compare, strict=True)))
    comparison = compare(*args.compare)
    better = {row.metric: row.better for row in comparison.differences if row.better is not None}
    result = {"path": args.output, "sentences": comparison.sentences, "better": better}
    if args.output is not None:
        comparison.save(args.output)
    print_result(args, comparison.table(), result)


def _evaluate(args: argparse.Namespace, folder: str | None) -> None:
    from transformers.utils import logging

    from .._extras import import_extra
    from ..evaluation import evaluate, read_sentences
    from ..evaluation.evaluate import check_folder, evaluate_audio, find_recordings
    from ..evaluation.html_report import write_report
    from ..speech import Dia
    from ..speech.dia import resolve_device
    from ..speech.voices import Voice

    if args.keep is not None:
        check_folder(args.keep)
    logging.disable_progress_bar()
    import_extra("jiwer")
    device = resolve_device(args.device)
    sentences = read_sentences(args.sentences)
    if args.output is not None:
        recordings = {f"sentence {n}": s.audio for n, s in enumerate(sentences, 1) if isinstance(s.audio, str | Path)}
        check_apart("--output", args.output, {name: str(path) for name, path in recordings.items()})
    judges = _load_judges(args, sentences, device)
    recognizer = judges.pop("recognizer")
    if args.audio is not None:
        if args.output is not None:
            files = find_recordings(sentences, args.audio)
            check_apart("--output", args.output, {f"--audio, sentence {n}": str(f) for n, f in enumerate(files, 1)})
        report = evaluate_audio(sentences, args.audio, recognizer, **judges, verbose=not args.quiet)
    else:
        voices = load_voices(args)
        dia = Dia.from_pretrained(args.model, compute_dtype=args.dtype, device=device)
        if args.audio_prompt is not None:
            voices = Voice.from_audio(args.audio_prompt, args.prompt_text, dia.processor)
        report = evaluate(
            dia,
            sentences,
            recognizer,
            **judges,
            voices=voices,
            **sampling_of(args),
            seed=args.seed,
            batch_size=args.batch_size,
            max_seconds=args.max_seconds,
            folder=folder,
            verbose=not args.quiet,
        )
        report.settings["model"] = "miniature" if args.model == MINIATURE else args.model
    report.settings.update(
        sentences=args.sentences,
        asr=args.asr,
        vocabulary=args.vocabulary,
        speaker_model=args.speaker_model,
        quality=args.quality,
        voice=args.voice or None,
        audio_prompt=args.audio_prompt,
        prompt_text=args.prompt_text,
    )
    metrics = report.metrics()
    result = {
        "path": args.output,
        "seconds": metrics["end"]["seconds"],
        "seed": None if args.audio is not None else args.seed,
        "speed": None if metrics["speed"] is None else metrics["speed"]["real_time"],
        "word_error_rate": None if metrics["word_errors"]["model"] is None else metrics["word_errors"]["model"]["rate"],
        "measures": {
            name: summaries["model"]["value"]
            for name, summaries in metrics["measures"].items()
            if summaries["model"] is not None
        },
    }
    table = report.table()
    # Before anything is printed, which a closed pipe or terminal would end.
    if args.report is not None:
        write_report(report, args.report, f"Evaluation of {report.settings.get('model', args.audio)}")
        if args.keep is None and args.audio is None:
            report = replace(report, sentences=[_without_files(line) for line in report.sentences])
    if args.output is not None:
        report.save(args.output)
    print_result(args, table, result)
    if args.report is not None and not args.quiet:
        print(f"{args.report}: metrics, and the worst sentences to hear", file=sys.stderr)
    if args.output is not None and not args.quiet:
        print(f"{args.output}: all metrics, and the transcripts of each sentence", file=sys.stderr)


def _without_files(line: SentenceReport) -> SentenceReport:
    """Leave out the files of speech that is not kept."""
    codec = None if line.codec is None else replace(line.codec, file=None)
    return replace(line, model=replace(line.model, file=None), codec=codec)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, and outputs that cannot be written, before the work."""
    if args.sentences is None or args.asr is None:
        raise ValueError("give --sentences and --asr; or --compare, for two evaluations that exist.")
    if args.report is not None:
        if Path(args.report).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--report {args.report!r} must end in .html.")
        check_writable("--report", Path(args.report))
        check_apart("--report", args.report, {"--sentences": args.sentences, "--vocabulary": args.vocabulary})
    if args.output is not None:
        check_writable("--output", Path(args.output))
        read = {"--sentences": args.sentences, "--vocabulary": args.vocabulary, "--audio-prompt": args.audio_prompt}
        check_apart("--output", args.output, read)
        if Path(args.sentences).is_dir() and find_held(args.sentences, [args.output]) is not None:
            raise ValueError(
                f"--output {args.output!r} is a file of --sentences {args.sentences!r}; give another file."
            )
    if args.keep is not None:
        check_writable("--keep", Path(args.keep, "0000.wav"))
        if args.audio_prompt is not None and find_held(args.keep, [args.audio_prompt]) is not None:
            raise ValueError(f"--keep {args.keep!r} holds --audio-prompt {args.audio_prompt!r}; give another folder.")
    kept = None if args.keep is None else Path(args.keep, "0000.wav")
    check_outputs_apart({"--report": args.report, "--output": args.output, "--keep": kept})
    if args.voice and args.audio_prompt is not None:
        raise ValueError("give either --voice or --audio-prompt.")
    if (args.audio_prompt is None) != (args.prompt_text is None):
        raise ValueError("--audio-prompt and --prompt-text, its transcript, go together; give both.")
    if args.audio is not None:
        unused = ["--model"] * (args.model != MINIATURE) + _given(args, "keep", *_OF_SPEECH)
        if unused:
            raise ValueError(
                f"{unused[0]} is for generated speech, and --audio {args.audio!r} is judged; leave one out."
            )


def _given(args: argparse.Namespace, *names: str) -> list[str]:
    """Return which of some options were given, as they are written."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) not in (None, [])]


def _load_judges(args: argparse.Namespace, sentences: Sequence[Sentence], device: Any) -> dict[str, Any]:
    """Load the judges, as `evaluate` takes them."""
    from ..asr.alignment import Aligner
    from ..asr.recognizers import POCKETSPHINX, load_recognizer
    from ..evaluation.judges import load_quality_judge, load_speaker_model

    pronunciations: dict[str, str] = {}
    if args.asr == POCKETSPHINX:
        words, pronunciations = _vocabulary(args.vocabulary, sentences)
        recognizer = load_recognizer(args.asr, words, pronunciations)
    elif args.vocabulary is not None:
        raise ValueError(f"--vocabulary is for --asr {POCKETSPHINX}; {args.asr!r} has its own, leave it out.")
    else:
        recognizer = load_recognizer(args.asr, device=device)
    return {
        "recognizer": recognizer,
        "normalizer": args.normalizer,
        "speaker_model": None if args.speaker_model is None else load_speaker_model(args.speaker_model, device),
        "aligner": None if args.speaker_model is None else Aligner(pronunciations),
        "quality": None if args.quality is None else load_quality_judge(args.quality),
    }


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
