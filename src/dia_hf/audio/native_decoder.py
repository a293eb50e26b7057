"""Decoder of a DAC by the C++ operator `native/codec.cpp`: the next frames of many clips in one call.

A clip is a number of frames and a state, the last inputs of each convolution; a whole clip is one that ends with its
first frames. The plan of the network (`layers.py`) is the oracle, and computes what the operator does not: other
devices, dtypes and layers.

Legend: T frames, C codebooks, N samples.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import DacModel

from .. import native
from .layers import Layer

__all__ = ["GrowingClip", "NativeDecoder", "native_decoder_of"]

_FRAMES_PER_CALL = 32  # of all clips together; the memory of a call grows with them

# As in `native/codec.cpp`.
_PANEL = 48
_UNIT = 16
_SNAKE, _OPENS, _CLOSES, _TANH = 1, 2, 4, 8
_ALIGNMENT = 64

_DECODERS: WeakKeyDictionary[nn.Module, tuple[Any, NativeDecoder | None]] = WeakKeyDictionary()
_PREPARING = threading.Lock()

_Pointer = ctypes.c_void_p
_Integer = ctypes.c_int64


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, _Integer) for name in ("inputs", "outputs", "taps", "dilation", "phases", "left", "crop", "extra")),
        *(("flags", _Integer), ("weight", _Pointer), ("bias", _Pointer), ("alpha", _Pointer)),
    ]


class _Clip(ctypes.Structure):
    _fields_ = [
        *((name, _Integer) for name in ("num_before", "num_added", "has_ended")),
        *((name, _Pointer) for name in ("state", "next_state")),
    ]


class GrowingClip(NamedTuple):
    """A clip after some frames; never written to.

    Attributes:
        num_frames (`int`): Frames that were read.
        state (`torch.Tensor` of shape `[bytes]`, uint8, *optional*): Inputs that later outputs need; `None` at the
            beginning.
        has_ended (`bool`): Whether no further frames come.
        item_size (`int`): Bytes of a value of the state.
    """

    num_frames: int
    state: torch.Tensor | None
    has_ended: bool
    item_size: int


class _UnsupportedError(Exception):
    """The operator does not compute this network."""


def native_decoder_of(model: nn.Module, plan: Sequence[Layer]) -> NativeDecoder | None:
    """Return the operator for a network: the same object until its weights change, or `None` where there is none.

    Args:
        model (`torch.nn.Module`): The network; there is an operator for a `DacModel` in float32 or bfloat16 on the CPU.
        plan (`Sequence[Layer]`): Of its decoder.
    """
    library = native.library()
    if library is None or not isinstance(model, DacModel):
        return None
    with _PREPARING:
        fingerprint = _fingerprint(library, _modules_of(model, plan))
        kept = _DECODERS.get(model)
        if kept is None or kept[0] != fingerprint:
            _DECODERS.pop(model, None)  # freed before the new copies are made
            try:
                decoder = None if fingerprint is None else NativeDecoder(model, plan, library)
            except _UnsupportedError:
                decoder = None
            kept = _DECODERS[model] = fingerprint, decoder
        return kept[1]


class NativeDecoder:
    """The operator on a copy of a network's weights in its own layout.

    Values are float32. In bfloat16, those that are multiplied are rounded to it, the inputs of the convolutions; sums
    and residuals are float32. A processor without products of bfloat16 computes bfloat16 weights in float32.

    Args:
        model (`DacModel`): The network.
        plan (`Sequence[Layer]`): Of its decoder.
        library (`ctypes.CDLL`): The operators.

    Attributes:
        item_size (`int`): Bytes of a value that is multiplied.
    """

    def __init__(self, model: Any, plan: Sequence[Layer], library: ctypes.CDLL) -> None:
        self._library = library
        library.dia_codec_state_size.restype = library.dia_codec_sizes.restype = _Integer
        is_half = model.dtype == torch.bfloat16 and library.dia_codec_has_bfloat16()
        self.item_size = 2 if is_half else 4
        self._kept: list[torch.Tensor] = []  # what the structures point to
        quantizers = model.quantizer.quantizers
        self._codebooks = torch.cat([quantizer.codebook.weight for quantizer in quantizers]).float()
        sizes = torch.tensor([0, *(quantizer.codebook.num_embeddings for quantizer in quantizers)])
        self._offsets = sizes.cumsum(0)[:-1]
        layers = [self._projection(quantizers)]
        kept_channels = 0
        for layer in plan:
            if layer.opens:
                if layers[-1].flags & _OPENS or type(layer.module).__name__ != "Snake1d":
                    raise _UnsupportedError
                layers[-1].flags |= _OPENS
                kept_channels = layers[-1].outputs
            self._append(layers, layer)
            if layer.closes:
                if layers[-1].flags & _SNAKE or layers[-1].outputs != kept_channels:
                    raise _UnsupportedError
                layers[-1].flags |= _CLOSES
        if layers[-1].flags & ~_TANH or layers[-1].outputs != 1:
            raise _UnsupportedError
        self._layers = (_Layer * len(layers))(*layers)
        self._state_size = library.dia_codec_state_size(self._layers, _Integer(len(layers)), _Integer(self.item_size))
        self._scratch: list[torch.Tensor] = []  # of calls that are over

    def begin(self) -> GrowingClip:
        """Return a clip without frames."""
        return GrowingClip(0, None, False, self.item_size)

    def push(
        self, clips: Sequence[GrowingClip], codes: Sequence[torch.Tensor], is_last: Sequence[bool]
    ) -> tuple[list[GrowingClip], list[torch.Tensor]]:
        """Add frames to clips, and compute the samples that are final.

        Args:
            clips (`Sequence[GrowingClip]`): By `begin` and `push` of a decoder with this `item_size`, not ended.
            codes (`Sequence[torch.Tensor]`, each of shape `[T_i, C]`, int64): The next frames of each; T_i may be 0.
            is_last (`Sequence[bool]`): Whether no further ones come.

        Returns:
            `tuple`: The clips with these frames, and the samples of each, of shape `[N_i]`, float32.
        """
        # A clip that ends without frames has no samples.
        clips = [
            clip._replace(has_ended=clip.has_ended or (is_over and clip.num_frames == len(piece) == 0))
            for clip, piece, is_over in zip(clips, codes, is_last, strict=True)
        ]
        parts: list[list[torch.Tensor]] = [[] for _ in clips]
        used = [0] * len(clips)

        def is_done(index: int) -> bool:
            return used[index] == len(codes[index]) and clips[index].has_ended >= is_last[index]

        waiting = [index for index in range(len(clips)) if not is_done(index)]
        while waiting:
            batch, pieces, budget = [], [], _FRAMES_PER_CALL
            for index in waiting:
                piece = codes[index][used[index] : used[index] + budget]
                batch.append(index)
                pieces.append(piece)
                used[index] += len(piece)
                budget -= len(piece)
                if budget == 0:
                    break
            ends = [is_last[index] and used[index] == len(codes[index]) for index in batch]
            results = self._run([clips[index] for index in batch], pieces, ends)
            for index, clip, samples in zip(batch, *results, strict=True):
                clips[index] = clip
                parts[index].append(samples)
            waiting = [index for index in waiting if not is_done(index)]
        nothing = torch.zeros(0, dtype=torch.float32, device="cpu")
        return clips, [torch.cat([nothing, *part]) for part in parts]

    def _run(
        self, clips: Sequence[GrowingClip], codes: Sequence[torch.Tensor], ends: Sequence[bool]
    ) -> tuple[list[GrowingClip], Sequence[torch.Tensor]]:
        """Call the operator."""
        after, structures = [], (_Clip * len(clips))()
        for structure, clip, piece, has_ended in zip(structures, clips, codes, ends, strict=True):
            state = torch.empty(0 if has_ended else self._state_size, dtype=torch.uint8, device="cpu")
            after.append(GrowingClip(clip.num_frames + len(piece), state, has_ended, self.item_size))
            structure.num_before, structure.num_added, structure.has_ended = clip.num_frames, len(piece), has_ended
            structure.state = None if clip.state is None else clip.state.data_ptr()
            structure.next_state = state.data_ptr()
        rows = (torch.cat(list(codes)) + self._offsets).flatten()
        entries = self._codebooks.index_select(0, rows).flatten()
        shape = self._layers, _Integer(len(self._layers)), structures, _Integer(len(clips)), _Integer(self.item_size)
        numbers = (_Integer * len(clips))()
        size = self._library.dia_codec_sizes(*shape, numbers) + _ALIGNMENT
        try:
            scratch = self._scratch.pop()
        except IndexError:
            scratch = torch.empty(0, dtype=torch.uint8, device="cpu")
        if len(scratch) < size:
            scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
        place = -(-scratch.data_ptr() // _ALIGNMENT) * _ALIGNMENT
        samples = torch.empty(sum(numbers), dtype=torch.float32, device="cpu")
        self._library.dia_codec_run(
            *shape,
            _Pointer(entries.data_ptr()),
            _Pointer(samples.data_ptr()),
            _Pointer(place),
            ctypes.c_int(torch.get_num_threads()),
        )
        self._scratch.append(scratch)
        return after, samples.split(list(numbers))

    def _projection(self, quantizers: Any) -> _Layer:
        """Make the layer from the entries of all codebooks, side by side, to the sum of what they stand for."""
        projections = [quantizer.out_proj for quantizer in quantizers]
        if any(type(layer) is not nn.Conv1d or layer.kernel_size != (1,) or layer.groups > 1 for layer in projections):
            raise _UnsupportedError
        weight = torch.cat([layer.weight.float() for layer in projections], dim=1)
        bias = torch.stack([_bias_of(layer) for layer in projections]).sum(0)
        return self._layer(weight.permute(2, 0, 1)[:, :, None], bias)

    def _append(self, layers: list[_Layer], layer: Layer) -> None:
        """Add a layer of the plan to those of the operator."""
        module, previous = layer.module, layers[-1]
        name = type(module).__name__
        if name == "Snake1d":
            if previous.flags & (_SNAKE | _TANH):
                raise _UnsupportedError
            alpha: Any = module.alpha
            previous.flags |= _SNAKE
            previous.alpha = self._address(_padded(alpha.float().flatten()))
        elif name == "Tanh":
            if previous.flags:
                raise _UnsupportedError
            previous.flags |= _TANH
        elif type(module) is nn.ConvTranspose1d and module.groups == 1 and module.dilation == (1,):
            # Output q * stride + r has the inputs q, q - 1, … with the weights r, r + stride, …
            stride, taps = layer.stride, -(-module.kernel_size[0] // layer.stride)
            weight = nn.functional.pad(module.weight.float(), (0, taps * stride - module.kernel_size[0]))
            weight = weight.unflatten(-1, (taps, stride)).flip(2).permute(3, 1, 2, 0)
            extra = module.kernel_size[0] - stride - layer.padding + layer.output_padding
            if extra < 0 or previous.flags & _TANH:
                raise _UnsupportedError
            geometry = {"left": taps - 1, "crop": layer.padding, "extra": extra}
            layers.append(self._layer(weight, _bias_of(module), **geometry))
        elif type(module) is nn.Conv1d and module.groups == 1 and layer.stride == 1 and layer.padding <= layer.reach:
            weight = module.weight.float().mT[None]
            geometry = {"left": layer.padding, "dilation": module.dilation[0]}
            if layer.reach != 2 * layer.padding or previous.flags & _TANH:
                raise _UnsupportedError
            layers.append(self._layer(weight, _bias_of(module), **geometry))
        else:
            raise _UnsupportedError

    def _layer(self, weight: torch.Tensor, bias: torch.Tensor, dilation: int = 1, **geometry: int) -> _Layer:
        """Pack the weights `[phases, outputs, taps, inputs]` of a convolution."""
        phases, outputs, taps, inputs = weight.shape
        weight = nn.functional.pad(weight, (0, -inputs % _UNIT, 0, 0, 0, -outputs % _UNIT))
        panels = []
        for panel in [panel for phase in weight for panel in phase.split(_PANEL)]:
            packed = panel.permute(1, 2, 0)
            if self.item_size == 2:
                packed = packed.unflatten(1, (-1, 2)).mT.to(torch.bfloat16)
            panels.append(packed.flatten())
        return _Layer(
            inputs=inputs,
            outputs=outputs,
            taps=taps,
            dilation=dilation,
            phases=phases,
            weight=self._address(torch.cat(panels)),
            bias=self._address(_padded(bias)),
            **geometry,
        )

    def _address(self, tensor: torch.Tensor) -> int:
        """Return the address of a tensor's values in order, which stay there as long as this object."""
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _padded(values: torch.Tensor) -> torch.Tensor:
    return nn.functional.pad(values, (0, -len(values) % _UNIT))


def _bias_of(module: Any) -> torch.Tensor:
    channels = module.out_channels
    return torch.zeros(channels, dtype=torch.float32, device="cpu") if module.bias is None else module.bias.float()


def _modules_of(model: Any, plan: Sequence[Layer]) -> list[nn.Module]:
    """List the modules that the operator computes."""
    modules = [layer.module for layer in plan]
    for quantizer in model.quantizer.quantizers:
        modules += [quantizer.codebook, quantizer.out_proj]
    return modules


def _fingerprint(library: ctypes.CDLL, modules: Sequence[nn.Module]) -> Any:
    """Collect what differs after weights have changed; `None` where the operator cannot read them.

    A sample of their bits finds changes through `.data`, which leave no other trace.
    """
    if any(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in modules):
        return None
    weights = [weight for module in modules for weight in module._parameters.values() if weight is not None]
    dtype = weights[0].dtype
    for weight in weights:
        if weight.device.type != "cpu" or weight.dtype != dtype or not weight.is_contiguous():
            return None
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    addresses = [weight.data_ptr() for weight in weights]
    sizes = [weight.numel() * weight.itemsize // 4 for weight in weights]
    library.dia_codec_sample.restype = ctypes.c_uint64
    count = len(weights)
    bits = library.dia_codec_sample((_Pointer * count)(*addresses), (_Integer * count)(*sizes), _Integer(count))
    traces = [(id(weight), 0 if weight.is_inference() else weight._version) for weight in weights]
    return dtype, addresses, traces, bits
