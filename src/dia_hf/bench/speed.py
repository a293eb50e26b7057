"""How fast: time of a step, of a first frame, of a whole call, and what stands against it.

Contenders take turns within one process (A B A B ...), so that what else a machine does falls on all of them, and a
ratio of two says more than either figure. Knows nothing of tables or files.

Legend: B batch, T frames, C channels.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation import BaseStreamer

from ..delay_pattern import valid_codes
from ..generation import DiaAudioStreamer
from ..processing_dia import DiaProcessor
from .candidates import Candidate
from .host_syncs import HostSyncCounter
from .limits import EnergyMeter, cache_bytes, read_bandwidth, stored_bytes, synchronize, weight_bytes

__all__ = ["PUBLISHED_SAMPLING", "Milliseconds", "Speed", "SpeedReport", "measure_speed"]

PUBLISHED_SAMPLING = {"guidance_scale": 3.0, "temperature": 1.2, "top_p": 0.95, "top_k": 45}
"""What the published `generation_config.json` says."""

_SKIPPED_STEPS = 3  # the first ones still fill caches and pools
_COUNTED_STEPS = 16


@dataclass
class Milliseconds:
    """A distribution.

    Args:
        median, p10, p90 (`float`): In milliseconds; a tenth of the values is below p10, and above p90.
    """

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Milliseconds:
        """Summarize values."""
        p10, median, p90 = np.percentile(values, [10, 50, 90])
        return cls(float(median), float(p10), float(p90))


@dataclass
class Speed:
    """What was measured of one candidate; `None` where nothing could be.

    Args:
        name (`str`): Its name.
        unavailable (`str`, *optional*): Why it did not run; all else is `None` then.
        step (`Milliseconds`): A step of the decoder, sampling and rules included: the time between two frames.
        ratio (`float`): A step of the baseline (transformers, eager) in the same turn, divided by this one's: how many
            times as fast. The median over turns.
        first_frame_ms (`float`): From the call to the first frame: encoder and prefill.
        call_seconds (`float`): The whole call. This and what follows are medians over turns.
        codec_seconds (`float`): The codec on what came out.
        audio_seconds (`float`): Sound that came out, all samples together.
        first_chunk_ms (`float`): From the call to the first waveform of a `DiaAudioStreamer`, the length of one frame.
        peak_memory_bytes (`int`): On a GPU, the candidate's weights and the most that a call took beside them.
        host_syncs (`float`): Host synchronizations a step, without a streamer, as `HostSyncCounter` counts them.
        host_sync_names (`dict`): The same by name.
        step_bytes (`int`): What a step must read: weights, and keys and values at the call's mean length.
        limit_ms (`float`): `step_bytes` at the measured bandwidth.
        joules_per_frame (`float`): Energy of the device for a frame of one sample.
    """

    name: str
    unavailable: str | None = None
    step: Milliseconds | None = None
    ratio: float | None = None
    first_frame_ms: float | None = None
    call_seconds: float | None = None
    codec_seconds: float | None = None
    audio_seconds: float | None = None
    first_chunk_ms: float | None = None
    peak_memory_bytes: int | None = None
    host_syncs: float | None = None
    host_sync_names: dict[str, float] = field(default_factory=dict)
    step_bytes: int | None = None
    limit_ms: float | None = None
    joules_per_frame: float | None = None


@dataclass
class SpeedReport:
    """A run.

    Args:
        settings (`dict`): What was asked for.
        frame_rate (`float`): Of the codec, frames a second.
        bandwidth (`float`): Of memory, measured in this run, bytes a second.
        process_peak_bytes (`int`): The most memory that the whole process held; candidates share it, so that on a CPU
            it tells nothing of one of them.
        candidates (`list[Speed]`): In the order that they were given.
    """

    settings: dict[str, Any]
    frame_rate: float
    bandwidth: float
    process_peak_bytes: int
    candidates: list[Speed]


def exact_length(model: Any, num_frames: int, **sampling: Any) -> GenerationConfig:
    """Make a generation config by which a model, ours or transformers', says that many new frames."""
    decoder = model.config.decoder_config
    ids = {name: getattr(decoder, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**ids, max_new_tokens=num_frames, min_new_tokens=num_frames, **sampling)


class _Stamps(BaseStreamer):
    """Notes when tokens come."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is held back."""


@dataclass
class _Turn:
    """What one call gave."""

    steps_ms: list[float]
    first_frame_ms: float
    call_seconds: float
    codec_seconds: float
    audio_seconds: float
    memory_bytes: int | None
    joules: float | None


@dataclass
class _Course:
    """What is the same for all candidates."""

    inputs: Mapping[str, torch.Tensor]
    processor: DiaProcessor
    do_sample: bool
    device: torch.device
    energy: EnergyMeter

    def generate(self, candidate: Candidate, num_frames: int, **options: Any) -> torch.Tensor:
        """Generate that many frames, neither more nor less."""
        torch.manual_seed(0)
        config = exact_length(candidate.model, num_frames, **PUBLISHED_SAMPLING, do_sample=self.do_sample)
        return candidate.model.generate(**self.inputs, generation_config=config, **candidate.options, **options)

    def decode(self, candidate: Candidate, codes: torch.Tensor) -> float:
        """Run the codec as the candidate's processor does; return the seconds of sound."""
        codec, num_given = self.processor.codec, 1
        if candidate.is_ours:
            clips = self.processor.batch_decode(codes, audio_prompt_len=num_given)
            return sum(map(len, clips)) / codec.sampling_rate
        config, delayed = candidate.model.config, codes[:, num_given:]
        ids = (config.decoder_config.eos_token_id, config.decoder_config.pad_token_id)
        clips = valid_codes(delayed, config.delay_pattern, *ids)
        with torch.no_grad():
            for clip in clips:
                self.processor.audio_tokenizer.decode(audio_codes=clip.T[None])
        return sum(map(len, clips)) / codec.frame_rate


def measure_speed(
    candidates: Sequence[Candidate],
    inputs: Mapping[str, torch.Tensor],
    processor: DiaProcessor,
    num_frames: int,
    do_sample: bool = True,
    repeats: int = 3,
    say: Callable[[str], None] = lambda line: None,
) -> SpeedReport:
    """Let candidates generate by turns, and measure.

    Args:
        candidates (`Sequence[Candidate]`): As `make_candidates` lines them up. The baseline of ratios is the first that
            is not ours.
        inputs (`Mapping[str, torch.Tensor]`): For `generate`, on the models' device; without a voice prompt.
        processor (`DiaProcessor`): With a codec, for sound.
        num_frames (`int`): New frames of each call, at least `max(delay_pattern) + 5`.
        do_sample (`bool`, defaults to `True`): Sample as published, or take the best token; under guidance both times.
        repeats (`int`, defaults to 3): Turns of each, after one that does not count.
        say (`Callable`, *optional*): Called with a line about what is being done.

    Returns:
        `SpeedReport`.

    Raises:
        ValueError: If there are too few frames for a sound to come out, or no turns.

    Example:
    ```python
    >>> from dia_hf.bench import make_config, make_candidates, make_model, make_processor, measure_speed, random_inputs
    >>> config = make_config("toy")
    >>> candidates = make_candidates(make_model(config), against="none")
    >>> inputs, processor = random_inputs(config, batch_size=1, text_bytes=20), make_processor(config, "toy")
    >>> report = measure_speed(candidates, inputs, processor, num_frames=20, repeats=1)
    >>> report.candidates[0].name, report.candidates[0].step.median > 0
    ('dia_hf', True)

    ```
    """
    model = candidates[0].model
    fewest = model.config.steps_for_frames(_SKIPPED_STEPS + 1)
    if num_frames < fewest:
        raise ValueError(f"{num_frames} frames are too few to time steps and hear sound; at least {fewest} would do.")
    if repeats < 1:
        raise ValueError(f"`repeats` is {repeats}; at least one turn is needed.")
    device = torch.device(model.device)
    course = _Course(inputs, processor, do_sample, device, EnergyMeter(device))
    turns: dict[str, list[_Turn]] = {candidate.name: [] for candidate in candidates if candidate.unavailable is None}
    reasons = {candidate.name: candidate.unavailable for candidate in candidates}
    memory: dict[str, int | None] = {}
    for number in range(repeats + 1):
        for candidate in candidates:
            if reasons[candidate.name] is None:
                say(f"{candidate.name}: {f'turn {number} of {repeats}' if number else 'warm-up'}")
                try:
                    turn = _take_turn(course, candidate, num_frames)
                except Exception as error:  # an baseline that cannot do this is a result, too
                    if candidate.is_ours:
                        raise
                    reasons[candidate.name] = f"failed: {type(error).__name__}: {error}".splitlines()[0]
                    continue
                turns[candidate.name] += [turn] if number else []
                # What the first call takes and keeps is taken, too.
                memory[candidate.name] = max(turn.memory_bytes or 0, memory.get(candidate.name) or 0) or None

    baseline = next((c.name for c in candidates if not c.is_ours and turns.get(c.name)), None)
    text_bytes = inputs["input_ids"].shape[1]
    process_peak_bytes = _process_peak_bytes()  # before the next line needs its own
    say("memory bandwidth")
    bandwidth = read_bandwidth(device)
    results = []
    for candidate in candidates:
        if reasons[candidate.name] is not None:
            results.append(Speed(candidate.name, reasons[candidate.name]))
            continue
        speed = _summarize(candidate.name, turns[candidate.name], num_frames * len(inputs["input_ids"]))
        speed.peak_memory_bytes = memory[candidate.name]
        if baseline is not None:
            speed.ratio = _ratio(turns[baseline], turns[candidate.name])
        speed.step_bytes = weight_bytes(candidate.model) + cache_bytes(
            model.config, len(inputs["input_ids"]), 1 + num_frames / 2, text_bytes, candidate.model.dtype
        )
        speed.limit_ms = 1e3 * speed.step_bytes / bandwidth
        if not candidate.is_compiled:
            say(f"{candidate.name}: host synchronizations")
            speed.host_sync_names = _count_host_syncs(course, candidate)
            speed.host_syncs = sum(speed.host_sync_names.values())
        if candidate.is_ours:
            say(f"{candidate.name}: first chunk")
            _, *times = (_first_chunk_ms(course, candidate) for _ in range(repeats + 1))
            speed.first_chunk_ms = statistics.median(times)
        results.append(speed)

    settings = {
        "batch_size": len(inputs["input_ids"]),
        "text_bytes": text_bytes,
        "frames": num_frames,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(device),
        "sampling": {"do_sample": do_sample, **PUBLISHED_SAMPLING},
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }
    return SpeedReport(settings, processor.codec.frame_rate, bandwidth, process_peak_bytes, results)


def _take_turn(course: _Course, candidate: Candidate, num_frames: int) -> _Turn:
    stamps, memory_before = _Stamps(), None
    if course.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(course.device)
        memory_before = torch.cuda.memory_allocated(course.device)
    synchronize(course.device)
    energy_before, start = course.energy.read(), time.perf_counter()
    codes = course.generate(candidate, num_frames, streamer=stamps)
    synchronize(course.device)
    end, energy_after = time.perf_counter(), course.energy.read()
    memory = None
    if memory_before is not None:
        weights = sum(map(stored_bytes, candidate.model.state_dict().values()))
        memory = weights + torch.cuda.max_memory_allocated(course.device) - memory_before
    joules = None if energy_before is None or energy_after is None else energy_after - energy_before
    audio_seconds = course.decode(candidate, codes)
    synchronize(course.device)
    frames = np.array(stamps.times[1:])  # the first that comes is the prompt
    if len(frames) != num_frames:
        raise RuntimeError(f"{candidate.name} gave {len(frames)} frames instead of {num_frames}")
    return _Turn(
        steps_ms=(1e3 * np.diff(frames)[_SKIPPED_STEPS:]).tolist(),
        first_frame_ms=1e3 * float(frames[0] - start),
        call_seconds=end - start,
        codec_seconds=time.perf_counter() - end,
        audio_seconds=audio_seconds,
        memory_bytes=memory,
        joules=joules,
    )


def _summarize(name: str, turns: Sequence[_Turn], num_frames: int) -> Speed:

    def middle(*names: str) -> float:
        return statistics.median(sum(getattr(turn, name) for name in names) for turn in turns)

    joules = [turn.joules for turn in turns if turn.joules is not None]
    return Speed(
        name,
        step=Milliseconds.of([step for turn in turns for step in turn.steps_ms]),
        first_frame_ms=middle("first_frame_ms"),
        call_seconds=middle("call_seconds"),
        codec_seconds=middle("codec_seconds"),
        audio_seconds=middle("audio_seconds"),
        joules_per_frame=statistics.median(joules) / num_frames if joules else None,
    )


def _ratio(theirs: Sequence[_Turn], ours: Sequence[_Turn]) -> float:
    """How many times as fast, turn by turn: what slows a turn down slows the one beside it down, too."""
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(statistics.median(a.steps_ms) / statistics.median(b.steps_ms) for a, b in pairs)


def _count_host_syncs(course: _Course, candidate: Candidate) -> dict[str, float]:
    """Count over the steps that a longer call has more than a shorter one, so that what happens once drops out."""
    counts = []
    for num_frames in (4, 4 + _COUNTED_STEPS):
        with HostSyncCounter(course.device) as syncs:
            course.generate(candidate, num_frames)
        counts.append(syncs.counts)
    names = sorted({*counts[0], *counts[1]})
    a_step = {name: (counts[1][name] - counts[0][name]) / _COUNTED_STEPS for name in names}
    return {name: count for name, count in a_step.items() if count != 0}


def _first_chunk_ms(course: _Course, candidate: Candidate) -> float:
    streamer = DiaAudioStreamer(course.processor)
    num_frames = streamer.config.steps_for_frames(streamer.num_steps_before_sound)

    def generate(streamer: BaseStreamer) -> None:
        course.generate(candidate, num_frames, streamer=streamer)

    start = time.perf_counter()
    with closing(streamer.listen(generate)) as chunks:
        next(chunks)
        return 1e3 * (time.perf_counter() - start)


def _process_peak_bytes() -> int:
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
