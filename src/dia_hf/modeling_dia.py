"""Reference path: the network and its loss, in the form that transformers' loop, `Trainer` and direct calls use.

By default `generate()` uses only the encoder of this file. The fast path computes the decoder's steps with the same
weights in `engine/decoder.py`, on preallocated memory, and this file is its oracle (`tests/engine/test_decoder.py`).
The decoder here runs in training, in direct calls of the model, and in `generate()` where the fast path does not
support a call: with `use_fast_path=False`, another `attn_implementation` than "sdpa", hooks, replaced layers and more
(`generation/fast_path.py`); the reason is logged once at INFO. Change both implementations together.

The network maps bytes and delayed codes to logits: a text encoder, an audio decoder with cross-attention to it, and one
head for all channels. Parameters carry the names of the published checkpoints. Three properties matter for numerics:
attention logits are not divided by sqrt(head_dim) (scale 1.0); rotary embedding applies to self-attention only (and to
cross-attention in the first release, v0.1); a frame's input is the sum of its channels' embeddings.

Legend: B batch, S text bytes, T frames, C channels, V vocabulary, H hidden, A heads, D head width.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.integrations import use_kernel_forward_from_hub
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ._compat import CACHE_NAME, network_arguments
from .configuration_dia import DiaConfig, DiaDecoderConfig, DiaEncoderConfig
from .generation.generation_dia import DiaGenerationMixin
from .hub import check_huggingface_layout
from .loss import ChannelSums, channel_sums, channel_sums_in_chunks, fused_linear_cross_entropy, weighted_sum
from .model_card import write_model_card
from .packing import PackedRuns, attend_to_runs, find_runs
from .rotary import apply_rotary, rotary_embedding

logger = logging.get_logger(__name__)

_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")

_PACKING_KERNELS = ("sdpa", "flex_attention", "eager")

__all__ = ["DiaForConditionalGeneration", "DiaModel", "DiaOutput", "DiaPreTrainedModel"]


@dataclass
class DiaOutput(Seq2SeqLMOutput):
    """Output of `DiaForConditionalGeneration`; with labels, including detached statistics of each channel.

    Attributes:
        channel_losses (`torch.FloatTensor` of shape `[C]`, *optional*): Mean cross-entropy of each channel's labels,
            without weights; 0 where a channel has none.
        channel_accuracies (`torch.FloatTensor` of shape `[C]`, *optional*): Share of labels that had the best logit.
        channel_counts (`torch.LongTensor` of shape `[C]`, *optional*): Number of labels that count.
    """

    channel_losses: torch.Tensor | None = None
    channel_accuracies: torch.Tensor | None = None
    channel_counts: torch.Tensor | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention in plain torch: the reference for other kernels, and the only one that returns the weights.

    Args:
        module (`nn.Module`): The attention layer.
        query (`torch.Tensor` of shape `[B, A, T, D]`): Queries.
        key, value (`torch.Tensor` of shape `[B, A / groups, S, D]`): Keys and values, shared by groups of query heads.
        attention_mask (`torch.Tensor`, *optional*): Added to the logits; broadcasts to `[B, A, T, S]`.
        scaling (`float`): Factor on the logits.
        dropout (`float`, defaults to 0.0): On the weights.

    Returns:
        `tuple`: Output `[B, T, A, D]` and weights `[B, A, T, S]`.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    logits = query * scaling @ key.mT
    if attention_mask is not None:
        logits = logits + attention_mask
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


@use_kernel_forward_from_hub("RMSNorm")
class DiaRMSNorm(nn.RMSNorm):
    """Root mean square normalization (Zhang and Sennrich, 2019).

    `from_pretrained(..., use_kernels=True)` replaces its `forward` by a kernel of the Hub, as in transformers' own Dia,
    on both paths. Rotary embedding, which transformers' own Dia replaces as well, stays in float32 here.
    """

    @property
    def variance_epsilon(self) -> float:
        """Epsilon, under the name that the kernels of the Hub read."""
        return self.eps  # type: ignore[return-value]

    @variance_epsilon.setter
    def variance_epsilon(self, value: float) -> None:
        self.eps = value


class DiaAttention(nn.Module):
    """Grouped-query attention at scale 1.0: self-attention, or cross-attention to the encoder's states.

    Args:
        config (`DiaEncoderConfig` or `DiaDecoderConfig`): Configuration; selects the attention implementation.
        layer_idx (`int`): Index of the layer in the cache.
        num_heads, num_key_value_heads, head_dim (`int`): Numbers of heads, and their width.
        key_value_size (`int`, *optional*): Width of the encoder's states; `hidden_size` unless given.
        is_causal (`bool`, defaults to `False`): Whether a position attends only to earlier ones.
    """

    def __init__(
        self,
        config: DiaEncoderConfig | DiaDecoderConfig,
        layer_idx: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        key_value_size: int | None = None,
        is_causal: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = head_dim
        self.num_key_value_groups = num_heads // num_key_value_heads
        self.scaling = 1.0
        self.is_causal = is_causal
        key_value_size = key_value_size or config.hidden_size
        self.q_proj = nn.Linear(config.hidden_size, num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(key_value_size, num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(key_value_size, num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, config.hidden_size, bias=False)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Turn `[B, T, A·D]` into `[B, A, T, D]`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | PackedRuns | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        key_rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute attention.

        Args:
            hidden_states (`torch.Tensor` of shape `[B, T, H]`): Input of the queries.
            attention_mask (`torch.Tensor` or `PackedRuns`, *optional*): Mask in the format of the attention
                implementation, or the runs of packed rows.
            rotary (`tuple`, *optional*): Cosine and sine of the positions of `hidden_states`; no rotation unless given.
            key_rotary (`tuple`, *optional*): In cross-attention, those of the positions of `encoder_hidden_states`.
            encoder_hidden_states (`torch.Tensor` of shape `[B, S, key_value_size]`, *optional*): Input of keys and
                values in cross-attention.
            cache (`EncoderDecoderCache`, *optional*): Keys and values of earlier frames, and of the
                encoder's states after the first step.

        Returns:
            `tuple`: Output `[B, T, H]`, and weights `[B, A, T, S]` from the eager implementation, else `None`.
        """
        query = self._split_heads(self.q_proj(hidden_states))
        if rotary is not None:
            query = apply_rotary(query, rotary)
        if encoder_hidden_states is None:
            key = self._split_heads(self.k_proj(hidden_states))
            value = self._split_heads(self.v_proj(hidden_states))
            if rotary is not None:
                key = apply_rotary(key, rotary)
            if cache is not None:
                key, value = cache.self_attention_cache.update(key, value, self.layer_idx)
        elif cache is not None and cache.is_updated.get(self.layer_idx):
            cached = cache.cross_attention_cache.layers[self.layer_idx]
            key, value = cached.keys, cached.values
        else:
            key = self._split_heads(self.k_proj(encoder_hidden_states))
            value = self._split_heads(self.v_proj(encoder_hidden_states))
            if key_rotary is not None:
                key = apply_rotary(key, key_rotary)
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
                cache.is_updated[self.layer_idx] = True

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        kwargs = {"dropout": 0.0, "scaling": self.scaling, **kwargs}
        if isinstance(attention_mask, PackedRuns):
            attended = attend_to_runs(attend, self, query, key, value, attention_mask, **kwargs)
            return self.o_proj(attended.flatten(2)), None
        output, weights = attend(self, query, key, value, attention_mask, **kwargs)
        return self.o_proj(output.flatten(2)), weights


class DiaMLP(nn.Module):
    """SwiGLU (Shazeer, GLU Variants Improve Transformer, 2020) with both projections in one matrix: [gate; up]."""

    def __init__(self, config: DiaEncoderConfig | DiaDecoderConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `[B, T, H]` to `[B, T, H]`."""
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(self.activation(gate) * up)


class DiaEncoderLayer(GradientCheckpointingLayer):
    """Self-attention and SwiGLU, each on normalized input and added to the residual stream."""

    def __init__(self, config: DiaEncoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.pre_sa_norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attention = DiaAttention(
            config, layer_idx, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        )
        self.post_sa_norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = DiaMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | PackedRuns | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map `[B, S, H]` to `[B, S, H]`."""
        attended, _ = self.self_attention(self.pre_sa_norm(hidden_states), attention_mask, rotary, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_sa_norm(hidden_states))


class DiaDecoderLayer(GradientCheckpointingLayer):
    """Causal self-attention, cross-attention and SwiGLU, each on normalized input and added to the residual stream."""

    def __init__(self, config: DiaDecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.pre_sa_norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attention = DiaAttention(
            config,
            layer_idx,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            is_causal=True,
        )
        self.pre_ca_norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.cross_attention = DiaAttention(
            config,
            layer_idx,
            config.cross_num_attention_heads,
            config.cross_num_key_value_heads,
            config.cross_head_dim,
            key_value_size=config.cross_hidden_size,
        )
        self.pre_mlp_norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = DiaMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | PackedRuns | None,
        encoder_attention_mask: torch.Tensor | PackedRuns | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        cross_rotary: dict[str, tuple[torch.Tensor, torch.Tensor]],
        cache: EncoderDecoderCache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map `[B, T, H]` to `[B, T, H]`, attending to `[B, S, cross_hidden_size]`."""
        attended, _ = self.self_attention(
            self.pre_sa_norm(hidden_states), attention_mask, rotary, cache=cache, **kwargs
        )
        hidden_states = hidden_states + attended
        attended, _ = self.cross_attention(
            self.pre_ca_norm(hidden_states),
            encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            cache=cache,
            **cross_rotary,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.pre_mlp_norm(hidden_states))


class DiaPreTrainedModel(PreTrainedModel):
    """Base class of the Dia networks: loading, saving, initialization and the supported kernels.

    `attn_implementation` applies to the reference path. "sdpa", the default, is what the fast path computes; with any
    other, registered functions included, `generate()` uses the reference path.
    """

    config: DiaConfig
    config_class = DiaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ("DiaEncoderLayer", "DiaDecoderLayer")
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as in the base class.

        Raises:
            ValueError: If it is a file, or a folder in the layout of nari-labs or with GGUF.
        """
        if pretrained_model_name_or_path is not None and not kwargs.keys() & {"subfolder", "state_dict"}:
            check_huggingface_layout(pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save as transformers does, with a warning where transformers' own Dia would load another model.

        Args:
            save_directory (`str` or `os.PathLike`): Folder.
            kwargs: See `PreTrainedModel.save_pretrained`.
        """
        decoder_config = getattr(self.config, "decoder_config", self.config)
        if getattr(decoder_config, "cross_attention_rope", False):
            logger.warning(
                "This is a v0.1 model (`cross_attention_rope`). transformers' own Dia does not know that field and "
                "would silently compute something else from %s; load it with dia_hf.",
                save_directory,
            )
        super().save_pretrained(save_directory, **kwargs)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Resize the byte embedding for tokens that were added to the tokenizer; the embedding of codes stays.

        Args:
            new_num_tokens (`int`, *optional*): Number of text ids; unchanged unless given.
            pad_to_multiple_of (`int`, *optional*): Multiple to which the number is rounded up.
            mean_resizing (`bool`, defaults to `True`): Whether new rows are drawn around the mean of the old ones.

        Returns:
            `nn.Embedding`: The byte embedding. `config.encoder_config.vocab_size` is its number of rows.

        Raises:
            ValueError: If this is the decoder, whose embedding has a row for each code of each channel.
        """
        if isinstance(self, DiaDecoder):
            raise ValueError(
                "the decoder's embedding has a row for each code of each channel, which the codec determines; resize "
                "the byte embedding of the whole model: `model.resize_token_embeddings(...)`."
            )
        return PreTrainedModel.resize_token_embeddings(
            self.get_encoder(), new_num_tokens, pad_to_multiple_of, mean_resizing
        )


class DiaEncoder(DiaPreTrainedModel):
    """The text encoder: byte embedding, bidirectional layers, final normalization."""

    config: DiaEncoderConfig
    config_class = DiaEncoderConfig
    _input_embed_layer = "embedding"
    _can_record_outputs = {  # noqa: RUF012 (transformers reads it off the class)
        "hidden_states": DiaEncoderLayer,
        "attentions": OutputRecorder(DiaAttention, index=1, layer_name="self_attention"),
    }

    def __init__(self, config: DiaEncoderConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DiaEncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_init()

    @network_arguments
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sequence_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode text.

        Args:
            input_ids (`torch.LongTensor` of shape `[B, S]`): Bytes, padded on the right.
            attention_mask (`torch.LongTensor` of shape `[B, S]`, *optional*): 1 = keep.
            sequence_ids (`torch.LongTensor` of shape `[B, S]`, *optional*): Number of the text within its row where a
                row holds several, 0 for padding; replaces the mask.

        Returns:
            `BaseModelOutput` with `last_hidden_state` `[B, S, H]`; padded positions are undefined.
        """
        hidden_states = self.embedding(input_ids)
        position_ids = _positions(input_ids.shape[1], sequence_ids, input_ids.device)
        rotary = rotary_embedding(position_ids, self.config.head_dim, self.config.rope_parameters["rope_theta"])
        mask: torch.Tensor | PackedRuns | None = find_runs(
            sequence_ids, sequence_ids, self.config._attn_implementation
        ) or create_bidirectional_mask(
            self.config,
            hidden_states,
            attention_mask if sequence_ids is None else None,
            and_mask_function=_same_sequence(sequence_ids, sequence_ids),
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, rotary, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


def _positions(num_positions: int, sequence_ids: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Count positions from 0, `[1, T]`; with packed sequences from 0 in each, `[B, T]`."""
    places = torch.arange(num_positions, device=device)[None]
    if sequence_ids is None:
        return places
    begins = F.pad(sequence_ids[:, 1:] != sequence_ids[:, :-1], (1, 0), value=True)
    return places - torch.where(begins, places, 0).cummax(dim=1).values


def _same_sequence(query_ids: torch.Tensor | None, key_ids: torch.Tensor | None) -> Callable | None:
    """Return a mask function that limits attention to the same packed sequence; padding (0) attends to all."""
    if query_ids is None or key_ids is None:
        return None

    def is_visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        own = query_ids[batch, query]
        return (own == key_ids[batch, key]) | (own == 0)

    return is_visible


class DiaMultiChannelEmbedding(nn.Module):
    """Embedding of frames: one table for the tokens of all channels, summed over the channels."""

    def __init__(self, config: DiaDecoderConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.vocab_size = config.vocab_size
        self.embed = nn.Embedding(config.num_channels * config.vocab_size, config.hidden_size)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Map codes `[B, T, C]` to `[B, T, H]`; channel c's token v has row c·V + v."""
        first_rows = torch.arange(self.num_channels, device=codes.device) * self.vocab_size
        return self.embed(codes + first_rows).sum(dim=2)


class DiaDecoder(DiaPreTrainedModel):
    """The audio decoder: multi-channel embedding, causal layers with cross-attention, final normalization."""

    config: DiaDecoderConfig
    config_class = DiaDecoderConfig
    _input_embed_layer = "embed"
    _can_record_outputs = {  # noqa: RUF012 (transformers reads it off the class)
        "hidden_states": DiaDecoderLayer,
        "attentions": OutputRecorder(DiaAttention, index=1, layer_name="self_attention"),
        "cross_attentions": OutputRecorder(DiaAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: DiaDecoderConfig) -> None:
        super().__init__(config)
        self.embeddings = DiaMultiChannelEmbedding(config)
        self.layers = nn.ModuleList(DiaDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = DiaRMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_init()

    @network_arguments
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor = None,  # type: ignore[assignment]
        encoder_attention_mask: torch.Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
        sequence_ids: torch.Tensor | None = None,
        encoder_sequence_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode frames.

        Args:
            input_ids (`torch.LongTensor` of shape `[B, T, C]`): Delayed codes.
            position_ids (`torch.LongTensor` of shape `[B, T]`, *optional*): Frame positions; by default they continue
                from the cache.
            attention_mask (`torch.LongTensor` of shape `[B, cached + T]`, or 4-D as made by transformers, *optional*):
                1 = keep.
            encoder_hidden_states (`torch.Tensor` of shape `[B, S, cross_hidden_size]`): From the encoder.
            encoder_attention_mask (`torch.LongTensor` of shape `[B, S]`, *optional*): 1 = keep.
            cache (`EncoderDecoderCache`, *optional*): Read and filled; `past_key_values` is another name.
            sequence_ids, encoder_sequence_ids (`torch.LongTensor` of shape `[B, T]` and `[B, S]`, *optional*): Number
                of the clip within its row where a row holds several, and of its text, 0 for padding; they replace the
                masks.

        Returns:
            `BaseModelOutputWithPastAndCrossAttentions` with `last_hidden_state` `[B, T, H]`.
        """
        cache = self._cache_of_layers(cache)
        hidden_states = self.embeddings(input_ids)
        if position_ids is None:
            cached = cache.get_seq_length() if cache is not None else 0
            position_ids = _positions(input_ids.shape[1], sequence_ids, input_ids.device) + cached
        theta = self.config.rope_parameters["rope_theta"]
        rotary = rotary_embedding(position_ids, self.config.head_dim, theta)
        cross_rotary = {}
        if self.config.cross_attention_rope:
            text_positions = _positions(encoder_hidden_states.shape[1], encoder_sequence_ids, input_ids.device)
            cross_rotary["rotary"] = rotary_embedding(position_ids, self.config.cross_head_dim, theta)
            cross_rotary["key_rotary"] = rotary_embedding(text_positions, self.config.cross_head_dim, theta)
        kernel = self.config._attn_implementation
        mask = find_runs(sequence_ids, sequence_ids, kernel) or create_causal_mask(
            self.config,
            hidden_states,
            attention_mask if sequence_ids is None else None,
            cache.self_attention_cache if cache is not None else None,
            and_mask_function=_same_sequence(sequence_ids, sequence_ids),
        )
        encoder_mask = find_runs(sequence_ids, encoder_sequence_ids, kernel) or create_bidirectional_mask(
            self.config,
            hidden_states,
            encoder_attention_mask if sequence_ids is None else None,
            encoder_hidden_states,
            and_mask_function=_same_sequence(sequence_ids, encoder_sequence_ids),
        )
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                encoder_hidden_states,
                mask,
                encoder_mask,
                rotary,
                cross_rotary,
                cache,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), **{CACHE_NAME: cache}
        )

    def _cache_of_layers(self, cache: EncoderDecoderCache | None) -> EncoderDecoderCache | None:
        """Return no cache under gradient checkpointing, which computes layers twice and would write the cache twice.

        transformers does the same, but by argument names that change, and up to 5.23 also without gradients.
        """
        is_recomputed = self.training and torch.is_grad_enabled() and self.layers[0].gradient_checkpointing
        if cache is None or not is_recomputed:
            return cache
        if cache.get_seq_length():
            raise ValueError(
                f"a cache of {cache.get_seq_length()} frames cannot be read under gradient checkpointing, which would "
                "write to it twice; pass the whole sequence, or call `model.eval()`."
            )
        logger.warning_once("Gradient checkpointing is on, so no cache is filled.")
        return None


class DiaModel(DiaPreTrainedModel):
    """Encoder and decoder without a head.

    Args:
        config (`DiaConfig`): Sizes, delay pattern and token ids.
    """

    _keys_to_ignore_on_load_unexpected = (r"logits_dense",)

    def __init__(self, config: DiaConfig) -> None:
        super().__init__(config)
        self.encoder = DiaEncoder(config.encoder_config)
        self.decoder = DiaDecoder(config.decoder_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the byte embedding, which embeds `input_ids`."""
        return self.encoder.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the byte embedding."""
        self.encoder.embedding = value

    @network_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        cache: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        sequence_ids: torch.Tensor | None = None,
        decoder_sequence_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """Run encoder (unless its output is given) and decoder.

        Args:
            input_ids (`torch.LongTensor` of shape `[B, S]`, *optional*): Bytes.
            attention_mask (`torch.LongTensor` of shape `[B, S]`, *optional*): 1 = keep.
            decoder_input_ids (`torch.LongTensor` of shape `[B, T, C]` or `[B·C, T]`, *optional*): Delayed codes; one
                beginning-of-speech frame unless given.
            decoder_position_ids (`torch.LongTensor` of shape `[B, T]`, *optional*): Frame positions.
            decoder_attention_mask (`torch.LongTensor` of shape `[B, cached + T]`, *optional*): 1 = keep.
            encoder_outputs (`BaseModelOutput` or `tuple`, *optional*): The encoder's output, instead of `input_ids`.
            cache (`EncoderDecoderCache`, *optional*): Keys and values of earlier frames; `past_key_values`, its name
                before transformers 5.24, is accepted as well.
            use_cache (`bool`, *optional*): Whether to make a cache where none is given.
            sequence_ids, decoder_sequence_ids (`torch.LongTensor` of shape `[B, S]` and `[B, T]`, *optional*): Where a
                row holds several clips (packing, see `DiaDataCollator`), which of them a position belongs to, counted
                from 1; 0 is padding. A clip's codes attend to themselves and to their own text, and its positions
                begin at 0; the two masks are not needed then.

        Returns:
            `Seq2SeqModelOutput` with `last_hidden_state` `[B, T, H]`.

        Raises:
            ValueError: If neither `input_ids` nor `encoder_outputs` is given; if only one of `sequence_ids` and
                `decoder_sequence_ids` is given, or both with a cache or a kernel that cannot separate clips.
        """
        self._check_packing(sequence_ids, decoder_sequence_ids, cache is not None or bool(use_cache))
        if encoder_outputs is None:
            if input_ids is None:
                raise ValueError("neither `input_ids` nor `encoder_outputs` is given; pass one of them.")
            encoder_outputs = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, sequence_ids=sequence_ids, **kwargs
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)

        batch_size, num_channels = encoder_outputs[0].shape[0], self.config.decoder_config.num_channels
        if decoder_input_ids is None:
            decoder_input_ids = torch.full(
                (batch_size, 1, num_channels), self.config.decoder_config.bos_token_id, device=self.device
            )
        elif decoder_input_ids.ndim == 2:
            decoder_input_ids = decoder_input_ids.unflatten(0, (-1, num_channels)).transpose(1, 2)

        if use_cache and cache is None:
            cache = EncoderDecoderCache(
                DynamicCache(config=self.config.decoder_config), DynamicCache(config=self.config.decoder_config)
            )
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            position_ids=decoder_position_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs[0],
            encoder_attention_mask=attention_mask,
            cache=cache,
            use_cache=bool(use_cache),  # its config's default would have gradient checkpointing warn of a cache
            sequence_ids=decoder_sequence_ids,
            encoder_sequence_ids=sequence_ids,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            **{CACHE_NAME: decoder_outputs.get(CACHE_NAME)},
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs[0],
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )

    def _check_packing(
        self, sequence_ids: torch.Tensor | None, decoder_sequence_ids: torch.Tensor | None, has_cache: bool
    ) -> None:
        if sequence_ids is None and decoder_sequence_ids is None:
            return
        if sequence_ids is None or decoder_sequence_ids is None:
            raise ValueError("packed clips need both `sequence_ids` and `decoder_sequence_ids`; only one is given.")
        if has_cache:
            raise ValueError("packed clips are for training and cannot be combined with a cache; leave out the cache.")
        for config in (self.encoder.config, self.decoder.config):
            if config._attn_implementation not in _PACKING_KERNELS:
                raise ValueError(
                    f"the attention implementation {config._attn_implementation!r} cannot separate packed clips; use "
                    f"one of {', '.join(_PACKING_KERNELS)}: `model.set_attn_implementation({_PACKING_KERNELS[0]!r})`."
                )


class DiaForConditionalGeneration(DiaPreTrainedModel, DiaGenerationMixin):
    """Dia with its output head: maps text and delayed codes to logits and a loss, and generates codes by `generate`.

    Args:
        config (`DiaConfig`): Sizes, delay pattern and token ids.

    Attributes:
        loss_chunk_size (`int`, *optional*): Frames whose logits, loss and gradient are computed at a time in calls with
            labels. Such calls return no logits, and their memory for logits does not grow with the batch. `None`
            computes all at once. Not saved.
        label_smoothing (`float`, defaults to 0.0): Probability mass that is spread over all tokens, in the loss of
            calls in training mode. Not saved.

    Example:
    ```python
    >>> from dia_hf import MINIATURE, DiaForConditionalGeneration, DiaProcessor
    >>> model = DiaForConditionalGeneration.from_pretrained(MINIATURE)
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> inputs = processor(text=["[S1] Hello."], return_tensors="pt")
    >>> model.generate(**inputs, max_new_tokens=20).shape
    torch.Size([1, 21, 9])

    ```
    """

    output_modalities = ("audio",)
    loss_chunk_size: int | None = None
    label_smoothing: float = 0.0

    def __init__(self, config: DiaConfig) -> None:
        super().__init__(config)
        config.decoder_config.check_token_ids()
        self.model = DiaModel(config)
        self.num_channels = config.decoder_config.num_channels
        self.vocab_size = config.decoder_config.vocab_size
        self.logits_dense = nn.Linear(
            config.decoder_config.hidden_size, self.num_channels * self.vocab_size, bias=False
        )
        self._token_ids = {name: getattr(config.decoder_config, name) for name in _TOKEN_IDS}
        self.post_init()

    def train(self, mode: bool = True) -> DiaForConditionalGeneration:
        """Set the mode; for training, restore the codec's special tokens where a tokenizer's have replaced them.

        transformers' `Trainer` writes the ids of its `processing_class` into the model before training, and calls this
        method before the first step. Saved with them, the model would not recognize its end of speech.
        """
        if mode:
            self._restore_token_ids()
        return super().train(mode)

    def _restore_token_ids(self) -> None:
        config, decoder = self.config, self.config.decoder_config
        # Releases differ in where they write: in the whole config, or in the decoder's.
        above = {name: getattr(config, name) for name in _TOKEN_IDS if getattr(config, name) is not None}
        found = {name: getattr(decoder, name) for name in _TOKEN_IDS} | above
        is_overwritten = bool(above)
        try:
            decoder.check_token_ids()
        except ValueError:
            for name, token_id in self._token_ids.items():
                setattr(decoder, name, token_id)
            is_overwritten = True
        if not is_overwritten:
            return
        kept = {name: getattr(decoder, name) for name in _TOKEN_IDS}
        for name in _TOKEN_IDS:
            setattr(config, name, None)
            if self.generation_config is not None:
                setattr(self.generation_config, name, kept[name])
        warnings.warn(
            f"the model's special tokens were set to {found}, as `Trainer` does from its `processing_class`; those are "
            f"the tokenizer's, and the codec's are put back: {kept}.",
            stacklevel=3,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save as transformers does, with a short model card where the folder has no README.md.

        What is pushed to the Hub keeps the card of the repository there: transformers' `push_to_hub` writes it, or one
        of its own for a new repository, over what is written here. Adapters alone get no card.

        Args:
            save_directory (`str` or `os.PathLike`): Folder.
            kwargs: See `PreTrainedModel.save_pretrained`.

        Raises:
            OSError: If the folder cannot be written.
        """
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True) and not getattr(self, "_hf_peft_config_loaded", False):
            write_model_card(save_directory, self.config._name_or_path or "")

    def get_output_embeddings(self) -> nn.Linear:
        """Return the output head of all channels."""
        return self.logits_dense

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the output head."""
        self.logits_dense = new_embeddings

    @network_arguments
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        cache: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_logits: bool = False,
        sequence_ids: torch.Tensor | None = None,
        decoder_sequence_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> DiaOutput:
        """Compute logits, and the loss where labels are given.

        Args:
            labels (`torch.LongTensor` of shape `[B·C, T]` or `[B, T, C]`, *optional*): The token that follows each
                position; -100 is ignored, and 0 is a code like any other. The loss is the mean cross-entropy over all
                labels that count, each channel weighted by `config.channel_loss_weights` divided by their mean.
            logits_to_keep (`int` or `torch.LongTensor`, defaults to 0): Compute logits of this many last positions
                only, or of these positions; 0 means all, which labels need.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*): Divisor of the summed loss, instead of the number
                of labels here: the number of labels in all batches of an optimizer step, which `Trainer` passes.
            input_ids, attention_mask, decoder_input_ids, decoder_position_ids: See `DiaModel.forward`.
            decoder_attention_mask, encoder_outputs, cache, use_cache: See `DiaModel.forward`.
            sequence_ids, decoder_sequence_ids: See `DiaModel.forward`.

        Returns:
            `DiaOutput` with `logits` `[B·C, T, V]` (row b·C + c is channel c of sample b); with labels also `loss` and
            the channels' parts, and no logits where `loss_chunk_size` is set, unless `return_logits`.

        Raises:
            ValueError: If labels come without `decoder_input_ids`, do not fit them, or come together with
                `logits_to_keep`; if `loss_chunk_size` is below 1; and as `DiaModel.forward` does.
        """
        if labels is not None:
            self._check_labels(labels, decoder_input_ids, logits_to_keep)
        elif num_items_in_batch is not None and self.training:
            warnings.warn(
                "`num_items_in_batch` came without `labels`: `Trainer` keeps the labels for a loss of its own where "
                "`label_smoothing_factor` or `compute_loss_func` is set. Its label smoothing does not support "
                "channels: set `model.label_smoothing` instead, or train with `DiaTrainer`. A `compute_loss_func` "
                "receives logits of rows, [B · C, T, V].",
                stacklevel=2,
            )
        outputs: Seq2SeqModelOutput = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_position_ids=decoder_position_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            cache=cache,
            use_cache=use_cache,
            sequence_ids=sequence_ids,
            decoder_sequence_ids=decoder_sequence_ids,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states = outputs.last_hidden_state[:, kept]
        logits, of_loss = None, {}
        if labels is None or self.loss_chunk_size is None or return_logits:
            logits = self._head(hidden_states)  # [B, T, C, V]
        if labels is not None:
            if labels.ndim == 2:
                labels = labels.unflatten(0, (-1, self.num_channels)).transpose(1, 2)
            labels = labels.flatten(0, 1).to(hidden_states.device)
            total, sums = self._sum_losses(hidden_states.flatten(0, 1), logits, labels)
            of_loss = self._loss(total, sums, num_items_in_batch)
        return DiaOutput(
            **of_loss,
            logits=logits.transpose(1, 2).flatten(0, 1).contiguous() if logits is not None else None,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )

    def _check_labels(
        self, labels: torch.Tensor, codes: torch.Tensor | None, logits_to_keep: int | torch.Tensor
    ) -> None:
        if codes is None:
            raise ValueError("`labels` need `decoder_input_ids`; `DiaProcessor(..., output_labels=True)` makes both.")
        if isinstance(logits_to_keep, torch.Tensor) or logits_to_keep:
            raise ValueError(
                f"`logits_to_keep` is {logits_to_keep}, but a loss needs the logits of all positions; leave out "
                "`logits_to_keep` or `labels`."
            )
        if self.loss_chunk_size is not None and self.loss_chunk_size < 1:
            raise ValueError(f"`loss_chunk_size` is {self.loss_chunk_size}; give 1 or more, or None for no chunks.")
        batch_size = len(codes) if codes.ndim == 3 else len(codes) // self.num_channels
        shapes = [[batch_size, codes.shape[1], self.num_channels], [batch_size * self.num_channels, codes.shape[1]]]
        if list(labels.shape) not in shapes:
            raise ValueError(
                f"`labels` has the shape {list(labels.shape)}; beside `decoder_input_ids` of {list(codes.shape)} give "
                f"{shapes[0]} or {shapes[1]}."
            )

    def _head(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map states `[..., H]` to logits `[..., C, V]`."""
        return self.logits_dense(hidden_states).unflatten(-1, (self.num_channels, self.vocab_size))

    def _sum_losses(
        self, hidden_states: torch.Tensor, logits: torch.Tensor | None, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ChannelSums]:
        """Sum the losses of `[P, C]` labels, from logits `[B, T, C, V]` or, in chunks, from states `[P, H]`."""
        smoothing, weights = self.label_smoothing if self.training else 0.0, self.config.channel_loss_weights
        if logits is not None:
            sums = channel_sums(logits.flatten(0, 1), labels, smoothing)
        else:
            assert self.loss_chunk_size is not None
            weight = getattr(self.logits_dense, "weight", None)
            # The fused loss needs a plain matrix, without adapter or quantization, and helps only with gradients.
            if torch.is_grad_enabled() and type(self.logits_dense) is nn.Linear and type(weight) is nn.Parameter:
                return fused_linear_cross_entropy(
                    hidden_states, weight, labels, self.loss_chunk_size, weights, smoothing
                )
            sums = channel_sums_in_chunks(hidden_states, self._head, labels, self.loss_chunk_size, smoothing)
        return weighted_sum(sums.losses, weights), sums

    def _loss(
        self, total: torch.Tensor, sums: ChannelSums, num_items: torch.Tensor | int | None
    ) -> dict[str, torch.Tensor]:
        if num_items is None:
            num_items = sums.counts.sum()
        elif isinstance(num_items, torch.Tensor):
            num_items = num_items.to(sums.losses.device)
        counts = sums.counts.clamp(min=1)
        return {
            "loss": total / num_items,
            "channel_losses": sums.losses.detach() / counts,
            "channel_accuracies": sums.num_correct / counts,
            "channel_counts": sums.counts,
        }
