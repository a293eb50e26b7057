"""Writer of TTS.cpp's GGUF files, tensor by tensor, over the `gguf` package.

The keys are those that TTS.cpp's loader asks for, and sizes that it takes for granted. The epsilon and the base of the
rotary embedding have none: in TTS.cpp they are fixed, and `check_tts_cpp` refuses others.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import DacConfig, DacModel

from .._extras import import_extra
from ..configuration_dia import DiaConfig
from .checkpoint import Checkpoint, Target, make_tensor
from .nari import find_v0_1_obstacles
from .tts_cpp import codec_rules

__all__ = ["check_tts_cpp", "choose_type", "find_limits", "make_keys", "write_gguf"]

_PLAIN_TYPES = {torch.float32: "F32", torch.float16: "F16"}
_QUANTIZED_TYPES = {8: "Q8_0", 5: "Q5_0", 4: "Q4_0"}  # bits of a weight → name
_DELAY_PATTERN = [0, 8, 9, 10, 11, 12, 13, 14, 15]


def choose_type(dtype: torch.dtype, bits: int | None) -> str:
    """Return the name of the type of the large weights.

    Raises:
        ValueError: If GGUF files of TTS.cpp have no such type.
    """
    if bits is not None:
        if bits not in _QUANTIZED_TYPES:
            raise ValueError(f"`bits` is {bits}; TTS.cpp's GGUF files have 8 (Q8_0), 5 (Q5_0) and 4 bits (Q4_0).")
        return _QUANTIZED_TYPES[bits]
    if dtype not in _PLAIN_TYPES:
        raise ValueError(
            f"TTS.cpp's GGUF files have no {str(dtype).removeprefix('torch.')}; choose `dtype` (`--dtype`) float32 or "
            "float16, or `bits` (`--bits`)."
        )
    return _PLAIN_TYPES[dtype]


def check_tts_cpp(config: DiaConfig, codec: DacConfig | None = None) -> None:
    """Check that TTS.cpp would compute this model and, where it is given, this codec, and no other.

    Raises:
        ValueError: If it would compute something else, with each reason.
    """
    obstacles = find_v0_1_obstacles(config)
    encoder, decoder = config.encoder_config, config.decoder_config
    head_dims = {encoder.head_dim, decoder.head_dim, decoder.cross_head_dim}
    if len(head_dims) > 1:
        obstacles.append(f"heads have the widths {sorted(head_dims)}, and it has one for all")
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        if not math.isclose(part.norm_eps, 1e-5, rel_tol=1e-6):  # of a file with float32
            obstacles.append(f"`{name}_config.norm_eps` is {part.norm_eps}, and its own is fixed at 1e-05")
        if (theta := part.rope_parameters["rope_theta"]) != 10_000:
            obstacles.append(f"`{name}_config.rope_parameters['rope_theta']` is {theta}, and its own is fixed at 10000")
    if config.delay_pattern != _DELAY_PATTERN:
        obstacles.append(f"`delay_pattern` is {config.delay_pattern}, and its own is fixed at {_DELAY_PATTERN}")
    if codec is not None and len(codec.upsampling_ratios) != 4:
        obstacles.append(f"the codec's decoder has {len(codec.upsampling_ratios)} blocks, and it reads 4")
    if codec is not None and codec.sampling_rate != 44100:
        obstacles.append(f"the codec's `sampling_rate` is {codec.sampling_rate}, and it writes files of 44100")
    if obstacles:
        raise ValueError(f"TTS.cpp would compute something else than this model: {'; '.join(obstacles)}.")


def find_limits(config: DiaConfig) -> list[str]:
    """List the sizes with which TTS.cpp stops at loading, each as a clause."""
    encoder, decoder = config.encoder_config, config.decoder_config
    width, num_heads, num_groups = decoder.hidden_size, decoder.num_attention_heads, decoder.num_key_value_heads
    limits = []
    if encoder.hidden_size != 1024:
        limits.append(f"the encoder's width is {encoder.hidden_size}, and not 1024")
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        if part.num_attention_heads * part.head_dim != width:
            limits.append(
                f"the {name}'s {part.num_attention_heads} heads of width {part.head_dim} are not as wide as the "
                f"decoder, {width}"
            )
    if decoder.cross_num_attention_heads != num_heads:
        limits.append(f"the cross-attention has {decoder.cross_num_attention_heads} heads, and not {num_heads}")
    if num_groups**2 != num_heads:
        limits.append(f"{num_heads} heads share {num_groups} key-value heads, and not the square root of their number")
    if decoder.num_channels != len(_DELAY_PATTERN):
        limits.append(f"there are {decoder.num_channels} channels, and not {len(_DELAY_PATTERN)}")
    return limits


def make_keys(config: DiaConfig, codec: DacModel, guidance_scale: float | None) -> dict[str, int | float]:
    """Return all keys of a file but the general ones; an `int` is stored as u32, a `float` as f32."""
    encoder, decoder = config.encoder_config, config.decoder_config
    keys: dict[str, int | float] = {
        "dia.attn_head_size": decoder.head_dim,
        "dia.eos_token_id": decoder.eos_token_id,
        "dia.bos_token_id": decoder.bos_token_id,
        "dia.pad_token_id": decoder.pad_token_id,
        "dia.max_delay": config.max_delay,
        "dia.encoder.max_context_length": encoder.max_position_embeddings,
        "dia.encoder.attn_heads": encoder.num_attention_heads,
        "dia.encoder.layers": encoder.num_hidden_layers,
        "dia.encoder.hidden_size": encoder.hidden_size,
        "dia.encoder.intermediate_size": encoder.intermediate_size,
        "dia.decoder.hidden_size": decoder.hidden_size,
        "dia.decoder.intermediate_size": decoder.intermediate_size,
        "dia.decoder.layers": decoder.num_hidden_layers,
        "dia.decoder.output_heads": decoder.num_channels,
        "dia.decoder.attn_heads": decoder.num_attention_heads,
        "dia.decoder.query_heads": decoder.num_key_value_heads,
        "dia.decoder.output_vocab_size": decoder.vocab_size,
        "dia.decoder.audio_vocab_size": decoder.eos_token_id,
        "dia.decoder.max_generation_size": decoder.max_position_embeddings,
        "audio.bos_token_id": decoder.bos_token_id,
        "audio.eos_token_id": decoder.eos_token_id,
    }
    if guidance_scale is not None:
        keys["dia.cfg_scale"] = float(guidance_scale)
    # Its converter writes the first of the two names, its loader reads the second.
    hop_length = math.prod(codec.config.upsampling_ratios)
    keys |= {"dac.up_scaling_factor": hop_length, "dac.up_sampling_factor": hop_length}
    for index, block in enumerate(codec.decoder.block):
        keys[f"dac.dac_layer_stride_{index}"] = block.conv_t1.stride[0]
        keys[f"dac.dac_layer_padding_{index}"] = block.conv_t1.padding[0]
    return keys


def _type_of(name: str, kind: str) -> str:
    """Return the type of a tensor: as with TTS.cpp's own tool, the codec, norms and heads stay in float32."""
    is_kept = name.startswith(("audio_encoder.", "dia.decoder.heads.")) or name.endswith("norm")
    return "F32" if is_kept else kind


def write_gguf(
    file: Path,
    source: Checkpoint,
    targets: list[Target],
    codec: DacModel,
    keys: dict[str, int | float],
    kind: str,
    verbose: bool,
) -> None:
    """Write a file; memory holds a tensor at a time, and the codec.

    Args:
        file (`Path`): The file.
        source (`Checkpoint`): The model.
        targets (`list[Target]`): Its tensors, of `plan(source, "gguf-tts.cpp")`.
        codec (`DacModel`): Codec, of which the decoder is written.
        keys (`dict[str, int | float]`): Of `make_keys`.
        kind (`str`): Name of the type of the large weights, of `choose_type`.
        verbose (`bool`): Whether to show a progress bar.

    Raises:
        ValueError: If a row of a tensor is no multiple of the type's block.
        OSError: If the file cannot be written.
    """
    gguf: Any = import_extra("gguf")
    quants: Any = import_extra("gguf.quants")
    block_size, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    for target in targets:
        if _type_of(target.name, kind) == kind and target.shape[-1] % block_size:
            raise ValueError(
                f"{target.name!r} has rows of {target.shape[-1]} values, and {kind} needs a multiple of {block_size}; "
                "choose `dtype` float32 or float16 without `bits`."
            )
    state = codec.state_dict()
    rules = codec_rules(codec.config)
    shapes = {target.name: target.shape for target in targets} | {rule.sources[0]: rule.shape for rule in rules}

    writer = gguf.GGUFWriter(file, "dia")
    try:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
        for key, value in keys.items():
            add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
            add(key, value)
        for name, shape in shapes.items():
            own = gguf.GGMLQuantizationType[_type_of(name, kind)]
            values_per_block, bytes_per_block = gguf.GGML_QUANT_SIZES[own]
            num_bytes = math.prod(shape) // values_per_block * bytes_per_block
            writer.add_tensor_info(name, shape, torch.float32, num_bytes, raw_dtype=own)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # Not by `write_tensor_data`, whose error on a full disk does not say so.
        (stream,) = writer.fout
        writer.write_padding(stream, stream.tell())
        with tqdm(total=len(shapes), desc="converting", unit=" tensors", disable=not verbose) as bar:

            def write(name: str, tensor: torch.Tensor) -> None:
                own = gguf.GGMLQuantizationType[_type_of(name, kind)]
                values = quants.quantize(tensor.float().numpy(), own)
                stream.write(values.data)
                writer.write_padding(stream, values.nbytes)
                bar.update()

            for target in targets:
                write(target.name, make_tensor(source, target, torch.float32))
            for rule in rules:
                write(rule.sources[0], state[rule.name].contiguous())
    finally:
        writer.close()
