"""Latency of streaming: frames before the first chunk, and the time to it relative to the time of the whole call.

    python benchmarks/streaming.py [MODEL]

MODEL is a folder or a Hub id; default: the embedded miniature. Prints a line of JSON.
"""

import json
import sys
import time

import torch

from dia_hf import MINIATURE, Dia
from dia_hf.generation import DiaAudioStreamer

SECONDS = 3.0


def main(model: str = MINIATURE) -> None:
    """Generate three seconds at once and streamed."""
    torch.set_num_threads(1)  # on a CPU, two threads that share cores with others block each other
    dia = Dia.from_pretrained(model)
    streamer = DiaAudioStreamer(dia.processor)
    options = {"seed": 0, "max_seconds": SECONDS}
    dia.generate("[S1] Warm.", max_seconds=0.2)
    start = time.perf_counter()
    whole = dia.generate("[S1] Hello, how are you today?", **options)
    at_once = time.perf_counter() - start

    start = time.perf_counter()
    chunks = dia.stream("[S1] Hello, how are you today?", **options)
    received = [next(chunks)]
    first = time.perf_counter() - start
    received.extend(chunks)
    streamed = time.perf_counter() - start
    difference = abs(torch.cat([torch.from_numpy(chunk) for chunk in received]) - torch.from_numpy(whole)).max()
    print(
        json.dumps(
            {
                "delay_frames": dia.model.config.max_delay,
                "decoder_margin_frames": dia.processor.codec.decoder_margin,
                "steps_before_sound": streamer.num_steps_before_sound,
                "audio_seconds": round(len(whole) / dia.sampling_rate, 2),
                "chunks": len(received),
                "first_chunk_over_whole": round(first / at_once, 3),
                "streamed_over_whole": round(streamed / at_once, 2),
                "largest_difference": float(f"{difference:.1e}"),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
