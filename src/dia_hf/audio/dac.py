"""Waveforms to codes and back, over a Descript Audio Codec: transformers' `DacModel` or descript's own `dac.DAC`.

Clips are computed in batches and in windows, with the result of computing each clip alone and whole:

- Clips of different lengths share a batch, padded on the right. Beyond a clip's end, the layers before a convolution
  turn the padding into other values than the zeros that the clip alone would have there; they are set to zero before
  each convolution.
- A long clip is cut into windows of whole frames, each with a margin of neighboring frames.

Both follow from one plan of a network: its layers in order, each with its kernel, stride and padding. Sampling rate,
hop length and number of codebooks come from the codec's config alone. This file does not depend on the delay pattern,
special tokens or text.

Legend: B batch, N samples, T frames (one every `hop_length` samples), C codebooks.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import DacModel
from transformers.utils import cached_file

from ..text_files import shortened
from .codec import Codec

__all__ = ["DacCodec", "check_codebooks", "load_dac"]

# Class names of transformers and of descript-audio-codec.
_POINTWISE = {"Snake1d", "Tanh"}
_RESIDUAL_UNITS = {"DacResidualUnit", "ResidualUnit"}
_SEQUENCES = {
    *("DacEncoder", "DacEncoderBlock", "DacDecoder", "DacDecoderBlock", "ModuleList"),
    *("Encoder", "EncoderBlock", "Decoder", "DecoderBlock", "Sequential"),
}


@dataclass(frozen=True)
class _Step:
    """One layer of a plan. The defaults describe a pointwise layer: each output depends on one input."""

    layer: nn.Module
    reach: int = 0  # from the first to the last input of an output: dilation · (kernel size - 1)
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    is_transposed: bool = False
    opens: bool = False  # first layer of a residual unit, whose input is kept
    closes: bool = False  # last layer of a residual unit, to whose output the kept input is added

    def num_outputs(self, num_inputs: int) -> int:
        if self.is_transposed:
            return (num_inputs - 1) * self.stride - 2 * self.padding + self.reach + self.output_padding + 1
        return (num_inputs + 2 * self.padding - self.reach - 1) // self.stride + 1

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """Find the first and the last input that the outputs from `first` to `last` depend on."""
        if self.is_transposed:
            # Input i is added to the outputs from i · stride - padding to that + reach.
            return -((self.reach - self.padding - first) // self.stride), (last + self.padding) // self.stride
        return first * self.stride - self.padding, last * self.stride - self.padding + self.reach


def _make_plan(module: nn.Module) -> list[_Step]:
    """List the layers of a network in the order of their registration, which is the order of their calls."""
    name = type(module).__name__
    if name in _POINTWISE:
        return [_Step(module)]
    if (
        isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ):
        reach = module.dilation[0] * (module.kernel_size[0] - 1)
        is_transposed = isinstance(module, nn.ConvTranspose1d)
        geometry = (module.stride[0], module.padding[0], module.output_padding[0])
        return [_Step(module, reach, *geometry, is_transposed=is_transposed)]
    if name in _SEQUENCES | _RESIDUAL_UNITS:
        plan = [step for child in module.children() for step in _make_plan(child)]
        if name in _RESIDUAL_UNITS:
            plan[0] = replace(plan[0], opens=True)
            plan[-1] = replace(plan[-1], closes=True)
        return plan
    raise TypeError(
        f"the codec has a layer of a kind that is not known here, {module!r}; known are convolutions padded with "
        f"zeros, and {', '.join(sorted(_POINTWISE | _RESIDUAL_UNITS | _SEQUENCES))}."
    )


def _run_plan(
    plan: Sequence[_Step], hidden: torch.Tensor, lengths: Sequence[int]
) -> tuple[torch.Tensor, Sequence[int]]:
    """Call the layers on a right-padded batch, with the result of each row alone.

    Args:
        plan (`Sequence[_Step]`): The network.
        hidden (`torch.Tensor` of shape `[B, channels, positions]`): Input; modified beyond the rows' lengths.
        lengths (`Sequence[int]` of length B): Valid positions of each row.

    Returns:
        `tuple`: The output `[B, channels, positions]`, and its lengths. Values beyond these are undefined.
    """
    kept = hidden
    for step in plan:
        if step.opens:
            kept = hidden
        if step.reach > 0:
            for row, length in enumerate(lengths):
                if length < hidden.shape[-1]:
                    hidden[row, :, length:] = 0
        is_snake = type(step.layer).__name__ == "Snake1d" and not hidden.requires_grad
        alpha: Any = step.layer.alpha if is_snake else None
        hidden = _snake(hidden, alpha) if is_snake else step.layer(hidden)
        lengths = [step.num_outputs(length) for length in lengths]
        if step.closes:
            hidden += kept
    return hidden, lengths


def _snake(hidden: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Compute x + sin²(αx) / α as the layer does, to the bit, in the memory of one result instead of four."""
    waves = alpha * hidden
    return waves.sin_().mul_(waves).mul_((alpha + 1e-9).reciprocal()).add_(hidden)


def _margin(plan: Sequence[_Step], inputs_per_frame: int, outputs_per_frame: int) -> int:
    """Return the frames on either side of a frame that its outputs depend on, the larger of both sides."""
    first, last = 0, outputs_per_frame - 1
    for step in reversed(plan):
        first, last = step.inputs_of(first, last)
    return max(-(first // inputs_per_frame), last // inputs_per_frame)


class _Window(NamedTuple):
    """Frames `start` to `stop` of clip number `clip`, computed from the frames `first` to `last`."""

    clip: int
    start: int
    stop: int
    first: int
    last: int

    @property
    def num_frames(self) -> int:
        return self.last - self.first


def check_codebooks(number: Any) -> None:
    """Raise `ValueError` if a number of codebooks is out of range: each is allocated separately."""
    if not isinstance(number, int) or not 1 <= number <= 1024:
        raise ValueError(f"`n_codebooks` is {shortened(number)}; a codec has 1 to 1024")


def load_dac(name: str | os.PathLike, **options: Any) -> DacModel:
    """Load a `DacModel`, and refuse one with randomly initialized tensors, whose output would be noise.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub id.
        options: As for `DacModel.from_pretrained`.

    Raises:
        OSError: If there is none.
        ValueError: If its files are damaged, it lacks tensors or has them in other shapes than its config says, or it
            is another model.

    Example:
    ```python
    >>> from dia_hf import MINIATURE
    >>> from dia_hf.audio.dac import load_dac
    >>> load_dac(MINIATURE, subfolder="audio_tokenizer").config.n_codebooks
    9

    ```
    """
    told = repr(os.path.join(name, options.get("subfolder", "")).rstrip("/"))
    hub_options = {key: value for key, value in options.items() if key not in ("device_map", "dtype")}
    # Without a config, or with that of another model, transformers would use the default sizes and random weights.
    file = cached_file(name, "config.json", **hub_options)
    if file is None:
        raise OSError(f"the codec {told} has no file `config.json`, without which its sizes are unknown.")
    try:
        with open(file, encoding="utf-8") as stream:
            values = json.load(stream)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, but a config is an object, fields by name")
        if values.get("model_type", "dac") != "dac":
            raise ValueError(f"`model_type` is {values['model_type']!r}; a codec's is 'dac'")
        check_codebooks(values.get("n_codebooks", 1))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the codec's {file} cannot be used: {error}.") from error
    try:
        codec, report = DacModel.from_pretrained(name, output_loading_info=True, **options)
    except (OSError, ImportError):
        raise
    except Exception as error:  # of any kind, caused by a wrong size or type
        raise ValueError(f"the codec {told} cannot be loaded: {error}") from error
    for kind, words in (("missing_keys", "lacks"), ("unexpected_keys", "has, beyond those of a DacModel,")):
        if names := sorted(report[kind]):
            raise ValueError(f"the codec {told} {words} {len(names)} tensors, such as {names[0]!r}; it is damaged.")
    return codec.eval()


class DacCodec(Codec):
    """Descript Audio Codec, over transformers' `DacModel` or descript's `dac.DAC`.

    Clips are computed in batches, long ones in windows. Each result equals that of the clip alone and whole, up to the
    rounding of the network's dtype (on CUDA that of TF32, unless it is disabled).

    Args:
        model (`DacModel` or `dac.DAC`): Network; it stays on its device and in its dtype.
        max_frames_per_batch (`int`, defaults to 1024): Frames to compute at once, padding and margins included. In
            float32 the published 44.1 kHz codec needs about 2 MB of memory for each.

    Attributes:
        sampling_rate (`int`): In hertz.
        hop_length (`int`): Samples a frame.
        num_codebooks (`int`): Codes a frame.
        codebook_size (`int`): Entries a codebook; valid codes are 0 to `codebook_size - 1`.
        encoder_margin (`int`): Frames before a frame, and as many after it, whose samples its codes depend on.
        decoder_margin (`int`): Frames before a frame, and as many after it, whose codes its samples depend on.

    The margins are the receptive field of the network, derived from kernels, strides and paddings and rounded up to
    whole frames; where the two sides differ, as with odd strides, the larger one is used. The
    published 44.1 kHz codec (decoder rates 8, 8, 4, 2) has a decoder margin of 10 frames and an encoder margin of 8.

    Raises:
        TypeError: If the model is neither of these classes, or has a layer of an unknown kind.
        ValueError: If `max_frames_per_batch` is too small for a frame between its margins.

    Example:
    ```python
    >>> import torch
    >>> from transformers import DacConfig, DacModel
    >>> from dia_hf.audio.dac import DacCodec
    >>> codec = DacCodec(DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=32)))
    >>> codes = codec.encode([torch.zeros(1000)])
    >>> codes[0].shape, codec.decode(codes)[0].shape
    (torch.Size([2, 9]), torch.Size([1024]))

    ```
    """

    def __init__(self, model: Any, max_frames_per_batch: int = 1024) -> None:
        self.model = model
        self.max_frames_per_batch = max_frames_per_batch
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
        self._encoder = _make_plan(model.encoder)
        self._decoder = _make_plan(model.decoder)
        self.encoder_margin = _margin(self._encoder, inputs_per_frame=self.hop_length, outputs_per_frame=1)
        self.decoder_margin = _margin(self._decoder, inputs_per_frame=1, outputs_per_frame=self.hop_length)
        self.decoder_context = self.decoder_margin
        smallest = 2 * max(self.encoder_margin, self.decoder_margin) + 1
        if max_frames_per_batch < smallest:
            raise ValueError(
                f"`max_frames_per_batch` is {max_frames_per_batch}; a frame between its margins takes {smallest}."
            )

    @property
    def fingerprint(self) -> str:
        """Identifier of the codebooks: 16 hexadecimal digits.

        The first digits of the SHA-256 of the signs of all codebook entries, as packed bits. Rounding does not change
        signs, so copies of a codec in bfloat16 or float16, or of the other class, have the same fingerprint.
        """
        codebooks = [quantizer.codebook.weight.flatten() for quantizer in self.model.quantizer.quantizers]
        signs = torch.signbit(torch.cat(codebooks)).cpu().numpy()
        return hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()[:16]

    @classmethod
    def load(cls, name: str | os.PathLike, **options: Any) -> DacModel:
        """See `load_dac`."""
        return load_dac(name, **options)

    def save(self, folder: str | os.PathLike) -> None:
        """Write a `DacModel` to a folder.

        Raises:
            ValueError: If the network is descript's, which has no folder layout.
        """
        if not isinstance(self.model, DacModel):
            raise ValueError(
                f"a {type(self.model).__module__} codec cannot be saved inside a checkpoint; turn its file into a "
                "DacModel: `dia_hf.conversion.load_descript_codec(file)`."
            )
        self.model.save_pretrained(folder)

    @torch.no_grad()
    def encode(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `Codec.encode`."""
        spans = []
        for waveform in waveforms:
            if waveform.ndim != 1:
                raise ValueError(f"a waveform has the shape {tuple(waveform.shape)}; expected [samples].")
            padding = -len(waveform) % self.hop_length
            frames = nn.functional.pad(waveform, (0, padding)).view(-1, self.hop_length)
            spans.append((frames, 0, len(frames)))
        nothing = torch.zeros(0, self.num_codebooks, dtype=torch.long)
        parts = self._compute(self._encode_pieces, self.encoder_margin, 1, spans)
        return [torch.cat([nothing, *part]) for part in parts]

    @torch.no_grad()
    def decode(self, codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `Codec.decode`."""
        for clip in codes:
            self.check_codes(clip)
        return self.decode_spans([(clip, 0, len(clip)) for clip in codes])

    @torch.no_grad()
    def decode_spans(self, spans: Sequence[tuple[torch.Tensor, int, int]]) -> list[torch.Tensor]:
        """See `Codec.decode_spans`."""
        parts = self._compute(self._decode_pieces, self.decoder_margin, self.hop_length, spans)
        return [torch.cat([torch.zeros(0), *part]) for part in parts]

    def _encode_pieces(self, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn frames of samples, each `[T_i, hop_length]`, into codes, each `[T_i, C]`, in one batch."""
        parameter = next(self.model.parameters())
        frames = nn.utils.rnn.pad_sequence(
            [piece.to(parameter.device, parameter.dtype) for piece in pieces], batch_first=True
        )
        samples = frames.flatten(1)[:, None]
        hidden, lengths = _run_plan(self._encoder, samples, [piece.numel() for piece in pieces])
        codes = self.model.quantizer(hidden)[1].mT.cpu()
        return [row[:length] for row, length in zip(codes, lengths, strict=True)]

    def _decode_pieces(self, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn codes, each `[T_i, C]`, into samples, each `[N_i]`, in one batch."""
        device = next(self.model.parameters()).device
        codes = nn.utils.rnn.pad_sequence([piece.to(device, torch.long) for piece in pieces], batch_first=True)
        hidden = self.model.quantizer.from_codes(codes.mT)[0]
        hidden, lengths = _run_plan(self._decoder, hidden, [len(piece) for piece in pieces])
        waveforms = hidden[:, 0].float().cpu()
        return [row[:length] for row, length in zip(waveforms, lengths, strict=True)]

    def _compute(
        self,
        compute_pieces: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
        margin: int,
        outputs_per_frame: int,
        spans: Sequence[tuple[torch.Tensor, int, int]],
    ) -> list[list[torch.Tensor]]:
        """Compute the outputs of some frames of each clip: cut into windows, run in batches, crop, put in order.

        Args:
            compute_pieces: Function from the frames of some pieces to the outputs of each.
            margin: Frames that an output depends on, on either side of its own.
            outputs_per_frame: Outputs of a frame; a clip's last may have fewer.
            spans: Clips of shape `[T_i, ...]`, and for each the first frame wanted and the one after the last.

        Returns:
            The outputs, in one or more parts, of each clip; no part where no frame is wanted.
        """
        windows = []
        for number, (clip, start, stop) in enumerate(spans):
            size = max(stop - start, 1)
            if min(stop + margin, len(clip)) - max(start - margin, 0) > self.max_frames_per_batch:
                size = self.max_frames_per_batch - 2 * margin
            for begin in range(start, stop, size):
                end = min(begin + size, stop)
                windows.append(_Window(number, begin, end, max(begin - margin, 0), min(end + margin, len(clip))))

        outputs: dict[_Window, torch.Tensor] = {}
        for batch in _group(windows, self.max_frames_per_batch):
            pieces = [spans[window.clip][0][window.first : window.last] for window in batch]
            for window, output in zip(batch, compute_pieces(pieces), strict=True):
                begin = (window.start - window.first) * outputs_per_frame
                end = (window.stop - window.first) * outputs_per_frame
                outputs[window] = output[begin:end]

        parts: list[list[torch.Tensor]] = [[] for _ in spans]
        for window in windows:
            parts[window.clip].append(outputs[window])
        return parts


def _group(windows: Sequence[_Window], max_frames: int) -> list[list[_Window]]:
    """Group windows into batches of at most `max_frames`, with at most a quarter of each row as padding."""
    batches: list[list[_Window]] = []
    for window in sorted(windows, key=lambda window: window.num_frames, reverse=True):
        longest = batches[-1][0].num_frames if batches else 0
        if 4 * window.num_frames >= 3 * longest > 0 and longest * (len(batches[-1]) + 1) <= max_frames:
            batches[-1].append(window)
        else:
            batches.append([window])
    return batches
