"""Speed of generation: time per decoder step, to the first frame, and per call, against a baseline.

Candidates alternate within one process (A B A B ...), so that other load on the machine affects all of them equally;
ratios between candidates are more reliable than absolute times. Tables and files are written by `tables.py`.

Legend: B batch, T frames, C channels.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation import BaseStreamer

from ..delay_pattern import valid_codes
from ..generation import DiaAudioStreamer
from ..processing_dia import DiaProcessor
from .candidates import Candidate
from .limits import cache_bytes, read_bandwidth, stored_bytes, synchronize, weight_bytes

__all__ = ["PUBLISHED_SAMPLING", "Milliseconds", "Speed", "SpeedReport", "measure_speed"]

PUBLISHED_SAMPLING = {"guidance_scale": 3.0, "temperature": 1.2, "top_p": 0.95, "top_k": 45}
"""Sampling parameters of the published `generation_config.json`."""

_SKIPPED_STEPS = 3  # warm-up: the first steps still fill caches and memory pools


@dataclass
class Milliseconds:
    """Summary of a distribution of times.

    Args:
        median, p10, p90 (`float`): In milliseconds; 10 % of the values are below p10, and 10 % above p90.
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
    """Measurements of one candidate; `None` where a value is not available.

    Args:
        name (`str`): Name of the candidate.
        unavailable (`str`, *optional*): Reason why it did not run; all other fields are `None` in that case.
        step (`Milliseconds`): Time between two frames: a decoder step including logits processing and sampling.
        ratio (`float`): Speedup: step time of the baseline (transformers, eager) in the same iteration, divided by this
            candidate's. Median over iterations.
        first_frame_ms (`float`): Time from the call to the first frame: encoder and prefill.
        call_seconds (`float`): Duration of the whole call. This field and the next two are medians over iterations.
        codec_seconds (`float`): Time to decode the generated codes with the codec.
        audio_seconds (`float`): Duration of the generated audio, summed over the batch.
        first_chunk_ms (`float`): Time from the call to the first waveform of a `DiaAudioStreamer`, one frame long.
        peak_memory_bytes (`int`): On a GPU, the candidate's weights plus the peak of the memory allocated by a call.
        step_bytes (`int`): Bytes that a step must read: weights, and keys and values at the call's mean length.
        limit_ms (`float`): `step_bytes` divided by the measured bandwidth.
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
    step_bytes: int | None = None
    limit_ms: float | None = None


@dataclass
class SpeedReport:
    """Result of `measure_speed`.

    Args:
        settings (`dict`): Settings of the run.
        frame_rate (`float`): Frame rate of the codec in hertz.
        bandwidth (`float`): Memory bandwidth measured in this run, in bytes per second.
        process_peak_bytes (`int`): Peak memory of the whole process. The candidates share the process, so that on a CPU
            there is no value for a single candidate.
        candidates (`list[Speed]`): In the order in which they were given.
    """

    settings: dict[str, Any]
    frame_rate: float
    bandwidth: float
    process_peak_bytes: int
    candidates: list[Speed]


def exact_length(model: Any, num_frames: int, **sampling: Any) -> GenerationConfig:
    """Return a generation config with which a model, ours or transformers', generates exactly `num_frames` frames."""
    decoder = model.config.decoder_config
    ids = {name: getattr(decoder, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**ids, max_new_tokens=num_frames, min_new_tokens=num_frames, **sampling)


class _Stamps(BaseStreamer):
    """Records the time of each frame."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: no frame is buffered."""


@dataclass
class _Iteration:
    """Measurements of one call."""

    steps_ms: list[float]
    first_frame_ms: float
    call_seconds: float
    codec_seconds: float
    audio_seconds: float
    memory_bytes: int | None


@dataclass
class _Workload:
    """Inputs and settings shared by all candidates."""

    inputs: Mapping[str, torch.Tensor]
    processor: DiaProcessor
    do_sample: bool
    device: torch.device

    def generate(self, candidate: Candidate, num_frames: int, **options: Any) -> torch.Tensor:
        """Generate exactly `num_frames` frames."""
        torch.manual_seed(0)
        config = exact_length(candidate.model, num_frames, **PUBLISHED_SAMPLING, do_sample=self.do_sample)
        return candidate.model.generate(**self.inputs, generation_config=config, **candidate.options, **options)

    def decode(self, candidate: Candidate, codes: torch.Tensor) -> float:
        """Run the codec as the candidate's processor does; return the duration of the audio in seconds."""
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
    """Measure the generation speed of several candidates, alternating between them.

    Args:
        candidates (`Sequence[Candidate]`): As returned by `make_candidates`. Ratios are relative to the first one that
            is not ours.
        inputs (`Mapping[str, torch.Tensor]`): Arguments of `generate` on the models' device, without a voice prompt.
        processor (`DiaProcessor`): Processor with a codec.
        num_frames (`int`): New frames per call, at least `max(delay_pattern) + 5`.
        do_sample (`bool`, defaults to `True`): Sample with the published parameters, or decode greedily; both with
            guidance.
        repeats (`int`, defaults to 3): Iterations per candidate, after one warm-up.
        say (`Callable`, *optional*): Function called with a progress message.

    Returns:
        `SpeedReport`.

    Raises:
        ValueError: If `num_frames` is too small to produce audio, or `repeats` is less than 1.

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
        raise ValueError(f"{num_frames} frames are too few to measure steps and produce audio; give at least {fewest}.")
    if repeats < 1:
        raise ValueError(f"`repeats` is {repeats}; at least one iteration is needed.")
    device = torch.device(model.device)
    workload = _Workload(inputs, processor, do_sample, device)
    iterations: dict[str, list[_Iteration]] = {one.name: [] for one in candidates if one.unavailable is None}
    reasons = {candidate.name: candidate.unavailable for candidate in candidates}
    memory: dict[str, int | None] = {}
    for number in range(repeats + 1):
        for candidate in candidates:
            if reasons[candidate.name] is None:
                say(f"{candidate.name}: {f'iteration {number} of {repeats}' if number else 'warm-up'}")
                try:
                    iteration = _run_once(workload, candidate, num_frames)
                except Exception as error:  # a failure of the baseline is a result; a failure of ours is an error
                    if candidate.is_ours:
                        raise
                    reasons[candidate.name] = f"failed: {type(error).__name__}: {error}".splitlines()[0]
                    continue
                iterations[candidate.name] += [iteration] if number else []
                # The warm-up counts here: it may allocate memory that later calls reuse.
                memory[candidate.name] = max(iteration.memory_bytes or 0, memory.get(candidate.name) or 0) or None

    baseline = next((c.name for c in candidates if not c.is_ours and iterations.get(c.name)), None)
    text_bytes = inputs["input_ids"].shape[1]
    process_peak_bytes = _process_peak_bytes()  # before the bandwidth measurement allocates its own
    say("memory bandwidth")
    bandwidth = read_bandwidth(device)
    results = []
    for candidate in candidates:
        if reasons[candidate.name] is not None:
            results.append(Speed(candidate.name, reasons[candidate.name]))
            continue
        speed = _summarize(candidate.name, iterations[candidate.name])
        speed.peak_memory_bytes = memory[candidate.name]
        if baseline is not None:
            speed.ratio = _ratio(iterations[baseline], iterations[candidate.name])
        speed.step_bytes = weight_bytes(candidate.model) + cache_bytes(
            model.config, len(inputs["input_ids"]), 1 + num_frames / 2, text_bytes, candidate.model.dtype
        )
        speed.limit_ms = 1e3 * speed.step_bytes / bandwidth
        if candidate.is_ours:
            say(f"{candidate.name}: first chunk")
            _, *times = (_first_chunk_ms(workload, candidate) for _ in range(repeats + 1))
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


def _run_once(workload: _Workload, candidate: Candidate, num_frames: int) -> _Iteration:
    stamps, memory_before = _Stamps(), None
    if workload.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(workload.device)
        memory_before = torch.cuda.memory_allocated(workload.device)
    synchronize(workload.device)
    start = time.perf_counter()
    codes = workload.generate(candidate, num_frames, streamer=stamps)
    synchronize(workload.device)
    end = time.perf_counter()
    memory = None
    if memory_before is not None:
        weights = sum(map(stored_bytes, candidate.model.state_dict().values()))
        memory = weights + torch.cuda.max_memory_allocated(workload.device) - memory_before
    audio_seconds = workload.decode(candidate, codes)
    synchronize(workload.device)
    frames = np.array(stamps.times[1:])  # the first call of `put` passes the prompt
    if len(frames) != num_frames:
        raise RuntimeError(f"{candidate.name} generated {len(frames)} frames instead of {num_frames}")
    return _Iteration(
        steps_ms=(1e3 * np.diff(frames)[_SKIPPED_STEPS:]).tolist(),
        first_frame_ms=1e3 * float(frames[0] - start),
        call_seconds=end - start,
        codec_seconds=time.perf_counter() - end,
        audio_seconds=audio_seconds,
        memory_bytes=memory,
    )


def _summarize(name: str, iterations: Sequence[_Iteration]) -> Speed:
    medians = {
        key: statistics.median(getattr(iteration, key) for iteration in iterations)
        for key in ("first_frame_ms", "call_seconds", "codec_seconds", "audio_seconds")
    }
    return Speed(name, step=Milliseconds.of([step for one in iterations for step in one.steps_ms]), **medians)


def _ratio(theirs: Sequence[_Iteration], ours: Sequence[_Iteration]) -> float:
    """Return the median speedup over iterations: other load slows both candidates of an iteration down."""
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(statistics.median(a.steps_ms) / statistics.median(b.steps_ms) for a, b in pairs)


def _first_chunk_ms(workload: _Workload, candidate: Candidate) -> float:
    streamer = DiaAudioStreamer(workload.processor)
    num_frames = streamer.config.steps_for_frames(streamer.num_steps_before_sound)

    def generate(streamer: BaseStreamer) -> None:
        workload.generate(candidate, num_frames, streamer=streamer)

    start = time.perf_counter()
    with closing(streamer.listen(generate)) as chunks:
        next(chunks)
        return 1e3 * (time.perf_counter() - start)


def _process_peak_bytes() -> int:
    # `ru_maxrss` is in kilobytes on Linux and in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
