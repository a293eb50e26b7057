"""Memory of long dialogues: scripts with increasing numbers of turns, streamed, each in a separate process.

    python benchmarks/long_dialogue.py [TURNS ...]

Runs the embedded miniature. Prints a line of JSON for each number of turns (default: 25, 50, 100, 200): the process's
peak memory, its growth after the first chunk of text, and the largest step of the waveform at a join of two chunks and
within chunks.
"""

import json
import resource
import subprocess
import sys
import time
import warnings

import numpy as np
import torch

from dia_hf import Dia


def peak_megabytes() -> float:
    """Return the peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speak(num_turns: int) -> None:
    """Stream a script, and print the measurements."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dia = Dia.from_pretrained(device="cpu")
    script = " ".join(f"[S{1 + i % 2}] This is what I say today, and it is not very fast." for i in range(num_turns))
    # Short chunks: the miniature was trained on clips of at most 15 s, prompts included.
    dialogue = dia.dialogue(script, chunk_length_s=(2, 4), seed=0)
    start, num_samples, early, last = time.perf_counter(), 0, None, 0.0
    at_joins, within = 0.0, 0.0
    for chunk in dialogue.stream():
        # The sample at which a chunk of text ends is known before the next one's first sample.
        joins = np.cumsum(dialogue.num_frames) * dia.processor.codec.hop_length
        steps = np.abs(np.diff(chunk, prepend=last))
        last = chunk[-1]
        is_join = np.isin(np.arange(num_samples, num_samples + len(chunk)), joins)
        at_joins = max(at_joins, float(steps[is_join].max(initial=0)))
        within = max(within, float(steps[~is_join].max(initial=0)))
        num_samples += len(chunk)
        if early is None and len(joins) and num_samples > joins[0]:
            early = peak_megabytes()
    print(
        json.dumps(
            {
                "turns": num_turns,
                "chunks": len(dialogue.chunks),
                "audio_seconds": round(num_samples / dia.sampling_rate, 1),
                "peak_mb": round(peak_megabytes()),
                "growth_after_first_chunk_mb": round(peak_megabytes() - (early or peak_megabytes()), 1),
                "waveform_mb": round(num_samples * 4 / 2**20, 1),
                "largest_step_at_a_join": round(at_joins, 3),
                "largest_step_within": round(within, 3),
                "seconds": round(time.perf_counter() - start, 1),
            }
        ),
        flush=True,
    )


def main(*turns: str) -> None:
    """Run each number of turns in a separate process."""
    for number in turns or ("25", "50", "100", "200"):
        subprocess.run([sys.executable, __file__, "--speak", number], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--speak"]:
        speak(int(sys.argv[2]))
    else:
        main(*sys.argv[1:])
