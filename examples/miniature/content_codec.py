"""Step 2, `make codec`: a Descript Audio Codec whose codes say what is spoken, at which pitch, and at which phase.

1. `codes`: a frame's values are computed, not learned: log mel spectra along their main axes, the pitch, and the phase
   of the voice's pulses. k-means finds the codebooks. What is trained later neither changes codes nor waits for them.
2. `decoder`: learns to speak from codes.
3. `encoder`: learns to find the values in recordings, whose pitch nobody knows. Only voice prompts need it.

Why phases: a decoder of convolutions turns frames that are alike into sounds that repeat with each frame, which no
voice does, unless it is told where in its period the voice is. Phase, pitch and the next phase fit together, so that a
model can predict them.

Both trainings draw their batches from seed and step alone, keep their state every few hundred steps, and go on from it
when they are started again.

    python content_codec.py codes WORK                     # reads WORK/speech.npz; writes WORK/codes.pt
    python content_codec.py decoder WORK --steps 12000     # writes WORK/codec, a DacModel in bfloat16
    python content_codec.py encoder WORK --steps 4000      # likewise

Legend: B clips, T frames, N = T · HOP_LENGTH samples, M = N / PITCH_HOP values of the pitch, C codebooks, D hidden size
of the codec, K entries of a codebook, F features of a frame, P dimensions in which nearest entries are found.
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

from flite import PITCH_HOP, SAMPLING_RATE
from resumable import DEVICE, train

SEED = 0
RATIOS = [4, 4, 4, 10]  # even: a DacDecoder loses a sample at each odd one
HOP_LENGTH = math.prod(RATIOS)
SHAPE: dict[str, Any] = {
    "sampling_rate": SAMPLING_RATE,
    "downsampling_ratios": RATIOS,
    "upsampling_ratios": [8, 2, 2, 20],  # most layers at low rates, and a wide last step, as a filter bank has it
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 384,
    "n_codebooks": 9,
    "codebook_size": 1024,
    "codebook_dim": 16,
}
BATCH_SIZE, NUM_FRAMES = 4, 40  # clips a step, and frames of each
# Values of a frame, in the order of the hidden dimensions; codes of pitch and phase tell the decoder sines, too.
NUM_SPECTRAL, NUM_PITCH, NUM_PHASE = 28, 4, 2
NUM_VALUES = NUM_SPECTRAL + NUM_PITCH + NUM_PHASE
# Codebooks: as many of spectra, then one of pitch and one of phase.
SPECTRAL_CODEBOOKS = 7
PITCH_CODEBOOK, PHASE_CODEBOOK = 7, 8
# Entries of each codebook that are used. A frame's first code says which sound it is: 128 leave hardly more of the
# spectra's power than 1,024, and are learned much sooner.
NUM_PHASES = 32
NUM_USED = (128, 512, *6 * (1024,), NUM_PHASES + 1)
REFERENCE_PITCH = 130.0  # Hz
PITCH_WEIGHTS = (2.0, 4.0)  # of being voiced, and of an octave, in the distance of pitches
DELAYS = (1.25e-3, 5e-3)  # seconds for which the decoder is told the change of phase at a pitch
SHIFTED = 0.25  # of the clips have phases that are off by some codes, as those of a model will be
LEARNING_RATE, BETAS = 1.5e-3, (0.8, 0.99)
WINDOWS = {2048: 80, 1024: 80, 512: 40, 256: 20, 128: 10}  # samples of each window of the loss, and mel bands
KMEANS_FRAMES = 60_000


class Speech:
    """Sentences that `clips.py` wrote: samples, int16, and pitch, of one after another, in whole frames."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as found:
            self.samples, self.pitch = torch.from_numpy(found["samples"]), torch.from_numpy(found["pitch"])
            lengths = found["lengths"]
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return samples `[N]` and pitch `[M]` of a sentence."""
        start, end = self.starts[number], self.ends[number]
        return self.samples[start:end].float() / 32767, self.pitch[start // PITCH_HOP : end // PITCH_HOP].float()

    def draw(self, unit: int, generator: torch.Generator) -> tuple[int, int]:
        """Draw a sentence, and where in it a clip of NUM_FRAMES begins: a multiple of a unit of samples.

        The clip may begin before the sentence, and end after it.
        """
        number = int(torch.randint(len(self), (1,), generator=generator))
        length, margin = int(self.ends[number] - self.starts[number]), NUM_FRAMES // 4 * HOP_LENGTH
        last = max(length + margin - NUM_FRAMES * HOP_LENGTH, 0)
        return number, unit * int(torch.randint(-margin // unit, last // unit + 1, (1,), generator=generator))


def part_of(values: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """Return a part of values `[N]` that may begin before and end after them, where it is 0."""
    part = values.new_zeros(length)
    first, last = max(start, 0), min(start + length, len(values))
    part[first - start : max(last - start, 0)] = values[first : max(last, first)]
    return part


class Features(nn.Module):
    """What is heard in a frame: log mel spectra of its halves, pitch, and phase."""

    filters: torch.Tensor
    window: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filter_bank(257, 40, 0.0, SAMPLING_RATE / 2, SAMPLING_RATE, None, "slaney")
        self.register_buffer("filters", torch.from_numpy(filters).float())
        window = torch.hann_window(512)
        self.register_buffer("window", window / window.square().sum().sqrt())

    def spectra(self, sound: torch.Tensor) -> torch.Tensor:
        """Return log mel spectra `[B, F, T]` of sound `[B, N]`, around the middle of each half of a frame."""
        hop = HOP_LENGTH // 2
        padded = F.pad(sound, ((512 - hop) // 2,) * 2)
        spectrum = torch.stft(padded, 512, hop, window=self.window, center=False, return_complex=True).abs()
        halves = (self.filters.mT @ spectrum).clamp(min=2e-3).log10()  # [B, 40, 2T]
        return halves.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)

    @staticmethod
    def pitches(pitch: torch.Tensor) -> torch.Tensor:
        """Return whether the halves of each frame are voiced, and the octaves above `REFERENCE_PITCH`, `[B, 4, T]`."""
        by_half = pitch.unflatten(1, (-1, 2, HOP_LENGTH // 2 // PITCH_HOP))  # [B, T, 2, M / 2T]
        is_voiced = by_half > 0
        number = is_voiced.sum(3)
        octaves = torch.where(is_voiced, by_half / REFERENCE_PITCH, 1.0).log2().sum(3) / number.clamp(min=1)
        enough = (number >= by_half.shape[3] // 2).float()
        voicing, octave = PITCH_WEIGHTS
        return torch.cat([voicing * enough, octave * octaves * enough], dim=2).mT

    @staticmethod
    def phases(sound: torch.Tensor, pitch: torch.Tensor) -> torch.Tensor:
        """Return cosine and sine of the voice's phase in the middle of each frame `[B, 2, T]`; 0 without a voice."""
        size, side = 512, (HOP_LENGTH - 512) // 2
        middle = pitch[:, HOP_LENGTH // 2 // PITCH_HOP :: HOP_LENGTH // PITCH_HOP]  # [B, T]
        frames = sound.unflatten(1, (-1, HOP_LENGTH))[..., side : side + size] * torch.hann_window(size)
        angle = 2 * torch.pi * middle[..., None] * (torch.arange(size) - size // 2) / SAMPLING_RATE
        found = torch.stack([(frames * angle.cos()).sum(2), -(frames * angle.sin()).sum(2)], dim=1)
        return F.normalize(found, dim=1) * (middle > 0)[:, None]


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
        codec.encoder.conv2.weight[NUM_VALUES:] = 0.0  # values that nothing uses
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


def set_codebook(
    stage: Any, axes: torch.Tensor, mean: torch.Tensor, entries: torch.Tensor, told: torch.Tensor, first: int
) -> None:
    """Set a codebook: its entry is the nearest one along some axes, and may tell more than was compared.

    DAC compares directions only: a last dimension that is large and the same for all makes the nearest direction the
    nearest point, near ties apart.

    Args:
        axes: Orthonormal axes of the hidden dimensions `[D, P]`.
        mean: What is taken off before `[D]`.
        entries: Entries `[K, P]`.
        told: What the decoder is told beside `[K, E]`; all rows are as long.
        first: The hidden dimension where that begins.
    """
    num_used, num_axes, num_told = len(entries), axes.shape[1], told.shape[1]
    lift = 2.0 ** (entries.norm(dim=1).max() * 4).log2().ceil().item()
    for weight in stage.parameters():
        weight.zero_()
    stage.in_proj.weight[:num_axes, :, 0] = axes.T
    stage.in_proj.bias[:num_axes] = -(axes.T @ mean)
    stage.in_proj.bias[-1] = lift
    stage.codebook.weight[:num_used, :num_axes] = entries
    stage.codebook.weight[:num_used, num_axes : num_axes + num_told] = told
    stage.codebook.weight[:num_used, -1] = lift
    stage.codebook.weight[num_used:, -1] = -lift  # opposite to all points, so that they are never the nearest
    stage.out_proj.weight[:, :num_axes, 0] = axes
    stage.out_proj.weight[first : first + num_told, num_axes : num_axes + num_told, 0] = torch.eye(num_told)
    stage.out_proj.bias[:] = mean
    round_weights(stage)


def hertz_of(entries: torch.Tensor) -> torch.Tensor:
    """Return pitches `[K, 4]` in Hz for each half of a frame, 0 without a voice, `[K, 2]`."""
    is_voiced, octaves = entries[:, :2] > PITCH_WEIGHTS[0] / 2, entries[:, 2:] / PITCH_WEIGHTS[1]
    return torch.where(is_voiced, REFERENCE_PITCH * octaves.exp2(), 0.0)


def waves_of_pitch(entries: torch.Tensor) -> torch.Tensor:
    """Return how a period goes on after `DELAYS` at pitches `[K, 4]`: cosines and sines, `[K, 8]`."""
    periods = hertz_of(entries)[..., None] * torch.tensor(DELAYS)
    return torch.stack([(2 * torch.pi * periods).cos(), (2 * torch.pi * periods).sin()], dim=3).flatten(1)


@torch.no_grad()
def find_codes(codec: DacModel, values: torch.Tensor) -> None:
    """Set the codec's quantizer for values of frames `[M, D]`."""
    generator, stages = torch.Generator().manual_seed(SEED), codec.quantizer.quantizers
    size, rest = codec.config.hidden_size, values.clone()
    spectral = slice(0, NUM_SPECTRAL)
    for number in range(SPECTRAL_CODEBOOKS):
        mean = torch.zeros(size)
        mean[spectral] = rest[:, spectral].mean(0)
        centered = torch.zeros_like(rest)
        centered[:, spectral] = (rest - mean)[:, spectral]
        axes = torch.linalg.eigh(centered.T @ centered)[1].flip(1)[:, : SHAPE["codebook_dim"] - 1]  # [D, P]
        entries = k_means(centered @ axes, NUM_USED[number], generator)
        set_codebook(stages[number], axes, mean, entries, torch.empty(len(entries), 0), 0)
        rest = (rest[None].mT - stages[number](rest[None].mT)[0])[0].mT
        left = rest[:, spectral].square().sum() / (values - values.mean(0))[:, spectral].square().sum()
        print(f"codebook {number}, {NUM_USED[number]} codes: {left:.4f} of the power left", flush=True)
    axes = torch.eye(size)[:, NUM_SPECTRAL : NUM_SPECTRAL + NUM_PITCH]
    entries = k_means(values @ axes, NUM_USED[PITCH_CODEBOOK], generator)
    set_codebook(stages[PITCH_CODEBOOK], axes, torch.zeros(size), entries, waves_of_pitch(entries), NUM_VALUES)
    axes = torch.eye(size)[:, NUM_SPECTRAL + NUM_PITCH : NUM_VALUES]
    angles = torch.arange(NUM_PHASES) * (2 * torch.pi / NUM_PHASES)
    entries = torch.stack([angles.cos(), angles.sin()], dim=1)
    told = torch.stack([(2 * angles).cos(), (2 * angles).sin(), torch.zeros(NUM_PHASES)], dim=1)
    entries, told = F.pad(entries, (0, 0, 0, 1)), F.pad(told, (0, 0, 0, 1))  # the last one: no voice
    told[-1, -1] = 1.0
    first = NUM_VALUES + waves_of_pitch(torch.zeros(1, NUM_PITCH)).shape[1]
    set_codebook(stages[PHASE_CODEBOOK], axes, torch.zeros(size), entries, told, first)


class Coder:
    """Speech of a known pitch as codes, without the codec's encoder."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.axes, self.mean, self.scale = state["axes"], state["mean"], state["scale"]
        self.features, self.quantizer = Features(), make_codec().quantizer
        self.quantizer.load_state_dict(state["quantizer"])
        self.quantizer.requires_grad_(False)

    @classmethod
    def load(cls, work: Path) -> Coder:
        """Load what `write_codes` wrote."""
        return cls(torch.load(work / "codes.pt"))

    @torch.no_grad()
    def values(self, sound: torch.Tensor, pitch: torch.Tensor) -> torch.Tensor:
        """Return the values `[B, V, T]` of sound `[B, N]` and its pitch `[B, M]`."""
        spectral = (self.axes @ (self.features.spectra(sound) - self.mean[:, None])) / self.scale
        return torch.cat([spectral, self.features.pitches(pitch), self.features.phases(sound, pitch)], dim=1)

    @torch.no_grad()
    def __call__(self, sound: torch.Tensor, pitch: torch.Tensor) -> torch.Tensor:
        """Return codes `[T, C]` of a sound `[N]` and its pitch `[M]`."""
        values = self.values(sound[None], pitch[None])
        return self.quantizer(F.pad(values, (0, 0, 0, self.hidden_size - NUM_VALUES)))[1][0].T

    @property
    def hidden_size(self) -> int:
        """Dimensions of the codec's latents."""
        return self.quantizer.quantizers[0].in_proj.in_channels


@torch.no_grad()
def write_codes(work: Path) -> None:
    """Stage 1."""
    speech, features, codec = Speech(work / "speech.npz"), Features(), make_codec()
    order = torch.randperm(len(speech), generator=torch.Generator().manual_seed(SEED)).tolist()
    chosen, frames = [], 0
    while frames < KMEANS_FRAMES and order:
        chosen.append(speech[order.pop()])
        frames += len(chosen[-1][0]) // HOP_LENGTH
    spectra = torch.cat([features.spectra(sound[None])[0].T for sound, _ in chosen])
    mean = spectra.mean(0)
    size, axes = torch.linalg.eigh((spectra - mean).T @ (spectra - mean) / len(spectra))
    print(f"{NUM_SPECTRAL} axes have {size[-NUM_SPECTRAL:].sum() / size.sum():.3f} of the variance", flush=True)
    axes, scale = axes.flip(1)[:, :NUM_SPECTRAL].T, size[-NUM_SPECTRAL:].mean().sqrt().item()
    state = {"axes": axes, "mean": mean, "scale": scale, "quantizer": codec.quantizer.state_dict()}
    coder = Coder(state)
    values = torch.cat([coder.values(sound[None], pitch[None])[0].T for sound, pitch in chosen])
    find_codes(codec, F.pad(values, (0, codec.config.hidden_size - NUM_VALUES)))
    torch.save(state | {"quantizer": codec.quantizer.state_dict()}, work / "codes.pt")
    save(work)


def save(work: Path) -> None:
    """Write the codec as it is by now."""
    codec = make_codec()
    codec.quantizer.load_state_dict(torch.load(work / "codes.pt")["quantizer"])
    for part in ("encoder", "decoder"):
        if (work / f"{part}.state.pt").exists():
            state = torch.load(work / f"{part}.state.pt", map_location="cpu")
            getattr(codec, part).load_state_dict(state["parts"][0])
    codec.to(torch.bfloat16).save_pretrained(work / "codec")


def shift_phases(codes: torch.Tensor, generator: torch.Generator) -> None:
    """Move the phases of codes `[T, C]` by up to some codes, each by another number."""
    reach = int(torch.randint(1, NUM_PHASES // 2 + 1, (1,), generator=generator))
    phases = codes[:, PHASE_CODEBOOK]
    moved = (phases + torch.randint(-reach, reach + 1, phases.shape, generator=generator)) % NUM_PHASES
    codes[:, PHASE_CODEBOOK] = torch.where(phases < NUM_PHASES, moved, phases)


def train_decoder(work: Path, steps: int) -> None:
    """Stage 2."""
    speech, coder = Speech(work / "speech.npz"), Coder.load(work)
    codec, loss = make_codec().to(DEVICE), SpectralLoss().to(DEVICE)
    compile_snakes(codec)
    silence = coder(torch.zeros(HOP_LENGTH), torch.zeros(HOP_LENGTH // PITCH_HOP)).expand(NUM_FRAMES, -1)
    codes = [
        torch.cat([silence, coder(*speech[number]), silence])
        for number in tqdm(range(len(speech)), "codes", mininterval=5)
    ]

    def compute_loss(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        clips, given, exact = [], [], torch.rand(BATCH_SIZE, generator=generator) >= SHIFTED
        for is_exact in exact:
            number, start = speech.draw(HOP_LENGTH, generator)
            clips.append(part_of(speech[number][0], start, NUM_FRAMES * HOP_LENGTH))
            clip = codes[number][NUM_FRAMES + start // HOP_LENGTH :][:NUM_FRAMES].clone()
            if not is_exact:
                shift_phases(clip, generator)
            given.append(clip.T)
        latents = coder.quantizer.from_codes(torch.stack(given))[0].to(DEVICE)
        return (loss(codec.decoder(latents)[:, 0], torch.stack(clips).to(DEVICE), exact.float().to(DEVICE)),)

    train_parts("decoder", work, [codec.decoder], compute_loss, steps)
    save(work)


def train_encoder(work: Path, steps: int) -> None:
    """Stage 3."""
    speech, coder, codec = Speech(work / "speech.npz"), Coder.load(work), make_codec().to(DEVICE)
    compile_snakes(codec)

    def compute_loss(generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        parts = []
        for _ in range(BATCH_SIZE):
            number, start = speech.draw(PITCH_HOP, generator)
            sound, pitch = speech[number]
            clip = part_of(sound, start, NUM_FRAMES * HOP_LENGTH)
            parts.append((clip, part_of(pitch, start // PITCH_HOP, NUM_FRAMES * HOP_LENGTH // PITCH_HOP)))
        clips, pitches = (torch.stack(values) for values in zip(*parts, strict=True))
        found = codec.encoder(clips[:, None].to(DEVICE))[:, :NUM_VALUES]
        off = (found - coder.values(clips, pitches).to(DEVICE)).square()
        off = off.mean((0, 2)).split([NUM_SPECTRAL, NUM_PITCH, NUM_PHASE])
        return sum(part.mean() for part in off), *(part.mean().detach() for part in off)

    train_parts("encoder", work, [codec.encoder], compute_loss, steps)
    save(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["codes", "decoder", "encoder"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.stage == "codes":
        write_codes(args.work)
    else:
        {"encoder": train_encoder, "decoder": train_decoder}[args.stage](args.work, args.steps)
