"""Part of `make model`: phases and pitches begin as points on circles.

The phase of a frame is that of the frame before, turned by an angle that the pitch tells. A model that is given codes
as random vectors takes a long time to find that out. If phases are angles, and pitches the angles that they turn phases
by, one product of the two is the answer, and a gated layer learns it soon.

    python circles.py WORK    # reads WORK/model-spelling and WORK/codes.pt; writes WORK/model-begin

Legend: K entries of a codebook, D hidden size.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from content_codec import (
    HOP_LENGTH,
    NUM_PHASES,
    PHASE_CODEBOOK,
    PITCH_CODEBOOK,
    Coder,
    hertz_of,
)
from dia_hf import DiaForConditionalGeneration
from flite import SAMPLING_RATE

SEED = 0
MULTIPLES = 3  # of an angle: once, twice, three times round
RADIUS = 1.0


def circles(angles: torch.Tensor) -> torch.Tensor:
    """Return angles `[..., A]` as points on circles, `[..., A · 2 · MULTIPLES]`."""
    turned = angles[..., None] * torch.arange(1, MULTIPLES + 1)
    return torch.stack([turned.cos(), turned.sin()], dim=-1).flatten(-3)


def angles_of_pitch(entries: torch.Tensor) -> torch.Tensor:
    """Return by how much each half of a frame turns the phase at pitches `[K, 4]`, `[K, 2]`."""
    return 2 * torch.pi * hertz_of(entries) * (HOP_LENGTH / 2 / SAMPLING_RATE)


@torch.no_grad()
def put_on_circles(model: DiaForConditionalGeneration, pitches: torch.Tensor) -> None:
    """Set the embeddings and the output weights of phases, and add to those of pitches `[K, 4]` what they turn."""
    config = model.config.decoder_config
    embed, logits = model.model.decoder.embeddings.embed.weight, model.logits_dense.weight
    generator = torch.Generator().manual_seed(SEED)

    def axes(number: int) -> torch.Tensor:
        """Draw orthonormal axes `[number, D]`."""
        return torch.linalg.qr(torch.randn(config.hidden_size, number, generator=generator))[0].T

    phases = circles(2 * torch.pi / NUM_PHASES * torch.arange(NUM_PHASES)[:, None])
    first = PHASE_CODEBOOK * config.vocab_size
    for weight in (embed, logits):
        weight[first : first + NUM_PHASES] = RADIUS * phases @ axes(phases.shape[1])
    angles = angles_of_pitch(pitches)[..., None]
    turns = circles(angles) * (angles > 0)  # [K, 2, 2 · MULTIPLES]
    first = PITCH_CODEBOOK * config.vocab_size
    embed[first : first + len(pitches)] += RADIUS * turns.flatten(1) @ axes(turns[0].numel())


def write_beginning(work: Path) -> None:
    """Write the model that training begins with."""
    source, dest = work / "model-spelling", work / "model-begin"
    shutil.copytree(source, dest, dirs_exist_ok=True)
    model = DiaForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    stage = Coder.load(work).quantizer.quantizers[PITCH_CODEBOOK]
    put_on_circles(model, stage.codebook.weight[:, :4])
    model.save_pretrained(dest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    write_beginning(parser.parse_args().work)
