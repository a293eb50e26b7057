"""How exact: a model in fewer bits against fp32 on the same weights.

Both read the same codes, which the reference has generated (teacher forcing), so that one early difference does not
count again at every later frame; besides, each goes its own greedy way, until the ways part. Only slots that hold a
code count: neither what the delay gives nor what follows the end.

Legend: B batch, T frames, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .speed import PUBLISHED_SAMPLING, exact_length

__all__ = ["LogitError", "ParityReport", "Reference", "compare", "parity", "record_reference"]


@dataclass
class LogitError:
    """How far logits lie from the reference's.

    Args:
        max_absolute, mean_absolute (`float`): Of the differences.
        relative_rms (`float`): Root mean square of the differences, divided by that of the reference's logits around
            their mean over the vocabulary.
        top1_agreement (`list[float]` of length C): Share of the frames in which both rank the same token first.
    """

    max_absolute: float
    mean_absolute: float
    relative_rms: float
    top1_agreement: list[float]


@dataclass
class ParityReport:
    """What a model in fewer bits does otherwise.

    Args:
        num_texts, num_frames (`int`): Compared.
        conditional (`LogitError`): With the text.
        guided (`LogitError`): conditional + scale · (conditional - unconditional), which magnifies errors.
        kl_divergence (`list[float]` of length C): Mean KL(reference ‖ model) of the conditional distributions at
            temperature 1, in nats.
        greedy_parted (`list[int | None]` of length B): The new frame, from 0, in which greedy codes first differ;
            `None` where they never do.
    """

    num_texts: int
    num_frames: int
    conditional: LogitError
    guided: LogitError
    kl_divergence: list[float]
    greedy_parted: list[int | None]


@dataclass
class Reference:
    """What the reference said, so that it need not stay in memory beside the model compared with it.

    Args:
        codes (`torch.LongTensor` of shape `[B, T, C]`): Delayed; both models read them.
        greedy_codes (`torch.LongTensor` of shape `[B, T, C]`): Delayed.
        conditional, unconditional (`torch.Tensor` of shape `[B, T - 1, C, V]`): Logits, float32, on the CPU.
    """

    codes: torch.Tensor
    greedy_codes: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor


def _generate(model: Any, inputs: Mapping[str, torch.Tensor], num_frames: int, **sampling: Any) -> torch.Tensor:
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    return model.generate(**inputs, generation_config=exact_length(model, num_frames, **sampling)).cpu()


def _greedy(model: Any, inputs: Mapping[str, torch.Tensor], num_frames: int) -> torch.Tensor:
    scale, top_k = PUBLISHED_SAMPLING["guidance_scale"], PUBLISHED_SAMPLING["top_k"]
    return _generate(model, inputs, num_frames, do_sample=False, guidance_scale=scale, top_k=top_k)


@torch.no_grad()
def _logits(model: Any, inputs: Mapping[str, torch.Tensor], codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Read codes `[B, T, C]`; return logits of the next ones, conditional and unconditional, `[B, T - 1, C, V]`."""
    text, mask = inputs["input_ids"], inputs["attention_mask"]
    logits = model(
        input_ids=torch.cat([text, torch.zeros_like(text)]).to(model.device),
        attention_mask=mask.repeat(2, 1).to(model.device),
        decoder_input_ids=codes[:, :-1].repeat(2, 1, 1).to(model.device),
    ).logits
    frames = logits.float().cpu().unflatten(0, (-1, codes.shape[-1])).transpose(1, 2)
    conditional, unconditional = frames.chunk(2)
    return conditional, unconditional


def record_reference(
    model: Any, inputs: Mapping[str, torch.Tensor], num_frames: int, do_sample: bool = False, seed: int = 0
) -> Reference:
    """Let the reference generate, and keep its logits.

    Args:
        model (`DiaForConditionalGeneration`): In float32.
        inputs (`Mapping[str, torch.Tensor]`): For `generate`, without a voice prompt; texts of one length or padded.
        num_frames (`int`): New frames, at least `max(delay_pattern) + 2`.
        do_sample (`bool`, defaults to `False`): Whether the codes that both read are sampled as published; greedy codes
            otherwise. Greedy codes of a random model soon repeat themselves.
        seed (`int`, defaults to 0): Of sampling.

    Raises:
        ValueError: If there are so few frames that a channel has no code.
    """
    fewest = model.config.steps_for_frames(1)  # the last frame is the slowest channel's end
    if num_frames < fewest:
        raise ValueError(f"{num_frames} frames hold no code in the slowest channel; at least {fewest} would do.")
    codes = greedy_codes = _greedy(model, inputs, num_frames)
    if do_sample:
        torch.manual_seed(seed)
        codes = _generate(model, inputs, num_frames, do_sample=True, **PUBLISHED_SAMPLING)
    return Reference(codes, greedy_codes, *_logits(model, inputs, codes))


def compare(reference: Reference, model: Any, inputs: Mapping[str, torch.Tensor]) -> ParityReport:
    """Let a model read what the reference read, and go its own way, too.

    Args:
        reference (`Reference`): From `record_reference`, on the same inputs.
        model (`DiaForConditionalGeneration`): In whatever precision.
        inputs (`Mapping[str, torch.Tensor]`): The same.

    Returns:
        `ParityReport`.
    """
    conditional, unconditional = _logits(model, inputs, reference.codes)
    counts = reference.codes[:, 1:] < model.config.decoder_config.eos_token_id  # [B, T - 1, C]
    scale = PUBLISHED_SAMPLING["guidance_scale"]

    def guided(with_text: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
        return with_text + scale * (with_text - without)

    expected, given = reference.conditional.log_softmax(-1), conditional.log_softmax(-1)
    divergence = (expected.exp() * (expected - given)).sum(-1)
    num_frames = reference.greedy_codes.shape[1] - 1
    differs = (_greedy(model, inputs, num_frames) != reference.greedy_codes).any(-1)[:, 1:]
    return ParityReport(
        num_texts=len(reference.codes),
        num_frames=num_frames,
        conditional=_logit_error(reference.conditional, conditional, counts),
        guided=_logit_error(
            guided(reference.conditional, reference.unconditional), guided(conditional, unconditional), counts
        ),
        kl_divergence=_mean_per_channel(divergence, counts),
        greedy_parted=[int(row.int().argmax()) if row.any() else None for row in differs],
    )


def parity(
    reference_model: Any,
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    num_frames: int,
    do_sample: bool = False,
    seed: int = 0,
) -> ParityReport:
    """Compare a model in fewer bits with fp32 on the same weights.

    Args:
        reference_model (`DiaForConditionalGeneration`): In float32.
        model (`DiaForConditionalGeneration`): The same weights, rounded.
        inputs, num_frames, do_sample, seed: See `record_reference`.

    Returns:
        `ParityReport`.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.bench import make_config, make_model, parity, random_inputs
    >>> config = make_config("toy")
    >>> inputs = random_inputs(config, batch_size=1, text_bytes=20)
    >>> report = parity(make_model(config), make_model(config).bfloat16(), inputs, num_frames=20)
    >>> 0 < report.conditional.relative_rms < 0.1, len(report.kl_divergence)
    (True, 9)

    ```
    """
    return compare(record_reference(reference_model, inputs, num_frames, do_sample, seed), model, inputs)


def _mean_per_channel(values: torch.Tensor, counts: torch.Tensor) -> list[float]:
    """Average `[B, T, C]` over what counts, channel by channel."""
    return ((values * counts).sum((0, 1)) / counts.sum((0, 1)).clamp(min=1)).tolist()


def _logit_error(expected: torch.Tensor, given: torch.Tensor, counts: torch.Tensor) -> LogitError:
    difference = (given - expected)[counts]
    spread = (expected - expected.mean(-1, keepdim=True))[counts]
    agrees = (expected.argmax(-1) == given.argmax(-1)).float()
    return LogitError(
        max_absolute=float(difference.abs().max()),
        mean_absolute=float(difference.abs().mean()),
        relative_rms=float(difference.square().mean().sqrt() / spread.square().mean().sqrt()),
        top1_agreement=_mean_per_channel(agrees, counts),
    )
