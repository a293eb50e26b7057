"""Speed and memory of training, ours against transformers' own Dia, under the same `Trainer`.

    python benchmarks/training_speed.py --threads 1 --batch-size 8

Both train on the same random clips of different lengths, in the same order, from the same weights; transformers' Dia
gets the batches that its processor makes. Candidates alternate within one process (A B A B ...), as in `dia-hf bench`.
Needs `pip install "dia-hf[train]"`.

Legend: B clips, T frames, C channels, S text bytes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from dia_hf import DiaForConditionalGeneration, DiaProcessor
from dia_hf.bench import make_config, make_model, make_processor, tables, transformers_twin
from dia_hf.bench.limits import synchronize
from dia_hf.bench.speed import Milliseconds
from dia_hf.training import DiaDataCollator
from training_memory import PeakMemory

_SKIPPED_STEPS = 2  # warm-up: the first step creates the optimizer's state
_BYTES_A_FRAME = 0.17  # of text: about fifteen characters per second


@dataclass
class TrainingCandidate:
    """Model to train, and its collator.

    Args:
        name (`str`): Column header in tables.
        model (`Any`): Model that returns a loss; it is trained.
        collate (`Callable`): Function that makes a batch of clips.
    """

    name: str
    model: Any
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]


@dataclass
class Training:
    """Measurements of one candidate.

    Args:
        name (`str`): Name of the candidate.
        step (`Milliseconds`): Time from one optimizer step to the next: data loading, forward, backward, optimizer.
        ratio (`float`): Speedup: the baseline's step on the same batch in the same iteration divided by this
            candidate's; median over all steps.
        audio_per_second (`float`): Seconds of audio trained on per second.
        tflops (`float`): Useful arithmetic per second in 10¹² operations: forward and backward of each clip by itself,
            without padding and without recomputation (gradient checkpointing).
        frames_per_batch (`float`): Mean number of frames per batch that the decoder computes, padding included.
        peak_memory_bytes (`int`): Peak of the memory that tensors hold in one step: weights, gradients, optimizer state
            and activations.
        losses (`list[float]`): Losses of the last iteration's steps.
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
    """Result of `measure_training`.

    Args:
        settings (`dict`): Settings of the run.
        candidates (`list[Training]`): In the order in which they were given.
    """

    settings: dict[str, Any]
    candidates: list[Training]


def random_clips(
    processor: DiaProcessor, num_clips: int, frames: tuple[int, int], seed: int = 0
) -> list[dict[str, Any]]:
    """Make random clips in the form of `dia-hf prepare`'s: random letters, random codes, uniformly distributed lengths.

    Args:
        processor (`DiaProcessor`): Processor that defines the shape of the codes.
        num_clips (`int`): Number of clips.
        frames (`tuple[int, int]`): Minimum and maximum number of frames of a clip.
        seed (`int`, defaults to 0): Random seed.
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
    """Make the candidates that train the same weights, each with its own copy.

    Args:
        model (`DiaForConditionalGeneration`): Model with the weights.
        processor (`DiaProcessor`): Processor that makes the batches.
        frames_per_row (`int`): Length of packed rows.
        loss_chunk_size (`int`, defaults to 512): Frames whose logits are in memory at a time.
        against (`str`, defaults to `"transformers"`): Baseline: `"transformers"` or `"none"`.

    Returns:
        `list[TrainingCandidate]`: `dia_hf` (one clip per row, all logits at once); `dia_hf, chunked loss`; `dia_hf,
        packed` (with chunked loss); `transformers`.
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
        ours("dia_hf, chunked loss", loss_chunk_size, None),
        ours("dia_hf, packed", loss_chunk_size, frames_per_row),
    ]
    if against == "transformers":
        twin = copy.deepcopy(transformers_twin(model)).requires_grad_(True)
        candidates.append(TrainingCandidate("transformers", twin, with_labels))
    return candidates


class _Stamps(TrainerCallback):
    """Record the time at which each step ends."""

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
    """Measure the training speed of several candidates, alternating between them.

    Args:
        candidates (`Sequence[TrainingCandidate]`): The last one is the baseline if it is called `transformers`.
        clips (`Sequence[dict]`): Clips with `text` and `codes`.
        frame_rate (`float`): Frame rate of the codec in hertz.
        batch_size (`int`, defaults to 8): Clips per step.
        num_steps (`int`, defaults to 8): Measured optimizer steps per iteration; two warm-up steps precede them.
        repeats (`int`, defaults to 3): Iterations per candidate.
        options (`dict`, *optional*): Further `TrainingArguments`, such as `{"bf16": True}`.
        say (`Callable`, *optional*): Function called with a progress message.

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
            say(f"{candidate.name}, iteration {repeat + 1} of {repeats}")
            stamps, losses[candidate.name] = _train(candidate, clips, device, batch_size, num_steps, options or {})
            steps = [1e3 * (after - before) for before, after in pairwise(stamps)]
            times[candidate.name].append(steps[_SKIPPED_STEPS:])
    results = []
    for candidate in candidates:
        iterations = times[candidate.name]
        ratio = None
        if "transformers" in times:
            pairs = zip(times["transformers"], iterations, strict=True)
            # By step, because a single one that other load delays would decide a ratio of means.
            ratio = statistics.median(
                one / other for theirs, own in pairs for one, other in zip(theirs, own, strict=True)
            )
        mean = statistics.mean(step for steps in iterations for step in steps)
        batches = [clips[i : i + batch_size] for i in range(0, len(clips), batch_size)]
        sizes = [candidate.collate(batch)["decoder_input_ids"].shape[:2].numel() for batch in batches]
        results.append(
            Training(
                candidate.name,
                step=Milliseconds.of([step for steps in iterations for step in steps]),
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
    """Count the operations of forward and backward for each clip by itself, on the meta device."""
    with torch.device("meta"):
        shape = DiaForConditionalGeneration(model.config)
    with FlopCounterMode(display=False) as counter:
        # Without masks: a single clip has no padding, and the meta device has no values to read.
        names = ("input_ids", "decoder_input_ids", "labels")
        for clip in clips:
            shape(**{name: clip[name].to("meta") for name in names}).loss.backward()
    return counter.get_total_flops()


def _peak_memory(candidate: TrainingCandidate, clips: Sequence[dict[str, Any]], device: torch.device) -> int:
    """Return the peak memory of the second step of AdamW; the first one creates its state."""
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


def training_table(report: TrainingReport) -> str:
    """Format a training report: one row per measurement, one column per candidate."""
    ran, settings = report.candidates, report.settings
    rows = [
        ["", *(one.name for one in ran)],
        ["step, ms (median)", *(f"{one.step.median:.0f}" for one in ran)],
        ["  p10 to p90", *(f"{one.step.p10:.0f} to {one.step.p90:.0f}" for one in ran)],
        ["speedup", *("-" if one.ratio is None else f"{one.ratio:.2f}" for one in ran)],
        ["audio per second, s", *(f"{one.audio_per_second:.3g}" for one in ran)],
        ["useful TFLOP per second", *(f"{one.tflops:.3g}" for one in ran)],
        ["frames per batch", *(f"{one.frames_per_batch:.0f}" for one in ran)],
        ["peak memory, MB", *(f"{one.peak_memory_bytes / 1e6:.0f}" for one in ran)],
        ["loss of the last step", *(f"{one.losses[-1]:.6f}" for one in ran)],
    ]
    least, most = settings["frames"]
    head = (
        f"{settings['parameters'] / 1e6:.3g} M parameters, batches of {settings['batch_size']} clips of {least} to "
        f"{most} frames, on {settings['device']}, threads {settings['threads']}, iterations {settings['repeats']} of "
        f"{settings['steps']} steps{', bfloat16 autocast' if settings['options'].get('bf16') else ''}"
    )
    return f"{head}\n\n{tables.align(rows)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["toy", "mid", "full"], default="toy", help="size of the random weights")
    parser.add_argument("--model", metavar="DIR|ID", help="a checkpoint's weights instead of random ones")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: torch's")
    parser.add_argument("--against", choices=["transformers", "none"], default="transformers", help="baseline")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="clips per step (1)")
    parser.add_argument("--clip-seconds", nargs=2, type=float, default=(1, 10), metavar=("MIN", "MAX"))
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="measured optimizer steps per iteration (8)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="iterations per candidate (3)")
    parser.add_argument("--output", metavar="F", help="write all measurements there as JSON")
    args = parser.parse_args(arguments)
    if not 0 < args.clip_seconds[0] <= args.clip_seconds[1]:
        parser.error(f"--clip-seconds {args.clip_seconds[0]} {args.clip_seconds[1]}: give the least first, above 0")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.model:
        model = DiaForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).to(args.device)
        processor = DiaProcessor.from_pretrained(args.model)
    else:
        config = make_config(args.size)
        model = make_model(config, args.device)
        processor = make_processor(config, "full" if args.size == "full" else "toy", args.device)
    rate = processor.codec.frame_rate
    least, most = (round(seconds * rate) for seconds in args.clip_seconds)
    frames_per_row = model.config.steps_for_frames(most)
    result = measure_training(
        make_training_candidates(model, processor, frames_per_row, against=args.against),
        random_clips(processor, 8 * args.batch_size, (least, most)),
        rate,
        args.batch_size,
        args.steps,
        args.repeats,
        {"bf16": True} if args.dtype == "bfloat16" else {},
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    result.settings.update(size=args.model or args.size)
    print(training_table(result))
    if args.output is not None:
        tables.write_json(args.output, tables.environment(model.device), training=result)


if __name__ == "__main__":
    main()
