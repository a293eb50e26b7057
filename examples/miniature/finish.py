"""The last steps: the trained parts as one checkpoint, and what a recognizer understands of its speech.

    python finish.py sentences WORK   # writes WORK/evaluation.jsonl: held-out sentences, and flite's audio of them;
                                      # WORK/texts.jsonl: the same without audio
    python finish.py assemble WORK    # writes WORK/english: model, tokenizer, codec, settings
    python finish.py embed WORK       # copies WORK/english into the package, and WORK/codes.pt to this folder
    python finish.py report WORK      # writes WORK/report.md, of WORK/greedy.json and WORK/sampled.json

Weights are stored in bfloat16 and, as the configs say, loaded as float32: small to ship, and the same on every CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from tqdm import tqdm
from transformers import DacModel, GenerationConfig

from clips import SPEAKERS
from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
from dia_hf.evaluation.results import SOURCES
from dia_hf.processing_dia import write_codec_reference
from flite import SAMPLING_RATE, speak
from guidance import HEAD, LAYERS

# Defaults of `generate()`.
SETTINGS = {"max_length": 420, "do_sample": True, "temperature": 0.25, "top_k": 45, "top_p": 0.9, "guidance_scale": 1.3}
WAYS = {"greedy": "greedy", "sampled": "as it comes"}


def write_evaluation(work: Path) -> None:
    """Write the held-out sentences, in both voices by turns, with flite's audio."""
    folder = work / "evaluation"
    folder.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in (work / "held-out.jsonl").read_text("utf-8").splitlines()]
    lines = []
    for number, row in enumerate(tqdm(rows, "flite", mininterval=5)):
        tag, voice = list(SPEAKERS.items())[number % len(SPEAKERS)]
        name = f"{row['group']}-{number:03d}"
        soundfile.write(folder / f"{name}.wav", speak(row["text"], voice).samples, SAMPLING_RATE)
        lines.append({"id": name, "text": f"{tag} {row['text']}"})
    (work / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    spoken = [line | {"audio": f"evaluation/{line['id']}.wav"} for line in lines]
    (work / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in spoken), "utf-8")


def load_as_float32(config: Path) -> None:
    """Make a saved config ask for float32."""
    values = json.loads(config.read_text("utf-8"))
    values["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def assemble(work: Path) -> None:
    """Write the checkpoint."""
    dest = work / "english"
    shutil.rmtree(dest, ignore_errors=True)
    model = DiaForConditionalGeneration.from_pretrained(work / "model", dtype=torch.float32).eval()
    codec = DacModel.from_pretrained(work / "codec", dtype=torch.bfloat16)
    processor = DiaProcessor.from_pretrained(work / "model", audio_tokenizer=codec)
    model.to(torch.bfloat16)
    model.config.channel_loss_weights = None
    heads = [[layer, HEAD] for layer in LAYERS]  # which were told the letters that are spoken
    ids = {name: getattr(model.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**SETTINGS, **ids, alignment_heads=heads)
    model.save_pretrained(dest)
    processor.save_pretrained(dest)
    write_codec_reference(dest, "audio_tokenizer")  # the codec is inside; its local path has no meaning elsewhere
    for config in (dest / "config.json", dest / "audio_tokenizer" / "config.json"):
        load_as_float32(config)
    (dest / "README.md").unlink()  # a card that any checkpoint gets


def embed(work: Path) -> None:
    """Replace the embedded checkpoint, except its model card, and the codes that it was trained with."""
    shutil.copytree(work / "english", MINIATURE, dirs_exist_ok=True)
    shutil.copy(work / "codes.pt", Path(__file__).parent)


def count_errors(report: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return word errors and words by group, as ids begin with it, and source; "all" has all groups but the rare."""
    found: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for sentence in report["sentences"]:
        group = sentence["id"].split("-")[0]
        for source in SOURCES:
            if sentence[source] is None:
                continue
            errors = sentence[source]["errors"]
            wrong = errors["substitutions"] + errors["deletions"] + errors["insertions"]
            for key in {group, group if group == "rare" else "all"}:
                before = found[key, source]
                found[key, source] = (before[0] + wrong, before[1] + errors["words"])
    return found


def write_report(work: Path) -> None:
    """Write the table of word errors, by length of the sentences."""
    groups = ["all", "short", "middle", "long", "rare"]
    rows = [["", *groups, "ended by itself"], ["---"] * (len(groups) + 2)]
    names = {"reference": "flite itself", "codec": "its speech through the codec"}
    for number, (way, title) in enumerate(WAYS.items()):
        report = json.loads((work / f"{way}.json").read_text("utf-8"))
        found = count_errors(report)
        for source in SOURCES if number == 0 else SOURCES[-1:]:
            shares = [found[group, source] for group in groups]
            rates = [f"{100 * wrong / words:.1f} %" if words else "" for wrong, words in shares]
            ended = f"{100 * report['metrics']['end']['ended']:.1f} %" if source == "model" else ""
            rows.append([names.get(source, title), *rates, ended])
    (work / "report.md").write_text("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n", "utf-8")
    print((work / "report.md").read_text("utf-8"))


if __name__ == "__main__":
    steps: dict[str, Callable[[Path], None]] = {
        "sentences": write_evaluation,
        "assemble": assemble,
        "embed": embed,
        "report": write_report,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(steps))
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    steps[args.what](args.work)
