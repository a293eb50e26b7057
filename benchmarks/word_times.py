"""Measure the times of words, and wrong words of transcripts, on the embedded miniature.

    make -C examples/miniature corpus embedded WORK=build     # flite's units, 1 minute; needs Debian's flite
    python benchmarks/word_times.py examples/miniature/build --output word_times.json

The miniature speaks 200 sentences whose pairs of words were all held out from its training, greedily. Their audio is
made of flite's units, so that the times of the words are known: a unit begins and ends where its samples do. Then
transcripts, three of four with one word replaced, added or left out, are aligned with codes of the right text.
Recordings of flite are aligned with their own transcripts and others, and 40 of them as one.

With --others N: the times of N of these sentences also by Whisper tiny.en (faster-whisper) and by pocketsphinx's forced
alignment, on the same audio (dia-hf[judges]).

With --cost instead of the folder: steps of the published size (random weights, int8) with and without recording, in
turns.
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
from tqdm import tqdm

from cpu_context import Steps
from dia_hf import Dia
from dia_hf.asr.wer import read_vocabulary
from dia_hf.bench import make_config, make_model
from dia_hf.engine import make_frame_decoder
from dia_hf.quantization import quantize_model
from dia_hf.speech.aligned_clips import fits

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "miniature"))
import compose
from codec import read_codes, read_sounds

_WORD = re.compile(r"(?<![\w\[])[A-Za-z']+(?![\w\]])")
_LEAD = 128 / 16000  # seconds of silence at the beginning of a unit, see `teacher.py`


def draw_clips(number: int, seed: int) -> list[compose.Clip]:
    """Draw sentences of held-out pairs of words, as `compose.write_evaluation` does."""
    words, _ = read_vocabulary(compose.VOCABULARY)
    draw = random.Random(seed)
    clips = []
    for _ in range(number):
        num_turns = draw.choices([1, 2, 3], [6, 3, 1])[0]
        clips.append(compose.draw_clip(words, draw.randint(3, 8), num_turns, draw, only_held_out=True))
    return clips


def true_times(clip: compose.Clip, units: Any, codes: Any, frame_rate: float) -> tuple[list[tuple[float, float]], int]:
    """Return begin and end of each word in seconds, and the frames of the whole."""
    times, frame = [], 0
    for unit in clip.units:
        if unit >= 0:
            last = int(units[unit].numpy().nonzero()[0][-1]) + 1
            times.append((frame / frame_rate + _LEAD, frame / frame_rate + last / compose.SAMPLING_RATE))
        frame += 1 if unit < 0 else len(codes[unit])
    return times, frame


def measure_boundaries(dia: Dia, work: Path, number: int) -> dict[str, Any]:
    """Compare the times of words with those of flite's units."""
    units, (codes, _) = read_sounds(work / "units.npz"), read_codes(work / "codes.npz")
    begins, ends, num_equal, num_missing, plain, timed = [], [], 0, 0, 0.0, 0.0
    for clip in tqdm(draw_clips(number, compose.SEED + 1), "times"):
        begin = time.perf_counter()
        dia.generate(clip.text, temperature=0)
        middle = time.perf_counter()
        waveform, words = dia.generate(clip.text, temperature=0, return_timestamps="word")
        plain, timed = plain + middle - begin, timed + time.perf_counter() - middle
        truth, num_frames = true_times(clip, units, codes, dia.processor.codec.frame_rate)
        if len(waveform) // dia.processor.codec.hop_length != num_frames:
            continue  # another word was said, whose time is not known
        num_equal += 1
        spoken = {word.start_char: word for word in words}
        for place, (start, end) in zip((match.start() for match in _WORD.finditer(clip.text)), truth, strict=True):
            word = spoken.get(place)
            num_missing += word is None
            if word is not None:
                begins.append(word.start - start)
                ends.append(word.end - end)
    result: dict[str, Any] = {"sentences": number, "of the right length": num_equal, "missing words": num_missing}
    for name, errors in (("begin", begins), ("end", ends), ("both", begins + ends)):
        result[name] = _summary(errors)
    result["time with timestamps, of that without"] = round(timed / plain, 3)
    return result


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
    words, _ = read_vocabulary(compose.VOCABULARY)
    draw = random.Random(5)
    counts = {"errors": 0, "found": 0, "found within one word": 0, "right transcripts": 0, "wrongly flagged": 0}
    for clip in tqdm(draw_clips(number, 5), "transcripts"):
        codes = dia.generate(clip.text, temperature=0, return_codes=True)[1]
        kind = draw.choice(["right", "replaced", "added", "left out"])
        text, place = (clip.text, None) if kind == "right" else spoil(clip.text, kind, draw, words)
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


def measure_others(dia: Dia, work: Path, number: int) -> dict[str, Any]:
    """Compare the times of words by other aligners with those of flite's units, and with the model's own."""
    from dia_hf.asr.alignment import Aligner
    from dia_hf.asr.recognizers import load_recognizer, recognize

    units, (codes, _) = read_sounds(work / "units.npz"), read_codes(work / "codes.npz")
    _, pronunciations = read_vocabulary(compose.VOCABULARY)
    whisper, sphinx = load_recognizer("whisper-tiny.en"), Aligner(pronunciations)
    errors: dict[str, list[float]] = {"attention": [], "whisper": [], "pocketsphinx": []}
    apart: dict[str, list[float]] = {"whisper": [], "pocketsphinx": []}
    seconds, num_words = dict.fromkeys(errors, 0.0), 0
    for clip in tqdm(draw_clips(number, compose.SEED + 1), "others"):
        begin = time.perf_counter()
        waveform, words = dia.generate(clip.text, temperature=0, return_timestamps="word")
        truth, num_frames = true_times(clip, units, codes, dia.processor.codec.frame_rate)
        if len(waveform) // dia.processor.codec.hop_length != num_frames:
            continue
        seconds["attention"] += time.perf_counter() - begin  # of speaking, too
        spoken = [match[0].lower() for match in _WORD.finditer(clip.text)]
        own = {word.start_char: (word.start, word.end) for word in words}
        places = [match.start() for match in _WORD.finditer(clip.text)]
        found: dict[str, list[tuple[float, float] | None]] = {"attention": [own.get(place) for place in places]}
        begin = time.perf_counter()
        heard = recognize(whisper, waveform, dia.sampling_rate)[1] or []
        seconds["whisper"] += time.perf_counter() - begin
        plain = [re.sub(r"[^a-z']", "", word.text.lower()) for word in heard]
        found["whisper"] = [None] * len(spoken)
        for first, second, size in SequenceMatcher(None, spoken, plain, autojunk=False).get_matching_blocks():
            for place in range(size):
                word = heard[second + place]
                found["whisper"][first + place] = word.start, word.end
        begin = time.perf_counter()
        found["pocketsphinx"] = sphinx.align(spoken, waveform, dia.sampling_rate)
        seconds["pocketsphinx"] += time.perf_counter() - begin
        num_words += len(spoken)
        for name, times in found.items():
            for mine, theirs, right in zip(found["attention"], times, truth, strict=True):
                if theirs is not None:
                    errors[name] += [theirs[0] - right[0], theirs[1] - right[1]]
                    if name != "attention" and mine is not None:
                        apart[name] += [theirs[0] - mine[0], theirs[1] - mine[1]]
    return {
        "words": num_words,
        "errors": {name: _summary(one) for name, one in errors.items()},
        "from the model's own": {name: _summary(one) for name, one in apart.items()},
        "seconds": {name: round(one, 1) for name, one in seconds.items()},
    }


def measure_recordings(dia: Dia, work: Path) -> dict[str, Any]:
    """Align recordings of flite: with their transcripts and others, and 40 sentences as one."""
    units, (codes, silence) = read_sounds(work / "units.npz"), read_codes(work / "codes.npz")
    quiet = np.zeros(compose.HOP_LENGTH)

    def record(clip: compose.Clip) -> np.ndarray:
        parts = [quiet if unit < 0 else units[unit].numpy() for unit in clip.units]
        return np.concatenate(parts).astype(np.float32)

    clips = [draw_clips(1, seed)[0] for seed in range(200, 260)]
    counts = {"right transcripts": 0, "told not to fit": 0, "others": 0, "others told not to fit": 0}
    for clip, other in zip(tqdm(clips, "recordings"), [*clips[1:], clips[0]], strict=True):
        for name, text in (("right transcripts", clip.text), ("others", other.text)):
            words = dia.align(text, record(clip), compose.SAMPLING_RATE)
            counts[name] += 1
            counts["told not to fit" if name == "right transcripts" else "others told not to fit"] += not fits(words)
    sentences, times, begin = draw_clips(40, 4), [], 0.0
    for clip in sentences:
        times += [
            (start + begin, end + begin)
            for start, end in true_times(clip, units, codes, dia.processor.codec.frame_rate)[0]
        ]
        begin += len(record(clip)) / compose.SAMPLING_RATE
    text = "\n".join(clip.text for clip in sentences)
    all_codes = torch.cat([silence if unit < 0 else codes[unit] for clip in sentences for unit in clip.units]).long()
    long = {}
    for name, audio in (("codes", all_codes), ("recording", np.concatenate([record(clip) for clip in sentences]))):
        found = {word.start_char: word for word in dia.align(text, audio, compose.SAMPLING_RATE)}
        own = [found[match.start()] for match in _WORD.finditer(text)]
        pairs = zip(own, times, strict=True)
        long[name] = _summary([error for word, (a, b) in pairs for error in (word.start - a, word.end - b)])
    return {"transcripts": counts, "seconds of 40 sentences": round(begin, 1), "40 sentences as one": long}


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
    parser.add_argument("work", type=Path, nargs="?", help="folder of the miniature's corpus")
    parser.add_argument("--cost", action="store_true", help="measure the cost of recording at the published size")
    parser.add_argument("--others", type=int, metavar="N", help="only compare with other aligners, on N sentences")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--transcripts", type=int, default=270)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.cost == (args.work is not None):
        parser.error("give either a folder or --cost")
    result: dict[str, Any]
    if args.cost:
        result = {"cost": measure_cost()}
    elif args.others is not None:
        result = {"others": measure_others(Dia.from_pretrained(), args.work, args.others)}
    else:
        dia = Dia.from_pretrained()
        result = {
            "heads": dia.alignment_heads(),
            "times": measure_boundaries(dia, args.work, args.sentences),
            "wrong words": measure_errors(dia, args.transcripts),
            "recordings": measure_recordings(dia, args.work),
        }
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if args.output is not None:
        args.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
