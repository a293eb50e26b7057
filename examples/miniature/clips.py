"""Step 4, part of `make model`: sentences in flite's voices as codes, and clips of them to train on.

A sentence is said and encoded once. Clips are put together of sentences: alone, as a dialogue of the two speakers, as a
passage of one of them, or behind sentences of the same voice, which are given as a prompt. Dialogues and passages may
begin with a prompt, too, as the chunks of a long text do.

    python clips.py speech WORK 2400            # writes WORK/speech.npz, which the codec is trained on
    python clips.py sentences WORK 20000        # writes WORK/sentences/, in parts of 1,000; goes on where it stopped
    python clips.py clips WORK alone 10000      # writes WORK/clips-alone of as many sentences, the first ones, in the
                                                # form that `dia-hf prepare` writes
    python clips.py own WORK 4000 --model MODEL # writes WORK/own.npz, sentences that a model says; clips that are
                                                # written after that have them as prompts, too

`--seed` draws others.

Legend: T frames, C codebooks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import DacModel

from content_codec import HOP_LENGTH, Coder
from dia_hf import Dia
from dia_hf.audio.dac import DacCodec
from dia_hf.speech.script import ends_sentence
from flite import PITCH_HOP, SAMPLING_RATE, VOICES, Sound, Speech, place_sounds, speak
from texts import Texts

SPEAKERS = {"[S1]": "rms", "[S2]": "slt"}  # without a prompt
SHARE_OF_OTHERS = 0.3  # of the sentences are in other voices, for prompts
LEAD, TAIL = 2, 4  # frames of silence before the first sound and, at least, after the last one
PART = 1000  # sentences a file
MAX_FRAMES = 380  # of a clip
# Kinds of clips in each part of the training, each with its weight.
KINDS: dict[str, dict[str, float]] = {
    "alone": {"alone": 1},
    "mixed": {"alone": 3, "dialogue": 2, "passage": 3, "prompt": 2},
}
SHARE_OF_CHUNKS = 0.7  # of dialogues and passages begin with a prompt
SHARE_OF_SPLITS = 0.5  # of these prompts end inside of a sentence, as far as the same speaker goes on
SHARE_OF_OWN = 0.6  # of these prompts are said by the model itself, where it has said something
OWN_BATCH, OWN_FRAMES = 40, 190  # sentences that it says at once, and how long they may be
SHARE_OF_REPEATS = 0.1  # of clips in which a speaker says several sentences say one of them twice
NUM_CLIPS = {"alone": 1, "mixed": 3}  # for each sentence


def cut(speech: Speech) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut or add silence so that the first sound begins at a frame, and the sentence ends with one.

    Returns:
        `tuple`: Samples `[T · HOP_LENGTH]`, their pitch, and which of the given samples is the first of them (below 0:
        silence).
    """
    samples, sounds, pitch = speech
    hop, pauses = HOP_LENGTH, [sound.name == "pau" for sound in sounds]
    start = sounds[0].end if pauses[0] else 0.0
    end = sounds[-2].end if pauses[-1] and len(sounds) > 1 else sounds[-1].end
    first, last = round(start * SAMPLING_RATE) - LEAD * hop, round(end * SAMPLING_RATE) + TAIL * hop
    padded = np.pad(samples, (max(0, -first), max(0, last - len(samples))))
    kept = padded[max(0, first) : max(0, -first) + last]
    kept = np.pad(kept, (0, -len(kept) % hop))
    of_pitch = (first + np.arange(PITCH_HOP // 2, len(kept), PITCH_HOP)) // PITCH_HOP
    is_known = (of_pitch >= 0) & (of_pitch < len(pitch))
    return kept, np.where(is_known, pitch[of_pitch.clip(0, len(pitch) - 1)], 0.0).astype(np.float32), first


def find_places(text: str, sounds: list[Sound], first: int, num_frames: int) -> np.ndarray:
    """Say which character of a text is spoken in the middle of each frame, `[T]`."""
    ends, places = [sound.end for sound in sounds], np.array(place_sounds(text, sounds), dtype=np.int16)
    seconds = (first + (np.arange(num_frames) + 0.5) * HOP_LENGTH) / SAMPLING_RATE
    return places[np.searchsorted(ends, seconds).clip(max=len(sounds) - 1)]


class Sentence(NamedTuple):
    """A sentence in a voice: its codes `[T, C]`, and which character is spoken in each frame, `[T]`; -1 is unknown."""

    text: str
    codes: np.ndarray
    places: np.ndarray

    @property
    def is_open(self) -> bool:
        """Whether it ends inside of a sentence; one with a tag at its end, such as "(laughs)", is taken for whole."""
        return not ends_sentence(self.text) and not self.text.endswith(")")


def keep(found: list[tuple[str, Sentence]], file: Path) -> None:
    """Write sentences, each with its voice or speaker."""
    new = file.with_suffix(".new.npz")
    voices, sentences = zip(*found, strict=True)
    texts, codes, places = zip(*sentences, strict=True)
    lengths = list(map(len, codes))
    np.savez(
        new, voices=voices, texts=texts, codes=np.concatenate(codes), places=np.concatenate(places), lengths=lengths
    )
    new.replace(file)


def read(file: Path) -> Iterator[tuple[str, Sentence]]:
    """Yield what `keep` has written."""
    with np.load(file) as found:
        ends = np.cumsum(found["lengths"])[:-1]
        codes, places = (np.split(found[key], ends) for key in ("codes", "places"))
        for voice, *sentence in zip(found["voices"].tolist(), found["texts"].tolist(), codes, places, strict=True):
            yield voice, Sentence(*sentence)


def write_speech(work: Path, count: int, seed: int = 0) -> None:
    """Write speech of all voices, most of it in those of the speakers."""
    texts, draw = Texts(work), random.Random(f"speech {seed}")
    weights = [6 if voice in SPEAKERS.values() else 1 for voice in VOICES]
    spoken, pitches = [], []
    for _ in tqdm(range(count), "sentences", mininterval=5):
        voice = draw.choices(list(VOICES), weights)[0]
        samples, pitch, _ = cut(speak(texts.draw(draw, "sentence"), voice))
        spoken.append(np.rint(samples.clip(-1, 1) * 32767).astype(np.int16))
        pitches.append(pitch)
    lengths = [len(samples) for samples in spoken]
    samples, pitch = np.concatenate(spoken), np.concatenate(pitches)
    np.savez(work / "speech.npz", samples=samples, pitch=pitch, lengths=lengths)


def write_sentences(work: Path, count: int, seed: int = 0) -> None:
    """Let flite say sentences, and write their codes."""
    folder, texts, coder = work / "sentences", Texts(work), Coder.load(work)
    folder.mkdir(exist_ok=True)
    others = [voice for voice in VOICES if voice not in SPEAKERS.values()]
    for part in tqdm(range(-(-count // PART)), f"{PART} sentences each"):
        file, draw = folder / f"{part:04d}.npz", random.Random(f"sentences {seed} {part}")
        if file.exists():
            continue
        found: list[tuple[str, Sentence]] = []
        while len(found) < PART:
            text = texts.draw(draw)
            voice = draw.choice(others if draw.random() < SHARE_OF_OTHERS else list(SPEAKERS.values()))
            speech = speak(text, voice)
            if all(sound.name == "pau" for sound in speech.sounds):
                continue
            samples, pitch, first = cut(speech)
            if len(samples) > MAX_FRAMES * HOP_LENGTH:
                continue
            codes = coder(torch.from_numpy(samples), torch.from_numpy(pitch)).numpy().astype(np.int16)
            places = find_places(text, speech.sounds, first, len(codes))
            found.append((voice, Sentence(text, codes, places)))
        keep(found, file)


def write_own(work: Path, count: int, model: str, seed: int = 0) -> None:
    """Let a trained model say sentences, half of them behind others of its own, as the chunks of a long text are.

    What it says differs from what flite says, and is wrong at times.
    """
    dia, texts, draw = Dia.from_pretrained(model, device="cpu"), Texts(work), random.Random(f"own {seed}")
    found: list[tuple[str, Sentence]] = []
    torch.manual_seed(seed)
    for _ in tqdm(range(0, count, OWN_BATCH), f"{OWN_BATCH} sentences each", mininterval=5):
        prompts = [draw.choice(found) if found and draw.random() < 0.5 else None for _ in range(OWN_BATCH)]
        rows = [(draw.choice(list(SPEAKERS)) if prompt is None else prompt[0], texts.draw(draw)) for prompt in prompts]
        inputs = dia.processor(
            text=[
                " ".join([tag, *([] if prompt is None else [prompt[1].text]), text])
                for prompt, (tag, text) in zip(prompts, rows, strict=True)
            ],
            audio=[
                None if prompt is None else torch.from_numpy(prompt[1].codes.astype(np.int64)) for prompt in prompts
            ],
        )
        spoken = dia.model.generate(**inputs, max_new_tokens=dia.config.steps_for_frames(OWN_FRAMES))
        begin = dia.processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
        for (tag, text), codes in zip(rows, dia.processor.extract_codes(spoken, begin), strict=True):
            if 0 < len(codes) < OWN_FRAMES:  # it has ended
                found.append((tag, Sentence(text, codes.numpy().astype(np.int16), np.full(len(codes), -1, np.int16))))
    keep(found, work / "own.npz")


class Sentences:
    """What `write_sentences` wrote, in memory."""

    def __init__(self, folder: Path, count: int) -> None:
        self.by_voice: dict[str, list[Sentence]] = defaultdict(list)
        for part in range(-(-count // PART)):
            for voice, sentence in read(folder / f"{part:04d}.npz"):
                self.by_voice[voice].append(sentence)
        # Those of each speaker that the model has said: those that end with the sentence, and those that end inside.
        self.own: dict[tuple[str, bool], list[Sentence]] = defaultdict(list)
        if (file := folder.with_name("own.npz")).exists():
            for tag, sentence in read(file):
                self.own[tag, sentence.is_open].append(sentence)
        self.voices = list(self.by_voice)
        self.sizes = [len(self.by_voice[voice]) for voice in self.voices]
        # Those that end or begin inside of a sentence.
        self.open = {voice: [one for one in found if one.is_open] for voice, found in self.by_voice.items()}
        self.going_on = {
            voice: [one for one in found if one.text[0].islower()] for voice, found in self.by_voice.items()
        }

    def draw(self, voice: str, draw: random.Random) -> Sentence:
        """Draw a sentence of a voice."""
        return draw.choice(self.by_voice[voice])

    def draw_split(self, voice: str, draw: random.Random) -> tuple[Sentence, Sentence]:
        """Draw a text that ends inside of a sentence, and one that begins there, as far as there are any."""
        every = self.by_voice[voice]
        return draw.choice(self.open[voice] or every), draw.choice(self.going_on[voice] or every)


def draw_turns(sentences: Sentences, kind: str, draw: random.Random) -> list[tuple[str, Sentence]]:
    """Draw the sentences of a clip, each with its speaker."""
    speaker = draw.choice(list(SPEAKERS))
    speakers, voices = [speaker], SPEAKERS
    if kind == "dialogue":
        others = [one for one in SPEAKERS if one != speaker]
        order = [(speaker, *others)[turn % 2] for turn in range(draw.randint(2, 4))]
        speakers = [one for one in order for _ in range(draw.choice([1, 1, 2]))]
    elif kind == "passage":
        speakers *= draw.randint(2, 8)
    elif kind == "prompt":
        speakers *= draw.choice([2, 2, 3, 4])
        voices = dict.fromkeys(SPEAKERS, draw.choices(sentences.voices, sentences.sizes)[0])
    turns = [(one, sentences.draw(voices[one], draw)) for one in speakers]
    # All lengths are alike.
    limit = draw.uniform(0.2, 1) * MAX_FRAMES
    ends = itertools.accumulate(len(sentence.codes) for _, sentence in turns)
    return turns[: max(2, sum(end <= limit for end in ends))]


def vary(
    sentences: Sentences, kind: str, turns: list[tuple[str, Sentence]], num_prompt: int, draw: random.Random
) -> None:
    """Let some clips say a sentence twice, and some prompts end inside of a sentence, or be said by the model."""
    pairs = [pair for pair in itertools.combinations(range(len(turns)), 2) if len({turns[one][0] for one in pair}) == 1]
    if pairs and draw.random() < SHARE_OF_REPEATS:
        first, second = draw.choice(pairs)
        turns[second] = turns[first]
    elif kind != "prompt" and (num_prompt - 1, num_prompt) in pairs and draw.random() < SHARE_OF_SPLITS:
        speaker = turns[num_prompt][0]
        for turn, sentence in enumerate(sentences.draw_split(SPEAKERS[speaker], draw), num_prompt - 1):
            turns[turn] = speaker, sentence
    if kind != "prompt" and sentences.own and draw.random() < SHARE_OF_OWN:
        for turn, (speaker, sentence) in enumerate(turns[:num_prompt]):
            turns[turn] = speaker, draw.choice(sentences.own.get((speaker, sentence.is_open)) or [sentence])


def draw_clip(sentences: Sentences, name: str, draw: random.Random) -> dict[str, Any]:
    """Draw a clip. Its first sentences may be a prompt: a chunk of a long text, or a recording of a voice."""
    kind = draw.choices(list(KINDS[name]), list(KINDS[name].values()))[0]
    turns, num_prompt = draw_turns(sentences, kind, draw), 0
    if kind == "prompt" or (kind != "alone" and draw.random() < SHARE_OF_CHUNKS):
        num_prompt = draw.randint(1, len(turns) - 1)
    vary(sentences, kind, turns, num_prompt, draw)
    if kind == "prompt":  # recordings have no silence around them
        trims = (0, slice(draw.randint(0, LEAD), None)), (num_prompt - 1, slice(-draw.randint(0, TAIL) or None))
        for turn, kept in trims:
            speaker, sentence = turns[turn]
            turns[turn] = speaker, Sentence(sentence.text, sentence.codes[kept], sentence.places[kept])
    text, last, places = "", "", []
    for one, sentence in turns:
        text += (" " if text else "") + ("" if one == last else f"{one} ")
        # A tag is one byte.
        start, last = len(text) - sum(text.count(tag) * (len(tag) - 1) for tag in SPEAKERS), one
        text += sentence.text
        places.append(np.where(sentence.places < 0, -1, start + sentence.places))
    return {
        "text": text,
        "codes": np.concatenate([sentence.codes for _, sentence in turns]),
        "places": np.concatenate(places),
        "prompt_frames": sum(len(sentence.codes) for _, sentence in turns[:num_prompt]),
    }


def clips(work: Path, name: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows of a prepared dataset."""
    sentences, draw = Sentences(work / "sentences", count), random.Random(f"clips {name} {seed}")
    for number in tqdm(range(count * NUM_CLIPS[name]), "clips", mininterval=5):
        clip = draw_clip(sentences, name, draw)
        while len(clip["codes"]) > MAX_FRAMES:
            clip = draw_clip(sentences, name, draw)
        seconds = len(clip["codes"]) * HOP_LENGTH / SAMPLING_RATE
        yield {"id": f"{name}-{number:06d}", **clip, "seconds": seconds}


def write_clips(work: Path, name: str, count: int, seed: int = 0) -> None:
    """Write a part's clips, which `dia-hf finetune` takes."""
    import datasets

    folder, cache = work / f"clips-{name}", work / f"cache-{name}"
    for stale in (folder, cache):
        shutil.rmtree(stale, ignore_errors=True)
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "codes": datasets.Array2D((None, 9), "int16"),
            "places": datasets.Sequence(datasets.Value("int16")),
            "prompt_frames": datasets.Value("int32"),
            "seconds": datasets.Value("float32"),
        }
    )
    arguments = {"work": work, "name": name, "count": count, "seed": seed}
    rows = datasets.Dataset.from_generator(clips, features, cache_dir=str(cache), gen_kwargs=arguments)
    rows.save_to_disk(folder)
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
        "speaker_tokens": list(SPEAKERS),
        "settings": {},
        "num_clips": len(rows),
        "seconds": sum(rows["seconds"]),
    }
    (folder / "prepared.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for what in ("speech", "sentences", "own", "clips"):
        command = commands.add_parser(what)
        command.add_argument("work", type=Path)
        if what == "clips":
            command.add_argument("name", choices=list(KINDS))
        command.add_argument("count", type=int)
        if what == "own":
            command.add_argument("--model", required=True)
        command.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    arguments = vars(parser.parse_args())
    steps: dict[str, Callable[..., None]] = {
        "speech": write_speech,
        "sentences": write_sentences,
        "own": write_own,
        "clips": write_clips,
    }
    steps[arguments.pop("what")](**arguments)
