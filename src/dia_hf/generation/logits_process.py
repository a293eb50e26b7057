"""The rules by which Dia turns logits into choices, one small class a rule.

`DiaGenerationMixin` composes them; each works alone on logits written by hand, and none waits for the device. They are
called with rows flattened as `generate()` flattens them: row b·C + c is channel c of sample b.

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
    """Make scores of the shape `[N, V]` that leave each row one choice: `tokens` `[N]`."""
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
    """No guidance, for a sample whose neighbors have it: the conditional logits as they are."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[2·N, V]`, conditional rows first, to scores `[N, V]`."""
        return scores.chunk(2)[0]


class DiaGuidanceTopKLogitsProcessor(DiaClassifierFreeGuidanceLogitsProcessor):
    """Guidance as a filter: keep the conditional logits of those tokens that are the `top_k` best under guidance.

    Args:
        guidance_scale (`float`): Above 0.
        top_k (`int`): Tokens to keep in each row; at least 1.
        eos_token_id (`int`, *optional*): End of speech. With it the best token that may be said, a code or in channel 0
            end of speech, is kept, too; a small `top_k` may hold special tokens alone, and nothing would be left.
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
    """End of speech is channel 0's to say, and it says it if and only if that is its best token.

    The special tokens beyond it (padding, beginning) are nobody's to say.

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
    """Once channel 0 ends, let channel c end `delay_pattern[c]` frames later; end in time for the length limit.

    With the delays [0, 2, 3] (x: free, E: end of speech, .: padding, which the stopping criterion writes):

        channel 0   x E . . . .
        channel 1   x x x E . .
        channel 2   x x x x E .

    Args:
        delay_pattern (`Sequence[int]` of length C): Frames of delay.
        eos_token_id (`int`): End of speech.
        max_length (`int` or `Sequence[int]` of length B, *optional*): Limit of the whole sequence in frames, for all
            samples or for each. Channel 0 is made to end where the slowest channel just reaches its end within it.
        begin_index (`int`, defaults to 0): Where generation begins; what lies before is a prompt and ends nothing.
        device (`torch.device` or `str`, defaults to "cpu"): Where the scores will be.
    """

    def __init__(
        self,
        delay_pattern: Sequence[int],
        eos_token_id: int,
        max_length: int | Sequence[int] | None = None,
        begin_index: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        # Sent to the device once: a copy in every step would wait for it.
        self.delays = torch.tensor(delay_pattern, device=device)
        self.eos_token_id = eos_token_id
        self.last_begin_of_end = (
            None if max_length is None else torch.tensor(max_length, device=device) - max(delay_pattern) - 1
        )
        self.begin_index = begin_index

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map token history `[N, L]` and scores `[N, V]` to scores `[N, V]`."""
        num_channels = len(self.delays)
        said_eos = input_ids[::num_channels, self.begin_index :] == self.eos_token_id
        length = said_eos.shape[1]
        ends_now = scores[::num_channels].argmax(dim=-1) == self.eos_token_id
        if self.last_begin_of_end is not None:
            ends_now = ends_now | (self.last_begin_of_end == input_ids.shape[1])
        # Frames since channel 0's first end of speech; 0 in the frame that is about to say it, -1 before.
        since = ends_now.long() - 1
        if length > 0:
            since = torch.where(said_eos.any(dim=1), length - said_eos.long().argmax(dim=1), since)
        must_end = (since[:, None] == self.delays).flatten()
        only_eos = _only_token(scores, torch.full_like(must_end, self.eos_token_id, dtype=torch.long))
        return torch.where(must_end[:, None], only_eos, scores)


class DiaForcedTokensLogitsProcessor(LogitsProcessor):
    """Leave a given slot its given token: a slow channel's beginnings, and the last codes of a voice prompt.

    Here transformers predicts such slots freely and overwrites them when they are read
    (`tests/generation/test_generation_dia.py::test_given_slots_are_true_at_every_step`).

    Args:
        given (`torch.LongTensor` of shape `[B, L₀, C]`): Delayed prompt; `pad_token_id` marks a free slot.
        pad_token_id (`int`): Padding.
    """

    def __init__(self, given: torch.Tensor, pad_token_id: int) -> None:
        self.given = given
        self.pad_token_id = pad_token_id

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map token history `[N, L]` and scores `[N, V]` to scores `[N, V]`."""
        frame = input_ids.shape[1]
        if frame >= self.given.shape[1]:
            return scores
        tokens = self.given[:, frame].flatten()
        return torch.where((tokens != self.pad_token_id)[:, None], _only_token(scores, tokens), scores)


class DiaPerSampleLogitsProcessor(LogitsProcessor):
    """Apply to each sample the rule that was made for it, as if the sample were alone.

    Args:
        rules (`Sequence[LogitsProcessor]` of length B): One a sample; samples that share a rule are computed together.
        num_channels (`int`): Channels.
    """

    def __init__(self, rules: Sequence[LogitsProcessor], num_channels: int) -> None:
        self.num_samples = len(rules)
        self.num_channels = num_channels
        samples_of: dict[int, list[int]] = {}  # by identity: a list of rules is a rule, too, and has no hash
        for sample, rule in enumerate(rules):
            samples_of.setdefault(id(rule), []).append(sample)
        self.rules = [(rules[samples[0]], samples) for samples in samples_of.values()]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores `[N, V]`, or `[2·N, V]` for rules of guidance, to scores `[N, V]`."""
        history = input_ids.unflatten(0, (self.num_samples, self.num_channels))
        by_sample = scores.unflatten(0, (-1, self.num_samples, self.num_channels))
        result = torch.empty_like(by_sample[0])
        for rule, samples in self.rules:
            ruled = rule(history[samples].flatten(0, 1), by_sample[:, samples].flatten(0, 2))
            result[samples] = ruled.unflatten(0, (len(samples), self.num_channels))
        return result.flatten(0, 1)


class DiaSeededSamplingLogitsProcessor(LogitsProcessor):
    """Draw with generators of the caller's, and leave `generate()` nothing but the token drawn.

    `generate()` draws from the global generator, which other threads share. Placed last, this rule makes its draw a
    matter of course. On the CPU the tokens are those that the global generator would give from the same seed.

    Args:
        generator (`torch.Generator` or a sequence of them): On the device of the scores. One for all rows, or one a
            sample, which makes a sample's draws independent of its neighbors.
        num_channels (`int`, defaults to 1): Channels; matters with one generator a sample.

    Attributes:
        keeps_scores (`bool`): Whether to keep the scores that were drawn from.
        scores (`list[torch.Tensor]`, each of shape `[N, V]`): These, one a step.
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
