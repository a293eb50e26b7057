"""The command `dia-hf`: verbs over the rooms below, heavy imports inside the verb.

An error of the user's ends in one line on standard error and status 2.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .assets import MINIATURE
from .audio import audio_format

if TYPE_CHECKING:
    import numpy as np

    from .speech import Dia
    from .speech.dialogue import Dialogue

__all__ = ["main"]

REAL_MODEL = "nari-labs/Dia-1.6B-0626"

_DTYPES = ["float32", "bfloat16", "float16"]

_MINIATURE_NOTE = f"""\
note: this is the embedded miniature. It is untrained: what it says is noise, not speech.
      For speech, use the real model (1.6 billion parameters, downloaded at the first use):
      dia-hf generate --model {REAL_MODEL} "[S1] Hello. [S2] Hi!"
"""

_MINIATURE_CODES_NOTE = f"""\
note: these are codes of the embedded miniature. To train the real model, use its codec: --model {REAL_MODEL}
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


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default=MINIATURE, metavar="DIR|ID", help=f"such as {REAL_MODEL}; default: the embedded miniature"
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dia-hf", description="Dia: text to dialogue.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    generate = verbs.add_parser("generate", help="say a text", description="Say a text and write it to an audio file.")
    generate.set_defaults(run=_generate)
    generate.add_argument(
        "text", nargs="?", metavar="TEXT", help='such as "[S1] Hello. [S2] Hi!"; - reads it from stdin'
    )
    generate.add_argument("--text-file", metavar="F", help="read the text from a file (UTF-8); - for stdin")
    generate.add_argument(
        "--output",
        "-o",
        default="output.wav",
        metavar="F",
        help="ends in .wav, .flac, .mp3 or .ogg; - for raw PCM on standard output while it is spoken",
    )
    _add_model(generate)
    generate.add_argument(
        "--seed", type=int, metavar="N", help="make the result reproducible; default: drawn, and told"
    )
    generate.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")
    generate.add_argument("--dtype", choices=_DTYPES, help="default: that of the checkpoint")
    generate.add_argument("--quantize", choices=["int8", "int4"], help="smaller weights (dia-hf[quantize])")
    generate.add_argument("--max-seconds", type=_positive, metavar="S", help="limit of the new audio")
    generate.add_argument("--stream", action="store_true", help="play it while it is spoken (dia-hf[player])")
    voice = generate.add_argument_group("voice")
    voice.add_argument(
        "--voice",
        action="append",
        default=[],
        metavar="[SPEAKER=]NAME",
        help="a voice of `dia-hf voices`, or its file; S1=anna gives each speaker one",
    )
    voice.add_argument("--audio-prompt", metavar="F", help="a recording whose voice to go on with (5 to 10 s)")
    voice.add_argument("--prompt-text", metavar="TEXT", help="its transcript; without it, TEXT begins with it")
    voice.add_argument("--transcribe", metavar="MODEL", help="let a speech recogniser write it (openai/whisper-small)")
    script = generate.add_argument_group("long scripts", "what is too long for one pass is spoken in several")
    script.add_argument("--language", default="en", metavar="L", help="by which sentences are found (en)")
    script.add_argument(
        "--closing-tag", action="store_true", help="end each pass with the other speaker's tag, against cut-off ends"
    )
    sound = generate.add_argument_group("sound", "of the file; the first three need dia-hf[audio]")
    sound.add_argument("--loudness", type=float, metavar="LUFS", help="by BS.1770, such as -16")
    sound.add_argument("--peak", type=float, metavar="DBFS", help="limit of the samples (-1 with --loudness)")
    sound.add_argument("--speed", type=_positive, metavar="X", help="1.25 is a quarter faster, at the same pitch")
    sound.add_argument("--trim-silence", action="store_true", help="cut silence off both ends")
    sampling = generate.add_argument_group("sampling", "defaults: the checkpoint's generation_config.json")
    sampling.add_argument("--cfg-scale", type=_positive, metavar="X", help="guidance; 1 switches it off")
    sampling.add_argument("--cfg-filter-top-k", type=_count, metavar="N", help="tokens that guidance lets pass")
    sampling.add_argument("--temperature", type=_not_negative, metavar="X", help="0: always the best token")
    sampling.add_argument("--top-p", type=_probability, metavar="X", help="nucleus")

    voices = verbs.add_parser("voices", help="keep voices", description="Keep voices under names.")
    voices_verbs = voices.add_subparsers(dest="voices_verb", required=True, metavar="VERB")
    add = voices_verbs.add_parser("add", help="make a voice of a recording")
    add.set_defaults(run=_add_voice)
    add.add_argument("name", metavar="NAME")
    add.add_argument("recording", metavar="RECORDING", help="5 to 10 seconds of speech")
    transcript = add.add_mutually_exclusive_group(required=True)
    transcript.add_argument("--transcript", metavar="TEXT", help="what the recording says, word for word")
    transcript.add_argument("--transcribe", metavar="MODEL", help="let a speech recogniser write it")
    _add_model(add)
    add.add_argument("--force", action="store_true", help="replace a voice of this name")
    show = voices_verbs.add_parser("list", help="show the voices there are")
    show.set_defaults(run=_list_voices)
    remove = voices_verbs.add_parser("remove", help="remove a voice")
    remove.set_defaults(run=_remove_voice)
    remove.add_argument("name", metavar="NAME")

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
    _add_finetune(verbs)
    _add_bench(verbs)
    _add_prepare(verbs)
    return parser


def _add_finetune(verbs: argparse._SubParsersAction) -> None:
    finetune = verbs.add_parser(
        "finetune",
        help="train on prepared data",
        description="Train on prepared data, as a recipe says, and write a checkpoint that is complete by itself. Also "
        "under `accelerate launch --no_python`.",
    )
    finetune.set_defaults(run=_finetune)
    finetune.add_argument("data", nargs="+", metavar="DATA", help="folders of `dia-hf prepare`")
    finetune.add_argument(
        "output", metavar="OUTPUT", help="a new folder for the result, and for all that the run keeps"
    )
    finetune.add_argument(
        "--recipe", metavar="NAME|FILE", help="lora (default), full or scratch, or a file like theirs"
    )
    finetune.add_argument("--model", metavar="DIR|ID", help=f"start from it; the shipped recipes: {REAL_MODEL}")
    finetune.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe: training.learning_rate=1e-4, lora.r=16, eval_fraction=0.1; more than once",
    )
    finetune.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT, by its own recipe")
    finetune.add_argument(
        "--show",
        action=_Show,
        metavar="NAME",
        help="print the recipe lora, full or scratch, or the configuration ddp or fsdp2 for `accelerate launch`; exit",
    )


class _Show(argparse.Action):
    """Prints a file that comes with the package, to be kept and changed."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        files = {path.stem: path for path in sorted(Path(MINIATURE).parent.glob("[ar]*/*.yaml"))}
        if values not in files:
            parser.error(f"argument --show: there is no {values!r}; choose from {', '.join(files)}")
        print(files[values].read_text("utf-8"), end="")
        parser.exit()


def _add_bench(verbs: argparse._SubParsersAction) -> None:
    bench = verbs.add_parser(
        "bench",
        help="measure speed or exactness",
        description="Measure speed against transformers' own Dia, or what fewer bits change (--parity).",
    )
    bench.set_defaults(run=_bench)
    bench.add_argument(
        "--size", choices=["toy", "mid", "full"], default="toy", help="of random weights; full: the published 1.6B"
    )
    bench.add_argument("--model", metavar="DIR|ID", help="a checkpoint's weights instead of random ones")
    bench.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    bench.add_argument("--threads", type=_count, metavar="N", help="of a CPU; default: torch's")
    bench.add_argument("--batch-size", type=_count, default=1, metavar="N", help="texts at once (1)")
    bench.add_argument("--text-bytes", type=_count, default=100, metavar="N", help="length of each random text (100)")
    bench.add_argument("--frames", type=_count, default=64, metavar="N", help="new frames (64)")
    drawing = bench.add_mutually_exclusive_group()
    drawing.add_argument("--greedy", action="store_true", help="take the best token; default with --parity")
    drawing.add_argument("--sample", action="store_true", help="sample as published; default for speed")
    bench.add_argument("--output", "-o", metavar="F", help="write all figures there, as JSON")
    speed = bench.add_argument_group("speed")
    speed.add_argument(
        "--dtype", choices=_DTYPES, help="default: that of the checkpoint, else float32; bfloat16 with --quantize"
    )
    speed.add_argument("--quantize", choices=["int8", "int4", "fp8"], help="our weights, not the opponent's")
    speed.add_argument(
        "--compile", action="store_true", default=None, help="measure ours compiled on a CPU, too (a C++ compiler)"
    )
    speed.add_argument("--against", choices=["transformers", "none"], default="transformers", help="the opponent")
    speed.add_argument("--codec", choices=["miniature", "full"], help="of a random model; default: by its size")
    speed.add_argument("--repeats", type=_count, default=3, metavar="N", help="turns of each contender (3)")
    speed.add_argument("--plot", metavar="F", help="draw the steps' times there (needs matplotlib)")
    parity = bench.add_argument_group("parity", "against float32 on the same weights")
    schemes = ["bfloat16", "float16", "int8", "int4", "fp8"]
    parity.add_argument("--parity", nargs="+", choices=schemes, metavar="SCHEME", help=", ".join(schemes))
    parity.add_argument("--text", action="append", metavar="TEXT", help="instead of random ones; more than once")
    training = bench.add_argument_group("training", "against transformers' own Dia under the same Trainer")
    training.add_argument("--training", action="store_true", help="measure training (dia-hf[train])")
    training.add_argument("--clip-seconds", nargs=2, type=_positive, metavar="S", help="the least and the most (1 10)")
    training.add_argument("--steps", type=_count, metavar="N", help="optimiser steps of a turn (8)")


def _add_prepare(verbs: argparse._SubParsersAction) -> None:
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
    _add_model(prepare)
    prepare.add_argument("--split", metavar="NAME", help="of a dataset with several")
    prepare.add_argument("--config", metavar="NAME", help="of a dataset on the Hub with several")
    prepare.add_argument("--num-proc", type=_count, default=1, metavar="N", help="processes that encode (1)")
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
    limits.add_argument("--min-seconds", type=_not_negative, default=0.5, metavar="S", help="(0.5)")
    limits.add_argument("--max-seconds", type=_positive, default=60.0, metavar="S", help="(60)")
    limits.add_argument(
        "--characters-per-second",
        type=_not_negative,
        nargs=2,
        default=[3.0, 40.0],
        metavar=("MIN", "MAX"),
        help="(3 40)",
    )


def _read_text(args: argparse.Namespace) -> str:
    if (args.text is None) == (args.text_file is None):
        raise ValueError("give either TEXT or --text-file.")
    if "-" in (args.text, args.text_file):
        text = sys.stdin.read()
    else:
        text = args.text if args.text is not None else Path(args.text_file).read_text("utf-8")
    return text.strip()


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


def _check_voice(args: argparse.Namespace) -> None:
    for option, value in (("--prompt-text", args.prompt_text), ("--transcribe", args.transcribe)):
        if value is not None and args.audio_prompt is None:
            raise ValueError(f"{option} is for the transcript of --audio-prompt, which is missing.")
    if args.prompt_text is not None and args.transcribe is not None:
        raise ValueError("give either --prompt-text or --transcribe.")
    if args.voice and args.audio_prompt is not None:
        raise ValueError("give either --voice or --audio-prompt.")


def _read_voices(args: argparse.Namespace, dia: Dia) -> Any:
    """Return what `Dia.dialogue` takes as `voices`."""
    from .speech.voices import Voice, transcribe

    if args.audio_prompt is not None:
        transcript = args.prompt_text
        if args.transcribe is not None:
            transcript = transcribe(args.audio_prompt, args.transcribe)
            print(f"transcript of {args.audio_prompt}: {transcript}", file=sys.stderr)
        return Voice.from_audio(args.audio_prompt, transcript, dia.processor)
    named = {}
    for option in args.voice:
        match = re.fullmatch(r"\[?(S\d+)\]?=(.+)", option)
        if match is None and len(args.voice) > 1:
            raise ValueError(
                f"--voice {option!r} names no speaker; with several, write --voice S1=NAME --voice S2=NAME."
            )
        if match is None:
            return option
        named[f"[{match[1]}]"] = match[2]
    return named or None


def _finish_sound(args: argparse.Namespace, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    from .sound import change_speed, limit_peak, normalize_loudness, trim_silence

    if args.trim_silence:
        waveform = trim_silence(waveform, sampling_rate)
    if args.speed is not None:
        waveform = change_speed(waveform, sampling_rate, args.speed)
    if args.loudness is not None:
        return normalize_loudness(waveform, sampling_rate, args.loudness, -1.0 if args.peak is None else args.peak)
    return waveform if args.peak is None else limit_peak(waveform, args.peak)


@contextmanager
def _kept_passes(dialogue: Dialogue) -> Iterator[None]:
    """Keep the passes of a long dialogue beside its file until that is written."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        advice, num_kept, num_passes = "", dialogue.num_kept, len(dialogue.passes)
        if num_passes > 1 and num_kept > 0:
            advice = f"{num_kept} of {num_passes} passes are kept; the same command goes on from there."
        else:
            dialogue.remove_kept()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(advice) from error
        raise ValueError(f"{error} {advice}".strip()) from error
    dialogue.remove_kept()


def _generate(args: argparse.Namespace) -> None:
    is_pcm = args.output == "-"
    output = Path(args.output)
    text = _read_text(args)
    _check_voice(args)
    changes = {"--loudness": args.loudness, "--peak": args.peak, "--speed": args.speed}
    if is_pcm and (args.trim_silence or any(value is not None for value in changes.values())):
        raise ValueError(
            f"{', '.join(changes)} and --trim-silence need the whole; --output - sounds while it is spoken."
        )
    if not is_pcm:
        _check_output(output)

    import numpy as np
    from transformers.utils import logging

    from .speech import Dia
    from .speech.live import open_player, open_stdout

    logging.disable_progress_bar()
    if args.model == MINIATURE:
        print(_MINIATURE_NOTE, file=sys.stderr)
    dia = Dia.from_pretrained(args.model, compute_dtype=args.dtype, device=args.device, quantization=args.quantize)
    outlet: AbstractContextManager = nullcontext()
    if is_pcm:
        outlet = open_stdout()
    elif args.stream:
        outlet = open_player(dia.sampling_rate)
    sampling = {name: getattr(args, name) for name in ("cfg_scale", "cfg_filter_top_k", "temperature", "top_p")}
    keeping: AbstractContextManager = nullcontext()
    stream: Any
    if args.audio_prompt is not None and args.prompt_text is None and args.transcribe is None:
        # The text begins with the recording's transcript, and only its writer knows where that ends: one pass.
        seed = args.seed if args.seed is not None else secrets.randbits(31)
        stream = dia.stream(text, audio_prompt=args.audio_prompt, seed=seed, max_seconds=args.max_seconds, **sampling)
    else:
        dialogue = dia.dialogue(
            text,
            voices=_read_voices(args, dia),
            language=args.language,
            closing_tag=args.closing_tag,
            folder=None if is_pcm else f"{output}.passes",
            seed=args.seed,
            max_seconds=args.max_seconds,
            **sampling,
        )
        keeping, seed, stream = _kept_passes(dialogue), dialogue.seed, dialogue.stream(verbose=True)

    start = time.perf_counter()
    chunks: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]
    num_samples = 0
    with keeping, outlet as play, closing(stream):
        for chunk in stream:
            num_samples += len(chunk)
            if play is not None:
                play(chunk)
            if not is_pcm:
                chunks.append(chunk)
        elapsed = time.perf_counter() - start
        if not is_pcm:
            waveform = _finish_sound(args, np.concatenate(chunks), dia.sampling_rate)
            dia.save_audio(output, waveform, _describe(args, text, seed))
    seconds = num_samples / dia.sampling_rate
    print(
        f"{output}: {seconds:.2f} s of audio in {elapsed:.1f} s ({seconds / elapsed:.2f} × real time), seed {seed}",
        file=sys.stderr if is_pcm else sys.stdout,
    )


def _describe(args: argparse.Namespace, text: str, seed: int) -> dict[str, Any]:
    """Say how to make the file again."""
    not_said = {"run", "verb", "text", "text_file", "output", "seed", "model", "stream", "device"}
    arguments = {
        name: value
        for name, value in vars(args).items()
        if name not in not_said and value is not None and value is not False and value != []
    }
    model = "miniature" if args.model == MINIATURE else args.model
    return {"text": text, "seed": seed, "model": model, "arguments": arguments, "version": version("dia-hf")}


def _add_voice(args: argparse.Namespace) -> None:
    from transformers.utils import logging

    from .processing_dia import DiaProcessor
    from .speech.voices import Voice, VoiceLibrary, transcribe

    logging.disable_progress_bar()
    library = VoiceLibrary()
    if not args.force and args.name in library:
        raise ValueError(f"there is a voice {args.name!r} already; choose another name, or replace it with --force.")
    transcript = args.transcript
    if transcript is None:
        transcript = transcribe(args.recording, args.transcribe)
        print(f"transcript: {transcript}")
    voice = Voice.from_audio(args.recording, transcript, DiaProcessor.from_pretrained(args.model))
    print(f"{args.name}: {voice.seconds:.1f} s, {library.add(args.name, voice, force=args.force)}")


def _list_voices(args: argparse.Namespace) -> None:
    from .speech.voices import VoiceLibrary

    library = VoiceLibrary()
    voices = library.list()
    for name, voice in voices.items():
        print(f"{name}: {voice if isinstance(voice, str) else f'{voice.seconds:.1f} s, {voice.transcript}'}")
    if not voices:
        print(f"no voices in {library.folder}; make one: dia-hf voices add NAME RECORDING --transcript TEXT")


def _remove_voice(args: argparse.Namespace) -> None:
    from .speech.voices import VoiceLibrary

    VoiceLibrary().remove(args.name)


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


def _finetune(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from transformers.utils import logging

    from .training import Recipe, finetune

    logging.disable_progress_bar()
    changes = {}
    for setting in args.set:
        key, is_given, value = setting.partition("=")
        if not is_given:
            raise ValueError(f"--set {setting!r} has no value; write KEY=VALUE, such as training.learning_rate=1e-4.")
        changes[key] = value
    kept = Path(args.output, "recipe.yaml")
    is_kept = args.resume and kept.is_file() and args.recipe is None
    recipe = Recipe.load(kept if is_kept else args.recipe or "lora")
    paths = {"data": args.data, "output": args.output, **({"model": args.model} if args.model else {})}
    recipe = replace(recipe, **paths).change(changes)
    metrics = finetune(recipe, resume=args.resume, say=lambda line: print(line, file=sys.stderr, flush=True))
    if os.environ.get("RANK", "0") == "0":
        losses = {"training": metrics.get("train_loss"), "evaluation": metrics.get("eval_loss")}
        said = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)
        print(f"{args.output}: {metrics['step']} steps; loss: {said}")


def _bench(args: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging

    from .bench import make_config, make_model, make_processor
    from .speech import Dia

    of_speed = {name: getattr(args, name) for name in ("dtype", "quantize", "codec", "plot")}
    given = [f"--{name}" for name, value in of_speed.items() if value is not None]
    if args.parity and given:
        raise ValueError(f"{' and '.join(given)} belong to speed; --parity names what is compared with float32.")
    of_training = [name for name, value in (("--clip-seconds", args.clip_seconds), ("--steps", args.steps)) if value]
    if of_training and not args.training:
        raise ValueError(f"{' and '.join(of_training)} belong to --training.")
    if args.training and (args.parity or args.quantize or args.plot or args.dtype == "float16"):
        raise ValueError("--training stands by itself; of --dtype it takes float32, or bfloat16 for autocast.")
    if args.text and not args.parity:
        raise ValueError("--text is for --parity; speed depends on the length alone: --text-bytes.")
    if args.model and args.codec:
        raise ValueError("--codec is for random models; a checkpoint brings its own.")
    logging.disable_progress_bar()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def make(dtype: str | None) -> tuple[Any, Any]:
        _say_progress(f"loading {args.model}" if args.model else f"random weights, size {args.size}")
        if args.model:
            dia = Dia.from_pretrained(args.model, compute_dtype=dtype, device=device)
            return dia.model, dia.processor
        config = make_config(args.size)
        codec = args.codec or ("full" if args.size == "full" and not args.parity else "miniature")
        processor = make_processor(config, codec, device)
        return make_model(config, device, getattr(torch, dtype or "float32")), processor

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or each greedy call is told that `top_k`, the guidance's filter, is for sampling
    try:
        (_bench_parity if args.parity else _bench_training if args.training else _bench_speed)(args, make)
    finally:
        logging.set_verbosity(verbosity)


def _bench_speed(args: argparse.Namespace, make: Callable[[str | None], tuple[Any, Any]]) -> None:
    from .bench import make_contenders, measure_speed, random_inputs, report

    model, processor = make(args.dtype or ("bfloat16" if args.quantize else None))
    contenders = make_contenders(model, args.quantize, args.against, args.compile)
    inputs = random_inputs(model.config, args.batch_size, args.text_bytes, model.device)
    result = measure_speed(contenders, inputs, processor, args.frames, not args.greedy, args.repeats, say=_say_progress)
    result.settings.update(size=args.model or args.size, quantize=args.quantize)
    print(report.speed_table(result))
    if args.output is not None:
        report.write_json(args.output, report.environment(model.device), speed=result)
    if args.plot is not None:
        report.plot_steps(args.plot, result)


def _bench_training(args: argparse.Namespace, make: Callable[[str | None], tuple[Any, Any]]) -> None:
    from .bench import report
    from .bench.training import make_training_contenders, measure_training, random_clips

    model, processor = make("float32")
    rate = processor.codec.frame_rate
    least, most = (round(seconds * rate) for seconds in args.clip_seconds or (1, 10))
    frames_per_row = most + 1 + max(model.config.delay_pattern)
    contenders = make_training_contenders(model, processor, frames_per_row, against=args.against)
    result = measure_training(
        contenders,
        random_clips(processor, 8 * args.batch_size, (least, most)),
        rate,
        args.batch_size,
        args.steps or 8,
        args.repeats,
        {"bf16": True} if args.dtype == "bfloat16" else {},
        _say_progress,
    )
    result.settings.update(size=args.model or args.size)
    print(report.training_table(result))
    if args.output is not None:
        report.write_json(args.output, report.environment(model.device), training=result)


def _bench_parity(args: argparse.Namespace, make: Callable[[str | None], tuple[Any, Any]]) -> None:
    from .bench import compare, random_inputs, record_reference, reduce_precision, report

    model, processor = make("float32")
    device = model.device
    random = random_inputs(model.config, args.batch_size, args.text_bytes)
    inputs = dict(processor(args.text)) if args.text else random
    _say_progress("float32")
    reference = record_reference(model, inputs, args.frames, args.sample)
    reports = {}
    for number, scheme in enumerate(args.parity):
        # One model at a time: at full size two do not fit everywhere. The first scheme takes over the reference's.
        model = reduce_precision(model if number == 0 else make("float32")[0], scheme)
        _say_progress(scheme)
        reports[scheme] = compare(reference, model, inputs)
        model = None
    print(report.parity_table(reports))
    if args.output is not None:
        report.write_json(args.output, report.environment(device), parity=reports)


def _as_tag(option: str) -> str:
    """Put a tag into brackets, which some shells take for patterns."""
    return option if option.startswith("[") else f"[{option}]"


def _prepare(args: argparse.Namespace) -> None:
    from transformers.utils import logging

    from .processing_dia import DiaProcessor
    from .training.prepare import PrepareSettings, prepare_dataset
    from .training.source import import_datasets

    speaker_tags = {}
    for option in args.speaker_tag:
        name, _, tag = option.rpartition("=")
        if not name or not tag:
            raise ValueError(f"--speaker-tag {option!r} is no NAME=TAG, such as anna=S1.")
        speaker_tags[name] = _as_tag(tag)
    low, high = args.characters_per_second
    settings = PrepareSettings(
        **{
            f"{role}_column": getattr(args, f"{role}_column") for role in ("audio", "text", "speaker", "language", "id")
        },
        speaker_tags=speaker_tags,
        extra_tags=[_as_tag(tag) for tag in args.extra_tag],
        loudness=None if args.no_loudness else args.loudness,
        keep_silence=None if args.no_trim else 0.1,
        min_seconds=args.min_seconds,
        max_seconds=args.max_seconds,
        min_characters_per_second=low,
        max_characters_per_second=high,
    )
    logging.disable_progress_bar()
    import_datasets().disable_progress_bars()
    if args.model == MINIATURE:
        print(_MINIATURE_CODES_NOTE, file=sys.stderr)
    device = args.device
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else None
    try:
        report = prepare_dataset(
            args.source,
            args.dest,
            DiaProcessor.from_pretrained(args.model),
            settings,
            split=args.split,
            config=args.config,
            num_proc=args.num_proc,
            device=device,
            verbose=True,
        )
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("what is encoded is kept; the same command goes on from there.") from error
    print(report)
    print(f"{args.dest}: read report.md and rejected.jsonl there")


def _say_progress(line: str) -> None:
    print(f"dia-hf bench: {line}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 2 for an error, 130 when interrupted.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name; the process's own unless given.
    """
    args = _make_parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            args.run(args)
        except (ValueError, OSError, ImportError) as error:
            print(f"dia-hf: error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            print(f"dia-hf: interrupted; {error or 'nothing was written.'}", file=sys.stderr)
            return 130
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"dia-hf: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
