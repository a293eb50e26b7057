"""Benchmark candidates: random models of three sizes, transformers' own Dia on the same weights, and random inputs.

The baseline is looked up by name at run time, in this file only; nothing of it is imported or registered. `speed.py`
and `parity.py` do the measuring.

Legend: B batch, S text bytes, T frames, C channels.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CompileConfig, DacConfig, DacModel

from ..configuration_dia import DiaConfig
from ..delay_pattern import apply_delay
from ..feature_extraction_dia import DiaFeatureExtractor
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..tokenization_dia import DiaTokenizer

__all__ = [
    "CODECS",
    "SCHEMES",
    "SIZES",
    "Candidate",
    "make_candidates",
    "make_config",
    "make_model",
    "make_processor",
    "random_inputs",
    "reduce_precision",
    "transformers_twin",
]

SIZES = ("toy", "mid", "full")
CODECS = ("toy", "full")
SCHEMES = ("bfloat16", "float16", "int8", "int4", "fp8")

_TOY = {
    "encoder_config": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4}
    | {"head_dim": 16, "intermediate_size": 96},
    "decoder_config": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"head_dim": 16, "cross_num_attention_heads": 4, "cross_num_key_value_heads": 4, "cross_head_dim": 16}
    | {"cross_hidden_size": 32, "intermediate_size": 96},
}
_MID = {
    "encoder_config": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    | {"head_dim": 64, "intermediate_size": 1024},
    "decoder_config": {"num_hidden_layers": 6, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}
    | {"head_dim": 64, "cross_num_attention_heads": 8, "cross_num_key_value_heads": 8, "cross_head_dim": 64}
    | {"cross_hidden_size": 256, "intermediate_size": 2048},
}


def make_config(size: str) -> DiaConfig:
    """Return the config of a size: small enough to measure overhead alone, medium, or the published 1.6B.

    Args:
        size (`str`): `"toy"` (2 layers of width 32), `"mid"` (6 of width 512), or `"full"` (18 of 2048).

    Raises:
        ValueError: If the size is unknown.
    """
    if size not in SIZES:
        raise ValueError(f"there is no size {size!r}; choose one of {', '.join(SIZES)}.")
    return DiaConfig(**{"toy": _TOY, "mid": _MID, "full": {}}[size])


def make_model(
    config: DiaConfig,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> DiaForConditionalGeneration:
    """Make a model with random weights, allocated directly on the device and in the dtype given.

    Weights are uniform with variance 1 / fan-in, so that hidden states keep their scale from layer to layer. Query and
    key projections are smaller by the fourth root of the head size, because attention logits are not scaled. Norm
    weights are 1.

    Args:
        config (`DiaConfig`): Model config.
        device (`str` or `torch.device`, defaults to `"cpu"`): Device of the weights.
        dtype (`torch.dtype`, defaults to `torch.float32`): Dtype of the weights.
        seed (`int`, defaults to 0): Random seed of the weights, which are the same in every run on one type of device.

    Returns:
        `DiaForConditionalGeneration`, in evaluation mode.
    """
    with torch.device("meta"):
        model = DiaForConditionalGeneration(config)
    model = model.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(seed)
    heads = {"encoder": config.encoder_config.head_dim, "decoder": config.decoder_config.head_dim}
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1)
            continue
        bound = math.sqrt(3 / parameter.shape[-1])
        if "embed" in name:
            bound = math.sqrt(3 / config.decoder_config.num_channels) if "decoder" in name else math.sqrt(3)
        if "q_proj" in name or "k_proj" in name:
            bound *= heads["encoder" if ".encoder." in name else "decoder"] ** -0.25
        parameter.uniform_(-bound, bound, generator=generator)
    return model


def make_processor(config: DiaConfig, codec: str, device: str | torch.device = "cpu") -> DiaProcessor:
    """Make a processor for a random model, with a codec of random weights at the published rates.

    Args:
        config (`DiaConfig`): Config of the model.
        codec (`str`): `"toy"`, a narrow codec, or `"full"`, one of the size of the published 44.1 kHz codec.
        device (`str` or `torch.device`, defaults to `"cpu"`): Device of the codec.

    Raises:
        ValueError: If the codec is unknown.
    """
    if codec not in CODECS:
        raise ValueError(f"there is no codec {codec!r}; choose one of {', '.join(CODECS)}.")
    widths = {"encoder_hidden_size": 4, "decoder_hidden_size": 48} if codec == "toy" else {}
    dac = DacModel(DacConfig(sampling_rate=44100, **widths)).eval().to(device)
    return DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), dac, config)


def random_inputs(
    config: DiaConfig, batch_size: int, text_bytes: int, device: str | torch.device = "cpu", seed: int = 0
) -> dict[str, torch.Tensor]:
    """Make inputs of `generate` from random texts of lower-case letters.

    Args:
        config (`DiaConfig`): Config of the model.
        batch_size (`int`): Number of texts, B.
        text_bytes (`int`): Length of each text, S.
        device (`str` or `torch.device`, defaults to `"cpu"`): Device of the tensors.
        seed (`int`, defaults to 0): Random seed of the texts.

    Returns:
        `dict`: `input_ids` and `attention_mask` `[B, S]`, `decoder_input_ids` `[B, 1 + max(delay), C]` and
        `decoder_attention_mask`, as the processor returns them for texts without a prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(ord("a"), ord("z") + 1, (batch_size, text_bytes), generator=generator)
    return {name: tensor.to(device) for name, tensor in _with_beginning(config, texts).items()}


def _with_beginning(config: DiaConfig, texts: torch.Tensor) -> dict[str, torch.Tensor]:
    decoder = config.decoder_config
    start = torch.full((len(texts), 1, decoder.num_channels), decoder.bos_token_id)
    delayed = apply_delay(start, config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id)
    return {
        "input_ids": texts,
        "attention_mask": torch.ones_like(texts),
        "decoder_input_ids": delayed,
        "decoder_attention_mask": torch.ones(delayed.shape[:2], dtype=torch.long),
    }


def transformers_twin(model: DiaForConditionalGeneration) -> Any:
    """Return transformers' own Dia with the tensors of `model`: a second model that shares its weights.

    Args:
        model (`DiaForConditionalGeneration`): Our model, not quantized.
    """
    theirs = importlib.import_module("transformers")
    config = getattr(theirs, "DiaConfig")(**model.config.to_dict())  # noqa: B009 (looked up by name, not imported)
    network = getattr(theirs, "DiaForConditionalGeneration")  # noqa: B009
    weights = model.state_dict()
    twin = network.from_pretrained(None, config=config, state_dict=weights, dtype=model.dtype)
    twin.load_state_dict(weights, assign=True)  # loading may have copied tensors on the way to a GPU
    return twin.to(model.device).eval().requires_grad_(False)


def reduce_precision(model: DiaForConditionalGeneration, scheme: str) -> DiaForConditionalGeneration:
    """Convert `model` to reduced precision in place, and return it.

    Args:
        model (`DiaForConditionalGeneration`): Model to convert; quantization converts it to bfloat16 first.
        scheme (`str`): `"bfloat16"`, `"float16"`, or one of `dia_hf.quantization`: `"int8"`, `"int4"`, `"fp8"`.

    Raises:
        ValueError: If the scheme is unknown or does not support this device.
        ImportError: If the library of a quantization scheme is not installed.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"there is no scheme {scheme!r}; choose one of {', '.join(SCHEMES)}.")
    if scheme in ("bfloat16", "float16"):
        return model.to(getattr(torch, scheme))
    from ..quantization import quantize_model

    return quantize_model(model.to(torch.bfloat16), scheme)


@dataclass
class Candidate:
    """Model to measure, and the options of its `generate`.

    Args:
        name (`str`): Column header in tables.
        model (`Any`): Model with a `generate` method.
        options (`dict`): Arguments of `generate` in addition to those that all candidates share.
        is_ours (`bool`): Whether the model is ours and can stream audio.
        is_compiled (`bool`): Whether its decoder steps run as compiled code.
        unavailable (`str`, *optional*): Reason why it does not run here.
    """

    name: str
    model: Any
    options: dict[str, Any] = field(default_factory=dict)
    is_ours: bool = True
    is_compiled: bool = False
    unavailable: str | None = None


def make_candidates(
    model: DiaForConditionalGeneration,
    quantize: str | None = None,
    against: str = "transformers",
    compile_ours: bool | None = None,
) -> list[Candidate]:
    """Make the candidates that decode with the same weights: ours first, then transformers'.

    Args:
        model (`DiaForConditionalGeneration`): Model with the weights. With `quantize` it is quantized in place after
            the baseline has taken its tensors.
        quantize (`str`, *optional*): Quantization scheme of ours: `"int8"`, `"int4"` or `"fp8"`.
        against (`str`, defaults to `"transformers"`): Baseline: `"transformers"` or `"none"`.
        compile_ours (`bool`, *optional*): Whether to measure ours compiled; by default on CUDA only.

    Returns:
        `list[Candidate]`: `dia_hf`; `dia_hf, compiled`; `dia_hf, reference path`; `transformers, eager`; `transformers,
        static + compiled`, the last on CUDA only, where transformers compiles automatically.

    Raises:
        ValueError: If `quantize` is given and the model is not in bfloat16: the baseline would read twice the bytes.
    """
    if quantize is not None and model.dtype != torch.bfloat16:
        raise ValueError(
            f"the model is in {model.dtype}; with `quantize` it must be in bfloat16, the dtype of the baseline."
        )
    on_cuda = model.device.type == "cuda"
    unsupported = None if on_cuda else "not on this device"
    theirs = transformers_twin(model) if against == "transformers" else None
    ours, name = model, "dia_hf"
    if quantize is not None:
        ours, name = reduce_precision(model, quantize), f"dia_hf {quantize}"
    compiled, reference = {"compile_config": CompileConfig()}, {"use_fast_path": False}
    not_requested = None if compile_ours or (compile_ours is None and on_cuda) else "not requested"
    candidates = [
        Candidate(name, ours),
        Candidate(f"{name}, compiled", ours, compiled, is_compiled=True, unavailable=not_requested),
        Candidate(f"{name}, reference path", ours, reference),
    ]
    if theirs is not None:
        candidates.append(Candidate("transformers, eager", theirs, is_ours=False))
        static = {"cache_implementation": "static"}
        name = "transformers, static + compiled"
        candidates.append(Candidate(name, theirs, static, is_ours=False, is_compiled=True, unavailable=unsupported))
    return candidates
