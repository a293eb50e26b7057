"""Checks of the arguments of `generate()`, before transformers or the network fails on them with a less clear error.

Each function raises or returns; none changes its arguments. Called by `generation_dia`.

Legend: B batch, T frames, C channels.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from transformers import GenerationConfig

from ..configuration_dia import DiaDecoderConfig
from ..delay_pattern import num_prompt_frames
from ..text_files import shortened
from .per_sample import PER_SAMPLE

__all__ = ["check_arguments", "check_generation_config", "check_prompt"]

_TENSORS = ("inputs", "input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
_NUMBERS = (*PER_SAMPLE, "min_new_tokens", "max_length", "min_length", "num_return_sequences", "num_beams")


def check_arguments(arguments: dict[str, Any]) -> None:
    """Check types and shapes of the arguments of a call.

    Args:
        arguments (`dict[str, Any]`): By name; names that are missing are not checked.

    Raises:
        ValueError: If there are `labels`, or `attention_mask` is not as long as `input_ids`.
        TypeError: If a tensor, a number, a flag or a streamer is of another type.
    """
    if arguments.get("labels") is not None:
        raise ValueError(
            "`labels` are for a loss, and `generate` computes none; leave them out. If `Seq2SeqTrainer` passed them: "
            "set `predict_with_generate=False`, because it pads rows of tokens, and Dia generates frames of codes. "
            "`dia_hf.training.SpeakCallback` generates audio at evaluations, and `DiaTrainer` passes the logits to "
            "`compute_metrics`."
        )
    for name in _TENSORS:
        value = arguments.get(name)
        if value is not None and (not isinstance(value, torch.Tensor) or value.ndim == 0):
            kind = "a tensor without dimensions" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            raise TypeError(f"`{name}` is {kind}; give a torch.Tensor with one row a sample, as the processor does.")
    for name in _NUMBERS:
        value = arguments.get(name)
        values = value if name in PER_SAMPLE and isinstance(value, list | tuple) else [value]
        for one in values:
            is_scalar = isinstance(one, torch.Tensor) and one.numel() == 1 and not one.is_complex()
            if not (one is None or is_scalar or isinstance(one, Real)):
                raise TypeError(
                    f"`{name}` is {shortened(value)}; give a number{' or one a sample' * (name in PER_SAMPLE)}."
                )
    if not isinstance(do_sample := arguments.get("do_sample"), bool | None):
        raise TypeError(f"`do_sample` is {shortened(do_sample)}; give True or False.")
    ids, mask = (arguments.get(name) for name in ("input_ids", "attention_mask"))
    if ids is not None and mask is not None and mask.shape[-1] != ids.shape[-1]:
        raise ValueError(
            f"`attention_mask` has the shape {tuple(mask.shape)}, but `input_ids` {tuple(ids.shape)}; give a 1 or 0 "
            "for each id."
        )
    streamer = arguments.get("streamer")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"`streamer` is {shortened(streamer)}; give a BaseStreamer, such as DiaAudioStreamer.")


def check_generation_config(generation_config: GenerationConfig) -> None:
    """Check the fields that transformers does not check.

    Args:
        generation_config (`GenerationConfig`): With Dia's own fields set.

    Raises:
        ValueError: If `max_batch_size` is below 1, or a temperature makes logits overflow.
    """
    if (size := generation_config.max_batch_size) is not None and size < 1:
        raise ValueError(f"`max_batch_size` is {size}; give at least 1, or leave it out.")
    for temperature in [generation_config.temperature, *generation_config.per_sample.get("temperature", ())]:
        # transformers' warper refuses a temperature that is not above 0.
        if temperature is not None and temperature > 0 and not 1e-30 <= temperature <= 1e30:
            raise ValueError(
                f"`temperature` is {temperature}, and logits divided by it are beyond float32; give 1e-30 to 1e30, "
                "or `do_sample=False` for the best token."
            )


def check_prompt(
    decoder_input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    batch_size: int,
    decoder: DiaDecoderConfig,
) -> int:
    """Check a delayed prompt, and count the frames that the network can read.

    Args:
        decoder_input_ids (`torch.Tensor` of shape `[B, T, C]`): Delayed codes, padding in the free slots.
        attention_mask (`torch.Tensor` of shape `[B, T]`, *optional*): 1 = keep.
        batch_size (`int`): B.
        decoder (`DiaDecoderConfig`): Channels and token ids.

    Returns:
        `int`: Frames before the first free slot, at least 1.

    Raises:
        ValueError: If a shape is another one, or the first frame has a free slot.
    """
    shape = tuple(decoder_input_ids.shape)
    if len(shape) != 3 or shape[0] != batch_size or shape[2] != decoder.num_channels:
        raise ValueError(
            f"`decoder_input_ids` have the shape {shape}; expected [{batch_size}, frames, {decoder.num_channels}], as "
            "`DiaProcessor` makes them."
        )
    num_frames = num_prompt_frames(decoder_input_ids, decoder.pad_token_id)
    if num_frames == 0:
        raise ValueError(
            f"`decoder_input_ids` begin with a free slot ({decoder.pad_token_id}); they must begin with a frame of "
            f"{decoder.bos_token_id}, the beginning of speech."
        )
    mask = attention_mask
    if mask is not None and (mask.ndim != 2 or len(mask) != batch_size or mask.shape[1] < num_frames):
        raise ValueError(
            f"`decoder_attention_mask` has the shape {tuple(mask.shape)}, but `decoder_input_ids` {shape}; give a 1 or "
            f"0 for each frame: {list(shape[:2])}."
        )
    return num_frames
