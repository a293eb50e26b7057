"""Names, shapes and keys of the GGUF files of TTS.cpp, as rules that work in both directions.

A file holds the model and the decoder of the codec. Its tensors are in torch's order, `[out, in]`, without the suffix
".weight"; what is one tensor in the model is several there: gate and up projection, heads, embeddings. Of the codec,
weight normalization is folded in, and neither the encoder nor the input projections of the quantizers are stored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import DacConfig, DacModel

from ..configuration_dia import DiaConfig
from .nari import TensorRule, tensor_rules

__all__ = ["codec_rules", "tts_cpp_rules"]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def tts_cpp_rules(config: DiaConfig) -> list[TensorRule]:
    """Return the rules of all tensors of a model, in the order of `tensor_rules`."""
    rules = []
    for rule in tensor_rules(config):
        names = tuple(_names(rule.name, config.decoder_config.num_channels))
        rules.append(TensorRule(rule.name, names, (rule.our_shape[0] // len(names), *rule.our_shape[1:])))
    return rules


def _names(ours: str, num_channels: int) -> Iterator[str]:
    """Yield the names of the tensors that, stacked along the first dimension, are one of ours."""
    part, _, rest = ours.removeprefix("model.").removesuffix(".weight").partition(".")
    if part == "logits_dense":
        yield from (f"dia.decoder.heads.{channel}" for channel in range(num_channels))
    elif rest == "embeddings.embed":
        yield from (f"dia.decoder.embeddings.{channel}" for channel in range(num_channels))
    elif rest.endswith("mlp.gate_up_proj"):
        layer = f"dia.{part}.{rest.removesuffix('.mlp.gate_up_proj')}"
        yield from (f"{layer}.gate", f"{layer}.up")
    elif rest.endswith("mlp.down_proj"):
        yield f"dia.{part}.{rest.removesuffix('.mlp.down_proj')}.wo"
    elif rest.endswith(_PROJECTIONS):
        layer, attention, projection = rest.rsplit(".", 2)
        prefix = "" if part == "encoder" else f"{attention.removesuffix('_attention')}_"
        yield f"dia.{part}.{layer}.{prefix}{projection}"
    else:
        yield f"dia.{part}.{rest}"


def codec_rules(config: DacConfig) -> list[TensorRule]:
    """Return the rules of a codec's decoder and codebooks; our names are those of a `DacModel`."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in DacModel(config).state_dict().items()}
    return [TensorRule(ours, (f"audio_encoder.{theirs}",), shapes[ours]) for ours, theirs in _codec_names(config)]


def _codec_names(config: DacConfig) -> Iterator[tuple[str, str]]:
    """Yield (our name, their name)."""
    num_blocks = len(config.upsampling_ratios)
    yield from _layer("decoder.conv1", "initial")
    for block in range(num_blocks):
        ours, theirs = f"decoder.block.{block}", f"decoder_block.{block + 1}"
        yield f"{ours}.snake1.alpha", f"{theirs}.final.alpha"
        yield from _layer(f"{ours}.conv_t1", f"{theirs}.final")
        for unit in range(3):
            for number, place in ((1, "initial"), (2, "final")):
                our_unit, their_unit = f"{ours}.res_unit{unit + 1}", f"{theirs}.residual_unit.{unit}.res.{place}"
                yield f"{our_unit}.snake{number}.alpha", f"{their_unit}.alpha"
                yield from _layer(f"{our_unit}.conv{number}", their_unit)
    yield "decoder.snake1.alpha", "final.alpha"
    yield from _layer("decoder.conv2", "final")
    for codebook in range(config.n_codebooks):
        quantizer = f"quantizer.quantizers.{codebook}"
        yield f"{quantizer}.codebook.weight", f"{quantizer}.codebook.weight"
        yield from _layer(f"{quantizer}.out_proj", f"{quantizer}.out_proj")


def _layer(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.weight", f"{theirs}.weight"
    yield f"{ours}.bias", f"{theirs}.bias"
