"""Fixtures of all tests. No test needs a network, a GPU or the real weights."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: an unexpected look-up fails at once
os.environ["DIA_HF_VOICES"] = os.devnull  # no voices of the user: a test that saves some names a folder

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import DacModel
from transformers.utils import logging

from dia_hf import DiaForConditionalGeneration, DiaProcessor
from tiny import write_random_checkpoint

logging.disable_progress_bar()
settings.register_profile("house", deadline=None)  # a slow machine must not fail a test
settings.load_profile("house")
torch.set_num_threads(1)  # one a worker: two jobs of two threads on two cores are several times slower

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model of random weights, at the published rates, that never emits EOS, unlike the trained miniature."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(folder)
    return str(folder)


@pytest.fixture(scope="session")
def model(checkpoint: str) -> DiaForConditionalGeneration:
    return DiaForConditionalGeneration.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="session")
def processor(checkpoint: str) -> DiaProcessor:
    return DiaProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def pack() -> Path:
    """The checkpoint that transformers 4.53 saved, with its outputs."""
    return REFERENCE / "transformers-4.53"


@pytest.fixture(scope="session")
def pack_processor(pack: Path) -> DiaProcessor:
    return DiaProcessor.from_pretrained(pack, audio_tokenizer=DacModel.from_pretrained(pack / "dac_44khz"))


@pytest.fixture
def tone():
    """A synthetic tone similar to a voice: `tone(seconds, rate)` gives float32 samples."""

    def make(seconds: float, rate: int, pitch: float = 220.0) -> np.ndarray:
        time = np.arange(int(seconds * rate)) / rate
        waves = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))
        return (0.2 * waves * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)

    return make
