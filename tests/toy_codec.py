"""A codec unlike DAC: four samples a frame, two codebooks of 16 levels, coarse and fine, and no convolution."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from dia_hf.audio.codec import Codec, register_codec


class ToyNetwork(nn.Module):
    """The levels of each codebook; the fine ones divide a step of the coarse ones."""

    def __init__(self):
        super().__init__()
        self.levels = nn.Parameter(torch.stack([torch.linspace(-0.5, 0.5, 16), torch.linspace(-1, 1, 16) / 30]))


class ToyCodec(Codec):
    """A code is the mean of a frame's samples; a frame's audio includes parts of two frames ago and the next."""

    def __init__(self, model, max_frames_per_batch=1024):
        self.model = model
        self.sampling_rate, self.hop_length, self.num_codebooks, self.codebook_size = 8000, 4, 2, 16
        self.decoder_context, self.decoder_margin = 2, 1

    @torch.no_grad()
    def encode(self, waveforms):
        coarse, fine = self.model.levels
        codes = []
        for waveform in waveforms:
            means = nn.functional.pad(waveform.float(), (0, -len(waveform) % 4)).view(-1, 4).mean(-1)
            first = (means[:, None] - coarse).abs().argmin(-1)
            codes.append(torch.stack([first, (means[:, None] - coarse[first][:, None] - fine).abs().argmin(-1)], dim=1))
        return codes

    @torch.no_grad()
    def decode(self, codes):
        waveforms = []
        for clip in codes:
            self.check_codes(clip)
            means = sum(levels[one] for levels, one in zip(self.model.levels, clip.long().T, strict=True))
            echo, hint = nn.functional.pad(means, (2, 0))[: len(means)], nn.functional.pad(means, (0, 1))[1:]
            waveforms.append((means + echo / 2 + hint / 4).repeat_interleave(4))
        return waveforms

    @property
    def fingerprint(self):
        return hashlib.sha256(self.model.levels.detach().half().numpy().tobytes()).hexdigest()[:16]

    @classmethod
    def load(cls, name, **options):
        network, folder = ToyNetwork(), Path(name, options.get("subfolder", ""))
        network.levels.data = torch.tensor(json.loads((folder / "config.json").read_text())["levels"])
        return network

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = {"architectures": ["ToyNetwork"], "levels": self.model.levels.tolist()}
        Path(folder, "config.json").write_text(json.dumps(config))


register_codec("ToyNetwork", ToyCodec)
