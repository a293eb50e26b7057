"""Steps of the decoder by C++ operators: `native/step.cpp` to the logits, `native/sampling.cpp` to the next frame.

The first reads the model's own weights where they are, float32, bfloat16, int8 or int4, so it needs no copies of them.
Both compute without Python's lock. `FrameDecoder.step` and `take_step` compute the same by PyTorch's operators, and are
their oracles.

The structures have the fields of the structures of the same names in C++, in the same order.

Legend: R rows, H hidden.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import SiLUActivation

from .. import native
from .linear import int4_block, is_bare, is_int4, is_int8

if TYPE_CHECKING:
    from .decoder import FrameCache, FrameDecoder
    from .sampling import SamplingSpec
    from .step import FrameState

__all__ = ["NativeStep", "make_native_step", "take_frame"]

_FLOAT32, _BFLOAT16, _INT8, _INT4 = range(4)
_KINDS = {torch.float32: _FLOAT32, torch.bfloat16: _BFLOAT16}
_GROUP = 32  # int4 weights that share a scale
_MOST_TOGETHER = 64  # outputs of a chunk of work
_NO_TOKEN, _NO_PLACE = 1, 2  # what `dia_step` returns

_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("kind", _Integer),
        ("data", _Pointer),
        ("scales", _Pointer),
        ("outputs", _Integer),
        ("width", _Integer),
        ("block", _Integer),
    )


class _Heads(ctypes.Structure):
    _fields_ = (("queries", _Integer), ("keys", _Integer), ("width", _Integer))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Pointer) for name in ("self_norm", "cross_norm", "mlp_norm", "cross_constant")),
        *((name, _Matrix) for name in ("query", "key", "value", "self_out")),
        *((name, _Matrix) for name in ("cross_query", "cross_out", "gate_up", "down")),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        *((name, _Integer) for name in ("num_layers", "num_channels", "vocab_size", "hidden", "num_positions")),
        ("is_half", _Integer),
        ("epsilon", ctypes.c_float),
        ("self_heads", _Heads),
        ("cross_heads", _Heads),
        *((name, _Pointer) for name in ("embedding", "final_norm", "rotary", "cross_rotary")),
        ("layers", ctypes.POINTER(_Layer)),
        ("head", _Matrix),
    )


class _Cache(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.POINTER(_Pointer)) for name in ("keys", "values", "text_keys", "text_values")),
        ("text_mask", _Pointer),
        *((name, _Integer) for name in ("row_stride", "head_stride", "text_row_stride", "text_head_stride")),
        *((name, _Integer) for name in ("mask_stride", "num_slots")),
        ("recorded", ctypes.POINTER(_Integer)),
        ("num_recorded", _Integer),
        ("attention", _Pointer),
        *((f"attention_{name}_stride", _Integer) for name in ("row", "frame", "head")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("tokens", _Pointer),
        ("lengths", _Pointer),
        ("num_samples", _Integer),
        ("num_rows", _Integer),
        ("num_bytes", _Integer),
        ("logits", _Pointer),
    )


class _Spec(ctypes.Structure):
    _fields_ = (
        *((name, _Integer) for name in ("eos_token_id", "pad_token_id", "is_guided", "do_sample")),
        ("eos_logit_scale", ctypes.c_float),
    )


_PARAMS = ("guidance_weight", "filters", "temperature", "top_k", "dropped_mass", "min_frames", "last_begin_of_end")
_TENSORS = ("forced", "delays", "tokens", "lengths", "num_new", "end", "new", "noise", "is_broken")


class _State(ctypes.Structure):
    _fields_ = (
        *((name, _Integer) for name in ("num_samples", "num_channels", "vocab_size")),
        *((name, _Integer) for name in ("num_new_frames", "num_forced", "num_slots")),
        *((name, _Pointer) for name in (*_PARAMS, *_TENSORS)),
    )


class _UnsupportedError(Exception):
    """The operator does not compute this model."""


def make_native_step(
    model: nn.Module, network: FrameDecoder, constants: Sequence[torch.Tensor]
) -> tuple[NativeStep | None, str | None]:
    """Prepare the operator for a model, if it computes what the model does.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        network (`FrameDecoder`): Of the model.
        constants (`Sequence[torch.Tensor]` of shape `[H]`): What cross-attention adds to unconditional rows, one a
            layer.

    Returns:
        `tuple`: The operator, or `None` and the reason why there is none.
    """
    library = native.library()
    if library is None:
        return None, native.unavailable_reason()
    try:
        return NativeStep(model, network, constants, library), None
    except _UnsupportedError as error:
        return None, str(error)


class NativeStep:
    """The operator on the weights of a model, which it reads where they are.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        network (`FrameDecoder`): Of the model; its rotary embeddings are used.
        constants (`Sequence[torch.Tensor]` of shape `[H]`): See `make_native_step`.
        library (`ctypes.CDLL`): The operators.
    """

    def __init__(
        self, model: Any, network: FrameDecoder, constants: Sequence[torch.Tensor], library: ctypes.CDLL
    ) -> None:
        config = network.config
        if network.device.type != "cpu" or network.dtype not in _KINDS:
            raise _UnsupportedError(f"the model is in {network.dtype} on {network.device.type!r}")
        self._library = library
        self._kept: list[torch.Tensor] = []  # what the structures point to
        self._epsilon = _epsilon_of(model.model.decoder.norm)
        layers = model.model.decoder.layers
        self._layers = (_Layer * len(layers))(
            *(self._layer(layer, constant) for layer, constant in zip(layers, constants, strict=True))
        )
        embedding = model.model.decoder.embeddings.embed
        if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
            raise _UnsupportedError(f"the embedding is a {type(embedding).__name__}, or limits its norms")
        self._check_is_dense(embedding.weight)
        cross_rotary = network.cross_rotary
        self._decoder = _Decoder(
            num_layers=len(layers),
            num_channels=config.num_channels,
            vocab_size=config.vocab_size,
            hidden=embedding.weight.shape[1],
            num_positions=len(network.rotary),
            is_half=network.dtype == torch.bfloat16,
            epsilon=self._epsilon,
            self_heads=_Heads(*network.heads),
            cross_heads=_Heads(*network.cross_heads),
            embedding=self._address(embedding.weight.detach()),
            final_norm=self._norm(model.model.decoder.norm),
            rotary=self._address(network.rotary),
            cross_rotary=None if cross_rotary is None else self._address(cross_rotary),
            layers=self._layers,
            head=self._matrix(model.logits_dense),
        )

    def step(self, cache: FrameCache, tokens: torch.Tensor, lengths: torch.Tensor, num_bytes: int) -> torch.Tensor:
        """See `FrameDecoder.step`."""
        decoder, num_bytes = self._decoder, min(num_bytes, cache.text_mask.shape[-1])
        num_samples, num_rows = len(tokens), len(lengths)
        tokens, lengths = tokens.contiguous(), lengths.contiguous()
        if cache.addresses is None:
            cache.addresses = _cache_of(cache)
        shape = num_rows, decoder.num_channels, decoder.vocab_size
        logits = torch.empty(shape, dtype=torch.float32, device="cpu")
        step = _Step(tokens.data_ptr(), lengths.data_ptr(), num_samples, num_rows, num_bytes, logits.data_ptr())
        arguments = ctypes.byref(decoder), ctypes.byref(cache.addresses), ctypes.byref(step)
        error = self._library.dia_step(*arguments, torch.get_num_threads())
        if error == _NO_TOKEN:
            raise IndexError(f"a token is outside the vocabulary, 0 to {decoder.vocab_size - 1}.")
        if error == _NO_PLACE:
            most = min(cache.addresses.num_slots, decoder.num_positions)
            raise IndexError(f"a row has a length outside its cache, 0 to {most - 1}.")
        return logits

    def _layer(self, layer: Any, constant: torch.Tensor) -> _Layer:
        attention, cross, mlp = layer.self_attention, layer.cross_attention, layer.mlp
        if type(mlp.activation) not in (nn.SiLU, SiLUActivation) or "forward" in vars(mlp.activation):
            raise _UnsupportedError(f"the activation is a {type(mlp.activation).__name__}, or has another `forward`")
        result = _Layer(
            self_norm=self._norm(layer.pre_sa_norm),
            cross_norm=self._norm(layer.pre_ca_norm),
            mlp_norm=self._norm(layer.pre_mlp_norm),
            cross_constant=self._address(constant.float()),
            query=self._matrix(attention.q_proj),
            key=self._matrix(attention.k_proj),
            value=self._matrix(attention.v_proj),
            self_out=self._matrix(attention.o_proj),
            cross_query=self._matrix(cross.q_proj),
            cross_out=self._matrix(cross.o_proj),
            gate_up=self._matrix(mlp.gate_up_proj, halves=2),
            down=self._matrix(mlp.down_proj),
        )
        if not result.query.kind == result.key.kind == result.value.kind:
            raise _UnsupportedError("queries, keys and values have weights of different kinds")
        return result

    def _norm(self, norm: Any) -> int:
        is_theirs = type(norm).forward is nn.RMSNorm.forward and "forward" not in vars(norm)
        if not is_theirs or norm.weight is None:
            raise _UnsupportedError(f"a norm is a {type(norm).__name__}, or has another `forward`")
        self._check_is_dense(norm.weight)
        if _epsilon_of(norm) != self._epsilon:
            raise _UnsupportedError("the norms have different epsilons")
        return self._address(norm.weight.detach().float())

    def _matrix(self, linear: Any, halves: int = 1) -> _Matrix:
        if not is_bare(linear):
            raise _UnsupportedError(f"a layer is a {type(linear).__name__}, or has a bias or a hook")
        weight = linear.weight
        outputs, width = weight.shape
        if is_int8(weight):
            data, scales = self._address(weight.qdata), self._address(weight.scale.flatten().float())
            return _Matrix(_INT8, data, scales, outputs, width, 0)
        if is_int4(weight):
            # The block is PyTorch's, whose instruction set may be another than that of the operator.
            block, unit = int4_block() or 0, self._library.dia_int4_unit()
            is_whole = block in (32, _MOST_TOGETHER) and outputs % (halves * _MOST_TOGETHER) == 0
            if not is_whole or block % unit or weight.block_size[1] != _GROUP:
                raise _UnsupportedError("int4 weights are in a layout that is not known here")
            data, scales = self._address(weight.qdata), self._address(weight.scale_and_zero)
            return _Matrix(_INT4, data, scales, outputs, width, block)
        self._check_is_dense(weight)
        return _Matrix(_KINDS[weight.dtype], self._address(weight.detach()), None, outputs, width, 0)

    def _check_is_dense(self, weight: torch.Tensor) -> None:
        """Raise `_UnsupportedError` if a weight is no plain tensor of floats in memory."""
        if type(weight) is not nn.Parameter or weight.layout != torch.strided or weight.dtype not in _KINDS:
            raise _UnsupportedError(f"a weight is a {type(weight).__name__} in {weight.dtype}, {weight.layout}")

    def _address(self, tensor: torch.Tensor) -> int:
        """Return the address of a tensor's values in order, which stay there as long as this object."""
        tensor = tensor.resolve_neg().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()


def _epsilon_of(norm: Any) -> float | None:
    default = torch.finfo(torch.float32).eps
    return default if getattr(norm, "eps", None) is None else norm.eps


def take_frame(logits: torch.Tensor, spec: SamplingSpec, state: FrameState) -> None:
    """Choose the next frame of each sample by its logits, and store it, by the operator; see `take_step`.

    Args:
        logits (`torch.Tensor` of shape `[R, C, V]`, float32): Of the next frame.
        spec (`SamplingSpec`): Sampling parameters that the samples share.
        state (`FrameState`): The samples, on a CPU; changed in place.
    """
    library = native.library()
    assert library is not None
    if state.addresses is None:
        state.addresses = _state_of(state, logits.shape[-1])
    arguments = _Spec(spec.eos_token_id, spec.pad_token_id, spec.is_guided, spec.do_sample, spec.eos_logit_scale)
    logits = logits.contiguous()
    library.dia_take_frame(ctypes.byref(arguments), ctypes.byref(state.addresses), ctypes.c_void_p(logits.data_ptr()))


def _cache_of(cache: FrameCache) -> _Cache:
    keys, text_keys = cache.keys[0], cache.text_keys[0]
    for tensor in (*cache.keys, *cache.values, *cache.text_keys, *cache.text_values):
        assert tensor.stride()[2:] == (tensor.shape[3], 1)
    return _Cache(
        _addresses(cache.keys),
        _addresses(cache.values),
        _addresses(cache.text_keys),
        _addresses(cache.text_values),
        cache.text_mask.data_ptr(),
        *keys.stride()[:2],
        *text_keys.stride()[:2],
        cache.text_mask.stride(0),
        keys.shape[2],
        (_Integer * (2 * len(cache.recorded)))(*(number for pair in cache.recorded for number in pair)),
        len(cache.recorded),
        cache.attention.data_ptr(),
        *cache.attention.stride()[:3],
    )


def _state_of(state: FrameState, vocab_size: int) -> _State:
    tensors = {name: getattr(state.params, name) for name in _PARAMS}
    tensors |= {name: getattr(state, name) for name in _TENSORS}
    for name, tensor in tensors.items():
        is_float = name in ("guidance_weight", "temperature", "dropped_mass", "noise")
        dtype = torch.float32 if is_float else torch.bool if name in ("filters", "is_broken") else torch.long
        assert tensor is None or (tensor.dtype == dtype and tensor.is_contiguous()), name
    return _State(
        num_samples=state.num_samples,
        num_channels=state.tokens.shape[1],
        vocab_size=vocab_size,
        num_new_frames=state.new.shape[1],
        num_forced=state.forced.shape[1],
        num_slots=state.cache.keys[0].shape[2],
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()},
    )


def _addresses(tensors: Sequence[torch.Tensor]) -> Any:
    return (_Pointer * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
