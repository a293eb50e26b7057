"""`dia-hf generate`: a text, spoken into a file, a player or a pipe."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import MINIATURE
from ..atomic_write import atomic_write
from ..audio.io import audio_format
from ..hub import check_model
from ..text_files import decode_text, read_text
from .arguments import MINIATURE_NOTE, check_apart, check_writable, load_voices, print_result, sampling_of

if TYPE_CHECKING:
    import numpy as np

    from ..speech.dialogue import Dialogue

__all__ = ["run"]


def _read_text(args: argparse.Namespace) -> str:
    if (args.text is None) == (args.text_file is None):
        raise ValueError("give either TEXT or --text-file.")
    if "-" in (args.text, args.text_file):
        if sys.stdin is None or sys.stdin.closed:
            raise ValueError("the text is to come from standard input, which is closed; give TEXT, or --text-file F.")
        buffer = getattr(sys.stdin, "buffer", None)  # its bytes, whatever the terminal's encoding
        text = sys.stdin.read() if buffer is None else decode_text(buffer.read(), "standard input")
    else:
        text = args.text if args.text is not None else read_text(args.text_file)
    return text.strip()


def _check_voice(args: argparse.Namespace) -> None:
    for option, value in (("--prompt-text", args.prompt_text), ("--transcribe", args.transcribe)):
        if value is not None and args.audio_prompt is None:
            raise ValueError(f"{option} is for the transcript of --audio-prompt, which is missing.")
    if args.prompt_text is not None and args.transcribe is not None:
        raise ValueError("give either --prompt-text or --transcribe.")
    if args.voice and args.audio_prompt is not None:
        raise ValueError("give either --voice or --audio-prompt.")


def _find_transcript(args: argparse.Namespace) -> str | None:
    """Return the transcript of `--audio-prompt`, as it is given or as a recognizer writes it."""
    from ..speech.voices import transcribe

    if args.transcribe is None:
        return args.prompt_text
    check_model(args.model)  # it is loaded afterwards, and a wrong name is to be an error before this work
    transcript = transcribe(args.audio_prompt, args.transcribe)
    print(f"transcript of {args.audio_prompt}: {transcript}", file=sys.stderr)
    return transcript


def _finish_sound(args: argparse.Namespace, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    from ..audio.effects import change_speed, limit_peak, normalize_loudness, trim_silence

    if args.trim_silence:
        waveform = trim_silence(waveform, sampling_rate)
    if args.speed is not None:
        waveform = change_speed(waveform, sampling_rate, args.speed)
    if args.loudness is not None:
        return normalize_loudness(waveform, sampling_rate, args.loudness, -1.0 if args.peak is None else args.peak)
    return waveform if args.peak is None else limit_peak(waveform, args.peak)


def _check_subtitles(args: argparse.Namespace) -> None:
    from ..speech.subtitles import SUBTITLE_FORMATS

    path = Path(args.subtitles)
    if path.suffix.lower() not in SUBTITLE_FORMATS:
        raise ValueError(f"--subtitles {args.subtitles!r} must end in one of {', '.join(SUBTITLE_FORMATS)}.")
    if args.audio_prompt is not None and args.prompt_text is None and args.transcribe is None:
        raise ValueError("--subtitles with --audio-prompt needs --prompt-text or --transcribe.")
    check_writable("--subtitles", path)
    check_apart("--subtitles", path, {"--text-file": args.text_file})


def _write_subtitles(args: argparse.Namespace, dialogue: Dialogue, spoken: np.ndarray, sampling_rate: int) -> None:
    """Write the times of words in the file, after its silence was cut off and its speed changed."""
    from ..audio.effects import trim_silence
    from ..speech.subtitles import format_subtitles

    assert dialogue.timeline is not None
    offset = 0.0
    if args.trim_silence:  # a view of the samples
        trimmed = trim_silence(spoken, sampling_rate)
        offset = (trimmed.ctypes.data - spoken.ctypes.data) / spoken.itemsize / sampling_rate
    words = dialogue.timeline.shifted(-offset, 1 if args.speed is None else 1 / args.speed)
    with atomic_write(args.subtitles) as beside:
        beside.write_text(format_subtitles(words, Path(args.subtitles).suffix.lower()), "utf-8")


@contextmanager
def _kept_chunks(dialogue: Dialogue, written: list[Path]) -> Iterator[None]:
    """Keep the chunks of a long dialogue beside its file until that is written."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if written:
            dialogue.remove_kept()
            raise
        advice, num_kept, num_chunks = "", dialogue.num_kept, len(dialogue.chunks)
        if num_chunks > 1 and num_kept > 0:
            advice = f"{num_kept} of {num_chunks} chunks are kept; the same command goes on from there."
        else:
            dialogue.remove_kept()
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(advice) from error
        raise ValueError(f"{error} {advice}".strip()) from error
    dialogue.remove_kept()


@contextmanager
def _counted_doubts() -> Iterator[list[str]]:
    """Collect what is told of a sound that cannot be right, in the command line's words."""
    from ..speech.doubts import SpeechWarning

    doubts: list[str] = []
    show = warnings.showwarning

    def count(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if issubclass(category, SpeechWarning):
            message = re.sub(r"`max_seconds`", "--max-seconds", str(message))
            doubts.append(message)
        show(message, category, *place, **options)

    with warnings.catch_warnings():
        warnings.showwarning = count
        yield doubts


def run(args: argparse.Namespace) -> int:
    """Run `dia-hf generate`; return the exit status."""
    written: list[Path] = []
    with _counted_doubts() as doubts:
        try:
            _speak(args, written)
        except KeyboardInterrupt as error:
            if written:
                raise KeyboardInterrupt(f"{str(written[0])!r} was written before.") from error
            raise
    return 3 if args.strict and doubts else 0


def _speak(args: argparse.Namespace, written: list[Path]) -> None:
    """Speak, and note in `written` the file as soon as it is there."""
    is_pcm = args.output == "-"
    output = Path(args.output)
    text = _read_text(args)
    _check_voice(args)
    changes = {"--loudness": args.loudness, "--peak": args.peak, "--speed": args.speed}
    if is_pcm and (args.trim_silence or any(value is not None for value in changes.values())):
        raise ValueError(
            f"{', '.join(changes)} and --trim-silence need the whole; --output - sounds while it is spoken."
        )
    if is_pcm and args.json:
        raise ValueError("--json and --output - both write to standard output; give --output a file.")
    if not is_pcm:
        audio_format(output)
        check_writable("--output", output)
        read = {"--audio-prompt": args.audio_prompt, "--text-file": args.text_file}
        read.update({f"--voice {voice}": voice.split("=", 1)[-1] for voice in args.voice})
        check_apart("--output", output, read)
    if args.subtitles is not None:
        _check_subtitles(args)

    import numpy as np
    from transformers.utils import logging

    from ..speech import Dia
    from ..speech.chunk_folder import remove_chunks
    from ..speech.playback import import_sounddevice, open_player, open_stdout
    from ..speech.voices import Voice

    if args.stream and not is_pcm:
        import_sounddevice()
    with warnings.catch_warnings():  # of silence
        warnings.simplefilter("ignore")
        _finish_sound(args, np.zeros(44100, dtype=np.float32), 44100)  # what is wrong or missing shows before the work

    voices = load_voices(args)
    logging.disable_progress_bar()
    if args.model == MINIATURE and not args.quiet:
        print(MINIATURE_NOTE, file=sys.stderr)
    # Before the model: a recognizer or a package that is missing is an error at once, and memory holds one at a time.
    transcript = _find_transcript(args)
    parts = {"codec": args.codec, "adapter": args.adapter}
    dia = Dia.from_pretrained(args.model, args.dtype, args.device, quantization=args.quantize, **parts)
    outlet: AbstractContextManager = nullcontext()
    if is_pcm:
        outlet = open_stdout()
    elif args.stream:
        outlet = open_player(dia.sampling_rate)
    sampling = sampling_of(args)
    keeping: AbstractContextManager = nullcontext()
    stream: Any
    if args.audio_prompt is not None and transcript is None:
        # The text begins with the recording's transcript, and only its writer knows where that ends: one chunk.
        seed = args.seed if args.seed is not None else secrets.randbits(31)
        stream = dia.stream(text, audio_prompt=args.audio_prompt, seed=seed, max_seconds=args.max_seconds, **sampling)
    else:
        if args.audio_prompt is not None and transcript is not None:
            voices = Voice.from_audio(args.audio_prompt, transcript, dia.processor)
        if args.force and not is_pcm:
            remove_chunks(Path(f"{output}.chunks"))
        dialogue = dia.dialogue(
            text,
            voices=voices,
            language=args.language,
            closing_tag=args.closing_tag,
            folder=None if is_pcm else f"{output}.chunks",
            seed=args.seed,
            max_seconds=args.max_seconds,
            timestamps=args.subtitles is not None,
            **sampling,
        )
        keeping, seed, stream = (
            _kept_chunks(dialogue, written),
            dialogue.seed,
            dialogue.stream(verbose=sys.stderr.isatty() and not args.quiet),
        )

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
            written.append(output)
            num_samples = len(waveform)  # of the file
        if args.subtitles is not None:
            _write_subtitles(args, dialogue, np.concatenate(chunks), dia.sampling_rate)
    seconds = num_samples / dia.sampling_rate
    line = f"{output}: {seconds:.2f} s of audio in {elapsed:.1f} s ({seconds / elapsed:.2f} × real time), seed {seed}"
    if args.subtitles is not None:
        line += f"; subtitles in {args.subtitles}"
    if not is_pcm:
        result = {"path": args.output, "seconds": seconds, "seed": seed, "speed": round(seconds / elapsed, 3)}
        print_result(args, line, result)
    elif not args.quiet:
        print(line, file=sys.stderr)


def _describe(args: argparse.Namespace, text: str, seed: int) -> dict[str, Any]:
    """Say how to make the file again."""
    not_said = {"verb", "text", "text_file", "output", "seed", "model", "stream", "device", "strict", "force"}
    not_said |= {"quiet", "json", "subtitles"}
    arguments = {
        name: value
        for name, value in vars(args).items()
        if name not in not_said and value is not None and value is not False and value != []
    }
    model = "miniature" if args.model == MINIATURE else args.model
    return {"text": text, "seed": seed, "model": model, "arguments": arguments, "version": version("dia-hf")}
