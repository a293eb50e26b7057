"""Step 2, `make codec`: a Descript Audio Codec whose first codebooks say what is spoken, and the last ones the rest.

1. `encoder`: encoder and decoder learn together. Some of the encoder's values (*content*) have to be log mel spectra of
   the frame, along their main axes; the others (*detail*) are free, and take what content does not say, such as the
   phase of the voice's pulses. Sound has to be understood without detail, too: for some clips it is withheld.
2. k-means finds the codebooks, the first ones for content and the last ones for detail.
3. `decoder`: encoder and codes stay as they are, and the decoder alone learns to speak from codes.

Both trainings draw their batches from seed and step alone, keep their state every few hundred steps, and go on from it
when they are started again.

    python content_codec.py encoder WORK --steps 2500     # reads WORK/speech.npz; writes WORK/encoder.pt
    python content_codec.py decoder WORK --steps 12000    # writes WORK/codec, a DacModel in bfloat16

Legend: B clips, T frames, N = T · HOP_LENGTH samples, D hidden size of the codec, K entries of a codebook, F features
of a frame, P dimensions that k-means sees.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import DacConfig, DacModel
from transformers.audio_utils import mel_filter_bank

from flite import SAMPLING_RATE
from resumable import train

SEED = 0
RATIOS = [4, 4, 4, 10]  # even: a DacDecoder loses a sample at each odd one
HOP_LENGTH = math.prod(RATIOS)
SHAPE: dict[str, Any] = {
    "sampling_rate": SAMPLING_RATE,
    "downsampling_ratios": RATIOS,
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 256,
    "n_codebooks": 9,
    "codebook_size": 1024,
    "codebook_dim": 8,
}
BATCH_SIZE, NUM_FRAMES = 4, 32  # clips a step, and frames of each
NUM_CONTENT, NUM_DETAIL = 24, 12  # values a frame
CONTENT_CODEBOOKS = 5
# Entries of each codebook that are used. A frame's first code says which sound it is: 128 leave as little of its seven
# dimensions as 1,024, and are learned much sooner.
NUM_USED = (128, 512, *7 * (1024,))
CONTENT_WEIGHT = 2.0  # of the loss that ties content to mel spectra
NOISE = {"content": 0.25, "detail": 0.2}  # codes are less exact than the decoder's inputs in the first stage
WITHHELD = 0.25  # of the clips have no detail
LEARNING_RATE, BETAS = 1.5e-3, (0.8, 0.99)
WINDOWS = {2048: 80, 1024: 80, 512: 40, 256: 20, 128: 10}  # samples of each window of the loss, and mel bands
KMEANS_FRAMES = 60_000


class Speech:
    """Sentences that `clips.py` wrote: samples, int16, of one after another."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as found:
            self.samples, lengths = torch.from_numpy(found["samples"]), found["lengths"]
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.samples[self.starts[number] : self.ends[number]].float() / 32767

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draw a part of a sentence `[N]`, which may begin before it and end after it."""
        sentence = self[int(torch.randint(len(self), (1,), generator=generator))]
        margin = num_samples // 4
        padded = F.pad(sentence, (margin, max(margin, num_samples - len(sentence))))
        start = int(torch.randint(len(padded) - num_samples + 1, (1,), generator=generator))
        return padded[start : start + num_samples]


class Features(nn.Module):
    """What is heard in a frame: log mel spectra of its halves, and the low harmonics over all of it, `[B, F, T]`."""

    filters: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filter_bank(257, 40, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, None, "slaney")
        self.register_buffer("filters", torch.from_numpy(filters).float())
        for size in (512, 1024):
            window = torch.hann_window(size)
            self.register_buffer(f"window_{size}", window / window.square().sum().sqrt())

    def _spectrum(self, sound: torch.Tensor, size: int, hop: int) -> torch.Tensor:
        """Magnitudes of windows in the middle of each hop, `[B, size // 2 + 1, N // hop]`."""
        side = (size - hop) // 2
        padded = F.pad(sound, (side, side + size % 2))
        window = getattr(self, f"window_{size}")
        return torch.stft(padded, size, hop, window=window, center=False, return_complex=True).abs()

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Look at sound `[B, N]`."""
        halves = (self.filters.mT @ self._spectrum(sound, 512, HOP_LENGTH // 2)).clamp(min=2e-3).log10()  # [B, 40, 2T]
        halves = halves.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)  # [B, 80, T]
        low = self._spectrum(sound, 1024, HOP_LENGTH)[:, 4:32].clamp(min=1e-2).log10()
        return torch.cat([halves, 0.7 * low], dim=1)


class SpectralLoss(nn.Module):
    """Distance of two sounds as log mel spectra and magnitudes at several time scales, and sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        for size, bands in WINDOWS.items():
            filters = mel_filter_bank(size // 2 + 1, bands, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, None, "slaney")
            self.register_buffer(f"filters_{size}", torch.from_numpy(filters).float())
            window = torch.hann_window(size)
            self.register_buffer(f"window_{size}", window / window.square().sum().sqrt())

    def forward(self, ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor | None = None) -> torch.Tensor:
        """Compare `[B, N]` with `[B, N]`; sample by sample only the clips that are `exact` `[B]`, in float32."""
        differences = (ours - theirs).abs().mean(1)
        loss = 20 * (differences if exact is None else differences * exact).mean()
        for size in WINDOWS:
            both = torch.cat([ours, theirs])
            window, filters = getattr(self, f"window_{size}"), getattr(self, f"filters_{size}")
            spectra = torch.stft(both, size, size // 4, window=window, return_complex=True)
            magnitudes = (spectra.real.square() + spectra.imag.square() + 1e-9).sqrt()
            mel = (magnitudes.mT @ filters).clamp(min=1e-3).log10()
            for measure, weight in ((mel, 10.0), (magnitudes, 3.0)):
                a, b = measure.chunk(2)
                loss = loss + weight / len(WINDOWS) * (a - b).abs().mean()
        return loss


def make_codec() -> DacModel:
    """Make a codec whose layers neither drown nor blow up what they are given."""
    torch.manual_seed(SEED)
    codec = DacModel(DacConfig(**SHAPE))
    for layer in [*codec.encoder.modules(), *codec.decoder.modules()]:
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
            nn.init.kaiming_uniform_(layer.weight, a=1, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for unit in codec.modules():
            if type(unit).__name__ == "DacResidualUnit":
                unit.conv2.weight *= 0.3  # or each of twelve units would double its input
        codec.decoder.conv2.weight *= 0.1  # its tanh would saturate from the beginning
        codec.encoder.conv2.weight[NUM_CONTENT + NUM_DETAIL :] = 0.0  # values that nothing uses
    return codec


def compile_snakes(codec: DacModel) -> None:
    """Fuse the codec's activation, which takes half of the time on a CPU."""

    def snake(hidden: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return hidden + (alpha + 1e-9).reciprocal() * torch.sin(alpha * hidden).square()

    fused = torch.compile(snake, dynamic=True)
    for layer in codec.modules():
        if type(layer).__name__ == "Snake1d":
            layer.forward = lambda hidden, layer=layer: fused(hidden, layer.alpha)


def train_parts(
    name: str,
    work: Path,
    parts: Sequence[nn.Module],
    compute_loss: Callable[[torch.Generator], tuple[torch.Tensor, ...]],
    steps: int,
) -> None:
    """Train parts of the codec."""
    weights = [weight for part in parts for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, BETAS, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.03, cycle_momentum=False
    )

    def compute(step: int) -> tuple[torch.Tensor, ...]:
        return compute_loss(torch.Generator().manual_seed(SEED * 10**6 + step))

    train(name, work, parts, optimizer, schedule, compute, steps, max_norm=5.0)


def round_weights(module: nn.Module) -> None:
    """Round weights to bfloat16, as they will be saved."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.bfloat16())


def k_means(points: torch.Tensor, num_centers: int, generator: torch.Generator, rounds: int = 20) -> torch.Tensor:
    """Return centers `[K, P]` of points `[M, P]`; one without points moves to where the error is largest."""
    centers = points[torch.randperm(len(points), generator=generator)[:num_centers]].clone()
    for _ in range(rounds):
        distance, nearest = torch.cdist(points, centers).min(1)
        count = torch.zeros(num_centers).index_add_(0, nearest, torch.ones(len(points)))
        total = torch.zeros_like(centers).index_add_(0, nearest, points)
        centers = torch.where(count[:, None] > 0, total / count[:, None].clamp(min=1), centers)
        empty = (count == 0).nonzero()[:, 0]
        centers[empty] = points[distance.topk(max(len(empty), 1)).indices[: len(empty)]]
    return centers


@torch.no_grad()
def find_codes(codec: DacModel, latents: torch.Tensor) -> None:
    """Set the codec's quantizer for latents `[M, D]`.

    Each stage projects what is left, of content or of detail, to its main axes and takes the nearest of K centers. DAC
    compares directions only: a last dimension that is large and the same for all makes the nearest direction the
    nearest point, near ties apart.
    """
    generator = torch.Generator().manual_seed(SEED)
    rest = latents.clone()
    for number, stage in enumerate(codec.quantizer.quantizers):
        is_content = number < CONTENT_CODEBOOKS
        part = slice(0, NUM_CONTENT) if is_content else slice(NUM_CONTENT, NUM_CONTENT + NUM_DETAIL)
        mean = torch.zeros(rest.shape[1])
        mean[part] = rest[:, part].mean(0)
        centered = torch.zeros_like(rest)
        centered[:, part] = (rest - mean)[:, part]
        axes = torch.linalg.eigh(centered.T @ centered)[1].flip(1)[:, : SHAPE["codebook_dim"] - 1]  # [D, P]
        points = centered @ axes
        num_used = min(NUM_USED[number], SHAPE["codebook_size"])
        centers = k_means(points, num_used, generator)
        lift = 2.0 ** (points.norm(dim=1).max() * 2).log2().ceil().item()
        for weight in stage.parameters():
            weight.zero_()
        stage.in_proj.weight[:-1, :, 0] = axes.T
        stage.in_proj.bias[:-1] = -(axes.T @ mean)
        stage.in_proj.bias[-1] = lift
        stage.codebook.weight[:num_used, :-1] = centers
        stage.codebook.weight[:num_used, -1] = lift
        stage.codebook.weight[num_used:, -1] = -lift  # opposite to all points, so that they are never the nearest
        stage.out_proj.weight[:, :-1, 0] = axes
        stage.out_proj.bias[:] = mean
        round_weights(stage)
        rest = (rest[None].mT - stage(rest[None].mT)[0])[0].mT
        left = rest[:, part].square().sum() / (latents[:, part] - latents[:, part].mean(0)).square().sum()
        print(f"codebook {number}, {num_used} codes: {left:.4f} of the power left", flush=True)


@torch.no_grad()
def find_axes(speech: Speech, features: Features) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return the main axes of the features `[NUM_CONTENT, F]`, their mean `[F]`, and the scale along them."""
    seen = [features(_whole_frames(speech[number])[None])[0].T for number in range(min(len(speech), 400))]
    values = torch.cat(seen)
    mean = values.mean(0)
    size, axes = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    share = size[-NUM_CONTENT:].sum() / size.sum()
    print(f"{NUM_CONTENT} axes have {share:.3f} of the features' variance", flush=True)
    return axes.flip(1)[:, :NUM_CONTENT].T, mean, size[-NUM_CONTENT:].mean().sqrt().item()


def _whole_frames(sound: torch.Tensor) -> torch.Tensor:
    """Add silence up to a whole number of frames."""
    return F.pad(sound, (0, -len(sound) % HOP_LENGTH))


@torch.no_grad()
def encode(codec: DacModel, sound: torch.Tensor) -> torch.Tensor:
    """Return latents `[T, D]` of a sound `[N]`."""
    return codec.encoder(_whole_frames(sound)[None, None])[0].T


def train_encoder(work: Path, steps: int) -> None:
    """Stages 1 and 2."""
    speech, features = Speech(work / "speech.npz"), Features()
    codec, loss = make_codec(), SpectralLoss()
    axes, mean, scale = find_axes(speech, features)
    compile_snakes(codec)
    num_used, num_samples = NUM_CONTENT + NUM_DETAIL, NUM_FRAMES * HOP_LENGTH

    def compute_loss(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        clips = torch.stack([speech.draw(num_samples, generator) for _ in range(BATCH_SIZE)])
        latents = codec.encoder(clips[:, None])[:, :num_used]
        content, detail = latents.split([NUM_CONTENT, NUM_DETAIL], dim=1)
        target = (axes @ (features(clips) - mean[:, None])) / scale
        off = (content - target).square().mean()
        # Content is what spectra say, and not what the decoder would like it to be.
        content = content.detach() + NOISE["content"] * torch.randn(content.shape, generator=generator)
        detail = detail + NOISE["detail"] * detail.detach().std() * torch.randn(detail.shape, generator=generator)
        kept = (torch.rand(BATCH_SIZE, generator=generator) >= WITHHELD).float()
        given = torch.cat([content, detail * kept[:, None, None]], dim=1)
        given = F.pad(given, (0, 0, 0, codec.config.hidden_size - num_used))
        distance = loss(codec.decoder(given)[:, 0], clips, kept)
        # The power of the details has no other bound.
        return distance + CONTENT_WEIGHT * off + 0.01 * detail.square().mean(), distance.detach(), off.detach()

    train_parts("encoder", work, [codec.encoder, codec.decoder], compute_loss, steps)
    with torch.no_grad():
        codec.encoder.conv2.weight[num_used:] = 0.0
        codec.encoder.conv2.bias[num_used:] = 0.0
    round_weights(codec.encoder)
    codec.eval()
    latents, frames = [], 0
    for number in tqdm(range(len(speech)), "encode", mininterval=5):
        latents.append(encode(codec, speech[number]))
        frames += len(latents[-1])
        if frames > KMEANS_FRAMES:
            break
    find_codes(codec, torch.cat(latents))
    torch.save(codec.state_dict(), work / "encoder.pt")
    save(work)


def save(work: Path) -> None:
    """Write the codec as it is by now."""
    codec = DacModel(DacConfig(**SHAPE))
    codec.load_state_dict(torch.load(work / "encoder.pt"))
    if (work / "decoder.state.pt").exists():
        codec.decoder.load_state_dict(torch.load(work / "decoder.state.pt")["parts"][0])
    codec.to(torch.bfloat16).save_pretrained(work / "codec")


def train_decoder(work: Path, steps: int) -> None:
    """Stage 3."""
    speech = Speech(work / "speech.npz")
    codec, loss = make_codec(), SpectralLoss()
    codec.load_state_dict(torch.load(work / "encoder.pt"))
    codec.requires_grad_(False)
    codec.decoder.requires_grad_(True)
    compile_snakes(codec)
    num_samples = NUM_FRAMES * HOP_LENGTH

    def compute_loss(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        clips = torch.stack([speech.draw(num_samples, generator) for _ in range(BATCH_SIZE)])
        with torch.no_grad():
            given = codec.quantizer(codec.encoder(clips[:, None]))[0]
            kept = (torch.rand(BATCH_SIZE, generator=generator) >= WITHHELD / 2).float()
            detail = slice(NUM_CONTENT, NUM_CONTENT + NUM_DETAIL)
            given[:, detail] *= kept[:, None, None]
        return (loss(codec.decoder(given)[:, 0], clips, kept),)

    train_parts("decoder", work, [codec.decoder], compute_loss, steps)
    save(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["encoder", "decoder"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"encoder": train_encoder, "decoder": train_decoder}[args.stage](args.work, args.steps)
