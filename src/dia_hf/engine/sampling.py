"""Sampling on the fast path: the rules of `generation/logits_process.py` as one function, from logits to a frame.

`generate()` runs this by default. The logits processors of the reference path are its oracle in
`tests/engine/test_sampling.py`: a rule that is changed here must be changed there, too.

Guidance, top-k filter, end of speech, temperature, top-k, top-p, the draw, delayed ends and forced tokens, for samples
with parameters of their own, without synchronizing with the device. The caller passes the noise, so that a step has no
generator inside: the argmax of p / q with q exponential is a draw from p, which is how `torch.multinomial` draws (the
Gumbel-max trick; Maddison et al., A* Sampling, 2014). With the same noise the tokens equal the reference path's.

Legend: B samples, C channels, V vocabulary, K candidates, G frames with forced tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

__all__ = ["SamplingParams", "SamplingSpec"]

_MINUS_INFINITY = -float("inf")
NEVER = 2**62


@dataclass
class SamplingParams:
    """Per-sample sampling parameters: tensors that broadcast to `[B, C, V]`, or of shape `[B]` where noted.

    Attributes:
        guidance_weight: 1 + s of cond + s · (cond − uncond), which is uncond + (1 + s) · (cond − uncond); 1 is no
            guidance.
        filters (bool): Whether guidance only selects the candidates, and the conditional logits score them.
        temperature: Above 0.
        top_k (int64): Tokens to keep; V keeps all.
        dropped_mass: 1 − top_p, the probability mass outside the nucleus; 0 keeps all.
        min_frames (int64 `[B]`): New frames before which a sample cannot end.
        last_begin_of_end (int64 `[B]`): Latest new frame in which channel 0 ends; negative: no limit.
    """

    guidance_weight: torch.Tensor
    filters: torch.Tensor
    temperature: torch.Tensor
    top_k: torch.Tensor
    dropped_mass: torch.Tensor
    min_frames: torch.Tensor
    last_begin_of_end: torch.Tensor

    def select(self, samples: torch.Tensor) -> SamplingParams:
        """Copy the parameters of some samples, by index."""
        return SamplingParams(*(getattr(self, field.name)[samples] for field in fields(self)))

    def copy_rows(self, other: SamplingParams, samples: torch.Tensor) -> None:
        """Copy other samples' parameters into these indices."""
        for field in fields(self):
            getattr(self, field.name)[samples] = getattr(other, field.name)


@dataclass(frozen=True)
class SamplingSpec:
    """Sampling parameters that the samples of a call share. Two calls with equal specs run the same program.

    Attributes:
        eos_token_id, pad_token_id (`int`): End of speech, below which are the codes; padding.
        is_guided (`bool`): Whether logits come twice, conditional ones first.
        do_sample (`bool`): Whether to sample; argmax otherwise.
        max_top_k (`int`): The largest of the samples' `top_k`, at most V.
        same_top_k (`bool`): Whether they are all the same.
        uses_top_k, uses_top_p (`bool`): Whether any sample's keeps less than all.
        all_filter, any_filters (`bool`): Whether all, or any, of the samples' `filters` are set.
        eos_logit_scale (`float`): Factor on channel 0's logit of end of speech.
        alignment_heads (`AlignmentHeads`): Heads of cross-attention whose weights are recorded; none by default.
    """

    eos_token_id: int
    pad_token_id: int
    is_guided: bool
    do_sample: bool
    max_top_k: int
    same_top_k: bool
    uses_top_k: bool
    uses_top_p: bool
    all_filter: bool
    any_filters: bool
    eos_logit_scale: float = 1.0
    alignment_heads: tuple[tuple[int, int], ...] = ()

    def is_compatible(self, other: SamplingSpec) -> bool:
        """Return whether samples of the two can be in one batch."""
        names = ("eos_token_id", "pad_token_id", "is_guided", "do_sample", "eos_logit_scale")
        heads = {spec.alignment_heads for spec in (self, other) if spec.alignment_heads}
        return len(heads) < 2 and all(getattr(self, name) == getattr(other, name) for name in names)

    def merged(self, other: SamplingSpec) -> SamplingSpec:
        """Return the spec of a batch of samples of the two, which must be compatible."""
        return replace(
            self,
            max_top_k=max(self.max_top_k, other.max_top_k),
            same_top_k=self.same_top_k and other.same_top_k and self.max_top_k == other.max_top_k,
            uses_top_k=self.uses_top_k or other.uses_top_k,
            uses_top_p=self.uses_top_p or other.uses_top_p,
            all_filter=self.all_filter and other.all_filter,
            any_filters=self.any_filters or other.any_filters,
            alignment_heads=self.alignment_heads or other.alignment_heads,
        )

    def choose(
        self, logits: torch.Tensor, params: SamplingParams, num_new: torch.Tensor, noise: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose each channel's token by the logits, before delayed ends and forced tokens.

        Args:
            logits (`torch.Tensor` of shape `[B, C, V]`, or `[2·B, C, V]` under guidance): float32.
            params (`SamplingParams`): Of the samples.
            num_new (`torch.LongTensor` of shape `[B]`): New frames so far.
            noise (`torch.Tensor` of shape `[B, C, V]`, *optional*): Exponentially distributed; needed for sampling.

        Returns:
            `tuple`: Tokens `[B, C]`; whether channel 0 ends, bool `[B]`; and the logit of each channel's best token,
            `[B, C]`, which is NaN or -inf where no token was valid.
        """
        may_end = num_new >= params.min_frames
        if self.all_filter:
            tokens, scores = self._candidates(logits, params)
        else:
            tokens, scores = None, self._scores(logits, params)
        scores, ends = self._restrict_eos(tokens, scores, may_end)
        best = scores.amax(-1)
        if self.do_sample:
            chosen = self._draw(tokens, scores, params, noise)
        else:
            # The first of equals, as argmax takes it; token 0 where there is none.
            is_best = scores == best[..., None]
            ids = torch.arange(scores.shape[-1], device=scores.device) if tokens is None else tokens
            chosen = torch.where(is_best, ids, scores.new_full((), NEVER, dtype=torch.long)).amin(-1)
            chosen = torch.where(best > _MINUS_INFINITY, chosen, 0)
        chosen[:, 0].masked_fill_(ends, self.eos_token_id)
        return chosen, ends, best

    def _guided(self, logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
        """Return conditional and guided logits `[B, C, V]`."""
        if not self.is_guided:
            return logits, logits
        cond, uncond = logits.chunk(2)
        return cond, torch.lerp(uncond, cond, params.guidance_weight)

    def _candidates(self, logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens `[B, C, K]` that are best under guidance, and their conditional logits.

        A small K may contain only special tokens; the best permitted token is then appended.
        """
        cond, guided = self._guided(logits, params)
        tokens = guided.topk(self.max_top_k, dim=-1, sorted=not self.same_top_k).indices
        scores = cond.gather(-1, tokens)
        if not self.same_top_k:
            ranks = torch.arange(self.max_top_k, device=logits.device)
            scores = scores.masked_fill(ranks >= params.top_k, _MINUS_INFINITY)
        if self._may_lack_codes(logits):
            best = self._best_permitted(guided)
            is_there = ((tokens == best) & (scores > _MINUS_INFINITY)).any(-1, keepdim=True)
            score = cond.gather(-1, best).masked_fill(is_there, _MINUS_INFINITY)
            tokens, scores = torch.cat([tokens, best], dim=-1), torch.cat([scores, score], dim=-1)
        return tokens, scores

    def _may_lack_codes(self, logits: torch.Tensor) -> bool:
        """Return whether a sample's candidates could all be special tokens."""
        return not self.same_top_k or self.max_top_k <= logits.shape[-1] - self.eos_token_id

    def _best_permitted(self, guided: torch.Tensor) -> torch.Tensor:
        """Return the best code, or in channel 0 end of speech, `[B, C, 1]`."""
        permitted = guided[..., : self.eos_token_id + 1].clone()
        permitted[:, 1:, self.eos_token_id] = _MINUS_INFINITY
        return permitted.argmax(-1, keepdim=True)

    def _scores(self, logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
        """Return guided logits `[B, C, V]`; for samples with `filters`, the conditional logits of their candidates."""
        cond, guided = self._guided(logits, params)
        if not self.any_filters:
            return guided
        ranked = guided.topk(self.max_top_k, dim=-1).indices
        ranks = torch.arange(self.max_top_k, device=logits.device)
        is_kept = torch.zeros_like(guided, dtype=torch.bool).scatter(
            -1, ranked, (ranks < params.top_k).expand_as(ranked)
        )
        if self._may_lack_codes(logits):
            is_kept = is_kept.scatter(-1, self._best_permitted(guided), True)
        return torch.where(params.filters, cond.masked_fill(~is_kept, _MINUS_INFINITY), guided)

    def _restrict_eos(
        self, tokens: torch.Tensor | None, scores: torch.Tensor, may_end: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask all but codes; channel 0 ends where EOS is its argmax."""
        ids = torch.arange(scores.shape[-1], device=scores.device) if tokens is None else tokens
        first_ids = ids if tokens is None else tokens[:, 0]
        end = scores[:, 0].masked_fill(first_ids != self.eos_token_id, _MINUS_INFINITY).amax(-1) * self.eos_logit_scale
        scores = scores.masked_fill(ids >= self.eos_token_id, _MINUS_INFINITY)
        return scores, may_end & (end > scores[:, 0].amax(-1))

    def _draw(
        self,
        tokens: torch.Tensor | None,
        scores: torch.Tensor,
        params: SamplingParams,
        noise: torch.Tensor | None,
    ) -> torch.Tensor:
        """Sample tokens `[B, C]` from scores `[B, C, K]`, after temperature, top-k and top-p."""
        assert noise is not None
        scores = scores / params.temperature
        if tokens is None and self.uses_top_k:
            best = scores.topk(self.max_top_k, dim=-1).values
            least = best.gather(-1, (params.top_k - 1).expand(*best.shape[:-1], 1))
            scores = scores.masked_fill(scores < least, _MINUS_INFINITY)
        if self.uses_top_p:
            scores, order = scores.sort(dim=-1)
            tokens = order if tokens is None else tokens.gather(-1, order)
            is_dropped = scores.softmax(-1).cumsum(-1) <= params.dropped_mass
            is_dropped.select(-1, -1).fill_(False)
            scores = scores.masked_fill(is_dropped, _MINUS_INFINITY)
        if tokens is None:
            return (scores.softmax(-1) / noise).argmax(-1)
        index = (scores.softmax(-1) / noise.gather(-1, tokens)).argmax(-1, keepdim=True)
        return tokens.gather(-1, index)[..., 0]

    def complete(
        self,
        chosen: torch.Tensor,
        forced: torch.Tensor,
        delays: torch.Tensor,
        num_new: torch.Tensor,
        end: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Insert forced tokens, delayed ends and padding.

        Args:
            chosen (`torch.LongTensor` of shape `[B, C]`): From `choose`.
            forced (`torch.LongTensor` of shape `[B, G, C]`): Tokens of the first new frames, padding where a slot is
                free; the last frame is free in all channels.
            delays (`torch.LongTensor` of shape `[C]`): Frames of delay; channel 0 has none.
            num_new (`torch.LongTensor` of shape `[B]`): New frames before this one.
            end (`torch.LongTensor` of shape `[B]`): New frame in which channel 0 ended, or `NEVER`.

        Returns:
            `tuple`: Tokens `[B, C]`, and whether each is the chosen one, bool `[B, C]`.
        """
        since = (num_new - end)[:, None]
        tokens = torch.where(since == delays, self.eos_token_id, chosen)
        index = num_new.clamp(max=forced.shape[1] - 1)[:, None, None].expand(-1, 1, chosen.shape[1])
        slot = forced.gather(1, index)[:, 0]
        is_forced = slot != self.pad_token_id
        tokens = torch.where(is_forced, slot, tokens)
        return torch.where(since > delays, self.pad_token_id, tokens), (since < delays) & ~is_forced
