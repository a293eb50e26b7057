"""How fast and in how much memory a model is trained, ours against transformers' own, under the same `Trainer`.

Both learn the same random clips, of different lengths, in the same order from the same weights; transformers' Dia in
the batches that its processor makes. Contenders take turns within one process (A B A B ...), as in `speed.py`. Knows
nothing of tables or files.

Legend: B clips, T frames, C channels, S text bytes.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..training.collator import DiaDataCollator
from .candidates import transformers_twin
from .limits import PeakMemory, synchronize
from .speed import Milliseconds

__all__ = [
    "Training",
    "TrainingCandidate",
    "TrainingReport",
    "make_training_candidates",
    "measure_training",
    "random_clips",
]

_SKIPPED_STEPS = 2  # the first one makes the optimizer's state
_BYTES_A_FRAME = 0.17  # of text: about fifteen characters a second


@dataclass
class TrainingCandidate:
    """A model, and how it is given its clips.

    Args:
        name (`str`): In tables.
        model (`Any`): With a loss; it is trained.
        collate (`Callable`): Makes a batch of clips.
    """

    name: str
    model: Any
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]


@dataclass
class Training:
    """What was measured of one candidate.

    Args:
        name (`str`): Its name.
        step (`Milliseconds`): From one optimizer step to the next: loading, forward, backward, optimizer.
        ratio (`float`): The baseline's step in the same turn, divided by this one's: how many times as fast.
        audio_per_second (`float`): Seconds of audio learned in a second.
        tflops (`float`): Useful arithmetic a second, in 10¹² operations: that of each clip by itself, forward and
            backward, without padding and without what is computed twice to save memory.
        frames_per_batch (`float`): Frames of a batch with its padding, as the decoder computes them; mean.
        peak_memory_bytes (`int`): The most that tensors held in one step: weights, gradients, the optimizer's state and
            activations.
        losses (`list[float]`): Of the steps of the last turn.
    """

    name: str
    step: Milliseconds
    ratio: float | None
    audio_per_second: float
    tflops: float
    frames_per_batch: float
    peak_memory_bytes: int
    losses: list[float] = field(default_factory=list)


@dataclass
class TrainingReport:
    """A run.

    Args:
        settings (`dict`): What was asked for.
        candidates (`list[Training]`): In the order that they were given.
    """

    settings: dict[str, Any]
    candidates: list[Training]


def random_clips(
    processor: DiaProcessor, num_clips: int, frames: tuple[int, int], seed: int = 0
) -> list[dict[str, Any]]:
    """Draw clips as `dia-hf prepare` makes them: letters for text, random codes, lengths evenly spread.

    Args:
        processor (`DiaProcessor`): For the shape of codes.
        num_clips (`int`): How many.
        frames (`tuple[int, int]`): The least and the most frames of a clip.
        seed (`int`, defaults to 0): Of all that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    decoder = processor.config.decoder_config
    clips = []
    for index in range(num_clips):
        num_frames = int(torch.randint(frames[0], frames[1] + 1, (), generator=generator))
        letters = torch.randint(ord("a"), ord("z") + 1, (1 + int(num_frames * _BYTES_A_FRAME),), generator=generator)
        codes = torch.randint(0, decoder.eos_token_id, (num_frames, decoder.num_channels), generator=generator)
        clips.append({"id": str(index), "text": "[S1] " + bytes(letters.tolist()).decode(), "codes": codes})
    return clips


def make_training_candidates(
    model: DiaForConditionalGeneration,
    processor: DiaProcessor,
    frames_per_row: int,
    loss_chunk_size: int = 512,
    against: str = "transformers",
) -> list[TrainingCandidate]:
    """Line up ways to train the same weights, each with a copy of its own.

    Args:
        model (`DiaForConditionalGeneration`): The weights.
        processor (`DiaProcessor`): Makes the batches.
        frames_per_row (`int`): Of packed rows.
        loss_chunk_size (`int`, defaults to 512): Frames whose logits are in memory at a time.
        against (`str`, defaults to `"transformers"`): Or `"none"`.

    Returns:
        `list[TrainingCandidate]`: `dia_hf` (a clip a row, logits at once); `dia_hf, sliced loss`; `dia_hf, packed`
        (with sliced loss); `transformers`.
    """

    def with_labels(clips: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        texts, codes = [clip["text"] for clip in clips], [clip["codes"] for clip in clips]
        return dict(processor(texts, codes, generation=False, output_labels=True))

    def ours(name: str, chunk_size: int | None, frames_per_row: int | None) -> TrainingCandidate:
        mine = copy.deepcopy(model).requires_grad_(True)
        mine.loss_chunk_size = chunk_size
        return TrainingCandidate(name, mine, DiaDataCollator(processor, 0.0, frames_per_row=frames_per_row))

    candidates = [
        ours("dia_hf", None, None),
        ours("dia_hf, sliced loss", loss_chunk_size, None),
        ours("dia_hf, packed", loss_chunk_size, frames_per_row),
    ]
    if against == "transformers":
        twin = copy.deepcopy(transformers_twin(model)).requires_grad_(True)
        candidates.append(TrainingCandidate("transformers", twin, with_labels))
    return candidates


class _Stamps(TrainerCallback):
    """Note when steps end."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, [0.0]

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.times = [time.perf_counter()]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronize(self.device)
        self.times.append(time.perf_counter())


def measure_training(
    candidates: Sequence[TrainingCandidate],
    clips: Sequence[dict[str, Any]],
    frame_rate: float,
    batch_size: int = 8,
    num_steps: int = 8,
    repeats: int = 3,
    options: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainingReport:
    """Let candidates train by turns.

    Args:
        candidates (`Sequence[TrainingCandidate]`): The last one is the baseline if it is called `transformers`.
        clips (`Sequence[dict]`): With `text` and `codes`.
        frame_rate (`float`): Of the codec, frames a second.
        batch_size (`int`, defaults to 8): Clips a step.
        num_steps (`int`, defaults to 8): Optimizer steps that count in each turn; two more come before.
        repeats (`int`, defaults to 3): Turns of each.
        options (`dict`, *optional*): Further `TrainingArguments`, such as `{"bf16": True}`.
        say (`Callable`, *optional*): Told what is going on.

    Returns:
        `TrainingReport`.
    """
    model = candidates[0].model
    device = model.device
    num_audio_frames = statistics.mean(len(clip["codes"]) for clip in clips) * batch_size
    useful = _flops(model, [candidates[0].collate([clip]) for clip in clips]) / len(clips) * batch_size
    times: dict[str, list[list[float]]] = {candidate.name: [] for candidate in candidates}
    losses: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for candidate in candidates:
            say(f"{candidate.name}, turn {repeat + 1} of {repeats}")
            stamps, losses[candidate.name] = _train(candidate, clips, device, batch_size, num_steps, options or {})
            steps = [1e3 * (after - before) for before, after in pairwise(stamps)]
            times[candidate.name].append(steps[_SKIPPED_STEPS:])
    results = []
    for candidate in candidates:
        turns = times[candidate.name]
        ratio = None
        if "transformers" in times:
            pairs = zip(times["transformers"], turns, strict=True)
            ratio = statistics.median(statistics.mean(theirs) / statistics.mean(own) for theirs, own in pairs)
        mean = statistics.mean(step for turn in turns for step in turn)
        batches = [clips[i : i + batch_size] for i in range(0, len(clips), batch_size)]
        sizes = [candidate.collate(batch)["decoder_input_ids"].shape[:2].numel() for batch in batches]
        results.append(
            Training(
                candidate.name,
                step=Milliseconds.of([step for turn in turns for step in turn]),
                ratio=ratio,
                audio_per_second=num_audio_frames / frame_rate / mean * 1e3,
                tflops=useful / mean * 1e3 / 1e12,
                frames_per_batch=statistics.mean(sizes),
                peak_memory_bytes=_peak_memory(candidate, clips[:batch_size], device),
                losses=losses[candidate.name],
            )
        )
    settings = {
        "clips": len(clips),
        "frames": [min(len(clip["codes"]) for clip in clips), max(len(clip["codes"]) for clip in clips)],
        "batch_size": batch_size,
        "steps": num_steps,
        "repeats": repeats,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "options": options or {},
    }
    return TrainingReport(settings, results)


def _train(
    candidate: TrainingCandidate,
    clips: Sequence[dict[str, Any]],
    device: torch.device,
    batch_size: int,
    num_steps: int,
    options: dict[str, Any],
) -> tuple[list[float], list[float]]:
    stamps = _Stamps(device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=_SKIPPED_STEPS + num_steps,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-5,
            remove_unused_columns=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
            **options,
        )
        trainer = Trainer(
            model=candidate.model,
            args=arguments,
            train_dataset=list(clips),
            data_collator=candidate.collate,
            callbacks=[stamps],
        )
        trainer.pop_callback(PrinterCallback)
        trainer.train()
    return stamps.times, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _flops(model: DiaForConditionalGeneration, clips: Sequence[dict[str, torch.Tensor]]) -> int:
    """Count the operations of clips one by one, forward and backward, without computing them."""
    with torch.device("meta"):
        shape = DiaForConditionalGeneration(model.config)
    with FlopCounterMode(display=False) as counter:
        # Without masks, whose values would be asked for: there is nothing to be masked.
        names = ("input_ids", "decoder_input_ids", "labels")
        for clip in clips:
            shape(**{name: clip[name].to("meta") for name in names}).loss.backward()
    return counter.get_total_flops()


def _peak_memory(candidate: TrainingCandidate, clips: Sequence[dict[str, Any]], device: torch.device) -> int:
    """Follow all tensors through the second step of AdamW, whose state the first one makes."""
    model = candidate.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    batch = {name: tensor.to(device) for name, tensor in candidate.collate(clips).items()}

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.zero_grad()
    step()
    state = [value for values in optimizer.state.values() for value in values.values()]
    with PeakMemory([*model.parameters(), *state]) as memory:
        step()
    return memory.peak
