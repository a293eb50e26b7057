"""Scripts of 60 words over several passes, against their sentences one by one: part of `make evaluate`.

    python dialogues.py WORK    # writes WORK/dialogues.json

Counts wrong words of both, greedy, and looks for clicks: the largest step from one sample to the next within a frame of
where two passes meet, against the largest anywhere else.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from compose import SEED, draw_words
from dia_hf import Dia
from dia_hf.asr.recognizers import Recognizer, load_recognizer
from dia_hf.asr.wer import read_vocabulary, word_errors
from teacher import HOP_LENGTH, VOCABULARY

NUM_SCRIPTS, NUM_TURNS, TURN_WORDS = 5, 10, 6
GREEDY: dict[str, Any] = {"temperature": 0, "cfg_scale": 1}


def draw_script(words: list[str], draw: random.Random) -> list[str]:
    """Draw turns, each a sentence of one speaker, whose pairs of words were kept from the training."""
    turns = []
    for turn in range(NUM_TURNS):
        said = " ".join(words[number] for number in draw_words(words, TURN_WORDS, draw, only_held_out=True))
        turns.append(f"[S{turn % 2 + 1}] {said[0].upper()}{said[1:]}.")
    return turns


def count_errors(text: str, waveform: np.ndarray, dia: Dia, recognizer: Recognizer) -> np.ndarray:
    """Return wrong words and words."""
    counted = word_errors(text, recognizer.transcribe(waveform, dia.sampling_rate))
    return np.array([counted.errors, counted.words])


def find_steps(lengths: list[int], waveform: np.ndarray) -> tuple[float, float]:
    """Return the largest step between samples within a frame of a join, and elsewhere."""
    steps = np.abs(np.diff(waveform))
    is_join = np.zeros(len(steps), dtype=bool)
    for join in np.cumsum(lengths)[:-1] * HOP_LENGTH:
        is_join[join - HOP_LENGTH : join + HOP_LENGTH] = True
    return float(steps[is_join].max()), float(steps[~is_join].max())


def main(work: str) -> None:
    """Speak and listen."""
    dia, (words, pronunciations) = Dia.from_pretrained(Path(work, "miniature")), read_vocabulary(VOCABULARY)
    recognizer = load_recognizer("pocketsphinx", words, pronunciations)
    draw = random.Random(SEED + 2)
    errors = {"one pass": np.zeros(2, dtype=int), "several passes": np.zeros(2, dtype=int)}
    num_passes, at_joins, elsewhere = 0, 0.0, 0.0
    for _ in tqdm(range(NUM_SCRIPTS), "scripts"):
        turns = draw_script(words, draw)
        for turn in turns:
            spoken: Any = dia.generate(turn, **GREEDY)
            errors["one pass"] += count_errors(turn, spoken, dia, recognizer)
        script = " ".join(turns)
        dialogue = dia.dialogue(script, seed=SEED, **GREEDY)
        spoken, lengths = dialogue.generate(), dialogue.num_frames
        errors["several passes"] += count_errors(script, spoken, dia, recognizer)
        steps = find_steps(lengths, spoken)
        num_passes, at_joins, elsewhere = num_passes + len(lengths), max(at_joins, steps[0]), max(elsewhere, steps[1])
    rates = {name: float(wrong / said) for name, (wrong, said) in errors.items()}
    report = {
        "scripts": NUM_SCRIPTS,
        "words": int(errors["one pass"][1]),
        "passes": num_passes,
        "word errors": rates,
        "largest step between samples": {"at joins": at_joins, "elsewhere": elsewhere},
    }
    Path(work, "dialogues.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
