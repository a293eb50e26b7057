"""Waveforms to codes and back, over a Descript Audio Codec: transformers' `DacModel` or descript's own `dac.DAC`.

Clips are computed in batches and in windows, with the result of computing each clip alone and whole:

- Clips of different lengths share a batch, padded on the right. Beyond a clip's end, the layers before a convolution
  turn the padding into other values than the zeros that the clip alone would have there; they are set to zero before
  each convolution.
- A long clip is cut into windows of whole frames, each with a margin of neighboring frames.
- A clip that grows is computed on a CPU layer by layer, each value once. Elsewhere its new frames are windows in a
  batch with those of other clips, because there many small operations cost more than the margins.
- Where there is a C++ operator for the decoder (`native_decoder.py`), every clip is one that grows, without windows.

All follow from the plan of a network (`layers.py`): its layers in order, with kernels, strides and paddings. Sampling
rate, hop length and number of codebooks come from the codec's config alone. This file does not depend on the delay
pattern, special tokens or text.

Legend: B batch, N samples, T frames (one every `hop_length` samples), C codebooks.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import DacConfig, DacModel
from transformers.utils import cached_file

from ..text_files import shortened
from .codec import Codec, DecoderStream
from .layers import GrowingRun, make_plan, margin_of, run_plan
from .native_decoder import NativeDecoder, native_decoder_of

__all__ = ["DacCodec", "DacDecoder", "check_codebooks", "load_dac"]


_LONGEST_PIECE = 128  # frames; a power of two


class _Growth(NamedTuple):
    """State of a clip that is computed while it grows.

    Attributes:
        run (`GrowingRun` or `GrowingClip`): The decoder.
        num_read (`int`): Frames after the last popped one that it has read.
        samples (`torch.Tensor` of shape `[N]`): Samples after the last popped one.
    """

    run: Any
    num_read: int
    samples: torch.Tensor


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


class DacDecoder(DacModel):
    """DAC without its encoder, as files for programs that only speak store it: it decodes codes, and encodes nothing.

    Args:
        config (`DacConfig`): Sizes of the whole codec.
    """

    def __init__(self, config: DacConfig) -> None:
        super().__init__(config)
        self.encoder = None
        for quantizer in self.quantizer.quantizers:
            quantizer.in_proj = None


def load_dac(name: str | os.PathLike, **options: Any) -> DacModel:
    """Load a `DacModel`, and refuse one with randomly initialized tensors, whose output would be noise.

    A folder whose `config.json` names the architecture `DacDecoder` is loaded as one.

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
    network = DacDecoder if values.get("architectures") == [DacDecoder.__name__] else DacModel
    try:
        codec, report = network.from_pretrained(name, output_loading_info=True, **options)
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

    On a CPU, a `DacModel` in float32 or bfloat16 is decoded by a C++ operator, if the package was built with one. Its
    results are those of the clip alone and whole to the bit, and those of the network's own layers up to rounding. It
    keeps a copy of the decoder's weights until they change, 220 MB of the published codec in float32 and 110 in
    bfloat16.

    Args:
        model (`DacModel` or `dac.DAC`): Network; it stays on its device and in its dtype.
        max_frames_per_batch (`int`, defaults to 1024): Frames to compute at once, padding and margins included. In
            float32 the published 44.1 kHz codec needs about 2 MB of memory for each. The C++ operator decodes 32 at
            once, whatever this is.

    Attributes:
        sampling_rate (`int`): In hertz.
        hop_length (`int`): Samples a frame.
        num_codebooks (`int`): Codes a frame.
        codebook_size (`int`): Entries a codebook; valid codes are 0 to `codebook_size - 1`.
        encoder_margin (`int`): Frames before a frame, and as many after it, whose samples its codes depend on.
        decoder_margin (`int`): Frames before a frame, and as many after it, whose codes its samples depend on.
        has_native_decoder (`bool`): Whether codes are decoded by the C++ operator.

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
        self._encoder = [] if isinstance(model, DacDecoder) else make_plan(model.encoder)
        self._decoder = make_plan(model.decoder)
        # Not of layers with weight normalization.
        is_bare = all(layer.is_bare for layer in self._decoder)
        self._growing_decoder = [layer.unpadded() for layer in self._decoder] if is_bare else None
        self.encoder_margin = margin_of(self._encoder, inputs_per_frame=self.hop_length, outputs_per_frame=1)
        self.decoder_margin = margin_of(self._decoder, inputs_per_frame=1, outputs_per_frame=self.hop_length)
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
        """See `Codec.encode`; raises `ValueError` for a `DacDecoder`."""
        if isinstance(self.model, DacDecoder):
            raise ValueError(
                "this codec can only decode, because its file has no encoder: it turns codes into audio, but no "
                "recording into a voice prompt; give a complete codec, such as `descript/dac_44khz` (`codec=`, "
                "`--codec`)."
            )
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
        decoder = self._native_decoder()
        if decoder is not None:
            return self._decode_by(decoder, spans)
        parts = self._compute(self._decode_pieces, self.decoder_margin, self.hop_length, spans)
        return [torch.cat([torch.zeros(0), *part]) for part in parts]

    def decode_next(self, streams: Sequence[DecoderStream], num_frames: Sequence[int]) -> list[torch.Tensor]:
        """See `Codec.decode_next`."""
        decoder = self._native_decoder()
        has_read = all(stream.state is not None or stream._next == 0 for stream in streams)
        runs = [stream.state.run for stream in streams if stream.state is not None]
        if has_read and decoder is not None and all(getattr(run, "item_size", 0) == decoder.item_size for run in runs):
            results = self._grow_by(decoder, streams, num_frames)
        elif (
            has_read
            and self._growing_decoder is not None
            and self.device.type == "cpu"
            and all(isinstance(run, GrowingRun) for run in runs)
        ):
            results = [self._grow(stream, count) for stream, count in zip(streams, num_frames, strict=True)]
        else:
            for stream in streams:  # from here on by windows
                stream.state = None
            return super().decode_next(streams, num_frames)
        for stream, (state, _) in zip(streams, results, strict=True):
            stream.state = state
        return [waveform for _, waveform in results]

    def _grow_by(
        self, decoder: NativeDecoder, streams: Sequence[DecoderStream], num_frames: Sequence[int]
    ) -> list[tuple[_Growth, torch.Tensor]]:
        """Return the new states of streams, and their next samples, by the operator."""
        states = [stream.state or _Growth(decoder.begin(), 0, torch.zeros(0)) for stream in streams]
        readings = [self._reading(*each) for each in zip(streams, num_frames, states, strict=True)]
        codes, ends = [codes for codes, _ in readings], [is_last for _, is_last in readings]
        runs, parts = decoder.push([state.run for state in states], codes, ends)
        return [
            self._grown(stream, count, state, run, len(piece), [part])
            for stream, count, state, run, piece, part in zip(
                streams, num_frames, states, runs, codes, parts, strict=True
            )
        ]

    def _grow(self, stream: DecoderStream, count: int) -> tuple[_Growth, torch.Tensor]:
        """Return the new state of a stream, and its next samples."""
        state = stream.state or _Growth(GrowingRun(self._growing_decoder or []), 0, torch.zeros(0))
        codes, is_last = self._reading(stream, count, state)
        run, num_codes, parts = state.run.copy(), len(codes), []
        # In pieces of few sizes: a kernel is compiled for each length of each layer, which takes longer than to run it.
        is_whole_piece = stream.state is None and len(codes) == count + self.decoder_margin  # as of many other clips
        while len(codes) > 0:
            size = len(codes) if is_whole_piece else min(1 << (len(codes).bit_length() - 1), _LONGEST_PIECE)
            parts.append(run.push(self.model.quantizer.from_codes(codes[:size].mT[None])[0]))
            codes = codes[size:]
        if is_last and not run.has_ended:
            parts.append(run.push(None, is_last=True))
        samples = [part.flatten().float() for part in parts if part is not None]
        return self._grown(stream, count, state, run, num_codes, samples)

    def _reading(self, stream: DecoderStream, count: int, state: _Growth) -> tuple[torch.Tensor, bool]:
        """Return the codes to read for the next samples of a stream, and whether they are its last."""
        stop = min(count + self.decoder_margin, stream.num_pending) if count > 0 else state.num_read
        return stream.codes[state.num_read : stop], stream.is_closed and stop == stream.num_pending

    def _grown(
        self,
        stream: DecoderStream,
        count: int,
        state: _Growth,
        run: Any,
        num_codes: int,
        parts: Sequence[torch.Tensor],
    ) -> tuple[_Growth, torch.Tensor]:
        """Return the state of a stream after `num_codes` more are read and its next frames taken, and their samples."""
        samples = torch.cat([state.samples, *parts])
        is_all = stream.is_closed and count == stream.num_pending
        number = len(samples) if is_all else count * self.hop_length
        return _Growth(run, state.num_read + num_codes - count, samples[number:].clone()), samples[:number]

    @property
    def has_native_decoder(self) -> bool:
        """Whether codes are decoded by the C++ operator."""
        return self._native_decoder() is not None

    def _native_decoder(self) -> NativeDecoder | None:
        return native_decoder_of(self.model, self._decoder)

    def _decode_by(self, decoder: NativeDecoder, spans: Sequence[tuple[torch.Tensor, int, int]]) -> list[torch.Tensor]:
        """Decode some frames of each clip by the operator, between margins."""
        firsts = [max(start - self.decoder_margin, 0) for _, start, _ in spans]
        pieces = [
            clip[first : stop + self.decoder_margin].to("cpu", torch.long) if start < stop else clip[:0]
            for first, (clip, start, stop) in zip(firsts, spans, strict=True)
        ]
        used = [index for index, piece in enumerate(pieces) if len(piece) > 0]
        runs = [decoder.begin()] * len(used)
        _, waveforms = decoder.push(runs, [pieces[index] for index in used], [True] * len(used))
        results = [torch.zeros(0)] * len(spans)
        for index, waveform in zip(used, waveforms, strict=True):
            _, start, stop = spans[index]
            begin, end = (frame - firsts[index] for frame in (start, stop))
            results[index] = waveform[begin * self.hop_length : end * self.hop_length]
        return results

    def _encode_pieces(self, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn frames of samples, each `[T_i, hop_length]`, into codes, each `[T_i, C]`, in one batch."""
        parameter = next(self.model.parameters())
        frames = nn.utils.rnn.pad_sequence(
            [piece.to(parameter.device, parameter.dtype) for piece in pieces], batch_first=True
        )
        samples = frames.flatten(1)[:, None]
        hidden, lengths = run_plan(self._encoder, samples, [piece.numel() for piece in pieces])
        codes = self.model.quantizer(hidden)[1].mT.cpu()
        return [row[:length] for row, length in zip(codes, lengths, strict=True)]

    def _decode_pieces(self, pieces: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn codes, each `[T_i, C]`, into samples, each `[N_i]`, in one batch."""
        device = next(self.model.parameters()).device
        codes = nn.utils.rnn.pad_sequence([piece.to(device, torch.long) for piece in pieces], batch_first=True)
        hidden = self.model.quantizer.from_codes(codes.mT)[0]
        hidden, lengths = run_plan(self._decoder, hidden, [len(piece) for piece in pieces])
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
