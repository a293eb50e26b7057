"""Step 1, `make corpus`: let flite say each word, and some sentences, with two voices.

A unit is a word in one voice. It is cut out of a carrier sentence at the times that flite gives for its sounds, framed
by silence, and padded to whole frames. All that the miniature will ever say is made of these units and of silence, so
that a text has one right answer.

    python teacher.py WORK    # writes WORK/units.npz and WORK/sentences.npz
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dia_hf.asr.wer import read_vocabulary

SAMPLING_RATE = 16000  # flite's own, and the recognizer's
HOP_LENGTH = 512  # samples a frame, as Dia's codec; here 31.25 frames a second instead of 86
VOCABULARY = Path(__file__).with_name("vocabulary.txt")
VOICES = {"[S1]": "rms", "[S2]": "slt"}
NUM_SENTENCES = 400  # a voice; of ordinary speech, so that the codec is trained on more than units
_BEFORE, _AFTER = "now we say", "again now"
_LEAD, _FADE, _TAIL = 128, 64, 256  # samples of silence before a unit, of its fades, and of silence after it at least
_PEAK = 0.7


def speak(text: str, voice: str) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """Let flite say a text: samples `[N]`, float32, and each sound with the second at which it ends."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", voice, "-t", text, "-o", file.name, "-psdur"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        with wave.open(file.name) as sound:
            if sound.getframerate() != SAMPLING_RATE:
                raise ValueError(f"flite's voice {voice!r} has {sound.getframerate()} Hz; expected {SAMPLING_RATE}.")
            samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
    sounds = [part.rsplit(":", 1) for part in printed.split()]
    return samples.astype(np.float32) / 2**15, [(name, float(end)) for name, end in sounds]


def cut_unit(word: str, voice: str) -> np.ndarray:
    """Return a unit as samples `[T · HOP_LENGTH]`."""
    # The first and the last of the sounds are silence; the carrier has as many as it has by itself.
    num_before, num_after = (len(speak(text, voice)[1]) - 2 for text in (_BEFORE, _AFTER))
    samples, sounds = speak(f"{_BEFORE} {word} {_AFTER}.", voice)
    start, end = sounds[num_before][1], sounds[len(sounds) - 2 - num_after][1]
    unit = samples[int(start * SAMPLING_RATE) : int(end * SAMPLING_RATE)].copy()
    unit *= _PEAK / np.abs(samples).max()
    ramp = np.linspace(0, 1, _FADE, dtype=np.float32)
    unit[:_FADE] *= ramp
    unit[-_FADE:] *= ramp[::-1]
    num_frames = -(-(_LEAD + len(unit) + _TAIL) // HOP_LENGTH)
    return np.pad(unit, (_LEAD, num_frames * HOP_LENGTH - _LEAD - len(unit)))


def main(work: str) -> None:
    """Write the corpus."""
    words, _ = read_vocabulary(VOCABULARY)
    keys = [(word, voice) for word in words for voice in VOICES.values()]
    draw = random.Random(0)
    texts = [
        (" ".join(draw.choice(words) for _ in range(draw.randint(3, 8))) + ".", voice)
        for voice in VOICES.values()
        for _ in range(NUM_SENTENCES)
    ]
    with ThreadPoolExecutor() as pool:
        cut = pool.map(lambda key: cut_unit(*key), keys)
        units = list(tqdm(cut, "units", len(keys)))
        said = pool.map(lambda text: speak(*text)[0], texts)
        sentences = [samples * (_PEAK / np.abs(samples).max()) for samples in tqdm(said, "sentences", len(texts))]
    Path(work).mkdir(parents=True, exist_ok=True)
    for name, sounds in (("sentences", sentences), ("units", units)):  # units.npz tells `make` that both exist
        together = np.rint(np.concatenate(sounds) * 32767).astype(np.int16)
        np.savez(Path(work, f"{name}.npz"), samples=together, lengths=[len(sound) for sound in sounds])
    frames = sum(len(unit) for unit in units) // HOP_LENGTH
    print(f"{len(words)} words, {len(units)} units of {frames / len(units):.1f} frames on average")


if __name__ == "__main__":
    main(*sys.argv[1:])
