"""Step 2, `make codec`: a Descript Audio Codec of 1.8 M weights for the units, in three stages.

1. `encoder`: encoder and decoder learn together, without codes in between.
2. Then codes for what the encoder says, found by k-means stage by stage, and the codes of all units are written down.
   From here on the model can be trained beside the codec.
3. `decoder`: encoder and codes stay as they are, and the decoder alone learns to speak from codes.

Both trainings draw their batches from seed and step alone, keep their state every few hundred steps, and go on from it
when they are started again.

    python codec.py encoder WORK    # writes WORK/encoder.pt and WORK/codes.npz
    python codec.py decoder WORK    # writes WORK/codec, a DacModel in bfloat16
    python codec.py embedded WORK   # instead of both: WORK/codec and WORK/codes.npz by the codec of the package

Legend: B clips, T frames, N = T · 512 samples, D hidden size of the codec, C codebooks, K entries of each, P dimensions
that k-means sees.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import DacConfig, DacModel
from transformers.audio_utils import mel_filter_bank

from dia_hf import MINIATURE
from teacher import HOP_LENGTH, SAMPLING_RATE

SEED = 0
SHAPE: dict[str, Any] = {
    "sampling_rate": SAMPLING_RATE,
    "downsampling_ratios": [4, 4, 4, 8],
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 256,
    "n_codebooks": 9,
    "codebook_size": 1024,
    "codebook_dim": 8,
}
STEPS = {"encoder": 1000, "decoder": 10000}
BATCH_SIZE, NUM_FRAMES = 4, 40  # clips a step, and frames of each
SENTENCE_SHARE = 0.25  # of the clips in the encoder's training, from ordinary sentences
NUM_LATENTS = 24  # dimensions a frame that the encoder may use, so that nine codebooks leave a small residual
LATENT_NOISE = 0.15  # standard deviations: codes are less exact than the decoder's inputs in this stage
LEARNING_RATE, BETAS = 1.5e-3, (0.8, 0.99)
WINDOWS = {2048: 80, 1024: 80, 512: 40, 256: 20, 128: 10}  # samples of each window of the loss, and mel bands
KEEP_EVERY = 500


def read_sounds(file: Path) -> list[torch.Tensor]:
    """Read what `teacher.py` wrote: samples `[N_i]`, float32."""
    with np.load(file) as found:
        samples = torch.from_numpy(found["samples"]).float() / 32767
        return list(samples.split(found["lengths"].tolist()))


def draw_units(units: list[torch.Tensor], generator: torch.Generator) -> list[int]:
    """Draw units until they fill a clip; -1 is a frame of silence."""
    chosen, missing = [-1] * int(torch.randint(1, 4, (1,), generator=generator)), NUM_FRAMES
    while missing > 0:
        chosen.append(int(torch.randint(len(units), (1,), generator=generator)))
        chosen += [-1] * max(0, int(torch.randint(-8, 5, (1,), generator=generator)))
        missing -= len(units[chosen[-1]]) // HOP_LENGTH if chosen[-1] >= 0 else 4
    return chosen


def join(chosen: list[int], parts: list[torch.Tensor], silence: torch.Tensor, length: int) -> torch.Tensor:
    """Put parts and silence behind each other, `[length, ...]`."""
    return torch.cat([silence if index < 0 else parts[index] for index in chosen])[:length]


class SpectralLoss(nn.Module):
    """Distance of two sounds as log mel spectra and magnitudes at several time scales, and sample by sample."""

    def __init__(self) -> None:
        super().__init__()
        for size, bands in WINDOWS.items():
            filters = mel_filter_bank(size // 2 + 1, bands, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, None, "slaney")
            self.register_buffer(f"filters_{size}", torch.from_numpy(filters).float())
            window = torch.hann_window(size)
            self.register_buffer(f"window_{size}", window / window.square().sum().sqrt())

    def forward(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """Compare `[B, N]` with `[B, N]`."""
        loss = 20 * (ours - theirs).abs().mean()
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
    return codec


def compile_snakes(codec: DacModel) -> None:
    """Fuse the codec's activation, which takes half of the time on a CPU."""

    def snake(hidden: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return hidden + (alpha + 1e-9).reciprocal() * torch.sin(alpha * hidden).square()

    fused = torch.compile(snake, dynamic=True)
    for layer in codec.modules():
        if type(layer).__name__ == "Snake1d":
            layer.forward = lambda hidden, layer=layer: fused(hidden, layer.alpha)


def train(
    name: str, work: Path, parts: list[nn.Module], compute_loss: Callable[[torch.Generator], torch.Tensor], steps: int
) -> None:
    """Train parts of the codec, from where an earlier run stopped."""
    weights = [weight for part in parts for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, BETAS, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.03, cycle_momentum=False
    )
    file, step = work / f"{name}.state.pt", 0
    if file.exists():
        state = torch.load(file)
        step = state["step"]
        for part, values in zip(parts, state["parts"], strict=True):
            part.load_state_dict(values)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    losses = work / f"{name}.csv"
    written = list(csv.reader(losses.read_text().splitlines())) if losses.exists() else []
    start, recent = time.perf_counter(), []
    with open(losses, "w", newline="") as journal, tqdm(total=steps, initial=step, mininterval=5) as bar:
        rows = csv.writer(journal)
        rows.writerows(row for row in written if int(row[0]) <= step)  # later steps were lost, and are repeated
        while step < steps:
            loss = compute_loss(torch.Generator().manual_seed(SEED * 10**6 + step))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
            schedule.step()
            step += 1
            recent.append(loss.item())
            bar.update()
            if step % 25 == 0 or step == steps:
                mean = sum(recent) / len(recent)
                rows.writerow([step, f"{mean:.5f}", f"{time.perf_counter() - start:.1f}"])
                journal.flush()
                bar.set_description(f"{name} {mean:.3f}")
                recent = []
            if step % KEEP_EVERY == 0 or step == steps:
                values = [part.state_dict() for part in parts]
                kept = {"step": step, "parts": values, "optimizer": optimizer.state_dict()}
                torch.save({**kept, "schedule": schedule.state_dict()}, file.with_suffix(".new"))
                file.with_suffix(".new").replace(file)


def round_weights(module: nn.Module) -> None:
    """Round weights to bfloat16, as they will be saved."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.bfloat16())


def k_means(points: torch.Tensor, num_centers: int, generator: torch.Generator, rounds: int = 25) -> torch.Tensor:
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

    Each stage projects what is left to its main axes and takes the nearest of K centers. DAC compares directions only:
    a last dimension that is large and the same for all makes the nearest direction the nearest point, near ties apart.
    """
    generator = torch.Generator().manual_seed(SEED)
    rest = latents.clone()
    for number, stage in enumerate(codec.quantizer.quantizers):
        mean = rest.mean(0)
        centered = rest - mean
        axes = torch.linalg.eigh(centered.T @ centered)[1].flip(1)[:, : SHAPE["codebook_dim"] - 1]  # [D, P]
        points = centered @ axes
        centers = k_means(points, SHAPE["codebook_size"], generator)
        lift = 2.0 ** (points.norm(dim=1).max() * 2).log2().ceil().item()
        for weight in stage.parameters():
            weight.zero_()
        stage.in_proj.weight[:-1, :, 0] = axes.T
        stage.in_proj.bias[:-1] = -(axes.T @ mean)
        stage.in_proj.bias[-1] = lift
        stage.codebook.weight[:, :-1] = centers
        stage.codebook.weight[:, -1] = lift
        stage.out_proj.weight[:, :-1, 0] = axes
        stage.out_proj.bias[:] = mean
        round_weights(stage)
        left = rest[None].mT - stage(rest[None].mT)[0]
        rest = left[0].mT
        print(f"codebook {number}: {rest.square().sum() / latents.square().sum():.4f} of the power left", flush=True)


@torch.no_grad()
def encode_units(codec: DacModel, units: list[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return the latents of each unit between silence, `[T_i, D]`, and that of silence, `[D]`."""
    margin = 16
    silence = codec.encoder(torch.zeros(1, 1, 3 * margin * HOP_LENGTH))[0, :, margin]
    latents = []
    for unit in tqdm(units, "encode", mininterval=5):
        padded = nn.functional.pad(unit, (margin * HOP_LENGTH, margin * HOP_LENGTH))
        latents.append(codec.encoder(padded[None, None])[0].T[margin:-margin])
    return latents, silence


def train_encoder(work: Path) -> None:
    """Stages 1 and 2."""
    units, sentences = read_sounds(work / "units.npz"), read_sounds(work / "sentences.npz")
    codec, loss = make_codec(), SpectralLoss()
    compile_snakes(codec)
    silence, length = torch.zeros(HOP_LENGTH), NUM_FRAMES * HOP_LENGTH
    hidden_size = codec.config.hidden_size
    narrow = nn.Conv1d(hidden_size, NUM_LATENTS, 1, bias=False)
    widen = nn.Conv1d(NUM_LATENTS, hidden_size, 1, bias=False)

    def draw(generator: torch.Generator) -> torch.Tensor:
        if torch.rand(1, generator=generator) < SENTENCE_SHARE:
            sentence = sentences[int(torch.randint(len(sentences), (1,), generator=generator))]
            start = int(torch.randint(max(len(sentence) - length, 1), (1,), generator=generator))
            return nn.functional.pad(sentence, (0, length))[start : start + length]
        return join(draw_units(units, generator), units, silence, length)

    def compute_loss(generator: torch.Generator) -> torch.Tensor:
        clips = torch.stack([draw(generator) for _ in range(BATCH_SIZE)])
        latents = narrow(codec.encoder(clips[:, None]))
        noise = torch.randn(latents.shape, generator=generator)
        latents = widen(latents + LATENT_NOISE * latents.detach().std() * noise)
        # The power of the latents has no other bound.
        return loss(codec.decoder(latents)[:, 0], clips) + 0.01 * latents.square().mean()

    train("encoder", work, [codec.encoder, codec.decoder, narrow, widen], compute_loss, STEPS["encoder"])
    with torch.no_grad():  # fold both projections into the encoder's last layer
        last, both = codec.encoder.conv2, widen.weight[..., 0] @ narrow.weight[..., 0]
        last.weight.copy_(torch.einsum("ij,jkt->ikt", both, last.weight))
        last.bias.copy_(both @ last.bias)
    round_weights(codec.encoder)
    codec.eval()
    latents, silence = encode_units(codec, units)
    find_codes(codec, torch.cat([*latents, silence[None]]))
    torch.save(codec.state_dict(), work / "encoder.pt")
    save(work)  # the model can be trained from now on; it needs no decoder
    write_codes(work, codec, latents, silence)


@torch.no_grad()
def write_codes(work: Path, codec: DacModel, latents: list[torch.Tensor], silence: torch.Tensor) -> None:
    """Write down the codes of all units; the last of its step, so that by this file `make` knows that all is there."""
    codes = [codec.quantizer(unit.T[None])[1][0].T for unit in latents]
    np.savez(
        work / "codes.npz",
        codes=torch.cat(codes).numpy().astype(np.int16),
        lengths=[len(unit) for unit in codes],
        silence=codec.quantizer(silence[None, :, None])[1][0, :, 0].numpy().astype(np.int16),
    )


def take_embedded(work: Path) -> None:
    """Instead of all stages: the codec that they made, as it comes with the package."""
    codec = DacModel.from_pretrained(Path(MINIATURE, "audio_tokenizer"), dtype=torch.float32).eval()
    latents, silence = encode_units(codec, read_sounds(work / "units.npz"))
    codec.to(torch.bfloat16).save_pretrained(work / "codec")
    write_codes(work, codec.float(), latents, silence)


def read_codes(file: Path) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Read the codes of the units, each `[T_i, C]`, and those of a frame of silence, `[1, C]`."""
    with np.load(file) as found:
        codes = torch.from_numpy(found["codes"]).long()
        return list(codes.split(found["lengths"].tolist())), torch.from_numpy(found["silence"]).long()[None]


def save(work: Path) -> None:
    """Write the codec as it is by now."""
    codec = DacModel(DacConfig(**SHAPE))
    codec.load_state_dict(torch.load(work / "encoder.pt"))
    if (work / "decoder.state.pt").exists():
        codec.decoder.load_state_dict(torch.load(work / "decoder.state.pt")["parts"][0])
    codec.to(torch.bfloat16).save_pretrained(work / "codec")


def train_decoder(work: Path) -> None:
    """Stage 3."""
    units = read_sounds(work / "units.npz")
    codes, silent_code = read_codes(work / "codes.npz")
    codec, loss = make_codec(), SpectralLoss()
    codec.load_state_dict(torch.load(work / "encoder.pt"))
    codec.requires_grad_(False)
    codec.decoder.requires_grad_(True)
    silence = torch.zeros(HOP_LENGTH)
    compile_snakes(codec)
    with torch.no_grad():  # the decoder's input for each unit, [T_i, D]
        heard = [codec.quantizer.from_codes(unit.T[None])[0][0].T for unit in [*codes, silent_code]]
    silent = heard.pop()

    def compute_loss(generator: torch.Generator) -> torch.Tensor:
        chosen = [draw_units(units, generator) for _ in range(BATCH_SIZE)]
        inputs = torch.stack([join(clip, heard, silent, NUM_FRAMES) for clip in chosen])
        clips = torch.stack([join(clip, units, silence, NUM_FRAMES * HOP_LENGTH) for clip in chosen])
        return loss(codec.decoder(inputs.mT)[:, 0], clips)

    train("decoder", work, [codec.decoder], compute_loss, STEPS["decoder"])
    save(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STEPS, "embedded"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    {"encoder": train_encoder, "decoder": train_decoder, "embedded": take_embedded}[args.stage](args.work)
