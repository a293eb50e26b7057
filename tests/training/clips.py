"""Prepared folders made by hand, recipes that take seconds, and the error that stops a run."""

import json
from pathlib import Path

import datasets
import numpy as np

from dia_hf import MINIATURE, DiaProcessor
from dia_hf.training.recipe import Recipe

WORDS = ["one", "two", "three", "four", "five", "six", "seven"]


class StoppedError(Exception):
    """The error that ends a run in these tests."""


def write_prepared(folder, num_clips=12, seed=0, speaker_tokens=("[S1]", "[S2]"), fingerprint=None, first=0, **tags):
    """Write the output of `prepare_dataset`: random codes of the miniature's codec, 12 to 30 frames a clip."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + num_clips):
        codes = draw.integers(0, 1024, (int(draw.integers(12, 31)), 9)).astype(np.int16)
        words = " ".join(draw.choice(WORDS, int(draw.integers(1, 4))))
        rows.append(
            {
                "id": f"clip-{number}",
                "text": f"{speaker_tokens[number % 2]} {words}.",
                "codes": codes,
                "seconds": len(codes) * 512 / 44100,
                "speaker": "anna" if number % 2 else "bert",
                "source": "clips.py",
                "row": number + 1,
                "speakers": ["anna" if number % 2 else "bert"],
                "session": f"session-{number // 4}",
            }
        )
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "codes": datasets.Array2D((None, 9), "int16"),
            "seconds": datasets.Value("float32"),
            "speaker": datasets.Value("string"),
            "source": datasets.Value("string"),
            "row": datasets.Value("int64"),
            "speakers": [datasets.Value("string")],
            "session": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder))
    codec = DiaProcessor.from_pretrained(MINIATURE).codec
    about = {
        "version": 1,
        "codec": {
            "fingerprint": fingerprint or codec.fingerprint,
            "sampling_rate": codec.sampling_rate,
            "hop_length": codec.hop_length,
            "num_codebooks": codec.num_codebooks,
        },
        "speaker_tokens": list(speaker_tokens),
        **tags,
        "settings": {},
        "num_clips": num_clips,
        "seconds": float(sum(row["seconds"] for row in rows)),
    }
    Path(folder, "prepared.json").write_text(json.dumps(about), "utf-8")
    return str(folder)


def quick_recipe(data, output, training=None, **settings) -> Recipe:
    """A recipe of six steps on the miniature, without progress output, on the CPU."""
    training = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **(training or {}),
    }
    return Recipe(**{"model": MINIATURE, "data": data, "output": str(output), "training": training, **settings})
