"""Text that streams in, at the pace of a language model, against a request with the whole text.

    python benchmarks/text_streaming.py [--runs 5] [--model miniature]

A client sends a text to `dia-hf serve` over its WebSocket in pieces of four characters, 20 a second, and plays the
audio as it comes. Measured: the time to the first sound, and the gaps that the player has. With `split_granularity`
"none" the server waits for the whole text. Writes results/text_streaming.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from dataclasses import dataclass, field

import numpy as np
from websockets.asyncio.client import connect

from dia_hf.bench import tables
from serving_load import RESULTS, describe_machine, serve, wrap
from turns import spread

TEXT = (
    "Hello, my name is Dia. The cat and the dog sleep in the garden today. My brother and my sister read a book of a "
    "happy lion in the snow. I love this music, we can play it now, and sing all night. Where is the white rabbit? "
    "It is here, in the old house, and it wants to eat an apple. "
)
PIECE, PACE = 4, 1 / 20  # characters of a piece; seconds from one to the next
FIRST = TEXT.index(".") + 2  # characters of the first sentence, with the space after it
SPLITS = ("sentence", "clause", "none")
RATE = 24_000


@dataclass
class Heard:
    """One utterance, as its player hears it; times in seconds."""

    first_sentence: float = 0.0  # when its last character was sent, from the first piece on
    first_sound: float = 0.0
    gaps: list[float] = field(default_factory=list)  # in which the player had nothing
    samples: list[np.ndarray] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # of sentences, in samples


async def hear(url: str, split: str, seed: int) -> Heard:
    """Send the text, and play what comes."""
    heard = Heard()
    async with connect(url, max_size=None) as socket:
        config = {"response_format": "pcm", "stream_audio": True, "split_granularity": split, "seed": seed}
        await socket.send(json.dumps({"type": "session.config", **config}))
        await socket.recv()
        begin = time.perf_counter()

        async def send() -> None:
            for number, place in enumerate(range(0, len(TEXT), PIECE)):
                await asyncio.sleep(begin + number * PACE - time.perf_counter())
                await socket.send(json.dumps({"type": "input.text", "text": TEXT[place : place + PIECE]}))
                if place < FIRST <= place + PIECE:
                    heard.first_sentence = time.perf_counter() - begin
            await socket.send(json.dumps({"type": "input.done"}))

        sending = asyncio.create_task(send())
        playing_until, num_samples = 0.0, 0
        while True:
            message = await socket.recv()
            now = time.perf_counter() - begin
            if isinstance(message, str):
                kind = json.loads(message)["type"]
                if kind == "audio.done":
                    heard.ends.append(num_samples)
                if kind in ("session.done", "error"):
                    break
                continue
            samples = np.frombuffer(message, "<i2")
            if not heard.samples:
                heard.first_sound = playing_until = now
            elif now > playing_until:
                heard.gaps.append(now - playing_until)
                playing_until = now
            heard.samples.append(samples)
            num_samples += len(samples)
            playing_until += len(samples) / RATE
        await sending
    return heard


def step_at_joins(heard: Heard) -> float:
    """Return the largest step from sample to sample where sentences join, over the largest step within them."""
    steps = np.abs(np.diff(np.concatenate(heard.samples).astype(float)))
    joins = [end - 1 for end in heard.ends[:-1]]
    return steps[joins].max() / np.delete(steps, joins).max()


def describe(runs: dict[str, list[Heard]], args: argparse.Namespace) -> str:
    """Write the page."""
    rows = []
    for split, heard in runs.items():
        latency = [1000 * (one.first_sound - one.first_sentence) for one in heard]
        gaps = [1000 * sum(one.gaps) for one in heard]
        same = len({np.concatenate(one.samples).tobytes() for one in heard}) == 1
        cells = [split, spread([one.first_sound for one in heard], 2), spread(latency, 0), spread(gaps, 0)]
        cells.append("yes" if same else "no")
        cells += [f"{max(map(step_at_joins, heard)):.3f}" if len(heard[0].ends) > 1 else "-"]
        rows.append(f"| {' | '.join(cells)} |")
    seconds = len(np.concatenate(runs["sentence"][0].samples)) / RATE
    method = (
        f"`python benchmarks/text_streaming.py --runs {args.runs}`: {args.model}, behind `dia-hf serve`, speaks a text "
        f"of {len(TEXT)} characters in six sentences ({seconds:.1f} s of audio), which comes in pieces of {PIECE} "
        f"characters, 20 a second, in {len(TEXT) / PIECE * PACE:.1f} s. Server and client are two processes on the "
        "same cores, with one thread for an operator. "
        + describe_machine(tables.environment("cpu"))
        + f" Load average at the end, which other work raises above 2: {os.getloadavg()[0]:.0f}."
    )
    notes = (
        "Median, lowest and highest value of the runs, which take turns. The latency is from the last character of the "
        "first sentence to its first sound; with `none`, the server waits for the whole text, as a request over HTTP "
        "does. Gaps are those of a player that begins with the first chunk. All runs have the same seed. The last "
        "column is the largest step between two samples where sentences join, over the largest step within them."
    )
    names = (
        "`split_granularity`",
        "first sound, s",
        "latency, ms",
        "gaps, ms",
        "same audio in all runs",
        "step at joins",
    )
    head = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n\n".join(["# Text that streams in", wrap(method), "\n".join([*head, *rows]), wrap(notes)]) + "\n"


async def measure(url: str, num_runs: int) -> dict[str, list[Heard]]:
    """Hear the text by each split in turn."""
    runs: dict[str, list[Heard]] = {split: [] for split in SPLITS}
    for number in range(num_runs + 1):
        for split in SPLITS:
            heard = await hear(url, split, seed=7)
            if number > 0:  # the first turn warms up
                runs[split].append(heard)
    return runs


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each split (5)")
    parser.add_argument("--model", default="miniature", help="folder or Hub id (miniature)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as voices:
        command = ["-m", "dia_hf_command", "serve", "--model", args.model, "--port", "0", "--voices", voices]
        with serve([*command, "--port-file"]) as served:
            url = f"{served.url.replace('http', 'ws')}/v1/audio/speech/stream"
            runs = asyncio.run(measure(url, args.runs))
    page = describe(runs, args)
    (RESULTS / "text_streaming.md").write_text(page, "utf-8")
    print(page)


if __name__ == "__main__":
    main()
