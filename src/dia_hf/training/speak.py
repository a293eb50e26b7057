"""Speech samples during training: sentences generated at each evaluation, saved, and scored by a speech recognizer.

`DiaTrainer` calls the callback at each evaluation, the plain `Trainer` through `on_evaluate`.

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
    """Whether weights are sharded (FSDP2, ZeRO-3), so that all processes must generate together."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(weight, DTensor) or hasattr(weight, "ds_id") for weight in model.parameters())


@contextmanager
def _guest(model: torch.nn.Module, codec: torch.nn.Module) -> Iterator[None]:
    """Generate without side effects on training: module modes, random states and the codec's device are restored."""
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
    """Callback that generates sentences at each evaluation with the model in training.

    Writes `folder/step-000100/00.wav`, …, and one line per sentence to `folder/spoken.jsonl`: step, text, file,
    seconds, whether it ended before the limit and, with a recognizer, its transcript and the number of word errors. The
    seeds are the same at each evaluation, so that steps can be compared. Failures are reported as warnings, and the
    training continues.

    With `DiaTrainer`, the metrics of `speak` are part of the evaluation: they are logged and can select the best model,
    as `eval_speech_wer`. With the plain `Trainer` they can select the best model but are not logged.

    Args:
        processor (`DiaProcessor`): Processor with the codec, which is on the model's device while it is used.
        sentences (`Sequence[str]`): Texts with speaker tags.
        folder (`str` or `os.PathLike`): Output folder.
        asr (`str` or `os.PathLike`, *optional*): Folder or Hub id of a speech recognizer for transformers' pipeline,
            such as "openai/whisper-small"; it is loaded once.
        voice (`Voice`, path or name, *optional*): Voice of the samples.
        max_seconds (`float`, defaults to 15): Maximum duration of a sentence.
        seed (`int`, defaults to 0): Random seed; sentence i has `seed + i`.
        temperature, cfg_scale (`float`, *optional*): See `Dia.generate`; temperature 0 is greedy. By default those of
            the checkpoint's generation config.
        asr_device (`str`, `int` or `torch.device`, defaults to `"cpu"`): Device of the recognizer.

    Raises:
        ValueError: If there are no sentences or one has no words, the voice belongs to another codec, there is no
            codec, or `max_seconds` exceeds the model's maximum length.
        ImportError: If `asr` is given and jiwer is not installed: `pip install "dia-hf[train]"`.

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
            raise ValueError(f"`sentences` is {sentences!r}; give a list of texts, such as ['[S1] Hello.'].")
        for sentence in sentences:
            if not isinstance(sentence, str) or not words_of(sentence):
                raise ValueError(f"the sentence {sentence!r} has no words; give a text such as '[S1] Hello.'.")
        self.voice = None if voice is None else load_voice(voice)
        if self.voice is not None:
            self.voice.check(processor.codec)
        rate, config = processor.codec.frame_rate, processor.config
        longest = config.max_generated_frames / rate
        if not 1 <= max_seconds * rate <= longest * rate:
            raise ValueError(
                f"`max_seconds` is {max_seconds}; this model generates {1 / rate:.3f} to {longest:.1f} s in one call."
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
        """Generate the samples, unless `DiaTrainer` has done so in this evaluation."""
        if model is None or any(name.endswith("_speech_seconds") for name in metrics or {}):
            return
        spoken = self.speak(model, state.global_step)
        if metrics is not None:
            metrics.update({f"eval_{name}": value for name, value in spoken.items()})

    def speak(self, model: torch.nn.Module, step: int) -> dict[str, float]:
        """Generate the sentences, save and score them; with several processes, all must call this method.

        The main process generates while the others wait, unless the weights are sharded: then all generate together.

        Args:
            model (`DiaForConditionalGeneration`): Model, possibly wrapped by PEFT or FSDP2.
            step (`int`): Training step, which names the folder.

        Returns:
            `dict[str, float]`, the same in all processes: `speech_seconds` (mean), `speech_ended` (fraction of the
            sentences that ended before the limit) and, with a recognizer, `speech_wer` (word errors over words of all
            sentences together); `nan` for a value that could not be computed.

        Warns:
            UserWarning: If it fails, with the reason.
        """
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        process = PartialState()
        metrics = dict.fromkeys(["speech_seconds", "speech_ended"] + ["speech_wer"] * (self.asr is not None), math.nan)
        if process.is_main_process or _is_shared(model):
            with _going_on(f"step {step}: the sentences were not generated"):
                waveforms = self._generate(model)
                if process.is_main_process:
                    self._keep(step, waveforms, metrics)
        results = [metrics]
        broadcast_object_list(results)
        return results[0]

    def _generate(self, model: Any) -> list[np.ndarray]:
        """Return the waveform of each sentence, `[N]`."""
        with _guest(model, self.processor.codec.model), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", SpeechWarning
            )  # early in training speech does not end, which the metrics show
            return Dia(model, self.processor).generate(  # type: ignore[return-value]  # a list, as the text is one
                self.sentences,
                cfg_scale=self.cfg_scale,
                temperature=self.temperature,
                voice=self.voice,
                seed=[self.seed + index for index in range(len(self.sentences))],
                max_seconds=self.max_seconds,
            )

    def _keep(self, step: int, waveforms: Sequence[np.ndarray], metrics: dict[str, float]) -> None:
        """Write files and compute metrics, which are set in `metrics` as soon as each is known."""
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
            with _going_on(f"step {step}: {str(self.asr)!r} could not transcribe the sentences"):
                if self._recognizer is None:
                    self._recognizer = load_recognizer(self.asr, device=self.asr_device)
                for line, waveform in zip(lines, waveforms, strict=True):
                    line["transcript"] = self._recognizer.transcribe(waveform, codec.sampling_rate)
                    counts = word_errors(line["text"], line["transcript"])
                    line["words"], line["word_errors"] = counts.words, counts.errors
                metrics["speech_wer"] = sum(line["word_errors"] for line in lines) / sum(
                    line["words"] for line in lines
                )
        with open(self.folder / "spoken.jsonl", "a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


@contextmanager
def _going_on(what: str) -> Iterator[None]:
    """Convert errors to warnings."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} ({type(error).__name__}: {error}); the training continues.", stacklevel=4)
