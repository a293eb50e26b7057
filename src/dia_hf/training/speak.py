"""Hearing a model while it learns: sentences spoken at each evaluation, written down, and understood by a recognizer.

Knows how to speak, to write files and to count wrong words. Does not know when: `DiaTrainer` asks at each evaluation,
the plain `Trainer` by `on_evaluate`.

Legend: N samples.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .._extras import import_extra
from ..asr.recognizers import Recognizer, load_recognizer
from ..asr.wer import word_errors, words_of
from ..processing_dia import DiaProcessor
from ..speech.dia import Dia
from ..speech.doubts import SpeechWarning
from ..speech.voices import Voice, load_voice

__all__ = ["SpeakCallback"]


def _is_shared(model: torch.nn.Module) -> bool:
    """Say whether each process has but a part of the weights (FSDP2, ZeRO-3), so that none can speak alone."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in model.parameters())


@contextmanager
def _guest(model: torch.nn.Module, codec: torch.nn.Module) -> Iterator[None]:
    """Leave a training run as it was: its modes, its random numbers, and the memory that the codec takes."""
    modes = [(module, module.training) for module in model.modules()]
    home = next(codec.parameters()).device
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.eval()
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        codec.to(home)


class SpeakCallback(TrainerCallback):
    """Speaks sentences at each evaluation, with the model in training.

    Writes `folder/step-000100/00.wav`, …, and a line a sentence in `folder/spoken.jsonl`: step, text, file, seconds,
    whether it ended by itself, and with a recognizer what it heard and how many words are wrong. The noise is the same
    each time, so that steps can be compared. Whatever fails here is a warning: the training goes on.

    With `DiaTrainer`, the metrics of `speak` are part of the evaluation's, logged and good for choosing the best model,
    as `eval_speech_wer`. With the plain `Trainer` they come too late to be logged, but not to choose by.

    Args:
        processor (`DiaProcessor`): With the codec; it is on the model's device while it is needed.
        sentences (`Sequence[str]`): What to say, with speaker tags.
        folder (`str` or `os.PathLike`): Where to write.
        asr (`str` or `os.PathLike`, *optional*): Folder or Hub id of a speech recognizer for transformers' pipeline,
            such as "openai/whisper-small"; it is loaded once.
        voice (`Voice`, path or name, *optional*): The voice to speak with.
        max_seconds (`float`, defaults to 15): Limit of a sentence.
        seed (`int`, defaults to 0): Of the noise; sentence i has `seed + i`.
        temperature, cfg_scale (`float`, *optional*): See `Dia.generate`; temperature 0 is greedy. The checkpoint's
            generation config unless given.
        asr_device (`str`, `int` or `torch.device`, defaults to `"cpu"`): Where the recognizer runs.

    Raises:
        ValueError: If there are no sentences or one has no words, the voice is of another codec, there is no codec, or
            the model cannot speak for `max_seconds` in one go.
        ImportError: If `asr` is given and jiwer is missing: `pip install "dia-hf[train]"`.

    Example:
    ```python
    >>> import tempfile
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.training import SpeakCallback
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     callback = SpeakCallback(processor, ["[S1] Hello."], folder, max_seconds=0.1)
    ...     metrics = callback.speak(model, step=100)
    ...     sorted(str(file.relative_to(folder)) for file in callback.folder.rglob("*.*"))
    ['spoken.jsonl', 'step-000100/00.wav']
    >>> list(metrics)
    ['speech_seconds', 'speech_ended']

    ```
    """

    def __init__(
        self,
        processor: DiaProcessor,
        sentences: Sequence[str],
        folder: str | os.PathLike,
        asr: str | os.PathLike | None = None,
        voice: Voice | str | os.PathLike | None = None,
        *,
        max_seconds: float = 15.0,
        seed: int = 0,
        temperature: float | None = None,
        cfg_scale: float | None = None,
        asr_device: str | int | torch.device = "cpu",
    ) -> None:
        if isinstance(sentences, str) or not sentences:
            raise ValueError(f"`sentences` is {sentences!r}; give a list of what to say, such as ['[S1] Hello.'].")
        for sentence in sentences:
            if not isinstance(sentence, str) or not words_of(sentence):
                raise ValueError(f"the sentence {sentence!r} has no words; give something to say, like '[S1] Hello.'.")
        self.voice = None if voice is None else load_voice(voice)
        if self.voice is not None:
            self.voice.check(processor.codec)
        rate, config = processor.codec.frame_rate, processor.config
        longest = config.max_generated_frames / rate
        if not 1 <= max_seconds * rate <= longest * rate:
            raise ValueError(
                f"`max_seconds` is {max_seconds}; this model says {1 / rate:.3f} to {longest:.1f} s in one go."
            )
        if asr is not None:
            import_extra("jiwer")
        self.processor = processor
        self.sentences = list(sentences)
        self.folder = Path(folder)
        self.asr = asr
        self.max_seconds = max_seconds
        self.seed = seed
        self.temperature = temperature
        self.cfg_scale = cfg_scale
        self.asr_device = asr_device
        self._recognizer: Recognizer | None = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Speak, unless the evaluation has (`DiaTrainer`'s)."""
        if model is None or any(name.endswith("_speech_seconds") for name in metrics or {}):
            return
        spoken = self.speak(model, state.global_step)
        if metrics is not None:
            metrics.update({f"eval_{name}": value for name, value in spoken.items()})

    def speak(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        """Speak the sentences and write them down; in a run of many processes, all must call it.

        One process speaks and the others wait, unless each has but a part of the weights: then they speak together.

        Args:
            model (`DiaForConditionalGeneration`): The model, or one that PEFT or FSDP2 made of it.
            step (`int`): The number of the folder.

        Returns:
            `dict[str, float]`, the same in all processes: `speech_seconds` (mean), `speech_ended` (share of the
            sentences that ended by themselves) and, with a recognizer, `speech_wer` (wrong words over words, of all
            sentences together); each `nan` where it failed.

        Warns:
            UserWarning: If it fails, with the reason.
        """
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        process = PartialState()
        metrics = dict.fromkeys(["speech_seconds", "speech_ended"] + ["speech_wer"] * (self.asr is not None), math.nan)
        if process.is_main_process or _is_shared(model):
            with _going_on(f"step {step}: the sentences were not spoken"):
                waveforms = self._generate(model)
                if process.is_main_process:
                    self._keep(step, waveforms, metrics)
        results = [metrics]
        broadcast_object_list(results)
        return results[0]

    def _generate(self, model: Any) -> list[np.ndarray]:
        """Say the sentences; each `[N]`."""
        with _guest(model, self.processor.codec.model), warnings.catch_warnings():
            warnings.simplefilter("ignore", SpeechWarning)  # early on it does not end; the metrics tell
            return Dia(model, self.processor).generate(  # type: ignore[return-value]  # a list, as the text is one
                self.sentences,
                cfg_scale=self.cfg_scale,
                temperature=self.temperature,
                voice=self.voice,
                seed=[self.seed + index for index in range(len(self.sentences))],
                max_seconds=self.max_seconds,
            )

    def _keep(self, step: int, waveforms: Sequence[np.ndarray], metrics: dict[str, float]) -> None:
        """Write files and measure; what is measured goes into `metrics` as soon as it is known."""
        codec = self.processor.codec
        num_samples = int(self.max_seconds * codec.frame_rate) * codec.hop_length
        lines: list[dict[str, Any]] = []
        for index, (text, waveform) in enumerate(zip(self.sentences, waveforms, strict=True)):
            file = Path(f"step-{step:06d}", f"{index:02d}.wav")
            if len(waveform):  # a file holds at least one sample
                self.processor.save_audio(torch.from_numpy(waveform), self.folder / file)
            lines.append(
                {
                    "step": step,
                    "text": text,
                    "file": file.as_posix() if len(waveform) else None,
                    "seconds": round(len(waveform) / codec.sampling_rate, 3),
                    "ended": len(waveform) < num_samples,
                }
            )
        metrics["speech_seconds"] = sum(line["seconds"] for line in lines) / len(lines)
        metrics["speech_ended"] = sum(line["ended"] for line in lines) / len(lines)
        if self.asr is not None:
            with _going_on(f"step {step}: {str(self.asr)!r} did not write down what it heard"):
                if self._recognizer is None:
                    self._recognizer = load_recognizer(self.asr, device=self.asr_device)
                for line, waveform in zip(lines, waveforms, strict=True):
                    line["heard"] = self._recognizer.transcribe(waveform, codec.sampling_rate)
                    counts = word_errors(line["text"], line["heard"])
                    line["words"], line["word_errors"] = counts.words, counts.errors
                metrics["speech_wer"] = sum(line["word_errors"] for line in lines) / sum(
                    line["words"] for line in lines
                )
        with open(self.folder / "spoken.jsonl", "a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """Turn an error into a warning."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} ({type(error).__name__}: {error}); the training goes on.", stacklevel=4)
