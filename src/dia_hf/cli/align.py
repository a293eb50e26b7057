"""`dia-hf align`: times of the words of recordings, transcripts that do not fit, and clips of sentences."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import MINIATURE
from ..atomic_write import atomic_write, atomic_write_folder, find_held
from ..text_files import read_text
from .arguments import MINIATURE_NOTE, check_apart, check_outputs_apart, check_writable, print_result

if TYPE_CHECKING:
    import numpy as np

    from ..speech import Dia
    from ..speech.align import AlignedWord

__all__ = ["run"]

_MOST_SHOWN = 20  # suspects on the screen


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf align`."""
    from ..data.clips import AUDIO_SUFFIXES
    from ..speech.subtitles import SUBTITLE_FORMATS

    is_recording = Path(args.source).suffix.lower() in AUDIO_SUFFIXES and not Path(args.source).is_dir()
    if args.output is None and args.clips is None:
        raise ValueError("nothing would be written; give --output, or --clips for a recording.")
    if is_recording:
        text = _find_text(args)
        _check_outputs(args)
        _align_recording(args, text)
        return
    for option, value in (("--text", args.text), ("--text-file", args.text_file), ("--clips", args.clips)):
        if value is not None:
            raise ValueError(f"{option} is for one recording, and {args.source!r} is no audio file; leave it out.")
    if (suffix := Path(args.output).suffix.lower()) in SUBTITLE_FORMATS:
        raise ValueError(
            f"--output {args.output!r} must be a new folder, because {args.source!r} is no audio file; for files "
            f"that end in {suffix}, give --format."
        )
    _check_new_folder("--output", args.output)
    _align_many(args)


def _find_text(args: argparse.Namespace) -> str:
    from ..data.annotations import find_text

    if args.text is not None:
        return args.text
    if args.text_file is not None:
        return read_text(args.text_file)
    source = Path(args.source)
    file = find_text(source) if source.parent.is_dir() else None
    if file is None or not file.is_file():
        name = str(source.with_suffix(".txt"))
        raise ValueError(f"there is no transcript {name!r} beside the recording; give --text or --text-file.")
    return read_text(file)


def _check_outputs(args: argparse.Namespace) -> None:
    from ..speech.subtitles import SUBTITLE_FORMATS

    if args.output is not None:
        if Path(args.output).suffix.lower() not in SUBTITLE_FORMATS:
            raise ValueError(f"--output {args.output!r} must end in one of {', '.join(SUBTITLE_FORMATS)}.")
        check_writable("--output", Path(args.output))
        check_apart("--output", args.output, {"SOURCE": args.source, "--text-file": args.text_file})
    if args.clips is not None:
        _check_new_folder("--clips", args.clips)
    check_outputs_apart({"--output": args.output, "--clips": args.clips})


def _check_new_folder(option: str, folder: str) -> None:
    check_writable(option, Path(folder, "0000.wav"))
    if Path(folder).exists():
        raise ValueError(f"{option} {folder!r} exists; give a new folder.")


def _load(args: argparse.Namespace) -> Dia:
    from transformers.utils import logging

    from ..speech import Dia

    logging.disable_progress_bar()
    if args.model == MINIATURE and not args.quiet:
        print(MINIATURE_NOTE, file=sys.stderr)
    return Dia.from_pretrained(args.model, compute_dtype=args.dtype, device=args.device)


def _align_recording(args: argparse.Namespace, text: str) -> None:
    from ..audio.io import read_audio
    from ..speech.aligned_clips import cut_clips, fits

    audio, rate = read_audio(args.source)
    seconds = audio.shape[-1] / rate
    dia = _load(args)
    is_shown = sys.stderr.isatty() and not args.quiet
    words = dia.align(text, audio, rate, chunk_length_s=args.chunk_seconds, verbose=is_shown)
    result: dict[str, Any] = {"path": args.output or args.clips, "seconds": round(seconds, 3), **_count(words)}
    lines = []
    if not fits(words):
        warnings.warn(
            "the transcript does not fit the recording, which is likelier without it; the times mean little.",
            stacklevel=1,
        )
    if args.output is not None:
        _write_words(Path(args.output), words, seconds)
        lines.append(f"{args.output}: {len(words)} words of {seconds:.1f} s, {result['unlikely_words']} unlikely")
    if args.clips is not None:
        clips, doubtful = cut_clips(words, seconds, args.max_clip_seconds)
        if not clips:
            raise ValueError("no sentence of the transcript fits the recording, so there are no clips.")
        _write_clips(Path(args.clips), Path(args.source).name, audio, rate, clips, doubtful)
        result |= {"clips": len(clips), "left_out": len(doubtful)}
        kept = sum(clip.end - clip.start for clip in clips)
        lines.append(f"{args.clips}: {len(clips)} clips, {kept:.1f} s")
        lines += [f"  left out, {clip.start:.1f} to {clip.end:.1f} s: {clip.text}" for clip in doubtful]
    print_result(args, "\n".join(lines), result)


def _count(words: Sequence[AlignedWord]) -> dict[str, int]:
    return {"words": len(words), "unlikely_words": sum(word.evidence < 0 for word in words)}


def _write_words(path: Path, words: Sequence[AlignedWord], seconds: float) -> None:
    from ..speech.subtitles import format_subtitles

    kind = path.suffix.lower()
    # A word without a frame has no time that a subtitle could show.
    shown = words if kind == ".json" else [word for word in words if word.end > word.start]
    with atomic_write(path) as beside:
        beside.write_text(format_subtitles(shown, kind, seconds), "utf-8")


def _write_clips(
    folder: Path, source: str, audio: np.ndarray, rate: int, clips: Sequence[Any], doubtful: Sequence[Any]
) -> None:
    """Write clips as WAV files with a table, and the sentences that were left out."""
    from ..audio.io import write_audio

    with atomic_write_folder(folder) as beside:
        with open(beside / "metadata.csv", "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "text", "source", "start", "end", "evidence"])
            for number, clip in enumerate(clips, start=1):
                name, first, last = f"{number:05d}.wav", round(clip.start * rate), round(clip.end * rate)
                write_audio(beside / name, audio[..., first:last], rate)
                times = f"{first / rate:.6f}", f"{last / rate:.6f}"
                table.writerow([name, clip.text, source, *times, round(clip.evidence, 2)])
        _write_lines(beside / "left_out.jsonl", ({"source": source, **vars(clip)} for clip in doubtful))


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(content, "utf-8", "backslashreplace")  # lone surrogates, of file names


def _align_many(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ..data.clips import file_of, read_clip
    from ..data.rows import RowError
    from ..data.sources import open_source
    from ..speech.aligned_clips import evidence_of, fits

    source = open_source(args.source)
    if Path(args.source).exists() and find_held(args.output, [args.source]) is not None:
        raise ValueError(f"--output {args.output!r} holds SOURCE {args.source!r}; give another folder.")
    dia = _load(args)
    summary, rejected, total = [], [], 0.0
    with (
        atomic_write_folder(args.output) as folder,
        tqdm(source.rows, "aligning", source.num_rows, disable=args.quiet or not sys.stderr.isatty()) as rows,
    ):
        for number, row in enumerate(rows, start=1):  # of its own: each file of a folder has a row 1
            name = re.sub(r"[^\w.@-]+", "_", row.id).strip(".") or "row"
            file = f"{number:06d}-{name[:80]}.{args.format}"
            place = {"id": row.id, "source": row.source, "row": row.number, "audio": file_of(row.audio)}
            try:
                audio, rate = read_clip(row.audio)
                if isinstance(row.text, RowError):
                    raise row.text
                if not isinstance(row.text, str) or not row.text.strip():
                    raise RowError("empty_text", "the transcript is empty.")
                words = dia.align(row.text, audio, rate, chunk_length_s=args.chunk_seconds)
            except ValueError as error:
                rejected.append(place | {"reason": str(error)})
                continue
            seconds = max(audio.shape) / rate
            total += seconds
            _write_words(folder / file, words, seconds)
            fit = {"evidence_per_second": round(evidence_of(words) / seconds, 2), "fits": fits(words)}
            summary.append(
                place | {"file": file, "seconds": round(seconds, 3), **_count(words), **fit, "text": row.text}
            )
        if not summary:
            first = rejected[0]["reason"] if rejected else "it has no rows"
            raise ValueError(f"no row of {args.source!r} can be aligned; the first: {first}")
        summary.sort(key=lambda line: line["evidence_per_second"])
        _write_lines(folder / "alignment.jsonl", summary)
        _write_lines(folder / "rejected.jsonl", rejected)
    suspects = [line for line in summary if not line["fits"]]
    lines = [f"{args.output}: {len(summary)} recordings, {total:.1f} s; {len(rejected)} rejected"]
    if suspects:
        lines.append(f"transcripts that do not fit: {len(suspects)}")
        lines += [
            f"  {line['id']}: {line['evidence_per_second']:.1f} nats/s: {line['text']}"
            for line in suspects[:_MOST_SHOWN]
        ]
        lines += ["  …"] * (len(suspects) > _MOST_SHOWN)
    counts = {name: sum(line[name] for line in summary) for name in ("words", "unlikely_words")}
    result = {"path": args.output, "seconds": round(total, 3), **counts, "recordings": len(summary)}
    print_result(args, "\n".join(lines), result | {"rejected": len(rejected), "suspects": len(suspects)})
