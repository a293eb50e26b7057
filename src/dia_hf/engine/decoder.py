"""Decoder of the fast path: computes the next frame of every row on preallocated memory.

`generate()` runs this decoder by default. It reads the weights of `modeling_dia.py`, which is its oracle
(`tests/engine/test_decoder.py`), and computes the same in another order: one position a row; keys and values written
into preallocated caches at each row's own length; the query heads of a group treated as query positions of their key
head, so that no key is repeated; layers that share their input fused; and, under guidance, unconditional rows that add
a constant vector instead of attending to the text.

The vector is constant because all tokens of the unconditional text are equal, and positions enter the encoder only
through rotation of queries and keys. Every encoder state u of that text is then the same vector, any weighted mean of
them is u, and cross-attention returns o_proj(v_proj(u)) for every query, length and mask, with rotary embedding (v0.1)
or without.

Legend: B samples, R rows (B, or 2·B under guidance, conditional ones first), T frames, C channels, V vocabulary,
H hidden, A query heads, K key-value heads, D head width, L capacity in frames, S text bytes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..configuration_dia import DiaDecoderConfig
from ..rotary import apply_rotary, rotary_embedding
from .linear import fused_linear
from .native import make_native_step

__all__ = ["AlignmentHeads", "FrameCache", "FrameDecoder", "make_frame_decoder", "max_frames", "unsupported_reason_of"]

AlignmentHeads = tuple[tuple[int, int], ...]
"""Heads of cross-attention: layer and query head of each."""

_Linear = Callable[[torch.Tensor], torch.Tensor]
_Rotary = tuple[torch.Tensor, torch.Tensor]

_SWITCHES = ("active_adapters", "disable_adapters", "merged_adapters")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_STRIDE = 251  # of the elements that a fingerprint samples; no power of two, so that every column is sampled


class _Heads(NamedTuple):
    """Heads of an attention block: query heads, key-value heads, width of a head."""

    queries: int
    keys: int
    width: int


@dataclass
class _Layer:
    """The parts of one decoder layer that a step uses."""

    self_norm: nn.RMSNorm
    qkv: _Linear
    self_out: _Linear
    cross_norm: nn.RMSNorm
    cross_query: _Linear
    cross_key: nn.Module
    cross_value: nn.Module
    cross_out: _Linear
    cross_constant: torch.Tensor  # [H], cross-attention output of an unconditional row
    mlp_norm: nn.RMSNorm
    gate_up: _Linear
    down: _Linear
    mlp: Any  # read for its activation, which a user may replace


@dataclass
class FrameCache:
    """Preallocated keys and values of the rows of a batch.

    Attributes:
        keys, values (`list[torch.Tensor]` of shape `[R, K, L, D]`, one a layer): Of the frames so far.
        text_keys, text_values (`list[torch.Tensor]` of shape `[B, K, S, D]`, one a layer): Of the text; unconditional
            rows have none.
        text_mask (`torch.BoolTensor` of shape `[B, 1, 1, S]`): True = keep.
        recorded (`AlignmentHeads`): Heads of cross-attention whose weights are kept: layer and query head of each.
        attention (`torch.FloatTensor` of shape `[B, L, J, S]`): Their weights at each frame that was read.
        addresses: Of these tensors, for `native.py`; found at the first step.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    text_keys: list[torch.Tensor]
    text_values: list[torch.Tensor]
    text_mask: torch.Tensor
    recorded: AlignmentHeads
    attention: torch.Tensor
    addresses: Any = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "addresses": None}  # of a copy there are others

    def select(self, rows: torch.Tensor, samples: torch.Tensor) -> FrameCache:
        """Copy the entries of some rows and samples, by index."""
        return FrameCache(
            [keys[rows] for keys in self.keys],
            [values[rows] for values in self.values],
            [keys[samples] for keys in self.text_keys],
            [values[samples] for values in self.text_values],
            self.text_mask[samples],
            self.recorded,
            self.attention[samples],
        )

    def recording(self, heads: AlignmentHeads) -> FrameCache:
        """Return a cache of the same entries that keeps the weights of these heads, from the next frame on."""
        if heads == self.recorded:
            return self
        num_samples, num_frames, _, num_bytes = self.attention.shape
        attention = self.attention.new_zeros(num_samples, num_frames, len(heads), num_bytes)
        return replace(self, recorded=heads, attention=attention)

    def copy_rows(self, other: FrameCache, rows: torch.Tensor, samples: torch.Tensor) -> None:
        """Copy all rows of another cache, which may be shorter, into these indices."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for to, source in zip(mine, theirs, strict=True):
                to[rows, :, : source.shape[2]] = source
        for mine, theirs in ((self.text_keys, other.text_keys), (self.text_values, other.text_values)):
            for to, source in zip(mine, theirs, strict=True):
                to[samples, :, : source.shape[2]] = source
        self.text_mask[samples] = False
        self.text_mask[samples, :, :, : other.text_mask.shape[-1]] = other.text_mask
        if other.recorded:
            _, num_frames, _, num_bytes = other.attention.shape
            self.attention[samples, :num_frames, :, :num_bytes] = other.attention


class FrameDecoder:
    """The decoder and head of a model, prepared for steps.

    It holds no state of a call, so calls share it. It keeps copies of weights (fused, packed) that do not follow later
    changes: `make_frame_decoder` makes a new one when the weights have changed.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        pack (`bool`, defaults to `False`): Whether to copy the weights into the layout of the CPU's kernels, where
            there is one: faster, with more memory.
        use_native (`bool`, defaults to `False`): Whether steps are computed by the C++ operator where it is there and
            computes this model. It reads the model's own weights, so nothing is packed then.

    Attributes:
        config (`DiaDecoderConfig`): Of the model.
        dtype, device: Of the weights.
        axis (`torch.LongTensor`): 0, 1, 2 …, see `FrameView`.
        native (`NativeStep` or `None`): The C++ operator.
        not_native_because (`str` or `None`): The reason why there is none.
    """

    def __init__(self, model: Any, pack: bool = False, use_native: bool = False) -> None:
        decoder = model.model.decoder
        self.config = config = decoder.config
        self.encoder = model.model.encoder
        self.embedding = decoder.embeddings.embed
        self.dtype, self.device = self.embedding.weight.dtype, self.embedding.weight.device
        self.norm = decoder.norm
        self.first_rows = torch.arange(config.num_channels, device=self.device) * config.vocab_size
        self.heads = _Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.cross_heads = _Heads(
            config.cross_num_attention_heads, config.cross_num_key_value_heads, config.cross_head_dim
        )
        # Lengths of a static batch are rounded up.
        self.axis = torch.arange(max_frames(config) + 512, device=self.device)
        self.rotary = self._make_rotary(config.head_dim)
        self.cross_rotary = self._make_rotary(config.cross_head_dim) if config.cross_attention_rope else None
        constant = self._constant_text_state()
        constants = [self._cross_constant(layer.cross_attention, constant) for layer in decoder.layers]
        self.native, self.not_native_because = (
            make_native_step(model, self, constants) if use_native else (None, "not requested")
        )
        pack, join = pack and self.native is None, self.native is None
        self.head = fused_linear([model.logits_dense], pack=pack)
        self.layers = [
            self._prepare(layer, constant, pack, join)
            for layer, constant in zip(decoder.layers, constants, strict=True)
        ]

    def _make_rotary(self, head_dim: int) -> torch.Tensor:
        """Compute the rotary embedding of every position, `[L, 2, 1, D]`, float32."""
        cos, sin = rotary_embedding(self.axis[None], head_dim, self.config.rope_parameters["rope_theta"])
        return torch.stack((cos[0, 0], sin[0, 0]), dim=1).unsqueeze(2)

    def _constant_text_state(self) -> torch.Tensor:
        """Compute the encoder state `[cross H]` of a zero byte, which all states of the unconditional text equal."""
        zero = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        return self.encoder(input_ids=zero).last_hidden_state[0, 0]

    def _cross_constant(self, cross: Any, state: torch.Tensor) -> torch.Tensor:
        """Compute what cross-attention adds to an unconditional row, `[H]`."""
        groups = self.cross_heads.queries // self.cross_heads.keys
        values = cross.v_proj(state[None]).unflatten(-1, (self.cross_heads.keys, -1))
        return cross.o_proj(values.repeat_interleave(groups, dim=1).flatten(1))[0]

    def _prepare(self, layer: Any, constant: torch.Tensor, pack: bool, join: bool) -> _Layer:
        attention, cross = layer.self_attention, layer.cross_attention
        return _Layer(
            self_norm=layer.pre_sa_norm,
            qkv=fused_linear([attention.q_proj, attention.k_proj, attention.v_proj], pack=pack, join=join),
            self_out=fused_linear([attention.o_proj], pack=pack),
            cross_norm=layer.pre_ca_norm,
            cross_query=fused_linear([cross.q_proj], pack=pack),
            cross_key=cross.k_proj,
            cross_value=cross.v_proj,
            cross_out=fused_linear([cross.o_proj], pack=pack),
            cross_constant=constant,
            mlp_norm=layer.pre_mlp_norm,
            gate_up=fused_linear([layer.mlp.gate_up_proj], pack=pack),
            down=fused_linear([layer.mlp.down_proj], pack=pack),
            mlp=layer.mlp,
        )

    def bytes_of_sample(self, num_frames: int, num_bytes: int, is_guided: bool, num_recorded: int = 0) -> int:
        """Return the size of the cache of one sample in bytes, with the weights of `num_recorded` heads."""
        rows, itemsize = 2 if is_guided else 1, self.dtype.itemsize
        frames = rows * num_frames * self.heads.keys * self.heads.width
        text = num_bytes * self.cross_heads.keys * self.cross_heads.width
        return 2 * len(self.layers) * (frames + text) * itemsize + 4 * num_recorded * num_frames * num_bytes

    def new_cache(
        self, num_samples: int, is_guided: bool, num_frames: int, num_bytes: int, recorded: AlignmentHeads = ()
    ) -> FrameCache:
        """Allocate a cache for `num_samples` of up to `num_frames` frames and `num_bytes` bytes of text.

        Args:
            num_samples, num_frames, num_bytes (`int`): Sizes.
            is_guided (`bool`): Whether there are unconditional rows.
            recorded (`AlignmentHeads`, *optional*): See `FrameCache`.
        """

        # Zeros: masked values are multiplied by a weight of 0, which would keep a NaN.
        def zeros(num_rows: int, heads: _Heads, length: int) -> list[torch.Tensor]:
            shape = (num_rows, heads.keys, length, heads.width)
            return [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers]

        rows = 2 * num_samples if is_guided else num_samples
        return FrameCache(
            zeros(rows, self.heads, num_frames),
            zeros(rows, self.heads, num_frames),
            zeros(num_samples, self.cross_heads, num_bytes),
            zeros(num_samples, self.cross_heads, num_bytes),
            torch.zeros(num_samples, 1, 1, num_bytes, dtype=torch.bool, device=self.device),
            recorded,
            torch.zeros(num_samples, num_frames, len(recorded), num_bytes, device=self.device),
        )

    def read_text(
        self, cache: FrameCache, input_ids: torch.Tensor, attention_mask: torch.Tensor, text_of: torch.Tensor
    ) -> None:
        """Encode texts, and write their keys and values to the cache.

        Args:
            cache (`FrameCache`): Of the B samples.
            input_ids (`torch.LongTensor` of shape `[texts, S]`): Bytes; S is the cache's.
            attention_mask (`torch.LongTensor` of shape `[texts, S]`): 1 = keep.
            text_of (`torch.LongTensor` of shape `[B]`): Index of each sample's text.
        """
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[text_of]
        cache.text_mask.copy_(attention_mask[text_of, None, None].bool())
        for layer, keys, values in zip(self.layers, cache.text_keys, cache.text_values, strict=True):
            key = layer.cross_key(states).unflatten(-1, (self.cross_heads.keys, -1))
            if self.cross_rotary is not None:
                key = apply_rotary(key, _split(self.cross_rotary[: key.shape[1]]))
            keys.copy_(key.transpose(1, 2))
            values.copy_(layer.cross_value(states).unflatten(-1, (self.cross_heads.keys, -1)).transpose(1, 2))

    def read_frames(self, cache: FrameCache, frames: torch.Tensor, is_guided: bool) -> None:
        """Write the keys and values of prompt frames to the cache, from position 0 on.

        Args:
            cache (`FrameCache`): Of the B samples, their texts read.
            frames (`torch.LongTensor` of shape `[B, T, C]`): Delayed codes. Padding after a shorter sample's last frame
                is read as well, and overwritten by later steps.
            is_guided (`bool`): Whether there are unconditional rows.
        """
        num_samples, num_frames, _ = frames.shape
        hidden = self._embed(frames.flatten(0, 1)).unflatten(0, (num_samples, num_frames))
        hidden = hidden.repeat(2, 1, 1) if is_guided else hidden
        rotary = _split(self.rotary[:num_frames])
        cross_rotary = _split(self.cross_rotary[:num_frames]) if self.cross_rotary is not None else None
        for index, layer in enumerate(self.layers):
            query, key, value = self._self_attention_heads(layer, hidden, rotary)
            cache.keys[index][:, :, :num_frames] = key.transpose(1, 2)
            cache.values[index][:, :, :num_frames] = value.transpose(1, 2)
            if index == len(self.layers) - 1 and not cache.recorded:
                return  # the predictions of prompt frames are not used
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2),
                key.transpose(1, 2),
                value.transpose(1, 2),
                is_causal=True,
                scale=1.0,
                enable_gqa=True,
            )
            hidden = hidden + layer.self_out(attended.transpose(1, 2).flatten(2))
            query = layer.cross_query(layer.cross_norm(hidden[:num_samples]))
            query = query.unflatten(-1, (self.cross_heads.queries, -1))
            if cross_rotary is not None:
                query = apply_rotary(query, cross_rotary)
            for place, head in _recorded_in(cache, index):
                weights = self._weights(cache, index, head, query[:, :, head], cache.text_mask[:, 0])
                cache.attention[:, :num_frames, place] = weights
            attended = F.scaled_dot_product_attention(
                query.transpose(1, 2),
                cache.text_keys[index],
                cache.text_values[index],
                attn_mask=cache.text_mask,
                scale=1.0,
                enable_gqa=True,
            )
            hidden[:num_samples].add_(layer.cross_out(attended.transpose(1, 2).flatten(2)))
            if is_guided:
                hidden[num_samples:].add_(layer.cross_constant)
            hidden = hidden + self._mlp(layer, hidden)

    def step(
        self,
        cache: FrameCache,
        tokens: torch.Tensor,
        lengths: torch.Tensor,
        axis: torch.Tensor,
        num_bytes: int,
        is_ragged: bool,
        is_text_ragged: bool,
    ) -> torch.Tensor:
        """Read one frame of each sample, and predict the next.

        Args:
            cache (`FrameCache`): Of the rows; gets the frame's keys and values.
            tokens (`torch.LongTensor` of shape `[B, C]`): The frame.
            lengths (`torch.LongTensor` of shape `[R]`): Frames of each row before this one: its position.
            axis, num_bytes, is_ragged, is_text_ragged: See `FrameView`.

        Returns:
            `torch.Tensor` of shape `[R, C, V]`, float32: Logits of the next frame.
        """
        if self.native is not None:
            return self.native.step(cache, tokens, lengths, num_bytes)
        num_samples, num_rows = len(tokens), len(lengths)
        heads, cross = self.heads, self.cross_heads
        hidden = self._embed(tokens)
        if num_rows > num_samples:
            hidden = torch.cat((hidden, hidden))
        rotary = _split(self.rotary.index_select(0, lengths))
        cross_rotary = (
            _split(self.cross_rotary.index_select(0, lengths[:num_samples])) if self.cross_rotary is not None else None
        )
        # An index_put, as `scatter_` on a CPU copies the whole cache in half precision.
        slot = torch.arange(num_rows, device=lengths.device), slice(None), lengths
        mask, text_mask = None, None
        if is_ragged:
            mask = self._additive((axis <= lengths[:, None])[:, None, None])
        if is_text_ragged:
            text_mask = self._additive(cache.text_mask[..., :num_bytes])
        num_frames = axis.shape[0]
        for index, layer in enumerate(self.layers):
            query, key, value = self._self_attention_heads(layer, hidden, rotary)
            cache.keys[index][slot] = key
            cache.values[index][slot] = value
            attended = F.scaled_dot_product_attention(
                query.unflatten(1, (heads.keys, -1)),
                cache.keys[index][:, :, :num_frames],
                cache.values[index][:, :, :num_frames],
                attn_mask=mask,
                scale=1.0,
            )
            hidden += layer.self_out(attended.flatten(1))
            query = layer.cross_query(layer.cross_norm(hidden[:num_samples])).unflatten(-1, (cross.queries, -1))
            if cross_rotary is not None:
                query = apply_rotary(query, cross_rotary)
            for place, head in _recorded_in(cache, index):
                kept = cache.text_mask[:, 0, :, :num_bytes]
                weights = self._weights(cache, index, head, query[:, None, head], kept)
                cache.attention[:, :, place, :num_bytes][slot[0][:num_samples], lengths[:num_samples]] = weights[:, 0]
            attended = F.scaled_dot_product_attention(
                query.unflatten(1, (cross.keys, -1)),
                cache.text_keys[index][:, :, :num_bytes],
                cache.text_values[index][:, :, :num_bytes],
                attn_mask=text_mask,
                scale=1.0,
            )
            hidden[:num_samples].add_(layer.cross_out(attended.flatten(1)))
            if num_rows > num_samples:
                hidden[num_samples:].add_(layer.cross_constant)
            hidden += self._mlp(layer, hidden)
        logits = self.head(self.norm(hidden))
        return logits.unflatten(-1, (self.config.num_channels, self.config.vocab_size)).float()

    def _weights(
        self, cache: FrameCache, index: int, head: int, query: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Compute the weights `[B, T, S]` of a head of cross-attention, for queries `[B, T, D]`."""
        key = cache.text_keys[index][:, head // (self.cross_heads.queries // self.cross_heads.keys), : mask.shape[-1]]
        return (query @ key.mT).float().masked_fill(~mask, -float("inf")).softmax(-1)

    def _additive(self, mask: torch.Tensor) -> torch.Tensor:
        """Convert a mask to what is added to attention logits, once, because SDPA would convert it in every layer."""
        return torch.zeros_like(mask, dtype=self.dtype).masked_fill_(~mask, -float("inf"))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens `[N, C]` to `[N, H]`."""
        return self.embedding(tokens + self.first_rows).sum(dim=1)

    def _self_attention_heads(
        self, layer: _Layer, hidden: torch.Tensor, rotary: _Rotary
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map `[..., H]` to rotated queries `[..., A, D]`, rotated keys and values `[..., K, D]`."""
        heads = layer.qkv(layer.self_norm(hidden)).unflatten(-1, (-1, self.heads.width))
        num_rotated = self.heads.queries + self.heads.keys
        rotated = apply_rotary(heads[..., :num_rotated, :], rotary)
        return rotated[..., : self.heads.queries, :], rotated[..., self.heads.queries :, :], heads[..., num_rotated:, :]

    def _mlp(self, layer: _Layer, hidden: torch.Tensor) -> torch.Tensor:
        gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
        return layer.down(layer.mlp.activation(gate) * up)


def _recorded_in(cache: FrameCache, index: int) -> list[tuple[int, int]]:
    """Return place and query head of each head of a layer whose weights are kept."""
    return [(place, head) for place, (layer, head) in enumerate(cache.recorded) if layer == index]


_NETWORKS: weakref.WeakKeyDictionary[nn.Module, dict[bool, tuple[Any, FrameDecoder]]] = weakref.WeakKeyDictionary()
_PREPARING = threading.Lock()


def max_frames(config: DiaDecoderConfig) -> int:
    """Return the most frames of a row: twice the positions, for the delay and for calls beyond the trained length."""
    return 2 * config.max_position_embeddings


def make_frame_decoder(model: nn.Module, pack: bool = True) -> FrameDecoder:
    """Return the model's `FrameDecoder`: the same object until the weights change.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        pack (`bool`, defaults to `True`): See `FrameDecoder`; `torch.compile` does not support packed weights.
    """
    with _PREPARING:
        fingerprint = _fingerprint(model)
        kept = _NETWORKS.setdefault(model, {})
        if pack not in kept or kept[pack][0] != fingerprint:
            kept.pop(pack, None)  # freed before the new copies are made
            kept[pack] = fingerprint, FrameDecoder(model, pack, use_native=pack)
        return kept[pack][1]


def _fingerprint(model: Any) -> Any:
    """Collect what differs after weights have changed: identity, version, and a sum over a sample of the bits.

    The sum finds changes through `.data`, which leave no other trace and which some optimizers and adapters make.
    """
    weights = [*model.named_parameters(), *model.named_buffers()]
    traces: list[Any] = []
    sums = []
    for name, weight in weights:
        traces.append((name, id(weight), weight.dtype, weight.device, 0 if weight.is_inference() else weight._version))
        if type(weight) in (torch.Tensor, nn.Parameter) and weight.layout == torch.strided:
            # `share_memory_`, also by sending a model to a process, moves the values of the same tensor.
            traces.append(weight.data_ptr())
            bits = weight.detach().flatten()[::_STRIDE].contiguous().view(_INTEGERS[weight.dtype.itemsize])
            sums.append(bits.sum())
    # Adapters (PEFT) are switched without a change of weights; hooks and kernels of the Hub change what modules return.
    switches = [
        [getattr(module, name, None) for name in _SWITCHES] for module in model.modules() if module is not model
    ]
    changes = [
        (index, id(getattr(forward, "__func__", forward)), *module._forward_hooks, *module._forward_pre_hooks)
        for index, module in enumerate(model.modules())
        if (forward := vars(module).get("forward")) or module._forward_hooks or module._forward_pre_hooks
    ]
    rope = str(model.config.decoder_config.rope_parameters), model.config.decoder_config.cross_attention_rope
    return traces, rope, str([switch for switch in switches if any(switch)]), changes, torch.stack(sums).tolist()


def _split(rotary: torch.Tensor) -> _Rotary:
    """Split rotary embedding `[..., 2, 1, D]` into a pair of `[..., 1, D]`."""
    cos, sin = rotary.unbind(-3)
    return cos, sin


def unsupported_reason_of(model: Any) -> str | None:
    """Return the reason why `FrameDecoder` would not compute what a model's own decoder does; `None` if it would.

    Args:
        model (`DiaForConditionalGeneration`): The model.
    """
    decoder = model.model.decoder
    kernel = decoder.config._attn_implementation
    if ALL_ATTENTION_FUNCTIONS.get(kernel) is not sdpa_attention_forward:
        return f"`attn_implementation` is {kernel!r}, and the fast path implements transformers' 'sdpa'"
    parts = [model, model.model, model.logits_dense, *decoder.modules()]
    activations = [layer.mlp.activation for layer in decoder.layers]
    for part in parts:
        if part._forward_hooks or part._forward_pre_hooks or hasattr(part, "_hf_hook"):
            return f"a {type(part).__name__} has a hook"
        # Norms and activations are called as modules, so a kernel that `use_kernels` puts into one runs here, too.
        is_called = isinstance(part, nn.RMSNorm) or any(part is activation for activation in activations)
        has_kernel = model.use_kernels and is_called
        if "forward" in vars(part) and not has_kernel:
            return f"a {type(part).__name__} has another `forward`"
    blocks = [
        block for layer in decoder.layers for block in (layer, layer.self_attention, layer.cross_attention, layer.mlp)
    ]
    for part in (decoder, decoder.embeddings, *blocks):
        if not type(part).forward.__module__.startswith("dia_hf."):
            return f"a {type(part).__name__} has another `forward`"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "the model is on several devices"
    embedding = decoder.embeddings.embed.weight
    if any(norm.weight.dtype != embedding.dtype for norm in parts if isinstance(norm, nn.RMSNorm)):
        floating = {parameter.dtype for parameter in model.model.parameters() if parameter.dtype.is_floating_point}
        return f"the weights have several dtypes ({', '.join(sorted(map(str, floating)))})"
    if torch.is_autocast_enabled(embedding.device.type):
        return "autocast is on"
    return None
