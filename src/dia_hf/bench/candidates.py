"""Who is measured, and on what: random models of three sizes, transformers' own Dia on the same weights, inputs.

The baseline is found by its name at run time, in this file only; nothing of it is imported or registered. Knows no
clock: `speed.py` and `parity.py` measure.

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
    """Return the shape of a size: one where all is overhead, one between, or the published 1.6B.

    Args:
        size (`str`): `"toy"` (2 layers of width 32), `"mid"` (6 of width 512), or `"full"` (18 of 2048).

    Raises:
        ValueError: If there is no such size.
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
    """Make a model with random weights, once, in place and in the dtype that it is to have.

    Weights are uniform with variance 1 / inputs, so that states keep their size from layer to layer; queries and keys
    are smaller by the fourth root of the head's width, because attention logits are not scaled. Norms are 1.

    Args:
        config (`DiaConfig`): The shape.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where to.
        dtype (`torch.dtype`, defaults to `torch.float32`): Of the weights.
        seed (`int`, defaults to 0): Of the weights; they are the same in every run on one kind of device.

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
        config (`DiaConfig`): Of the model.
        codec (`str`): `"toy"`, a narrow one, or `"full"`, the size of the published 44.1 kHz codec.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where the codec is to be.

    Raises:
        ValueError: If there is no such codec.
    """
    if codec not in CODECS:
        raise ValueError(f"there is no codec {codec!r}; choose one of {', '.join(CODECS)}.")
    widths = {"encoder_hidden_size": 4, "decoder_hidden_size": 48} if codec == "toy" else {}
    dac = DacModel(DacConfig(sampling_rate=44100, **widths)).eval().to(device)
    return DiaProcessor(DiaFeatureExtractor(), DiaTokenizer(), dac, config)


def random_inputs(
    config: DiaConfig, batch_size: int, text_bytes: int, device: str | torch.device = "cpu", seed: int = 0
) -> dict[str, torch.Tensor]:
    """Draw texts of lower-case letters, and what `generate` needs beside them.

    Args:
        config (`DiaConfig`): Of the model.
        batch_size (`int`): B.
        text_bytes (`int`): Length of each text, S.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where to.
        seed (`int`, defaults to 0): Of the texts.

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
    """Return transformers' own Dia on the very tensors of `model`: a second model, but no second copy.

    Args:
        model (`DiaForConditionalGeneration`): Ours, not quantized.
    """
    theirs = importlib.import_module("transformers")
    config = getattr(theirs, "DiaConfig")(**model.config.to_dict())  # noqa: B009 (a name, so that nothing is imported)
    network = getattr(theirs, "DiaForConditionalGeneration")  # noqa: B009
    weights = model.state_dict()
    twin = network.from_pretrained(None, config=config, state_dict=weights, dtype=model.dtype)
    twin.load_state_dict(weights, assign=True)  # where loading made copies, on the way to a GPU
    return twin.to(model.device).eval().requires_grad_(False)


def reduce_precision(model: DiaForConditionalGeneration, scheme: str) -> DiaForConditionalGeneration:
    """Return `model` in fewer bits; its own tensors are not kept.

    Args:
        model (`DiaForConditionalGeneration`): To be changed; for a quantization, to bfloat16 first.
        scheme (`str`): `"bfloat16"`, `"float16"`, or one of `dia_hf.quantization`: `"int8"`, `"int4"`, `"fp8"`.

    Raises:
        ValueError: If there is no such scheme, or not for this device.
        ImportError: If a quantization's library is missing.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"there is no scheme {scheme!r}; choose one of {', '.join(SCHEMES)}.")
    if scheme in ("bfloat16", "float16"):
        return model.to(getattr(torch, scheme))
    from ..quantization import quantize_model

    return quantize_model(model.to(torch.bfloat16), scheme)


@dataclass
class Candidate:
    """A model and how its `generate` is called.

    Args:
        name (`str`): In tables.
        model (`Any`): With `generate`.
        options (`dict`): For `generate`, beside those that all share.
        is_ours (`bool`): Whether it streams sound.
        is_compiled (`bool`): Whether its steps run where nobody sees them.
        unavailable (`str`, *optional*): Why it does not run here.
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
    """Line up ways to decode with the same weights: ours first, then transformers'.

    Args:
        model (`DiaForConditionalGeneration`): The weights; itself quantized where that is asked for, after the
            baseline has taken its tensors.
        quantize (`str`, *optional*): `"int8"`, `"int4"` or `"fp8"`, for ours.
        against (`str`, defaults to `"transformers"`): Or `"none"`.
        compile_ours (`bool`, *optional*): Whether to measure ours compiled; on CUDA unless given.

    Returns:
        `list[Candidate]`: `dia_hf`; `dia_hf, compiled`; `dia_hf, slow loop`; `transformers, eager`; `transformers,
        static + compiled`, the last on CUDA only: there alone transformers compiles by itself.

    Raises:
        ValueError: If a model that is to be quantized is not in bfloat16: the baseline would read twice as much.
    """
    if quantize is not None and model.dtype != torch.bfloat16:
        raise ValueError(f"the model is in {model.dtype}; to be quantized it must be in bfloat16, as its baseline.")
    on_cuda = model.device.type == "cuda"
    elsewhere = None if on_cuda else "not on this device"
    theirs = transformers_twin(model) if against == "transformers" else None
    ours, name = model, "dia_hf"
    if quantize is not None:
        ours, name = reduce_precision(model, quantize), f"dia_hf {quantize}"
    compiled, slow = {"compile_config": CompileConfig()}, {"use_fast_path": False}
    left_out = None if compile_ours or (compile_ours is None and on_cuda) else "not asked for"
    candidates = [
        Candidate(name, ours),
        Candidate(f"{name}, compiled", ours, compiled, is_compiled=True, unavailable=left_out),
        Candidate(f"{name}, slow loop", ours, slow),
    ]
    if theirs is not None:
        candidates.append(Candidate("transformers, eager", theirs, is_ours=False))
        static = {"cache_implementation": "static"}
        name = "transformers, static + compiled"
        candidates.append(Candidate(name, theirs, static, is_ours=False, is_compiled=True, unavailable=elsewhere))
    return candidates
