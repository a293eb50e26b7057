"""Files of other software, written with the libraries of their formats: GGUF as TTS.cpp and CrispASR, MLX as mlx-audio.

The layouts are spelled out here, from nari-labs' tensors to theirs, independently of the tables in `dia_hf`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import DacModel

Tensors = dict[str, torch.Tensor]
WIDTH = 64  # a multiple of GGUF's blocks and of MLX's groups


def random_v0_1(seed: int = 0) -> tuple[dict[str, Any], Tensors]:
    """Draw a model of the first release: its config.json, and its tensors."""
    generator = torch.Generator().manual_seed(seed)
    encoder = {"n_layer": 1, "n_embd": WIDTH, "n_hidden": 96, "n_head": 2, "head_dim": 32}
    decoder = {"n_layer": 2, "n_embd": WIDTH, "n_hidden": 128, "gqa_query_heads": 4, "kv_heads": 2, "gqa_head_dim": 32}
    decoder |= {"cross_query_heads": 4, "cross_head_dim": 32}
    config = {
        "version": "0.1",
        "model": {
            **{"encoder": encoder, "decoder": decoder, "src_vocab_size": 256, "tgt_vocab_size": 1028, "dropout": 0.0},
            **{"normalization_layer_epsilon": 1e-5, "rope_min_timescale": 1, "rope_max_timescale": 10000},
        },
        "training": {},
        "data": {
            **{"text_length": 128, "audio_length": 256, "channels": 9, "text_pad_value": 0, "audio_eos_value": 1024},
            **{"audio_pad_value": 1025, "audio_bos_value": 1026, "delay_pattern": [0, 8, 9, 10, 11, 12, 13, 14, 15]},
        },
    }
    shapes: dict[str, tuple[int, ...]] = {"encoder.embedding.weight": (256, WIDTH), "encoder.norm.weight": (WIDTH,)}
    shapes |= {f"decoder.embeddings.{channel}.weight": (1028, WIDTH) for channel in range(9)}
    shapes |= {"decoder.norm.weight": (WIDTH,), "decoder.logits_dense.weight": (WIDTH, 9, 1028)}
    for part, sizes, norms in (
        ("encoder", encoder, ("pre_sa_norm", "post_sa_norm")),
        ("decoder", decoder, ("pre_sa_norm", "pre_ca_norm", "pre_mlp_norm")),
    ):
        for index in range(sizes["n_layer"]):
            layer = f"{part}.layers.{index}"
            shapes |= {f"{layer}.{norm}.weight": (WIDTH,) for norm in norms}
            for attention, heads, key_value_heads in (
                ("self", sizes.get("n_head", 4), sizes.get("kv_heads", 2)),
                *([("cross", 4, 4)] if part == "decoder" else []),
            ):
                module = f"{layer}.{attention}_attention"
                shapes[f"{module}.q_proj.weight"] = (WIDTH, heads, 32)
                shapes |= {f"{module}.{kind}_proj.weight": (WIDTH, key_value_heads, 32) for kind in "kv"}
                shapes[f"{module}.o_proj.weight"] = (heads, 32, WIDTH)
            shapes[f"{layer}.mlp.wi_fused.weight"] = (WIDTH, 2, sizes["n_hidden"])
            shapes[f"{layer}.mlp.wo.weight"] = (sizes["n_hidden"], WIDTH)
    tensors = {name: 0.15 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in tensors:
        if "norm" in name:
            tensors[name] += 1
    return config, tensors


def write_nari(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    """Write nari-labs' files; return the weights'."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(tensors, folder / "dia-v0_1.pth")
    return folder / "dia-v0_1.pth"


def gguf_views(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name in GGUF and the matrix `[out, in]`, a view of nari-labs' tensor."""
    for name, tensor in tensors.items():
        part, kind, *rest = name.removesuffix(".weight").split(".")
        if kind == "logits_dense":
            yield from ((f"dia.decoder.heads.{channel}", tensor[:, channel].T) for channel in range(tensor.shape[1]))
        elif kind != "layers":
            yield ".".join(["dia", part, kind, *rest]), tensor
        elif rest[-1] == "wi_fused":
            yield from (
                (f"dia.{part}.layers.{rest[0]}.{half}", tensor[:, at].T) for at, half in enumerate(("gate", "up"))
            )
        elif rest[-1] == "wo":
            yield f"dia.{part}.layers.{rest[0]}.wo", tensor.T
        elif rest[-1].endswith("_proj"):
            prefix = "" if part == "encoder" else f"{rest[1].removesuffix('_attention')}_"
            num_in = tensor.shape[0] if rest[-1] != "o_proj" else tensor.shape[0] * tensor.shape[1]
            yield f"dia.{part}.layers.{rest[0]}.{prefix}{rest[-1]}", tensor.reshape(num_in, -1).T
        else:
            yield f"dia.{part}.layers.{rest[0]}.{rest[-1]}", tensor


def gguf_codec(codec: DacModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and tensors of a codec's decoder as TTS.cpp has them."""
    state = codec.state_dict()

    def layer(theirs: str, ours: str, alpha: str | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        names = {f"{theirs}.{kind}": f"{ours}.{kind}" for kind in ("weight", "bias")}
        if alpha is not None:
            names[f"{theirs}.alpha"] = f"{alpha}.alpha"
        yield from ((f"audio_encoder.{name}", state[our_name]) for name, our_name in names.items())

    yield from layer("initial", "decoder.conv1")
    yield from layer("final", "decoder.conv2", "decoder.snake1")
    for block in range(4):
        theirs, ours = f"decoder_block.{block + 1}", f"decoder.block.{block}"
        yield from layer(f"{theirs}.final", f"{ours}.conv_t1", f"{ours}.snake1")
        for unit in range(3):
            for place, number in (("initial", 1), ("final", 2)):
                their_unit, our_unit = f"{theirs}.residual_unit.{unit}.res.{place}", f"{ours}.res_unit{unit + 1}"
                yield from layer(their_unit, f"{our_unit}.conv{number}", f"{our_unit}.snake{number}")
    for index in range(codec.config.n_codebooks):
        name = f"quantizer.quantizers.{index}"
        yield f"audio_encoder.{name}.codebook.weight", state[f"{name}.codebook.weight"]
        yield from layer(f"{name}.out_proj", f"{name}.out_proj")


def gguf_keys(config: dict[str, Any]) -> dict[str, int]:
    """Return the keys that TTS.cpp's converter writes."""
    encoder, decoder, data = config["model"]["encoder"], config["model"]["decoder"], config["data"]
    return {
        "dia.attn_head_size": encoder["head_dim"],
        "dia.eos_token_id": data["audio_eos_value"],
        "dia.bos_token_id": data["audio_bos_value"],
        "dia.pad_token_id": data["audio_pad_value"],
        "dia.max_delay": max(data["delay_pattern"]),
        "dia.encoder.max_context_length": data["text_length"],
        "dia.encoder.attn_heads": encoder["n_head"],
        "dia.encoder.layers": encoder["n_layer"],
        "dia.decoder.hidden_size": decoder["n_embd"],
        "dia.decoder.layers": decoder["n_layer"],
        "dia.decoder.output_heads": data["channels"],
        "dia.decoder.attn_heads": decoder["gqa_query_heads"],
        "dia.decoder.query_heads": decoder["kv_heads"],
        "dia.decoder.output_vocab_size": config["model"]["tgt_vocab_size"],
        "dia.decoder.audio_vocab_size": data["audio_eos_value"],
        "dia.decoder.max_generation_size": data["audio_length"],
        "dac.up_scaling_factor": 512,
    }


def write_gguf(
    file: Path, architecture: str, keys: dict[str, Any], tensors: list[tuple[str, torch.Tensor, str]]
) -> None:
    """Write a file from `(name, tensor, type)`."""
    writer = gguf.GGUFWriter(str(file), architecture)
    for key, value in keys.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for name, tensor, kind in tensors:
        raw = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(tensor.contiguous().float().numpy(), raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tts_cpp(
    file: Path, config: dict[str, Any], tensors: Tensors, kind: str = "F32", codec: DacModel | None = None
) -> Tensors:
    """Write a file as TTS.cpp's tools do; return nari-labs' tensors with the values that it holds."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    keys, rows = gguf_keys(config), []
    for name, matrix in gguf_views(tensors):
        own_kind = "F32" if name.endswith("norm") or (".heads." in name and kind != "F16") else kind
        raw = gguf.GGMLQuantizationType[own_kind]
        rows.append((name, matrix.clone(), own_kind))
        packed = gguf.quants.quantize(matrix.contiguous().numpy(), raw)
        matrix.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(packed, raw))).reshape(matrix.shape))
    if codec is not None:
        rows += [(name, tensor, "F32") for name, tensor in gguf_codec(codec)]
        for index, stride in enumerate(codec.config.upsampling_ratios):
            keys |= {f"dac.dac_layer_stride_{index}": stride, f"dac.dac_layer_padding_{index}": stride // 2}
    write_gguf(file, "dia", keys, rows)
    return tensors


def write_crispasr(file: Path, config: dict[str, Any], tensors: Tensors) -> Tensors:
    """Write a file as CrispASR's converter does: gate, up and heads in F16; return the tensors with its values."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    encoder, decoder = config["model"]["encoder"], config["model"]["decoder"]
    keys: dict[str, Any] = {
        **gguf_keys(config),
        **{"dia.encoder.hidden_size": encoder["n_embd"], "dia.encoder.intermediate_size": encoder["n_hidden"]},
        **{"dia.decoder.intermediate_size": decoder["n_hidden"], "dia.rope_theta": 10000.0, "dia.rms_norm_eps": 1e-5},
    }
    del keys["dac.up_scaling_factor"]
    rows = []
    for name, matrix in gguf_views(tensors):
        is_half = name.endswith((".gate", ".up")) or ".heads." in name
        if is_half:
            matrix.copy_(matrix.half())
        rows.append((name, matrix.clone(), "F16" if is_half else "F32"))
    write_gguf(file, "dia", keys, rows)
    return tensors


def write_crispasr_codec(file: Path, codec: DacModel) -> None:
    """Write a codec as CrispASR's converter does: all but the encoder, in F16 where it has dimensions."""
    config = codec.config
    keys = {
        **{"dac.n_codebooks": config.n_codebooks, "dac.codebook_size": config.codebook_size},
        **{"dac.codebook_dim": config.codebook_dim, "dac.hidden_size": config.hidden_size},
        **{"dac.decoder_hidden_size": config.decoder_hidden_size, "dac.sampling_rate": config.sampling_rate},
        **{"dac.hop_length": 512, "dac.n_decoder_blocks": len(config.upsampling_ratios)},
        **{f"dac.upsampling_ratio.{index}": ratio for index, ratio in enumerate(config.upsampling_ratios)},
    }
    rows = [
        (name, tensor, "F32" if tensor.ndim == 1 else "F16")
        for name, tensor in sorted(codec.state_dict().items())
        if not name.startswith("encoder.")
    ]
    write_gguf(file, "dac-44khz", keys, rows)


def write_mlx(
    folder: Path, config: dict[str, Any], tensors: Tensors, bits: int, group_size: int, mode: str, dtype: str
) -> Tensors:
    """Write a folder as mlx-audio does, embeddings quantized; return the tensors with the values that it holds."""
    import mlx.core as mx

    def to_torch(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array.astype(mx.float32)))

    written, held = {}, {}
    for name, tensor in tensors.items():
        array = mx.array(tensor.numpy()).astype(getattr(mx, dtype))
        written[name], held[name] = array, to_torch(array)
        if "embedding" in name:
            module, options = name.removesuffix(".weight"), {"group_size": group_size, "bits": bits, "mode": mode}
            parts = mx.quantize(array, **options)
            written |= dict(zip((name, f"{module}.scales", f"{module}.biases"), parts, strict=False))
            held[name] = to_torch(mx.dequantize(*parts, **options))
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), written, {"format": "mlx"})
    told = {"group_size": group_size, "bits": bits, **({} if mode == "affine" else {"mode": mode})}
    (folder / "config.json").write_text(json.dumps({**config, "quantization": told}))
    return held
