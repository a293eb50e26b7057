"""The same codes, loss and gradients on every release of transformers and PyTorch, by every path."""

import json
from pathlib import Path

import pytest
import torch

from dia_hf import MINIATURE, DiaProcessor
from parity.releases import DRAWS, WAYS, load_exact, speak, speak_in_pipeline, train
from tiny import checkpoint_gradients

EXPECTED = json.loads((Path(__file__).parent.parent / "reference" / "releases.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def miniature():
    return load_exact(), DiaProcessor.from_pretrained(MINIATURE)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("way", WAYS)
def test_codes_are_those_of_every_release(draw, way, miniature):
    """On transformers 5.24 every path but the fast one generated noise: each frame attended to itself alone."""
    assert speak(draw, way, *miniature).tolist() == EXPECTED["codes"][draw]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_pipeline_says_those_codes(draw, miniature):
    """`pipeline("text-to-speech")` gave 0.4 s of noise on transformers 5.24."""
    (expected,) = miniature[1].batch_decode(torch.tensor(EXPECTED["codes"][draw])[None])
    torch.testing.assert_close(speak_in_pipeline(draw), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_every_release(checkpointing):
    """Gradient checkpointing reads the layers' arguments by names that transformers renamed."""
    assert train(checkpointing) == pytest.approx(EXPECTED["training"], rel=1e-4)


def test_speaking_while_in_training():
    """Up to transformers 5.23 a layer with gradient checkpointing dropped the cache without gradients, too."""
    model, processor = load_exact(), DiaProcessor.from_pretrained(MINIATURE)
    checkpoint_gradients(model)
    codes = speak("greedy", "transformers' loop", model.train(), processor)
    assert codes.tolist() == EXPECTED["codes"]["greedy"]
