"""Step 3, `make spelling`: the text encoder learns how texts are pronounced, before it hears any sound.

Each byte of a text predicts its sounds, by a layer that is thrown away afterwards: those of a word are spread evenly
over its letters, as in `places` of `clips.py`. That takes minutes where learning letters from speech takes hours: a
text has fewer positions than its speech, and each of them teaches.

    python spelling.py WORK --steps 3000    # writes WORK/model-spelling: a trained encoder, an untrained decoder

Legend: B texts, S bytes, K sounds a byte at most, V kinds of sounds.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dia_hf import MINIATURE, DiaConfig, DiaForConditionalGeneration, DiaProcessor
from dia_hf.asr.wer import word_errors
from dia_hf.modeling_dia import DiaEncoder
from dia_hf.training.muon import MuonBeside
from flite import place_sounds, pronounce
from resumable import DEVICE, train
from texts import Texts

SEED = 0
BATCH_SIZE = 32
SOUNDS_PER_BYTE = 4
LEARNING_RATE, MUON_RATE, BETAS = 5e-3, 1.5e-3, (0.9, 0.98)
VOWELS = re.findall(r"\w+", "aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw")
CONSONANTS = re.findall(r"\w+", "b ch d dh f g hh jh k l m n ng p r s sh t th v w y z zh")
SOUNDS = [
    *("-", "pau", *CONSONANTS),
    *(vowel + stress for vowel in VOWELS for stress in ("", "1")),
]
NUMBERS = {sound: number for number, sound in enumerate(SOUNDS)}
NUM_TESTED = 300


def spell(text: str) -> torch.Tensor:
    """Return the sounds of each character of a text `[S, K]` as numbers, 0 for none; stress makes another sound."""
    sounds = pronounce(text)
    spelled = torch.zeros(len(text), SOUNDS_PER_BYTE, dtype=torch.long)
    count = [0] * len(text)
    for sound, place in zip(sounds, place_sounds(text, sounds), strict=True):
        if count[place] < SOUNDS_PER_BYTE:
            spelled[place, count[place]] = NUMBERS[sound.name + "1" * (sound.stressed and sound.name in VOWELS)]
            count[place] += 1
    return spelled


def make_model(recipe: Path) -> DiaForConditionalGeneration:
    """Make the untrained model."""
    torch.manual_seed(SEED)
    base = DiaConfig.from_pretrained(MINIATURE).to_dict()
    for part, values in yaml.safe_load(recipe.read_text("utf-8"))["config"].items():
        base[part] |= values
    return DiaForConditionalGeneration(DiaConfig(**base))


class Speller(nn.Module):
    """Text encoder with a layer that says which sounds each byte makes."""

    def __init__(self, encoder: DiaEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sounds = nn.Linear(encoder.config.hidden_size, SOUNDS_PER_BYTE * len(SOUNDS))

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return scores of sounds, `[B, S, K, V]`."""
        states = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return self.sounds(states).unflatten(2, (SOUNDS_PER_BYTE, -1)).float()


def make_batch(texts: list[str], tokenizer: Any) -> tuple[torch.Tensor, ...]:
    """Return ids `[B, S]`, mask `[B, S]` and sounds `[B, S, K]`, -100 behind a text's end."""
    ids, sounds = [], []
    for text in texts:
        ids.append(torch.tensor(tokenizer(f"[S1] {text}")["input_ids"]))
        spelled = spell(text)
        sounds.append(F.pad(spelled, (0, 0, len(ids[-1]) - len(spelled), 0)))  # the tag has no sound
    mask = pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
    padded = pad_sequence(ids, batch_first=True), mask, pad_sequence(sounds, batch_first=True, padding_value=-100)
    return tuple(tensor.to(DEVICE) for tensor in padded)


def count_errors(found: list[int], right: list[int]) -> int:
    """Return how many sounds have to be changed, put in or left out."""
    said, heard = (" ".join(map(str, sounds)) for sounds in (right, found))
    return word_errors(said, heard, str.split).errors


@torch.no_grad()
def test(speller: Speller, texts: list[str], tokenizer: Any) -> float:
    """Return the share of the sounds of texts that are wrong."""
    speller.eval()
    errors = total = 0
    for start in range(0, len(texts), BATCH_SIZE):
        ids, mask, sounds = make_batch(texts[start : start + BATCH_SIZE], tokenizer)
        best = speller(ids, mask).argmax(-1)
        for found, right, kept in zip(best, sounds, mask.bool(), strict=True):
            spoken = right[kept][right[kept] > 0].tolist()
            errors += count_errors(found[kept][found[kept] > 0].tolist(), spoken)
            total += len(spoken)
    speller.train()
    return errors / total


def decay(step: int, steps: int) -> float:
    """Return the factor of the learning rates: a short rise, and a fall over the second half."""
    return min(1.0, (step + 1) / 100, max(0.02, 2 * (steps - step) / steps))


def train_speller(work: Path, steps: int) -> None:
    """Train, from where an earlier run stopped, and write the model."""
    processor = DiaProcessor.from_pretrained(MINIATURE)
    tokenizer, texts = processor.tokenizer, Texts(work)
    model = make_model(Path(__file__).with_name("recipe.yaml"))
    speller = Speller(model.model.encoder).to(DEVICE).train()
    weights = list(speller.parameters())
    optimizer: Any = torch.optim.AdamW(weights, LEARNING_RATE, BETAS, weight_decay=0.01)
    optimizer = MuonBeside(optimizer, speller, MUON_RATE, 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: decay(step, steps))
    held_out = [row["text"] for row in map(json.loads, (work / "held-out.jsonl").read_text("utf-8").splitlines())]

    def compute_loss(step: int) -> tuple[torch.Tensor]:
        draw = random.Random(f"spelling {SEED} {step}")
        ids, mask, sounds = make_batch([texts.draw(draw) for _ in range(BATCH_SIZE)], tokenizer)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            scores = speller(ids, mask)
        return (F.cross_entropy(scores.flatten(0, 2), sounds.flatten()),)

    def measure() -> float:
        return test(speller, held_out[:NUM_TESTED], tokenizer)

    train("spelling", work, [speller], optimizer, schedule, compute_loss, steps, 1.0, measure)
    torch.save(speller.state_dict(), work / "speller.pt")
    model.save_pretrained(work / "model-spelling")
    processor.save_pretrained(work / "model-spelling")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train_speller(args.work, args.steps)
