"""Conversion of nari-labs' checkpoints in both directions: names, shapes and configs.

Both releases have the same tensors under the same names, in DenseGeneral's order: `[in…, out…]`, heads and channels
unfolded, where torch has `[out, in]`. They differ in the config file (0626: flat; v0.1: nested) and in the model (v0.1:
rotary embedding in cross-attention, codes sampled from the guided logits, EOS logit × 0.8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from ..configuration_dia import DiaConfig

__all__ = [
    "TensorRule",
    "config_from_v0_1",
    "config_to_0626",
    "config_to_v0_1",
    "find_v0_1_obstacles",
    "generation_config_for",
    "is_nari_config",
    "tensor_rules",
]


def is_nari_config(values: dict[str, Any]) -> bool:
    """Whether the content of a config.json is that of the first release (v0.1)."""
    return {"model", "data"} <= values.keys()


@dataclass(frozen=True)
class TensorRule:
    """Relation of one of our tensors to one or several of another layout.

    Args:
        name (`str`): Our name.
        sources (`tuple[str, ...]`): Names of theirs; several are stacked along the first dimension.
        shape (`tuple[int, ...]`): Shape of each of theirs.
        num_in (`int`): Number of leading input dimensions of theirs; 0 if the tensors are equal.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    num_in: int = 0

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Shape of our tensor."""
        if self.num_in:
            return math.prod(self.shape[self.num_in :]), math.prod(self.shape[: self.num_in])
        return (len(self.sources) * self.shape[0], *self.shape[1:])

    def to_ours(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Convert their tensors to ours, as a view if possible."""
        if self.num_in:
            return tensors[0].reshape(math.prod(self.shape[: self.num_in]), -1).T
        return torch.cat(tensors) if len(tensors) > 1 else tensors[0]

    def to_theirs(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Convert our tensor to theirs, as views if possible."""
        if self.num_in:
            return [tensor.T.reshape(self.shape)]
        return list(tensor.chunk(len(self.sources)))


def tensor_rules(config: DiaConfig) -> list[TensorRule]:
    """Return the rules of all tensors of a model."""
    encoder, decoder = config.encoder_config, config.decoder_config
    table = [
        TensorRule(
            "model.encoder.embedding.weight", ("encoder.embedding.weight",), (encoder.vocab_size, encoder.hidden_size)
        ),
        TensorRule("model.encoder.norm.weight", ("encoder.norm.weight",), (encoder.hidden_size,)),
        TensorRule(
            "model.decoder.embeddings.embed.weight",
            tuple(f"decoder.embeddings.{channel}.weight" for channel in range(decoder.num_channels)),
            (decoder.vocab_size, decoder.hidden_size),
        ),
        TensorRule("model.decoder.norm.weight", ("decoder.norm.weight",), (decoder.hidden_size,)),
        TensorRule(
            "logits_dense.weight",
            ("decoder.logits_dense.weight",),
            (decoder.hidden_size, decoder.num_channels, decoder.vocab_size),
            num_in=1,
        ),
    ]
    for index in range(encoder.num_hidden_layers):
        layer = f"encoder.layers.{index}"
        table += _norms(layer, ("pre_sa_norm", "post_sa_norm"), encoder.hidden_size)
        table += _attention(
            f"{layer}.self_attention",
            encoder.hidden_size,
            encoder.hidden_size,
            encoder.num_attention_heads,
            encoder.num_key_value_heads,
            encoder.head_dim,
        )
        table += _mlp(layer, encoder.hidden_size, encoder.intermediate_size)
    for index in range(decoder.num_hidden_layers):
        layer = f"decoder.layers.{index}"
        table += _norms(layer, ("pre_sa_norm", "pre_ca_norm", "pre_mlp_norm"), decoder.hidden_size)
        table += _attention(
            f"{layer}.self_attention",
            decoder.hidden_size,
            decoder.hidden_size,
            decoder.num_attention_heads,
            decoder.num_key_value_heads,
            decoder.head_dim,
        )
        table += _attention(
            f"{layer}.cross_attention",
            decoder.hidden_size,
            decoder.cross_hidden_size,
            decoder.cross_num_attention_heads,
            decoder.cross_num_key_value_heads,
            decoder.cross_head_dim,
        )
        table += _mlp(layer, decoder.hidden_size, decoder.intermediate_size)
    return table


def _norms(layer: str, names: tuple[str, ...], hidden_size: int) -> list[TensorRule]:
    return [TensorRule(f"model.{layer}.{name}.weight", (f"{layer}.{name}.weight",), (hidden_size,)) for name in names]


def _attention(
    module: str, hidden_size: int, key_value_size: int, num_heads: int, num_key_value_heads: int, head_dim: int
) -> list[TensorRule]:
    shapes = {
        "q_proj": ((hidden_size, num_heads, head_dim), 1),
        "k_proj": ((key_value_size, num_key_value_heads, head_dim), 1),
        "v_proj": ((key_value_size, num_key_value_heads, head_dim), 1),
        "o_proj": ((num_heads, head_dim, hidden_size), 2),
    }
    return [
        TensorRule(f"model.{module}.{name}.weight", (f"{module}.{name}.weight",), shape, num_in)
        for name, (shape, num_in) in shapes.items()
    ]


def _mlp(layer: str, hidden_size: int, intermediate_size: int) -> list[TensorRule]:
    return [
        TensorRule(
            f"model.{layer}.mlp.gate_up_proj.weight",
            (f"{layer}.mlp.wi_fused.weight",),
            (hidden_size, 2, intermediate_size),
            num_in=1,
        ),
        TensorRule(
            f"model.{layer}.mlp.down_proj.weight",
            (f"{layer}.mlp.wo.weight",),
            (intermediate_size, hidden_size),
            num_in=1,
        ),
    ]


def config_from_v0_1(values: dict[str, Any]) -> DiaConfig:
    """Read the nested config of the first release.

    Raises:
        KeyError: If an entry is missing.
        ValueError: If an entry has a value that the model does not support.
    """
    model, data = values["model"], values["data"]
    encoder, decoder = model["encoder"], model["decoder"]
    if model.get("rope_min_timescale", 1) != 1:
        raise ValueError(f"`rope_min_timescale` is {model['rope_min_timescale']}; only 1 is supported.")
    if data.get("text_pad_value", 0) != 0:
        raise ValueError(f"`text_pad_value` is {data['text_pad_value']}; only 0 is supported.")
    shared = {
        "norm_eps": model["normalization_layer_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(model["rope_max_timescale"])},
    }
    return DiaConfig(
        encoder_config={
            "num_hidden_layers": encoder["n_layer"],
            "hidden_size": encoder["n_embd"],
            "intermediate_size": encoder["n_hidden"],
            "num_attention_heads": encoder["n_head"],
            "num_key_value_heads": encoder["n_head"],
            "head_dim": encoder["head_dim"],
            "vocab_size": model["src_vocab_size"],
            "max_position_embeddings": data["text_length"],
            **shared,
        },
        decoder_config={
            "num_hidden_layers": decoder["n_layer"],
            "hidden_size": decoder["n_embd"],
            "intermediate_size": decoder["n_hidden"],
            "num_attention_heads": decoder["gqa_query_heads"],
            "num_key_value_heads": decoder["kv_heads"],
            "head_dim": decoder["gqa_head_dim"],
            "cross_num_attention_heads": decoder["cross_query_heads"],
            "cross_num_key_value_heads": decoder["cross_query_heads"],
            "cross_head_dim": decoder["cross_head_dim"],
            "cross_hidden_size": encoder["n_embd"],
            "cross_attention_rope": True,
            "vocab_size": model["tgt_vocab_size"],
            "num_channels": data["channels"],
            "max_position_embeddings": data["audio_length"],
            "eos_token_id": data["audio_eos_value"],
            "pad_token_id": data["audio_pad_value"],
            "bos_token_id": data["audio_bos_value"],
            **shared,
        },
        delay_pattern=data["delay_pattern"],
        norm_eps=model["normalization_layer_epsilon"],
    )


def find_v0_1_obstacles(config: DiaConfig) -> list[str]:
    """List what code for the first release would compute otherwise, each as a clause; nothing of a v0.1 model."""
    encoder, decoder = config.encoder_config, config.decoder_config
    obstacles = []
    if not decoder.cross_attention_rope:
        obstacles.append(
            "`decoder_config.cross_attention_rope` is false, as in the 0626 release, and v0.1 rotates queries and keys "
            "of the cross-attention, which changes every logit"
        )
    for name, part, heads in (("encoder", encoder, ""), ("decoder", decoder, "cross_")):
        num_heads, num_groups = (getattr(part, f"{heads}num_{kind}_heads") for kind in ("attention", "key_value"))
        if num_heads != num_groups:
            obstacles.append(
                f"`{name}_config.{heads}num_key_value_heads` is {num_groups}, and v0.1 has as many as "
                f"`{heads}num_attention_heads`, {num_heads}"
            )
        if part.hidden_act != "silu":
            obstacles.append(f"`{name}_config.hidden_act` is {part.hidden_act!r}, and v0.1 has 'silu'")
    if encoder.norm_eps != decoder.norm_eps:
        obstacles.append(f"`norm_eps` is {encoder.norm_eps} and {decoder.norm_eps}, and v0.1 has one for both")
    thetas = [part.rope_parameters["rope_theta"] for part in (encoder, decoder)]
    if thetas[0] != thetas[1] or thetas[0] % 1:
        obstacles.append(f"`rope_theta` is {thetas[0]} and {thetas[1]}, and v0.1 has one whole number for both")
    return obstacles


def config_to_v0_1(config: DiaConfig, dtype: str = "float32") -> dict[str, Any]:
    """Return the nested config of the first release for weights of `dtype`, which it computes in, too.

    Raises:
        ValueError: If that release would compute something else than the model, with each reason.
    """
    if obstacles := find_v0_1_obstacles(config):
        raise ValueError(
            f"the layout of nari-labs v0.1 cannot express this model: {'; '.join(obstacles)}. Other layouts can: "
            "'huggingface', and for a 0626 model 'nari-0626'."
        )
    encoder, decoder = config.encoder_config, config.decoder_config
    return {
        "version": "0.1",
        "model": {
            "encoder": {
                "n_layer": encoder.num_hidden_layers,
                "n_embd": encoder.hidden_size,
                "n_hidden": encoder.intermediate_size,
                "n_head": encoder.num_attention_heads,
                "head_dim": encoder.head_dim,
            },
            "decoder": {
                "n_layer": decoder.num_hidden_layers,
                "n_embd": decoder.hidden_size,
                "n_hidden": decoder.intermediate_size,
                "gqa_query_heads": decoder.num_attention_heads,
                "kv_heads": decoder.num_key_value_heads,
                "gqa_head_dim": decoder.head_dim,
                "cross_query_heads": decoder.cross_num_attention_heads,
                "cross_head_dim": decoder.cross_head_dim,
            },
            "src_vocab_size": encoder.vocab_size,
            "tgt_vocab_size": decoder.vocab_size,
            "dropout": 0.0,
            "normalization_layer_epsilon": decoder.norm_eps,
            "weight_dtype": dtype,
            "rope_min_timescale": 1,
            "rope_max_timescale": int(decoder.rope_parameters["rope_theta"]),
        },
        "training": {"dtype": dtype},
        "data": {
            "text_length": encoder.max_position_embeddings,
            "audio_length": decoder.max_position_embeddings,
            "channels": decoder.num_channels,
            "text_pad_value": 0,
            "audio_eos_value": decoder.eos_token_id,
            "audio_pad_value": decoder.pad_token_id,
            "audio_bos_value": decoder.bos_token_id,
            "delay_pattern": config.delay_pattern,
        },
    }


def config_to_0626(config: DiaConfig, dtype: str = "float32") -> dict[str, Any]:
    """Return the flat config of the 0626 release for weights of `dtype`.

    Raises:
        ValueError: If the model is a v0.1 model, which this release does not support.
    """
    encoder, decoder = config.encoder_config, config.decoder_config
    if decoder.cross_attention_rope:
        raise ValueError(
            "this is a v0.1 model (`cross_attention_rope`), which nari-labs' 0626 code would misread; use the Hugging "
            "Face layout."
        )
    shared = ["head_dim", "hidden_act", "hidden_size", "initializer_range", "intermediate_size"]
    shared += ["max_position_embeddings", "model_type", "norm_eps", "num_attention_heads", "num_hidden_layers"]
    shared += ["num_key_value_heads", "vocab_size"]
    cross = ["cross_head_dim", "cross_hidden_size", "cross_num_attention_heads", "cross_num_key_value_heads"]

    def part(source: Any, names: list[str]) -> dict[str, Any]:
        rope = {"rope_scaling": None, "rope_theta": source.rope_parameters["rope_theta"]}
        return dict(sorted({**{name: getattr(source, name) for name in names}, **rope}.items()))

    return {
        "architectures": ["DiaForConditionalGeneration"],
        "bos_token_id": decoder.bos_token_id,
        "decoder_config": part(decoder, [*shared, *cross, "num_channels"]),
        "delay_pattern": config.delay_pattern,
        "encoder_config": part(encoder, shared),
        "eos_token_id": decoder.eos_token_id,
        "initializer_range": config.initializer_range,
        "is_encoder_decoder": True,
        "model_type": config.model_type,
        "norm_eps": config.norm_eps,
        "pad_token_id": decoder.pad_token_id,
        "torch_dtype": dtype,
    }


def generation_config_for(config: DiaConfig) -> GenerationConfig:
    """Return the default sampling parameters of the original `generate()`, which its checkpoints do not contain.

    0626: guidance scale 3, temperature 1.2, top-p 0.95, top-k 45. v0.1: guidance scale 3, temperature 1.3, top-p 0.95,
    top-k 35, codes sampled from the guided logits, EOS logit of channel 0 × 0.8.
    """
    decoder = config.decoder_config
    is_v0_1 = decoder.cross_attention_rope
    generation_config = GenerationConfig(
        bos_token_id=decoder.bos_token_id,
        eos_token_id=decoder.eos_token_id,
        pad_token_id=decoder.pad_token_id,
        do_sample=True,
        guidance_scale=3.0,
        max_length=decoder.max_position_embeddings,
        temperature=1.3 if is_v0_1 else 1.2,
        top_k=35 if is_v0_1 else 45,
        top_p=0.95,
    )
    if is_v0_1:
        generation_config.sample_from_guided = True
        generation_config.eos_logit_scale = 0.8
    return generation_config
