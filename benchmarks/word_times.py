"""Measure the times of words, and wrong words of transcripts, on the embedded miniature.

    python benchmarks/word_times.py --output word_times.json     # needs Debian's flite, and the extra dev

flite says 200 sentences of frequent words, and tells when each sound is heard. They are aligned with their own
transcripts and others, and 40 of them as one. Then transcripts, three of four with one word replaced, added or left
out, are aligned with codes that the miniature spoke of the right text.

With --others N: the times of N of these sentences also by Whisper tiny.en (faster-whisper) and by pocketsphinx's forced
alignment, on the same audio (dia-hf[judges]).

With --cost instead: steps of the published size (random weights, int8) with and without recording, in turns.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wordfreq
from tqdm import tqdm

from cpu_context import Steps
from dia_hf import Dia
from dia_hf.asr.wer import spelled_words
from dia_hf.bench import make_config, make_model
from dia_hf.engine import make_frame_decoder
from dia_hf.quantization import quantize_model
from dia_hf.speech.aligned_clips import fits
from dia_hf.speech.script import parse_script

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "miniature"))
from clips import SPEAKERS, cut
from flite import SAMPLING_RATE, speak

_WORD = re.compile(r"(?<![\w\[])[A-Za-z']+(?![\w\]])")
_NUM_WORDS = 2000  # most frequent ones, of which sentences are made


def frequent_words() -> list[str]:
    """Return the words that sentences are made of."""
    found = wordfreq.top_n_list("en", 2 * _NUM_WORDS)
    return [word for word in found if word.isascii() and word.isalpha() and len(word) > 2][:_NUM_WORDS]


def draw_texts(number: int, seed: int) -> list[str]:
    """Draw sentences of 3 to 8 words in up to three turns."""
    words, draw, texts = frequent_words(), random.Random(seed), []
    for _ in range(number):
        num_turns = draw.choices([1, 2, 3], [6, 3, 1])[0]
        said = draw.sample(words, draw.randint(3, 8))
        cuts = [0, *sorted(draw.sample(range(1, len(said)), num_turns - 1)), len(said)]
        first, turns = draw.randrange(2), []
        for place in range(num_turns):
            turn = " ".join(said[cuts[place] : cuts[place + 1]]).capitalize()
            turns.append(f"{list(SPEAKERS)[(first + place) % 2]} {turn}.")
        texts.append(" ".join(turns))
    return texts


def record(text: str) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Let flite say a text; return the samples, and begin and end of each word in seconds."""
    parts, times, begin = [], [], 0.0
    for turn in parse_script(text):
        speech = speak(turn.text, SPEAKERS[turn.speaker])
        samples, _, first = cut(speech)
        offset, before, spans = begin - first / SAMPLING_RATE, 0.0, {}
        for sound in speech.sounds:
            if sound.name != "pau":
                start, _ = spans.get(sound.start_of_token, (before, 0.0))
                spans[sound.start_of_token] = start, sound.end
            before = sound.end
        times += [(start + offset, end + offset) for start, end in spans.values()]
        parts.append(samples)
        begin += len(samples) / SAMPLING_RATE
    return np.concatenate(parts), times


def times_in(text: str, words: list[Any]) -> list[tuple[float, float] | None]:
    """Return the time of each word of a text, None where it has none."""
    found = {word.start_char: (word.start, word.end) for word in words}
    return [found.get(match.start()) for match in _WORD.finditer(text)]


def compare(found: list[tuple[float, float] | None], right: list[tuple[float, float]]) -> list[float]:
    """Return the errors of the boundaries that are there."""
    pairs = [pair for pair in zip(found, right, strict=True) if pair[0] is not None]
    return [mine - true for ours, theirs in pairs for mine, true in zip(ours, theirs, strict=True)]


def measure_recordings(dia: Dia, number: int) -> dict[str, Any]:
    """Align recordings of flite: with their transcripts and others, and 40 sentences as one."""
    texts = draw_texts(number, 1)
    counts = {"right transcripts": 0, "told not to fit": 0, "others": 0, "others told not to fit": 0}
    errors, num_missing = [], 0
    for text, other in zip(tqdm(texts, "recordings"), [*texts[1:], texts[0]], strict=True):
        samples, right = record(text)
        words = dia.align(text, samples, SAMPLING_RATE)
        found = times_in(text, words)
        num_missing += found.count(None)
        errors += compare(found, right)
        counts["right transcripts"] += 1
        counts["told not to fit"] += not fits(words)
        counts["others"] += 1
        counts["others told not to fit"] += not fits(dia.align(other, samples, SAMPLING_RATE))
    parts, right, begin = [], [], 0.0
    for text in texts[:40]:
        samples, times = record(text)
        parts.append(samples)
        right += [(start + begin, end + begin) for start, end in times]
        begin += len(samples) / SAMPLING_RATE
    whole = "\n".join(texts[:40])
    long = compare(times_in(whole, dia.align(whole, np.concatenate(parts), SAMPLING_RATE)), right)
    return {
        "sentences": _summary(errors) | {"missing words": num_missing},
        "transcripts": counts,
        "seconds of 40 sentences": round(begin, 1),
        "40 sentences as one": _summary(long),
    }


def spoil(text: str, kind: str, draw: random.Random, words: list[str]) -> tuple[str, int]:
    """Put an error into a transcript; return it, and the place of the error."""
    places = list(_WORD.finditer(text))
    match = places[draw.randrange(1, len(places) - 1)] if len(places) > 2 else places[0]
    other = draw.choice([word for word in words if word.lower() != match[0].lower()])
    begin, end = match.span()
    if kind == "replaced":
        return text[:begin] + other + text[end:], begin
    if kind == "added":
        return f"{text[:begin]}{other} {text[begin:]}", begin
    return text[:begin] + text[end:].lstrip(" "), begin


def measure_errors(dia: Dia, number: int) -> dict[str, Any]:
    """Find wrong words by their evidence."""
    words = frequent_words()
    draw = random.Random(5)
    counts = {"errors": 0, "found": 0, "found within one word": 0, "right transcripts": 0, "wrongly flagged": 0}
    for right in tqdm(draw_texts(number, 5), "transcripts"):
        codes = dia.generate(right, temperature=0, return_codes=True)[1]
        kind = draw.choice(["right", "replaced", "added", "left out"])
        text, place = (right, None) if kind == "right" else spoil(right, kind, draw, words)
        aligned = dia.align(text, codes)
        flagged = [index for index, word in enumerate(aligned) if word.evidence < 0]
        if place is None:
            counts["right transcripts"] += 1
            counts["wrongly flagged"] += bool(flagged)
            continue
        here = next((index for index, word in enumerate(aligned) if word.end_char > place), len(aligned) - 1)
        counts["errors"] += 1
        counts["found"] += bool(flagged)
        counts["found within one word"] += any(abs(index - here) <= 1 for index in flagged)
    found, wrong = counts["found"], counts["wrongly flagged"]
    return counts | {"precision": round(found / (found + wrong), 4), "recall": round(found / counts["errors"], 4)}


def _summary(errors: list[float]) -> dict[str, Any]:
    size = 1000 * np.abs(errors)
    return {
        "boundaries": len(errors),
        "median ms": round(float(np.median(size)), 1),
        "95th percentile ms": round(float(np.percentile(size, 95)), 1),
        "bias ms": round(float(1000 * np.mean(errors)), 1),
    }


def measure_others(dia: Dia, number: int) -> dict[str, Any]:
    """Compare the times of words by the model and by other aligners with flite's own."""
    from dia_hf.asr.alignment import Aligner
    from dia_hf.asr.recognizers import load_recognizer, recognize

    whisper, sphinx = load_recognizer("whisper-tiny.en"), Aligner()
    errors: dict[str, list[float]] = {"attention": [], "whisper": [], "pocketsphinx": []}
    seconds, num_words = dict.fromkeys(errors, 0.0), 0
    for text in tqdm(draw_texts(number, 1), "others"):
        samples, right = record(text)
        begin = time.perf_counter()
        found = {"attention": times_in(text, dia.align(text, samples, SAMPLING_RATE))}
        seconds["attention"] += time.perf_counter() - begin
        begin = time.perf_counter()
        heard = recognize(whisper, samples, SAMPLING_RATE)[1] or []
        seconds["whisper"] += time.perf_counter() - begin
        spoken, plain = spelled_words(text), [re.sub(r"[^a-z']", "", word.text.lower()) for word in heard]
        found["whisper"] = [None] * len(spoken)
        for first, second, size in SequenceMatcher(None, spoken, plain, autojunk=False).get_matching_blocks():
            for place in range(size):
                word = heard[second + place]
                found["whisper"][first + place] = word.start, word.end
        begin = time.perf_counter()
        found["pocketsphinx"] = sphinx.align(spoken, samples, SAMPLING_RATE)
        seconds["pocketsphinx"] += time.perf_counter() - begin
        num_words += len(spoken)
        for name, times in found.items():
            errors[name] += compare(times, right)
    return {
        "words": num_words,
        "errors": {name: _summary(one) for name, one in errors.items()},
        "seconds": {name: round(one, 1) for name, one in seconds.items()},
    }


def measure_cost(text_bytes: int = 200, frames: int = 800, num_heads: int = 6, rounds: int = 60) -> dict[str, Any]:
    """Measure steps of the published size with and without recording, in turns."""
    model = quantize_model(make_model(make_config("full"), dtype=torch.bfloat16), "int8")
    network = make_frame_decoder(model)
    plain, recording = (Steps(network, 1, text_bytes, frames) for _ in range(2))
    heads = tuple((layer, head) for layer in (5, 9, 13) for head in range(num_heads // 3))
    recording.cache = recording.cache.recording(heads)
    for steps in (plain, recording) * 3:
        steps.take()
    ratios, milliseconds = [], []
    for _ in range(rounds):
        first, second, third = plain.take(), recording.take(), plain.take()
        ratios.append(2 * second / (first + third))
        milliseconds.append(first)
    return {
        "by the operators": network.native is not None,
        "step ms": round(statistics.median(milliseconds), 2),
        "heads": num_heads,
        "text bytes": text_bytes,
        "step with recording, of that without": round(statistics.median(ratios), 4),
    }


def main() -> None:
    """Run the measurements, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true", help="only measure the cost of recording at the published size")
    parser.add_argument("--others", type=int, metavar="N", help="only compare with other aligners, on N sentences")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--transcripts", type=int, default=270)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any]
    if args.cost:
        result = {"cost": measure_cost()}
    elif args.others is not None:
        result = {"others": measure_others(Dia.from_pretrained(), args.others)}
    else:
        dia = Dia.from_pretrained()
        result = {
            "heads": dia.alignment_heads(),
            "recordings": measure_recordings(dia, args.sentences),
            "wrong words": measure_errors(dia, args.transcripts),
        }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if args.output is not None:
        args.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
