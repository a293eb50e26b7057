"""The command `dia-hf`: verbs over the package. Heavy work begins inside a verb; an error is one line and status 2."""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

from .assets import MINIATURE
from .audio import audio_format

__all__ = ["main"]

REAL_MODEL = "nari-labs/Dia-1.6B-0626"

_DTYPES = ["float32", "bfloat16", "float16"]

_MINIATURE_NOTE = f"""\
note: this is the embedded miniature. It is untrained: what it says is noise, not speech.
      For speech, use the real model (1.6 billion parameters, downloaded at the first use):
      dia-hf generate --model {REAL_MODEL} "[S1] Hello. [S2] Hi!"
"""


def _positive(value: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a number above 0")
    return number


def _not_negative(value: str) -> float:
    return 0.0 if float(value) == 0 else _positive(value)


def _probability(value: str) -> float:
    number = float(value)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{value} does not lie in (0, 1]")
    return number


def _count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 1 up")
    return number


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dia-hf", description="Dia: text to dialogue.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    generate = verbs.add_parser("generate", help="say a text", description="Say a text and write it to an audio file.")
    generate.set_defaults(run=_generate)
    generate.add_argument(
        "text", nargs="?", metavar="TEXT", help='such as "[S1] Hello. [S2] Hi!"; - reads it from stdin'
    )
    generate.add_argument("--text-file", metavar="F", help="read the text from a file (UTF-8); - for stdin")
    generate.add_argument("--output", "-o", default="output.wav", metavar="F", help="ends in .wav, .flac, .mp3 or .ogg")
    generate.add_argument(
        "--model", default=MINIATURE, metavar="DIR|ID", help=f"such as {REAL_MODEL}; default: the embedded miniature"
    )
    generate.add_argument("--audio-prompt", metavar="F", help="a recording whose voice to go on with (5 to 10 s)")
    generate.add_argument("--prompt-text", metavar="TEXT", help="its transcript, put before TEXT")
    generate.add_argument(
        "--seed", type=int, metavar="N", help="make the result reproducible; default: drawn, and told"
    )
    generate.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")
    generate.add_argument("--dtype", choices=_DTYPES, help="default: that of the checkpoint")
    generate.add_argument("--max-seconds", type=_positive, metavar="S", help="limit of the new audio")
    sampling = generate.add_argument_group("sampling", "defaults: the checkpoint's generation_config.json")
    sampling.add_argument("--cfg-scale", type=_positive, metavar="X", help="guidance; 1 switches it off")
    sampling.add_argument("--cfg-filter-top-k", type=_count, metavar="N", help="tokens that guidance lets pass")
    sampling.add_argument("--temperature", type=_not_negative, metavar="X", help="0: always the best token")
    sampling.add_argument("--top-p", type=_probability, metavar="X", help="nucleus")

    convert = verbs.add_parser(
        "convert",
        help="convert a checkpoint",
        description="Make a complete checkpoint of one in the layout of Hugging Face or of nari-labs (0626, v0.1).",
    )
    convert.set_defaults(run=_convert)
    convert.add_argument(
        "source", metavar="SOURCE", help="folder, weight file with its config.json, or name on the Hub"
    )
    convert.add_argument("dest", metavar="DEST", help="folder to be made")
    convert.add_argument(
        "--codec", metavar="SOURCE", help="DAC to put inside: descript's .pth file, a folder or a name"
    )
    convert.add_argument("--dtype", choices=_DTYPES, help="default: that of the source")
    convert.add_argument("--max-shard-size", default="2GB", metavar="SIZE", help="limit of a weight file (2GB)")
    convert.add_argument("--to", choices=["huggingface", "nari-0626"], default="huggingface", help="layout to write")
    convert.add_argument("--force", action="store_true", help="replace DEST if it is not empty")
    convert.add_argument("--dry-run", action="store_true", help="tell what would be done, and write nothing")
    return parser


def _read_text(args: argparse.Namespace) -> str:
    if (args.text is None) == (args.text_file is None):
        raise ValueError("give either TEXT or --text-file.")
    if "-" in (args.text, args.text_file):
        text = sys.stdin.read()
    else:
        text = args.text if args.text is not None else Path(args.text_file).read_text("utf-8")
    text = text.strip()
    if args.prompt_text is not None:
        if args.audio_prompt is None:
            raise ValueError("--prompt-text is the transcript of --audio-prompt, which is missing.")
        text = f"{args.prompt_text.strip()} {text}"
    return text


def _check_output(path: Path) -> None:
    """Refuse an output that could not be written, before the work instead of after it."""
    audio_format(path)
    if path.is_dir():
        raise ValueError(f"--output {str(path)!r} is a folder; give a file.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(f"--output {str(path)!r} cannot be written: {str(folder)!r} is no folder to write into.")


def _generate(args: argparse.Namespace) -> None:
    output = Path(args.output)
    text = _read_text(args)
    _check_output(output)

    from transformers.utils import logging

    from .speech import Dia

    logging.disable_progress_bar()
    if args.model == MINIATURE:
        print(_MINIATURE_NOTE, file=sys.stderr)
    seed = args.seed if args.seed is not None else random.randrange(2**32)
    dia = Dia.from_pretrained(args.model, compute_dtype=args.dtype, device=args.device)
    start = time.perf_counter()
    waveform = dia.generate(
        [text],
        cfg_scale=args.cfg_scale,
        temperature=args.temperature,
        top_p=args.top_p,
        cfg_filter_top_k=args.cfg_filter_top_k,
        audio_prompt=args.audio_prompt,
        verbose=True,
        seed=seed,
        max_seconds=args.max_seconds,
    )[0]
    elapsed = time.perf_counter() - start
    dia.save_audio(output, waveform)
    seconds = len(waveform) / dia.sampling_rate
    speed = seconds / elapsed
    print(f"{output}: {seconds:.2f} s of audio in {elapsed:.1f} s ({speed:.2f} × real time), seed {seed}")


def _convert(args: argparse.Namespace) -> None:
    from .conversion import convert_checkpoint

    report = convert_checkpoint(
        args.source,
        args.dest,
        codec=args.codec,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        to=args.to,
        force=args.force,
        dry_run=args.dry_run,
    )
    print(report if args.dry_run else "\n".join(report.splitlines()[-2:]))


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 2 for an error, 130 when interrupted.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; the process's own unless given.
    """
    args = _make_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f"dia-hf: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dia-hf: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
