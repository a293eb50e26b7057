"""Part of `make evaluate`: whose voice is heard, whether a prompt's voice is taken over, and a text of minutes.

    python measure.py WORK    # reads WORK/english; writes WORK/measured.json

Voices are compared by Resemblyzer: a sentence is in the voice whose mean is nearest. The means are of sentences that
flite says, others than are generated.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencex import segment
from tqdm import tqdm

from clips import SPEAKERS, cut
from dia_hf import Dia
from dia_hf.asr.recognizers import load_recognizer
from dia_hf.asr.wer import english_words_of, word_errors
from dia_hf.evaluation.judges import RESEMBLYZER, load_speaker_model
from dia_hf.speech.voices import Voice
from flite import SAMPLING_RATE, VOICES, speak

SEED = 0
NUM_SENTENCES, NUM_KNOWN = 200, 12  # of each voice's mean
BATCH_SIZE = 20
MIN_PROMPT, MAX_PROMPT = 3.0, 7.0  # seconds


def embed(judge: Any, sound: np.ndarray) -> np.ndarray:
    """Return the embedding of a sound, of length 1."""
    found = judge.embed(np.asarray(sound, dtype=np.float32), SAMPLING_RATE)
    return found / max(float(np.linalg.norm(found)), 1e-9)


def draw_prompts(texts: list[str], count: int) -> list[tuple[str, str, np.ndarray]]:
    """Return voices, texts and flite's audio of prompts, all voices by turns."""
    draw = random.Random(SEED)
    prompts: list[tuple[str, str, np.ndarray]] = []
    while len(prompts) < count:
        voice, text = list(VOICES)[len(prompts) % len(VOICES)], draw.choice(texts)
        sound = cut(speak(text, voice))[0]
        if MIN_PROMPT <= len(sound) / SAMPLING_RATE <= MAX_PROMPT:
            prompts.append((voice, text, sound))
    return prompts


def share_of_nearest(sounds: Iterable[np.ndarray], right: list[str], means: dict[str, np.ndarray], judge: Any) -> float:
    """Return how many sounds are nearest to the right mean."""
    names, table = list(means), np.stack(list(means.values()))
    nearest = [names[int(np.argmax(table @ embed(judge, sound)))] for sound in tqdm(sounds, "voices", mininterval=5)]
    return float(np.mean([found == voice for found, voice in zip(nearest, right, strict=True)]))


def measure_voices(dia: Dia, texts: list[str]) -> dict[str, float]:
    """Measure whether speakers have their voice, and prompts pass theirs on."""
    judge, result = load_speaker_model(RESEMBLYZER), {}
    known, spoken = texts[: NUM_KNOWN * 2], texts[NUM_KNOWN * 2 :][:NUM_SENTENCES]
    means = {
        voice: np.mean([embed(judge, speak(text, voice).samples) for text in known[:NUM_KNOWN]], axis=0)
        for voice in VOICES
    }
    tags = [list(SPEAKERS)[number % len(SPEAKERS)] for number in range(len(spoken))]
    right = [SPEAKERS[tag] for tag in tags]
    scripts = [f"{tag} {text}" for tag, text in zip(tags, spoken, strict=True)]
    sounds = dia.generate(scripts, seed=SEED, max_batch_size=BATCH_SIZE)
    of_speakers = {voice: means[voice] for voice in SPEAKERS.values()}
    result["speakers"] = share_of_nearest(sounds, right, of_speakers, judge)
    prompts = draw_prompts(known[NUM_KNOWN:], len(spoken))
    result["prompts heard as themselves"] = share_of_nearest(
        [sound for *_, sound in prompts], [voice for voice, *_ in prompts], means, judge
    )
    voices = [
        Voice.from_audio(sound, f"{tag} {text}", dia.processor, SAMPLING_RATE)
        for tag, (_, text, sound) in zip(tags, prompts, strict=True)
    ]
    sounds = dia.generate(scripts, voice=voices, seed=SEED, max_batch_size=BATCH_SIZE)
    result["clones"] = share_of_nearest(sounds, [voice for voice, *_ in prompts], means, judge)
    return result


def measure_book(dia: Dia, text: str) -> dict[str, float]:
    """Measure word errors of a long text in one go, and sentence by sentence."""
    recognizer, result = load_recognizer("whisper-tiny.en"), {}
    sentences = [part.strip() for part in segment("en", text) if part.strip()]
    dialogue = dia.dialogue(f"[S1] {text}", seed=SEED)
    whole = dialogue.generate()
    result["book, seconds"] = len(whole) / SAMPLING_RATE
    total = word_errors(text, recognizer.transcribe(whole, SAMPLING_RATE), english_words_of)
    result["book, whole"] = total.errors / total.words
    sounds = dia.generate([f"[S1] {one}" for one in sentences], seed=SEED, max_batch_size=BATCH_SIZE)
    heard = " ".join(recognizer.transcribe(sound, SAMPLING_RATE) for sound in sounds)
    apart = word_errors(text, heard, english_words_of)
    result["book, sentence by sentence"] = apart.errors / apart.words
    return result


def measure(work: Path) -> None:
    """Write all figures."""
    dia = Dia.from_pretrained(work / "english", device="cpu")
    rows = [json.loads(line) for line in (work / "held-out.jsonl").read_text("utf-8").splitlines()]
    texts = [row["text"] for row in rows if row["group"] in ("middle", "long")]
    random.Random(SEED).shuffle(texts)
    figures = measure_voices(dia, texts) | measure_book(dia, (work / "book.txt").read_text("utf-8").strip())
    (work / "measured.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    torch.set_num_threads(1)
    measure(parser.parse_args().work)
