"""Sentences spoken by a model, heard by a recognizer, and compared with references.

Speaks in batches, each sentence with its own seed, so that what it says does not depend on the batch. Knows nothing of
files of sentences and of tables; called by users and by the command line.

Legend: N samples, T frames, C codebooks.
"""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .._extras import import_extra
from ..asr.recognizers import Recognizer
from ..asr.wer import word_errors
from ..atomic_write import atomic_write, find_held, is_leftover
from ..audio.codec import Codec
from ..audio.io import resample, write_audio
from ..feature_extraction_dia import DiaFeatureExtractor
from ..speech import Dia, SpeechWarning
from .report import EvaluationReport, SentenceReport, Transcript
from .sentences import Sentence

__all__ = ["evaluate"]

_MARK = ".dia_hf_evaluation"
_PACKAGES = ("dia-hf", "torch", "transformers", "numpy", "jiwer", "pocketsphinx")


def evaluate(
    dia: Dia,
    sentences: Sequence[Sentence | str],
    recognizer: Recognizer,
    *,
    cfg_scale: float | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    cfg_filter_top_k: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    max_seconds: float | None = None,
    folder: str | os.PathLike | None = None,
    verbose: bool = False,
) -> EvaluationReport:
    """Let a model speak, and measure how well it does.

    Args:
        dia (`Dia`): The model and its processor, with the codec.
        sentences (`Sequence[Sentence]` or of texts): What to say; see `read_sentences`.
        recognizer (`Recognizer`): Who listens; see `dia_hf.asr.recognizers.load_recognizer`.
        cfg_scale, temperature, top_p, cfg_filter_top_k (*optional*): See `Dia.generate`; temperature 0 is greedy.
        seed (`int`, defaults to 0): Of the noise; sentence i has `seed + i`.
        batch_size (`int`, defaults to 8): Sentences to speak at once.
        max_seconds (`float`, *optional*): Limit of a sentence; the checkpoint's unless given.
        folder (`str` or `os.PathLike`, *optional*): Where to keep what was said: 0000.wav, 0001.wav, … A new or empty
            folder, or one of an earlier evaluation, whose files are replaced.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `EvaluationReport`: `.table()` for people, `.save(path)` for programs.

    Raises:
        ValueError: If there are no sentences, a reference is of another codec or cannot be read, or an option is
            unusable; or if `folder` holds something else.
        ImportError: If jiwer is missing: `pip install "dia-hf[evaluate]"`.

    Example:
    ```python
    >>> from dia_hf import Dia
    >>> from dia_hf.evaluation import evaluate
    >>> from dia_hf.asr.recognizers import load_recognizer
    >>> recognizer = load_recognizer("pocketsphinx", ["hello", "there"])
    >>> report = evaluate(Dia.from_pretrained(), ["[S1] Hello there."], recognizer, temperature=0, max_seconds=0.2)
    >>> report.metrics()["word_errors"]["model"]["words"], report.sentences[0].seconds <= 0.2
    (2, True)

    ```
    """
    import_extra("jiwer")
    if isinstance(sentences, str) or not sentences:
        raise ValueError(f"`sentences` is {sentences!r}; give a list of what to say, such as ['[S1] Hello.'].")
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}; it is 1 or more.")
    given = [Sentence(sentence) if isinstance(sentence, str) else sentence for sentence in sentences]
    codec = dia.processor.codec
    for number, sentence in enumerate(given, start=1):
        _check_reference(number, sentence, codec)
    if folder is not None:
        check_folder(folder)
        recordings = [sentence.audio for sentence in given if isinstance(sentence.audio, str | os.PathLike)]
        if (held := find_held(folder, recordings)) is not None:
            raise ValueError(f"{os.fspath(folder)!r} holds {held!r}, which is compared with; give another folder.")
    num_frames = dia.max_frames(max_seconds)
    options = {
        "cfg_scale": cfg_scale,
        "temperature": temperature,
        "top_p": top_p,
        "cfg_filter_top_k": cfg_filter_top_k,
        "max_seconds": (num_frames + 0.5) / codec.frame_rate,  # these frames, however the division is rounded
    }
    lines: list[SentenceReport] = []
    elapsed = 0.0
    with tqdm(desc="evaluating", total=len(given), unit=" sentences", disable=not verbose) as bar:
        for start in range(0, len(given), batch_size):
            batch = given[start : start + batch_size]
            seeds = [seed + start + place for place in range(len(batch))]
            begin = time.perf_counter()
            spoken = _speak(dia, [sentence.text for sentence in batch], seeds, options)
            elapsed += time.perf_counter() - begin
            for sentence, own_seed, said in zip(batch, seeds, spoken, strict=True):
                # A file holds at least one sample.
                is_kept = folder is not None and len(said.waveform) > 0
                file = Path(folder) / f"{len(lines):04d}.wav" if folder is not None and is_kept else None
                if file is not None:
                    if not lines:
                        _mark(file.parent)
                    write_audio(file, said.waveform, codec.sampling_rate)
                lines.append(_judge(sentence, said, own_seed, codec, recognizer, num_frames, file))
                bar.update()
    is_sampled = None if temperature is None else temperature != 0
    settings = {
        "do_sample": _settled(dia, "do_sample", is_sampled),
        "temperature": _settled(dia, "temperature", temperature or None),
        "top_p": _settled(dia, "top_p", top_p),
        "cfg_scale": _settled(dia, "guidance_scale", cfg_scale),
        "cfg_filter_top_k": _settled(dia, "top_k", cfg_filter_top_k),
        "seed": seed,
        "batch_size": batch_size,
        "max_seconds": num_frames / codec.frame_rate,
        "device": str(dia.model.device),
        "dtype": str(dia.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }
    return EvaluationReport(settings, _versions(), lines, elapsed)


def check_folder(folder: str | os.PathLike) -> None:
    """Refuse a folder for what is said that holds something else: its recordings may have the same names.

    Raises:
        ValueError: If it is a file, or neither empty nor of an earlier evaluation.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; give a folder for what is said.")
    if folder.is_dir() and not (folder / _MARK).is_file() and not all(map(is_leftover, folder.iterdir())):
        raise ValueError(
            f"{str(folder)!r} is not empty, and was not made by an evaluation; what is said could replace recordings "
            "there. Give a new folder."
        )


def _mark(folder: Path) -> None:
    with atomic_write(folder / _MARK) as beside:
        beside.write_text("WAV files here were written by `dia-hf evaluate`, which replaces them.\n", "utf-8")


@dataclass(frozen=True)
class _Said:
    """What a model said: its codes `[T, C]`, and their sound `[N]`."""

    codes: torch.Tensor
    waveform: np.ndarray


def _speak(dia: Dia, texts: list[str], seeds: list[int], options: dict[str, Any]) -> list[_Said]:
    """Speak texts, each with its own seed; a doubtful sound is a figure here, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpeechWarning)
        waveforms, codes = dia.generate(texts, seed=seeds, return_codes=True, **options)
    return [_Said(clip, waveform) for clip, waveform in zip(codes, waveforms, strict=True)]


def _settled(dia: Dia, name: str, given: Any) -> Any:
    """Return a sampling parameter: the call's, or else the checkpoint's."""
    return getattr(dia.model.generation_config, name, None) if given is None else given


def _check_reference(number: int, sentence: Sentence, codec: Codec) -> None:
    """Refuse codes that mean something else to this codec, before the work instead of after it."""
    if sentence.codec not in (None, codec.fingerprint):
        raise ValueError(
            f"the codes of sentence {number} are of the codec {sentence.codec}, but this model's is "
            f"{codec.fingerprint}; prepare the data with `--model` of the model that is evaluated."
        )
    codes = sentence.codes
    if codes is None:
        return
    if codes.shape[1] != codec.num_codebooks or not 0 <= codes.min() <= codes.max() < codec.codebook_size:
        raise ValueError(
            f"the codes of sentence {number} are {codes.min()} to {codes.max()} in {codes.shape[1]} codebooks; this "
            f"model's codec has {codec.num_codebooks} of 0 to {codec.codebook_size - 1}."
        )


def _judge(
    sentence: Sentence,
    said: _Said,
    seed: int,
    codec: Codec,
    recognizer: Recognizer,
    num_frames: int,
    file: Path | None,
) -> SentenceReport:
    def hear(waveform: np.ndarray, sampling_rate: int) -> Transcript:
        heard = recognizer.transcribe(waveform, sampling_rate)
        return Transcript(heard, word_errors(sentence.text, heard))

    reference = floor = seconds = None
    wanted = None if sentence.codes is None else sentence.codes.cpu().long()
    if sentence.audio is not None:
        samples, rate = sentence.load_audio()
        clip = {"array": samples, "sampling_rate": rate}
        (waveform,) = DiaFeatureExtractor(sampling_rate=rate).load_waveforms(clip)
        reference, seconds = hear(waveform, rate), len(waveform) / rate
        if wanted is None:
            (coded,) = codec.encode([torch.from_numpy(resample(waveform, rate, codec.sampling_rate))])
            floor = hear(codec.decode([coded])[0].numpy(), codec.sampling_rate)
    if wanted is not None:
        floor = hear(codec.decode([wanted])[0].numpy(), codec.sampling_rate)
        seconds = len(wanted) / codec.frame_rate
    return SentenceReport(
        text=sentence.text,
        seed=seed,
        seconds=len(said.codes) / codec.frame_rate,
        ended=len(said.codes) < num_frames,
        model=hear(said.waveform, codec.sampling_rate),
        reference=reference,
        codec=floor,
        reference_seconds=seconds,
        within_a_frame=None if wanted is None else abs(len(said.codes) - len(wanted)) <= 1,
        same_first_channel=None if wanted is None else torch.equal(said.codes[:, 0], wanted[:, 0]),
        same_codes=None if wanted is None else torch.equal(said.codes, wanted),
        file=None if file is None else str(file),
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # of the recognizer that is not in use
            continue
    return versions
