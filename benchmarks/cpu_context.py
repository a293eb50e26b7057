"""Cost of text and of earlier frames in a decoder step on a CPU, against the time to read their keys and values.

    python benchmarks/cpu_context.py [--threads 2] [--layers 6] [--rounds 40]

Random weights of the published width. A step with 1,000 bytes of text, one with 3,000 frames in the cache, and one with
neither take turns; the cost is the median over rounds of the difference within a round. What the bytes say is their
number divided by the read bandwidth, measured in the same run. Alone (two rows), and eight at once (sixteen rows) with
fewer frames, to bound the memory. Writes results/cpu_context.md and .json; exits with 1 if an aim was missed. Takes
about a minute.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import turns
from dia_hf.bench import make_config, make_model, tables
from dia_hf.bench.limits import cache_bytes, read_bandwidth
from dia_hf.engine.decoder import FrameDecoder, make_frame_decoder

RESULTS = Path(__file__).resolve().parent / "results"
AIM = 1.5
_WARM_UP = 3


@dataclass
class Context:
    """What a step reads besides the weights, and its measurements.

    Args:
        name (`str`): Its name.
        batch_size (`int`): Samples, under guidance.
        text_bytes, frames (`int`): Text and frames in the cache.
        steps_ms (`list[float]`): A step of each round.
        more_ms (`float`): Cost: median over rounds of the difference from the step with neither.
        more_bytes (`int`): Keys and values that it reads and the step with neither does not.
        read_ms (`float`): `more_bytes` at the measured bandwidth.
    """

    name: str
    batch_size: int
    text_bytes: int
    frames: int
    steps_ms: list[float]
    more_ms: float = 0.0
    more_bytes: int = 0
    read_ms: float = 0.0


class Steps:
    """Steps of a network over one cache, filled with random keys and values.

    Args:
        network (`FrameDecoder`): The network.
        batch_size (`int`): Samples, under guidance.
        text_bytes, frames (`int`): To fill.
    """

    def __init__(self, network: FrameDecoder, batch_size: int, text_bytes: int, frames: int) -> None:
        self.network, self.num_bytes = network, text_bytes
        self.cache = network.new_cache(batch_size, True, frames + 1, text_bytes)
        tensors = (self.cache.keys, self.cache.values, self.cache.text_keys, self.cache.text_values)
        for tensor in (tensor for kind in tensors for tensor in kind):
            tensor.uniform_(-0.3, 0.3)
        self.cache.text_mask.fill_(True)
        self.tokens = torch.zeros(batch_size, network.config.num_channels, dtype=torch.long)
        self.lengths = torch.full((2 * batch_size,), frames)
        self.axis = network.axis[: frames + 1]

    def take(self) -> float:
        """Take one step; return its milliseconds."""
        start = time.perf_counter()
        self.network.step(self.cache, self.tokens, self.lengths, self.axis, self.num_bytes, False, False)
        return 1e3 * (time.perf_counter() - start)


@torch.inference_mode()
def measure(network: FrameDecoder, model_config: object, contexts: list[Context], rounds: int) -> None:
    """Measure contexts of one batch size, in turn; the first is the one with neither text nor frames."""
    steps = [Steps(network, one.batch_size, one.text_bytes, one.frames) for one in contexts]
    for number in range(_WARM_UP + rounds):
        for one, step in zip(contexts, steps, strict=True):
            value = step.take()
            if number >= _WARM_UP:
                one.steps_ms.append(value)
    least = contexts[0]
    for one in contexts:
        sizes = [
            cache_bytes(model_config, each.batch_size, each.frames + 1, each.text_bytes, network.dtype)  # type: ignore[arg-type]
            for each in (one, least)
        ]
        one.more_bytes = sizes[0] - sizes[1]
        one.more_ms = statistics.median(a - b for a, b in zip(one.steps_ms, least.steps_ms, strict=True))


def main() -> int:
    """Measure, print the table, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of an operator (2)")
    parser.add_argument("--layers", type=int, default=6, help="of the decoder (6 of 18)")
    parser.add_argument("--rounds", type=int, default=40, help="steps of each kind (40)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder (results)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load_before = os.getloadavg()[0]
    config = make_config("full")
    config.decoder_config.num_hidden_layers = args.layers
    config.encoder_config.num_hidden_layers = 1  # it has no part in a step
    network = make_frame_decoder(make_model(config, dtype=getattr(torch, args.dtype)))
    bandwidths = [read_bandwidth("cpu")]
    groups = [
        [
            Context("neither", batch, 1, 1, []),
            Context("1,000 bytes of text", batch, 1000, 1, []),
            Context(f"{frames:,} frames", batch, 1, frames, []),
            Context("both", batch, 1000, frames, []),
        ]
        for batch, frames in ((1, 3000), (8, 1000))
    ]
    for group in groups:
        turns.say(f"batch {group[0].batch_size}")
        measure(network, config, group, args.rounds)
    bandwidths.append(read_bandwidth("cpu"))
    bandwidth = max(bandwidths)

    lines = [
        "| batch | in the cache | step, ms (p10 to p90) | cost, ms | MB of keys and values | what they say, ms "
        f"| cost / that | ≤ {AIM:g} |",
        "|---" * 8 + "|",
    ]
    is_met = True
    for one in (one for group in groups for one in group):
        one.read_ms = 1e3 * one.more_bytes / bandwidth
        p10, *_, p90 = statistics.quantiles(one.steps_ms, n=10)
        cells = [str(one.batch_size), one.name, f"{statistics.median(one.steps_ms):.1f} ({p10:.1f} to {p90:.1f})"]
        if one.more_bytes:
            share = one.more_ms / one.read_ms
            is_met &= share <= AIM
            cells += [f"{one.more_ms:.2f}", f"{one.more_bytes / 1e6:.0f}", f"{one.read_ms:.2f}", f"{share:.2f}"]
            cells += ["yes" if share <= AIM else "no"]
        else:
            cells += [""] * 5
        lines.append(f"| {' | '.join(cells)} |")
    machine = tables.environment("cpu")
    method = (
        f"`python benchmarks/cpu_context.py --threads {args.threads} --layers {args.layers} --rounds {args.rounds}"
        f"{'' if args.dtype == 'bfloat16' else f' --dtype {args.dtype}'}`: {args.layers} of 18 layers of the "
        f"published width in {args.dtype}, random weights, under guidance; the kinds of step in turn, {args.rounds} "
        "rounds, cost: median of the difference from the step with neither in the same round. Memory reads at "
        f"{bandwidth / 1e9:.1f} GB/s ({' and '.join(f'{value / 1e9:.1f}' for value in bandwidths)} before and after). "
        f"{turns.describe_machine(machine, args.threads, load_before)}"
    )
    text = "\n\n".join(["# Text and frames in a step", turns.wrap(method), "\n".join(lines)])
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "cpu_context.md").write_text(text + "\n", "utf-8")
    named = {f"batch {one.batch_size}, {one.name}": one for group in groups for one in group}
    tables.write_json(args.output / "cpu_context.json", {**machine, "bandwidths": bandwidths}, contexts=named)
    print(text)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
