"""GGUF files of a Dia and of a codec: their key-value pairs to configs, and a codec of their tensors.

TTS.cpp's converter writes the model and the decoder of its codec into one file (names: `tts_cpp.py`). CrispASR's writes
the same names, and the codec into a file of its own under `DacModel`'s names. Neither stores the codec's encoder.

A file stores neither the release nor the delay pattern: both programs compute the first release (v0.1), with rotary
embedding in cross-attention, and the published pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DacConfig, DacModel

from ..audio.dac import DacDecoder, check_codebooks
from ..configuration_dia import DiaConfig
from ..text_files import first_line, shortened
from .tts_cpp import codec_rules
from .weights import Weights

__all__ = ["CODEC_PREFIX", "config_from_gguf", "has_codec", "is_gguf_model", "load_gguf_codec"]

CODEC_PREFIX = "audio_encoder."
_MODEL_PREFIX = "dia."
_CODEBOOK = "quantizer.quantizers.{}.codebook.weight"
_SAMPLING_RATE = 44100  # where the file has none; that of the codec of all published models
_MOST_BLOCKS = 16


def is_gguf_model(weights: Weights) -> bool:
    """Whether the tensors of a GGUF file are those of a Dia."""
    return any(name.startswith(_MODEL_PREFIX) for name in weights)


def has_codec(weights: Weights) -> bool:
    """Whether a GGUF file holds the decoder of a codec."""
    return CODEC_PREFIX + _CODEBOOK.format(0) in weights or _CODEBOOK.format(0) in weights


def _number(fields: Mapping[str, Any], name: str, default: float | None = None) -> Any:
    """Return a number of the key-value pairs.

    Raises:
        KeyError: If it is missing, and there is no default.
        ValueError: If it is no number, or not above 0.
    """
    value = fields[name] if default is None else fields.get(name, default)
    kinds = (int, float) if isinstance(default, float) else int
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 2**31:
        raise ValueError(f"`{name}` is {shortened(value)}; expected a number above 0")
    return float(str(np.float32(value))) if isinstance(value, float) else value  # 1e-05, and not the nearest float32


def config_from_gguf(weights: Weights) -> DiaConfig:
    """Read the config: sizes that no key tells from the tensors' shapes, and the rest as published.

    Raises:
        KeyError: If a key or a tensor is missing.
        ValueError: If a value is not supported.
    """
    fields = weights.metadata

    def size(name: str, dimension: int = 0) -> int:
        if name not in weights:
            raise KeyError(name)
        return weights.shape(name)[dimension]

    head_dim, num_channels = _number(fields, "dia.attn_head_size"), _number(fields, "dia.decoder.output_heads")
    max_delay, pattern = _number(fields, "dia.max_delay"), DiaConfig().delay_pattern
    if (num_channels, max_delay) != (len(pattern), max(pattern)):
        raise ValueError(
            f"it has {num_channels} channels and a largest delay of {max_delay}; no key tells the delays between, and "
            f"those of a published model are {pattern}"
        )
    theta, eps = _number(fields, "dia.rope_theta", 10000.0), _number(fields, "dia.rms_norm_eps", 1e-5)
    shared = {"norm_eps": float(eps), "rope_parameters": {"rope_type": "default", "rope_theta": float(theta)}}
    num_heads = _number(fields, "dia.encoder.attn_heads")
    return DiaConfig(
        encoder_config={
            "num_hidden_layers": _number(fields, "dia.encoder.layers"),
            "hidden_size": size("dia.encoder.norm"),
            "intermediate_size": size("dia.encoder.layers.0.gate"),
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_heads,
            "head_dim": head_dim,
            "vocab_size": size("dia.encoder.embedding"),
            "max_position_embeddings": _number(fields, "dia.encoder.max_context_length"),
            **shared,
        },
        decoder_config={
            "num_hidden_layers": _number(fields, "dia.decoder.layers"),
            "hidden_size": _number(fields, "dia.decoder.hidden_size"),
            "intermediate_size": size("dia.decoder.layers.0.gate"),
            "num_attention_heads": _number(fields, "dia.decoder.attn_heads"),
            "num_key_value_heads": _number(fields, "dia.decoder.query_heads"),
            "head_dim": head_dim,
            "cross_num_attention_heads": size("dia.decoder.layers.0.cross_q_proj") // head_dim,
            "cross_num_key_value_heads": size("dia.decoder.layers.0.cross_k_proj") // head_dim,
            "cross_head_dim": head_dim,
            "cross_hidden_size": size("dia.encoder.norm"),
            "cross_attention_rope": True,
            "vocab_size": _number(fields, "dia.decoder.output_vocab_size"),
            "num_channels": num_channels,
            "max_position_embeddings": _number(fields, "dia.decoder.max_generation_size"),
            "eos_token_id": _number(fields, "dia.eos_token_id"),
            "pad_token_id": _number(fields, "dia.pad_token_id"),
            "bos_token_id": _number(fields, "dia.bos_token_id"),
            **shared,
        },
        norm_eps=float(eps),
    )


def _make_codec(weights: Weights) -> tuple[DacModel, dict[str, str]]:
    """Make a codec without weights, and return it with the file's names by those of its tensors."""
    fields = weights.metadata
    is_inside = CODEC_PREFIX + _CODEBOOK.format(0) in weights
    prefix, first = (CODEC_PREFIX, "initial") if is_inside else ("", "decoder.conv1")
    stride = "dac.dac_layer_stride_{}" if is_inside else "dac.upsampling_ratio.{}"
    strides: list[int] = []
    while stride.format(len(strides)) in fields and len(strides) < _MOST_BLOCKS:
        strides.append(_number(fields, stride.format(len(strides))))
    num_codebooks = 0
    while prefix + _CODEBOOK.format(num_codebooks) in weights:
        num_codebooks += 1
    check_codebooks(num_codebooks)
    shapes = []
    for name, num_dims in ((_CODEBOOK.format(0), 2), (f"{first}.weight", 3)):
        if prefix + name not in weights:
            raise KeyError(prefix + name)
        shapes.append(weights.shape(prefix + name))
        if len(shapes[-1]) != num_dims:
            raise ValueError(f"{prefix + name!r} has the shape {list(shapes[-1])}; expected {num_dims} dimensions")
    (codebook_size, codebook_dim), (decoder_size, hidden_size, _) = shapes
    if not strides or hidden_size % 2 ** len(strides) or decoder_size % 2 ** len(strides):
        raise ValueError(
            f"strides {strides} and widths {hidden_size} and {decoder_size} are not those of a codec of descript"
        )
    config = DacConfig(
        encoder_hidden_size=hidden_size // 2 ** len(strides),
        downsampling_ratios=strides[::-1],
        decoder_hidden_size=decoder_size,
        n_codebooks=num_codebooks,
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        sampling_rate=_number(fields, "dac.sampling_rate", _SAMPLING_RATE),
    )
    with torch.device("meta"):  # nothing of the size that a file tells is allocated before its tensors are compared
        codec = DacModel(config) if "encoder.conv1.weight" in weights else DacDecoder(config)
    if is_inside:
        return codec, {rule.name: rule.sources[0] for rule in codec_rules(config)}
    return codec, {name: name for name in codec.state_dict()}


def load_gguf_codec(file: Path) -> DacModel:
    """Load the codec of a GGUF file: a `DacDecoder` where the file holds no encoder.

    Args:
        file (`Path`): A file of TTS.cpp, or a codec of CrispASR's.

    Returns:
        `DacModel` in float32.

    Raises:
        ValueError: If the file cannot be read, or a tensor is missing or of another shape.
        ImportError: If the package `gguf` is missing.
    """
    weights = Weights([file])
    if not weights.is_gguf or not has_codec(weights):
        raise ValueError(f"{file} holds no codec: there is no `{CODEC_PREFIX + _CODEBOOK.format(0)}` in it.")
    try:
        codec, names = _make_codec(weights)
    except KeyError as error:
        raise ValueError(f"{file} lacks {error}.") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{file}: the codec cannot be made: {first_line(error, 400)}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()}
    for ours, theirs in names.items():
        if theirs not in weights:
            raise ValueError(f"{file}: the tensor {theirs!r} of the codec is missing.")
        if _squeezed(weights.shape(theirs)) != _squeezed(expected[ours]):
            raise ValueError(
                f"{file}: {theirs!r} has the shape {list(weights.shape(theirs))}, but the codec requires "
                f"{list(expected[ours])}."
            )
    state = {ours: weights.read(theirs).float().reshape(expected[ours]) for ours, theirs in names.items()}
    codec.load_state_dict(state, assign=True)
    return codec.eval()


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without dimensions of 1, which writers keep or drop."""
    return tuple(size for size in shape if size != 1)
