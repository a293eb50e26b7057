"""Measure the times of words while they are spoken, on the embedded miniature.

    python benchmarks/live_word_times.py --output live_word_times.json

- Times: sentences, half of them greedy, as `Dia.stream` tells their words, and as `Dia.generate` does.
- Cost: the processor time of a stream, and of a batch of a `SpeechEngine`, with and without times, in turns.
- Path: the time to follow a frame, at a text of 200 bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dia_hf import Dia
from dia_hf.generation.alignment import PathSearch
from dia_hf.generation.spoken_path import PathFollower, audio_lag
from dia_hf.speech import SpeechEngine, SpeechRequest
from word_times import draw_texts


def compare_times(dia: Dia, number: int) -> dict[str, Any]:
    """Compare the words of streams with those of the whole, and note how long before a word's last audio it is told."""
    num_words, differences, is_missing = 0, [], 0
    for seed, text in enumerate(tqdm(draw_texts(number, 99), "times")):
        options: dict[str, Any] = {"seed": seed, "temperature": 0 if seed % 2 else None, "return_timestamps": "word"}
        whole = {word.start_char: word for word in dia.generate(text, **options)[1]}
        streamed = {word.start_char: word for _, words in dia.stream(text, **options) for word in words}
        is_missing += len(whole.keys() ^ streamed.keys())
        num_words += len(whole)
        for place in whole.keys() & streamed.keys():
            mine, other = streamed[place], whole[place]
            if difference := max(abs(mine.start - other.start), abs(mine.end - other.end)):
                differences.append(1000 * difference)
    return {
        "sentences": number,
        "words": num_words,
        "words in one of the two only": is_missing,
        "words with another time": len(differences),
        "largest difference ms": round(max(differences, default=0.0)),
    }


def ratio_of(plain: Callable[[], None], timed: Callable[[], None], rounds: int) -> dict[str, float]:
    """Return the processor time of a call as a share of that of another, in turns with it."""

    def take(call: Callable[[], None]) -> float:
        begin = time.process_time()
        call()
        return time.process_time() - begin

    take(plain), take(timed)
    ratios, seconds, before = [], [], take(plain)
    for _ in range(rounds):
        own, after = take(timed), take(plain)
        ratios.append(2 * own / (before + after))
        seconds.append(before)
        before = after
    quartiles = np.percentile(ratios, [25, 75]).round(3).tolist()
    return {"without s": round(statistics.median(seconds), 3), "ratio": round(statistics.median(ratios), 3)} | {
        "quartiles": quartiles
    }


def measure_cost(dia: Dia, size: int, rounds: int) -> dict[str, Any]:
    """Measure streams and batches with and without times."""
    texts = draw_texts(size, 7)

    def stream(unit: Any) -> None:
        for _ in dia.stream(texts[0], seed=3, return_timestamps=unit):
            pass

    with SpeechEngine(dia, max_batch_size=size) as engine:

        def batch(unit: Any) -> None:
            handles = [engine.submit(SpeechRequest(text, seed=3, timestamps=unit)) for text in texts]
            for handle in handles:
                for _ in handle:
                    handle.take_times()

        return {
            "stream": ratio_of(lambda: stream(None), lambda: stream("word"), rounds),
            f"batch of {size}": ratio_of(lambda: batch(None), lambda: batch("word"), rounds),
        }


def measure_path(dia: Dia, num_bytes: int = 200, num_frames: int = 800) -> dict[str, Any]:
    """Measure the time to follow a frame, where frames come one by one."""
    draw = random.Random(0)
    weights = torch.softmax(3 * torch.randn(num_frames, num_bytes, generator=torch.Generator().manual_seed(0)), -1)
    follower = PathFollower(
        PathSearch([draw.random() < 0.2 for _ in range(num_bytes)]), audio_lag(dia.config, dia.processor.codec)
    )
    begin = time.perf_counter()
    for row in weights.split(1):
        follower.add(row)
    return {"text bytes": num_bytes, "microseconds a frame": round(1e6 * (time.perf_counter() - begin) / num_frames, 1)}


def main() -> None:
    """Run the measurements, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    dia = Dia.from_pretrained()
    result = {
        "times": compare_times(dia, args.sentences),
        "cost": measure_cost(dia, args.batch, args.rounds),
        "path": measure_path(dia),
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if args.output is not None:
        args.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
