"""Waveforms to codes and back, over a Descript Audio Codec: transformers' `DacModel` or descript's own `dac.DAC`.

The codec's own config is the one truth for sampling rate, hop length and number of codebooks. Knows nothing of the
delay pattern, special tokens or text; called by the feature extractor and the processor.

Legend: N samples, T frames (one every `hop_length` samples), C codebooks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DacModel

__all__ = ["Codec"]


class Codec:
    """A codec seen as two functions on clips, `encode` and `decode`, whoever wrote its network.

    Clips go through the network one at a time, each with just the padding it would have alone: zero padding up to a
    longer neighbour changes the codes near a clip's end.

    Args:
        model (`DacModel` or `dac.DAC`): The network; stays where it is, on its device and in its dtype.

    Attributes:
        sampling_rate (`int`): In hertz.
        hop_length (`int`): Samples a frame.
        num_codebooks (`int`): Codes a frame.
        codebook_size (`int`): Entries a codebook; valid codes are 0 to `codebook_size - 1`.

    Raises:
        TypeError: If the model is neither.

    Example:
    ```python
    >>> import torch
    >>> from transformers import DacConfig, DacModel
    >>> from dia_hf.codec import Codec
    >>> codec = Codec(DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=32)))
    >>> codes = codec.encode([torch.zeros(1000)])
    >>> codes[0].shape, codec.decode(codes)[0].shape
    (torch.Size([2, 9]), torch.Size([1024]))

    ```
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        if isinstance(model, DacModel):
            self.sampling_rate: int = model.config.sampling_rate
            self.hop_length: int = math.prod(model.config.downsampling_ratios)
            self.num_codebooks: int = model.config.n_codebooks
            self.codebook_size: int = model.config.codebook_size
        elif type(model).__module__.startswith("dac."):
            self.sampling_rate = model.sample_rate
            self.hop_length = int(model.hop_length)
            self.num_codebooks = model.n_codebooks
            self.codebook_size = model.codebook_size
        else:
            raise TypeError(f"the codec is a {type(model).__name__}; use transformers' DacModel or descript's dac.DAC.")

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.hop_length

    @torch.no_grad()
    def encode(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn waveforms into codes.

        Args:
            waveforms (`Sequence[torch.Tensor]`, each of shape `[N_i]`): Mono, at `sampling_rate`, of any floating
                dtype and any length from 1 sample; padded with zeros to whole frames.

        Returns:
            `list[torch.LongTensor]`, each of shape `[T_i, C]` with `T_i = ceil(N_i / hop_length)`, on the CPU.
        """
        parameter = next(self.model.parameters())
        codes = []
        for waveform in waveforms:
            padding = -waveform.shape[-1] % self.hop_length
            waveform = torch.nn.functional.pad(waveform, (0, padding)).to(parameter.device, parameter.dtype)
            encoded = self.model.encode(waveform[None, None])
            # descript returns a tuple: quantised latents, codes, …
            channels = encoded.audio_codes if isinstance(self.model, DacModel) else encoded[1]
            codes.append(channels[0].T.cpu())
        return codes

    @torch.no_grad()
    def decode(self, codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn codes into waveforms.

        Args:
            codes (`Sequence[torch.Tensor]`, each of shape `[T_i, C]`, integer): Codes; T_i may be 0.

        Returns:
            `list[torch.Tensor]`, each of shape `[about T_i · hop_length]`, float32, on the CPU.

        Raises:
            ValueError: If a clip has another number of channels, or a code lies outside the codebook.
        """
        device = next(self.model.parameters()).device
        waveforms = []
        for clip in codes:
            if clip.ndim != 2 or clip.shape[1] != self.num_codebooks:
                raise ValueError(f"codes have the shape {tuple(clip.shape)}; expected [frames, {self.num_codebooks}].")
            if len(clip) == 0:
                waveforms.append(torch.zeros(0))
                continue
            if not 0 <= clip.min() <= clip.max() < self.codebook_size:
                raise ValueError(
                    f"codes range from {clip.min()} to {clip.max()}; this codec knows 0 to {self.codebook_size - 1}, "
                    "special tokens must be cut off before decoding."
                )
            channels = clip.T[None].to(device)
            if isinstance(self.model, DacModel):
                audio = self.model.decode(audio_codes=channels).audio_values
            else:
                audio = self.model.decode(self.model.quantizer.from_codes(channels)[0])
            waveforms.append(audio.flatten().float().cpu())
        return waveforms
