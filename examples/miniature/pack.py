"""The last steps: the trained parts as one checkpoint, and its model card.

    python pack.py assemble WORK    # writes WORK/miniature: model, tokenizer, codec, settings, vocabulary
    python pack.py card WORK DEST   # copies it to DEST, with a model card of the figures in WORK/*.json

Weights are stored in bfloat16 and, as the configs say, loaded as float32: small to ship, and the same on every CPU.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import DacModel

from dia_hf import DiaForConditionalGeneration, DiaProcessor
from dia_hf.asr.wer import read_vocabulary
from dia_hf.evaluation import METRICS
from dia_hf.evaluation.results import SOURCES
from dia_hf.processing_dia import write_codec_reference
from dia_hf.training.collator import DiaDataCollator
from teacher import SAMPLING_RATE, VOCABULARY, VOICES

MAX_BYTES = 10_000_000
JUDGED = ("attribution", "sim", "wer", "cpwer", "dnsmos", "truncated", "abrupt", "pace", "pauses")  # rows of the card
CALIBRATION_CLIPS, FACTORS = 160, 2.0 ** (torch.arange(13) / 4)
# Defaults of `generate()`.
SETTINGS = {"max_length": 384, "do_sample": True, "temperature": 1.0, "top_k": 45, "top_p": None, "guidance_scale": 3.0}


def load_as_float32(config: Path) -> None:
    """Make a saved config ask for float32."""
    values = json.loads(config.read_text())
    values["dtype"] = "float32"
    config.write_text(json.dumps(values, indent=2) + "\n")


@torch.no_grad()
def calibrate(model: DiaForConditionalGeneration, processor: DiaProcessor, clips: Any) -> float:
    """Scale a model's scores so that codes are as likely as it says, and return the factor: the one of the least loss.

    Shown wrong codes, and with a share of the probability for all, it has learned to doubt what is certain as long as
    the codes before are right (temperature scaling: Guo et al., On Calibration of Modern Neural Networks, 2017).
    """
    collator = DiaDataCollator(processor, text_dropout=0.0, max_frames=processor.config.max_training_frames)
    losses = torch.zeros(len(FACTORS))
    for start in range(0, len(clips), 8):
        batch = collator([clips[number] for number in range(start, min(start + 8, len(clips)))])
        labels = batch.pop("labels").transpose(1, 2).flatten(0, 1)  # [B·C, T]
        logits = model(**batch).logits.mT  # [B·C, V, T]
        losses += torch.stack([F.cross_entropy(logits * factor, labels, reduction="sum") for factor in FACTORS])
    factor = FACTORS[losses.argmin()]
    model.logits_dense.weight.mul_(factor)
    return float(factor)


def assemble(work: str) -> None:
    """Write the checkpoint."""
    from datasets import load_from_disk

    folder, dest = Path(work), Path(work, "miniature")
    shutil.rmtree(dest, ignore_errors=True)
    model = DiaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32).eval()
    codec = DacModel.from_pretrained(folder / "codec", dtype=torch.bfloat16)
    processor = DiaProcessor.from_pretrained(folder / "model", audio_tokenizer=codec)
    clips = load_from_disk(folder / "clips-dialogues")
    factor = calibrate(model, processor, clips.select(range(CALIBRATION_CLIPS)))
    print(f"scores times {factor:.2f}")
    model.to(torch.bfloat16)
    model.config.channel_loss_weights = None
    for name, value in SETTINGS.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(dest)
    processor.save_pretrained(dest)
    write_codec_reference(dest, "audio_tokenizer")  # the codec is inside; its local path has no meaning elsewhere
    for config in (dest / "config.json", dest / "audio_tokenizer" / "config.json"):
        load_as_float32(config)
    shutil.copy(VOCABULARY, dest)
    for file in dest.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


def percent(value: float) -> str:
    """Write a share as people read it."""
    return f"{100 * value:.1f} %"


def make_table(reports: dict[str, dict[str, Any]]) -> str:
    """Lay out word errors, ends and exact codes: of the recordings, through the codec, and of each way to speak."""
    rows = [["", "word errors", "ended by itself", "exact codes (channel 0)", "exact codes (all)"], ["---"] * 5]
    heard = reports["greedy"]["word_errors"]
    rows.append(["flite itself", percent(heard["reference"]["rate"]), "", "", ""])
    rows.append(["its codes through the codec", percent(heard["codec"]["rate"]), "", "", ""])
    names = {"greedy": "the miniature, greedy", "guided": "the miniature, guidance 3, top-k 45, temperature 1"}
    for name, title in names.items():
        report = reports[name]
        shares = (report["end"]["ended"], report["codes"]["same_first_channel"], report["codes"]["same_codes"])
        rows.append([title, percent(report["word_errors"]["model"]["rate"]), *map(percent, shares)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def interval(name: str, summary: dict[str, float] | None) -> str:
    """Write a metric with its confidence interval."""
    if summary is None:
        return ""
    value, low, high = (METRICS[name].number(summary[part]) for part in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def make_judgements(metrics: dict[str, Any]) -> str:
    """Lay out what the judges say of the recordings, of these through the codec, and of the miniature, greedy."""
    rows = [["", "flite itself", "its codes through the codec", "the miniature, greedy"], ["---"] * 4]
    for name in JUDGED:
        title = METRICS[name].heading + (", by Whisper tiny.en" if name == "wer" else "")
        rows.append([title, *(interval(name, metrics["measures"][name][source]) for source in SOURCES)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def card(work: str, dest: str) -> None:
    """Write the checkpoint with its model card."""
    folder, target = Path(work), Path(dest)
    names = ("greedy", "guided", "judged")
    reports = {name: json.loads((folder / f"{name}.json").read_text())["metrics"] for name in names}
    words, _ = read_vocabulary(VOCABULARY)
    text = Path(__file__).with_name("card.md").read_text("utf-8")
    known = {"num_words": len(words), "words": ", ".join(words), "sampling_rate": SAMPLING_RATE}
    known |= {"voices": " and ".join(VOICES.values()), "table": make_table(reports)}
    known |= {"judgements": make_judgements(reports["judged"])}
    known |= {"num_judged": reports["judged"]["word_errors"]["model"]["sentences"]}
    for name, value in known.items():
        text = text.replace(f"<{name}>", str(value))
    (folder / "miniature" / "README.md").write_text(text, "utf-8")
    size = sum(file.stat().st_size for file in (folder / "miniature").rglob("*") if file.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"the miniature has {size} bytes; it ships with the package and may have {MAX_BYTES}.")
    shutil.copytree(folder / "miniature", target, dirs_exist_ok=True)
    print(f"{target}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    steps: dict[str, Callable[..., None]] = {"assemble": assemble, "card": card}
    what, *arguments = sys.argv[1:]
    steps[what](*arguments)
