"""Logits processors of the reference path: Dia's sampling rules, one class each.

`generate()` does not call these classes by default. The fast path computes the same rules in one function,
`engine/sampling.py`, and these classes are its oracle in `tests/engine/test_sampling.py`. They run when `generate()`
uses the reference path (transformers' loop), for example with `use_fast_path=False`.

To change a rule at run time, subclass or patch a class here, or pass a `logits_processor`: the fast path recognizes a
class or method that it does not implement, and `generate()` then uses the reference path. To change a rule in the
source, edit the class here and `SamplingSpec` together; the fast path cannot see that this file was edited.

`DiaGenerationMixin` composes the processors. Rows are flattened as in `generate()`: row b·C + c is channel c of
sample b. None of them synchronizes with the device.

Legend: B batch, C channels, N = B·C rows, L tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

__all__ = [
    "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaConditionalLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor",
    "DiaEOSDelayPatternLogitsProcessor",
    "DiaEOSScaleLogitsProcessor",
    "DiaForcedTokensLogitsProcessor",
    "DiaGuidanceTopKLogitsProcessor",
    "DiaPerSampleLogitsProcessor",
    "DiaSeededSamplingLogitsProcessor",
]

_MINUS_INFINITY = -float("inf")


def _only_token(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return scores of shape `[N, V]` that permit only `tokens` `[N]`."""
    return torch.full_like(scores, _MINUS_INFINITY).scatter(-1, tokens[:, None], 0.0)


class DiaClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Classifier-free guidance centered on the conditional logits: cond + scale · (cond − uncond).

    Args:
        guidance_scale (`float`): Above 0; 0 would be the conditional logits themselves.

    Raises:
        ValueError: If the scale is not above 0.

    Example:
    ```python
    >>> import torch
    >>> from dia_hf.generation import DiaClassifierFreeGuidanceLogitsProcessor
    >>> cond, uncond = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    >>> DiaClassifierFreeGuidanceLogitsProcessor(3.0)(torch.zeros(1, 1), torch.cat([cond, uncond]))
    tensor([[4., 0.]])

    ```
    """

    def __init__(self, guidance_scale: float) -> None:
        if not guidance_scale > 0:
            raise ValueError(
                f"`guidance_scale` is {guidance_scale}; it must be above 0 (None or 1 switches guidance off)."
            )
        self.guidance_scale = guidance_scale

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[2·N, V]`, conditional rows first, to guided scores `[N, V]`."""
        cond, uncond = scores.chunk(2)
        return cond + self.guidance_scale * (cond - uncond)


class DiaConditionalLogitsProcessor(LogitsProcessor):
    """Conditional logits unchanged: no guidance for this sample in a batch where other samples use it."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[2·N, V]`, conditional rows first, to scores `[N, V]`."""
        return scores.chunk(2)[0]


class DiaGuidanceTopKLogitsProcessor(DiaClassifierFreeGuidanceLogitsProcessor):
    """Guidance as a filter: keep the conditional logits of those tokens that are the `top_k` best under guidance.

    Args:
        guidance_scale (`float`): Above 0.
        top_k (`int`): Tokens to keep in each row; at least 1.
        eos_token_id (`int`, *optional*): End of speech. If given, the best permitted token (a code, or end of speech in
            channel 0) is kept as well, because a small `top_k` may contain only special tokens.
        num_channels (`int`, defaults to 1): Channels; rows are numbered by sample, then channel.

    Raises:
        ValueError: If the scale is not above 0 or `top_k` is below 1.
    """

    def __init__(
        self, guidance_scale: float, top_k: int, eos_token_id: int | None = None, num_channels: int = 1
    ) -> None:
        super().__init__(guidance_scale)
        self.eos_token_id = eos_token_id
        self.num_channels = num_channels
        if top_k < 1:
            raise ValueError(f"`top_k` is {top_k}; it must be at least 1 (None or 0 switches the filter off).")
        self.top_k = top_k

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[2·N, V]`, conditional rows first, to filtered conditional scores `[N, V]`."""
        guided = super().__call__(input_ids, scores)
        best = guided.topk(min(self.top_k, guided.shape[-1]), dim=-1).indices
        is_kept = torch.zeros_like(guided, dtype=torch.bool).scatter(-1, best, True)
        if self.eos_token_id is not None:
            permitted = guided.unflatten(0, (-1, self.num_channels))[..., : self.eos_token_id + 1].clone()
            permitted[:, 1:, self.eos_token_id] = _MINUS_INFINITY
            is_kept = is_kept.scatter(-1, permitted.argmax(-1).flatten()[:, None], True)
        return scores[: len(guided)].masked_fill(~is_kept, _MINUS_INFINITY)


class DiaEOSChannelFilterLogitsProcessor(LogitsProcessor):
    """Restrict EOS to channel 0, and only when it is the argmax; mask the special tokens above it everywhere.

    Args:
        num_channels (`int`): Channels.
        eos_token_id (`int`): End of speech; all ids below are codes, all above other special tokens.
    """

    def __init__(self, num_channels: int, eos_token_id: int) -> None:
        self.num_channels = num_channels
        self.eos_token_id = eos_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[N, V]` to scores `[N, V]`."""
        tokens = torch.arange(scores.shape[-1], device=scores.device)
        is_code, is_eos = tokens < self.eos_token_id, tokens == self.eos_token_id
        by_channel = scores.unflatten(0, (-1, self.num_channels))
        first = by_channel[:, 0].masked_fill(~(is_code | is_eos), _MINUS_INFINITY)
        ends = first.argmax(dim=-1, keepdim=True) == self.eos_token_id
        allowed = is_code.expand_as(by_channel).clone()
        allowed[:, 0] = torch.where(ends, is_eos, is_code)
        return scores.masked_fill(~allowed.flatten(0, 1), _MINUS_INFINITY)


class DiaEOSScaleLogitsProcessor(LogitsProcessor):
    """Multiply channel 0's logit of end of speech, as the first release (v0.1) does by 0.8.

    Args:
        num_channels (`int`): Channels.
        eos_token_id (`int`): End of speech.
        scale (`float`): Factor; below 1 it makes a positive logit, and so an early end, less likely.
    """

    def __init__(self, num_channels: int, eos_token_id: int, scale: float) -> None:
        self.num_channels = num_channels
        self.eos_token_id = eos_token_id
        self.scale = scale

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[N, V]` to scores `[N, V]`."""
        scores = scores.clone()
        scores[:: self.num_channels, self.eos_token_id] *= self.scale
        return scores


class DiaEOSDelayPatternLogitsProcessor(LogitsProcessor):
    """Force EOS in channel c `delay_pattern[c]` frames after channel 0's EOS, and in time for the length limit.

    With the delays [0, 2, 3] (x: free, E: end of speech, .: padding, which the stopping criterion writes):

        channel 0   x E . . . .
        channel 1   x x x E . .
        channel 2   x x x x E .

    Args:
        delay_pattern (`Sequence[int]` of length C): Frames of delay.
        eos_token_id (`int`): End of speech.
        max_length (`int` or `Sequence[int]` of length B, *optional*): Limit of the whole sequence in frames, for all
            samples or for each. Channel 0 ends early enough for the slowest channel to end within it.
        begin_index (`int`, defaults to 0): Index of the first generated token; EOS in the prompt is ignored.
        device (`torch.device` or `str`, defaults to "cpu"): Device of the scores.
    """

    def __init__(
        self,
        delay_pattern: Sequence[int],
        eos_token_id: int,
        max_length: int | Sequence[int] | None = None,
        begin_index: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        # Copied to the device once: a copy in every step would synchronize.
        self.delays = torch.tensor(delay_pattern, device=device)
        self.eos_token_id = eos_token_id
        self.last_begin_of_end = (
            None if max_length is None else torch.tensor(max_length, device=device) - max(delay_pattern) - 1
        )
        self.begin_index = begin_index

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map token history `[N, L]` and scores `[N, V]` to scores `[N, V]`."""
        num_channels = len(self.delays)
        had_eos = input_ids[::num_channels, self.begin_index :] == self.eos_token_id
        length = had_eos.shape[1]
        ends_now = scores[::num_channels].argmax(dim=-1) == self.eos_token_id
        if self.last_begin_of_end is not None:
            ends_now = ends_now | (self.last_begin_of_end == input_ids.shape[1])
        # Frames since channel 0's first end of speech; 0 in the frame that will contain it, -1 before.
        since = ends_now.long() - 1
        if length > 0:
            since = torch.where(had_eos.any(dim=1), length - had_eos.long().argmax(dim=1), since)
        must_end = (since[:, None] == self.delays).flatten()
        only_eos = _only_token(scores, torch.full_like(must_end, self.eos_token_id, dtype=torch.long))
        return torch.where(must_end[:, None], only_eos, scores)


class DiaForcedTokensLogitsProcessor(LogitsProcessor):
    """Force the tokens of the prompt that are delayed past its last complete frame.

    These are the beginnings of slow channels and the last codes of a voice prompt. transformers' own Dia predicts such
    slots freely and overwrites them when they are read
    (`tests/generation/test_generation_dia.py::test_forced_tokens_are_kept_at_every_step`).

    Args:
        forced (`torch.LongTensor` of shape `[B, L₀, C]`): Delayed prompt; `pad_token_id` marks a free slot.
        pad_token_id (`int`): Padding.
    """

    def __init__(self, forced: torch.Tensor, pad_token_id: int) -> None:
        self.forced = forced
        self.pad_token_id = pad_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map token history `[N, L]` and scores `[N, V]` to scores `[N, V]`."""
        frame = input_ids.shape[1]
        if frame >= self.forced.shape[1]:
            return scores
        tokens = self.forced[:, frame].flatten()
        return torch.where((tokens != self.pad_token_id)[:, None], _only_token(scores, tokens), scores)


class DiaPerSampleLogitsProcessor(LogitsProcessor):
    """Apply a processor of its own to each sample.

    Args:
        processors (`Sequence[LogitsProcessor]` of length B): One a sample; samples that share one are computed
            together.
        num_channels (`int`): Channels.
    """

    def __init__(self, processors: Sequence[LogitsProcessor], num_channels: int) -> None:
        self.num_samples = len(processors)
        self.num_channels = num_channels
        samples_of: dict[int, list[int]] = {}  # by identity, because a LogitsProcessorList has no hash
        for sample, processor in enumerate(processors):
            samples_of.setdefault(id(processor), []).append(sample)
        self.processors = [(processors[samples[0]], samples) for samples in samples_of.values()]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[N, V]`, or `[2·N, V]` for guidance, to scores `[N, V]`."""
        history = input_ids.unflatten(0, (self.num_samples, self.num_channels))
        by_sample = scores.unflatten(0, (-1, self.num_samples, self.num_channels))
        result = torch.empty_like(by_sample[0])
        for processor, samples in self.processors:
            processed = processor(history[samples].flatten(0, 1), by_sample[:, samples].flatten(0, 2))
            result[samples] = processed.unflatten(0, (len(samples), self.num_channels))
        return result.flatten(0, 1)


class DiaSeededSamplingLogitsProcessor(LogitsProcessor):
    """Sample with the caller's generators, and leave `generate()` only the sampled token.

    transformers samples from the global generator, which threads share. This processor comes last, so that the choice
    that remains is certain. On the CPU the tokens are those that the global generator would give from the same seed.

    Args:
        generator (`torch.Generator` or a sequence of them): On the device of the scores. One for all rows, or one a
            sample, which makes a sample's tokens independent of its batch.
        num_channels (`int`, defaults to 1): Channels; used with one generator a sample.

    Attributes:
        keeps_scores (`bool`): Whether to keep the scores that were sampled from.
        scores (`list[torch.Tensor]`, each of shape `[N, V]`): Kept scores, one a step.
    """

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator], num_channels: int = 1) -> None:
        self.generator = generator
        self.num_channels = num_channels
        self.keeps_scores = False
        self.scores: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[N, V]` to scores `[N, V]` with one finite entry a row."""
        if self.keeps_scores:
            self.scores.append(scores)
        probabilities = scores.softmax(dim=-1)
        if isinstance(self.generator, torch.Generator):
            drawn = torch.multinomial(probabilities, num_samples=1, generator=self.generator)
        else:
            by_sample = zip(probabilities.split(self.num_channels), self.generator, strict=True)
            drawn = torch.cat([torch.multinomial(rows, 1, generator=generator) for rows, generator in by_sample])
        return _only_token(scores, drawn[:, 0])
