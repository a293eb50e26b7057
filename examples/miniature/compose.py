"""Step 3, part of `make model`: sentences of units, as text with codes, in the form that `dia-hf prepare` writes.

A text is drawn word by word, each as likely as any other, so that the miniature learns words and no sentences. What its
audio is follows from it: each word's unit in the speaker's voice, and silence after a comma, a sentence and a turn.

A tenth of all pairs of neighboring words is never trained on. Sentences to evaluate with are made of such pairs only.

    python compose.py words|phrases|dialogues WORK   # writes WORK/clips-words, …
    python compose.py evaluation WORK                # writes WORK/evaluation.jsonl and the flite audio beside it,
                                                     # with ordinary speech of both voices, to know them by

Legend: T frames, C codebooks.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm
from transformers import DacModel

from codec import read_codes, read_sounds
from dia_hf.asr.wer import read_vocabulary
from dia_hf.audio.dac import DacCodec
from teacher import HOP_LENGTH, SAMPLING_RATE, VOCABULARY, VOICES

SEED = 0
HELD_OUT = 0.1  # of the pairs of words
# Frames of silence before all, after a comma, and after a sentence or turn. The last one ends like any other, so that a
# chunk of a dialogue, the prompt of the next one, sounds no different from the middle of a clip.
LEAD, COMMA, SENTENCE = 2, 5, 8
MAX_FRAMES = 480  # of a clip to train on; a longer one is drawn again
# A share of the clips has so few different words that they recur, and their position determines the next one.
FEW_WORDS, SHARE_OF_FEW = 6, 0.25
# Clips of each part of the training, and from how many words to how many they have, each with its weight. Single words
# come first: which word belongs to which sound is learned there in minutes, and in sentences not in hours.
PARTS: dict[str, tuple[int, dict[tuple[int, int], float]]] = {
    "words": (24_000, {(1, 1): 1}),
    "phrases": (60_000, {(1, 2): 1, (3, 5): 3}),
    "dialogues": (120_000, {(1, 2): 2, (3, 8): 12, (8, 16): 4, (16, 30): 2}),
}
# A share of the clips begins in the middle: the prompt of a dialogue's chunk has no silence before it. Its first frame
# is given, as nothing else determines it.
SHARE_IN_THE_MIDDLE = 0.2
NUM_EVALUATED = 200
NUM_TO_KNOW = 4  # sentences by which a voice is known: some 10 s


@functools.cache
def is_held_out(first: str, second: str) -> bool:
    """Say whether two neighboring words are kept from the training."""
    digest = hashlib.blake2b(f"{first} {second}".lower().encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < HELD_OUT * 2**32


class Clip:
    """A text that grows word by word, and the units that say it; -1 is a frame of silence."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.text = ""
        self.units = [-1] * LEAD

    def add_turn(self, speaker: str, sentences: list[list[int]], marks: list[str], commas: set[int]) -> None:
        """Add what one speaker says: numbers of words, and each sentence's mark, which may be missing."""
        self.text += f" {speaker}" if self.text else speaker
        count = 0
        for sentence, mark in zip(sentences, marks, strict=True):
            for place, number in enumerate(sentence):
                word = self.words[number]
                self.text += " " + (word[0].upper() + word[1:] if place == 0 else word)
                self.units.append(len(VOICES) * number + list(VOICES).index(speaker))
                if count in commas and place < len(sentence) - 1:
                    self.text += ","
                    self.units += [-1] * COMMA
                count += 1
            self.text += mark
            self.units += [-1] * SENTENCE


def draw_words(
    words: list[str], count: int, draw: random.Random, only_held_out: bool, few: list[int] | None = None
) -> list[int]:
    """Draw words' numbers, some few's as far as that goes, so that each pair is held out, or none is."""
    everything = list(range(len(words)))
    chosen: list[int] = []

    def follow(options: list[int]) -> list[int]:
        if not chosen:
            return options
        return [option for option in options if is_held_out(words[chosen[-1]], words[option]) == only_held_out]

    while len(chosen) < count:
        options = follow(few or everything) or follow(everything)
        if not options:
            which = "held out" if only_held_out else "left to train on"
            raise ValueError(
                f"no pair that begins with {words[chosen[-1]]!r} is {which}; give more words, or change `HELD_OUT`."
            )
        chosen.append(draw.choice(options))
    return chosen


def draw_clip(
    words: list[str],
    num_words: int,
    num_turns: int,
    draw: random.Random,
    only_held_out: bool,
    few: list[int] | None = None,
) -> Clip:
    """Draw a clip of so many words, shared out among turns and sentences."""
    chosen = draw_words(words, num_words, draw, only_held_out, few)
    num_sentences = min(num_words, num_turns + (draw.random() < 0.3))
    cuts = [0, *sorted(draw.sample(range(1, num_words), num_sentences - 1)), num_words]
    sentences = [chosen[start:end] for start, end in itertools.pairwise(cuts)]
    clip = Clip(words)
    speakers = list(VOICES)[:: draw.choice([1, -1])]
    num_turns = min(num_turns, num_sentences)
    for turn in range(num_turns):
        mine = sentences[turn : turn + 1] if turn < num_turns - 1 else sentences[turn:]
        marks = [draw.choices([".", "?", "!"], [6, 3, 1])[0] for _ in mine]
        marks[-1] = draw.choices([marks[-1], ""], [9, 1])[0]
        count = sum(map(len, mine))
        commas = {place for place in range(count) if draw.random() < 0.08}
        clip.add_turn(speakers[turn % 2], mine, marks, commas)
    return clip


def vary_capitals(text: str, draw: random.Random) -> str:
    """Write a text as people do: mostly properly, sometimes without capitals."""
    if draw.random() < 0.85:
        return text
    parts = re.split("(" + "|".join(map(re.escape, VOICES)) + ")", text)
    return "".join(part if part in VOICES else part.lower() for part in parts)


def train_clips(work: Path, part: str) -> Iterator[dict[str, Any]]:
    """Yield rows of a prepared dataset."""
    codes, silence = read_codes(work / "codes.npz")
    sounds, quiet = [unit.numpy().astype(np.int16) for unit in codes], silence.numpy().astype(np.int16)
    (words, _), draw, number = read_vocabulary(VOCABULARY), random.Random(f"{part} {SEED}"), 0
    num_clips, lengths = PARTS[part]
    with tqdm(total=num_clips, desc="clips", mininterval=5) as bar:
        while number < num_clips:
            num_words = draw.randint(*draw.choices(list(lengths), list(lengths.values()))[0])
            num_turns = max(draw.choices([1, 2, 3, 4, 6], [5, 3, 1, 1, 1])[0], num_words // 8)
            few = draw.sample(range(len(words)), FEW_WORDS) if draw.random() < SHARE_OF_FEW else None
            clip = draw_clip(words, num_words, min(num_turns, num_words), draw, only_held_out=False, few=few)
            in_the_middle = num_words > 2 and draw.random() < SHARE_IN_THE_MIDDLE
            units = clip.units[LEAD:] if in_the_middle else clip.units
            frames = np.concatenate([quiet if unit < 0 else sounds[unit] for unit in units])
            if len(frames) > MAX_FRAMES:
                continue
            yield {
                "id": f"{part}-{number:06d}",
                "text": vary_capitals(clip.text, draw),
                "codes": frames,
                "prompt_frames": int(in_the_middle),
                "seconds": len(frames) * HOP_LENGTH / SAMPLING_RATE,
            }
            number += 1
            bar.update()


def write_training_clips(work: Path, part: str) -> None:
    """Write a part's clips, which `dia-hf finetune` takes."""
    import datasets

    folder, cache = work / f"clips-{part}", work / f"cache-{part}"
    for stale in (folder, cache):
        shutil.rmtree(stale, ignore_errors=True)
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "codes": datasets.Array2D((None, 9), "int16"),
            "prompt_frames": datasets.Value("int32"),
            "seconds": datasets.Value("float32"),
        }
    )
    clips = datasets.Dataset.from_generator(
        train_clips,
        features,
        cache_dir=str(cache),
        gen_kwargs={"work": work, "part": part},
    )
    clips.save_to_disk(folder)
    shutil.rmtree(cache)
    codec = DacCodec(DacModel.from_pretrained(work / "codec"))
    about = {
        "version": 1,
        "codec": {
            "fingerprint": codec.fingerprint,
            "sampling_rate": codec.sampling_rate,
            "hop_length": codec.hop_length,
            "num_codebooks": codec.num_codebooks,
        },
        "speaker_tokens": list(VOICES),
        "settings": {},
        "num_clips": len(clips),
        "seconds": sum(clips["seconds"]),
    }
    (folder / "prepared.json").write_text(json.dumps(about, indent=1))


def write_evaluation(work: Path) -> None:
    """Write sentences that were held out, with the flite audio and the codes that they should become."""
    words, _ = read_vocabulary(VOCABULARY)
    units, (codes, silent_code) = read_sounds(work / "units.npz"), read_codes(work / "codes.npz")
    draw = random.Random(SEED + 1)
    (work / "evaluation").mkdir(exist_ok=True)
    spoken, voices = read_sounds(work / "sentences.npz"), {}
    for place in range(len(VOICES)):
        start = place * len(spoken) // len(VOICES)
        file = Path("evaluation", f"voice{place + 1}.wav")
        soundfile.write(work / file, np.concatenate(spoken[start : start + NUM_TO_KNOW]), SAMPLING_RATE)
        voices[f"prompt_audio_speaker{place + 1}"] = file.as_posix()  # without a transcript: for the judges alone
    with open(work / "evaluation.jsonl", "w", encoding="utf-8") as table:
        for number in range(NUM_EVALUATED):
            num_turns = draw.choices([1, 2, 3], [6, 3, 1])[0]
            clip = draw_clip(words, draw.randint(3, 8), num_turns, draw, only_held_out=True)
            sound = np.concatenate([np.zeros(HOP_LENGTH) if unit < 0 else units[unit].numpy() for unit in clip.units])
            frames = np.concatenate([(silent_code if unit < 0 else codes[unit]).numpy() for unit in clip.units])
            file = Path("evaluation", f"{number:03d}.wav")
            soundfile.write(work / file, sound, SAMPLING_RATE)
            row = {"text": clip.text, "audio": file.as_posix(), "codes": frames.tolist(), **voices}
            table.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*PARTS, "evaluation"])
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    if args.what in PARTS:
        write_training_clips(args.work, args.what)
    else:
        write_evaluation(args.work)
