"""Checkpoints of every layout, for tests of several files."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from conftest import REFERENCE
from dia_hf.conversion import convert_checkpoint


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One checkpoint of each layout and kind of file, by name."""
    pickled, sharded = tmp_path_factory.mktemp("pickled"), tmp_path_factory.mktemp("sharded")
    weights = load_file(REFERENCE / "nari-0626" / "model.safetensors")
    # As `torch.save(dict(model.named_parameters()))` does.
    torch.save({name: torch.nn.Parameter(tensor) for name, tensor in weights.items()}, pickled / "pytorch_model.bin")
    shutil.copy(REFERENCE / "nari-0626" / "config.json", pickled)
    convert_checkpoint(REFERENCE / "transformers-4.53", sharded, dtype="bfloat16", max_shard_size="300KB")
    return {
        "nari-0626": REFERENCE / "nari-0626" / "model.safetensors",
        "nari-0626 as .bin": pickled,
        "nari-v0.1": REFERENCE / "nari-v0.1" / "dia-v0_1.pth",
        "huggingface": REFERENCE / "transformers-4.53",
        "huggingface in shards of bfloat16": sharded,
    }
