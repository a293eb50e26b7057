"""Which calls of `generate()` the fast loop can take, and what they become for it.

The hooks of `generation_dia` note what they learn of a call in a `DiaCall`. Where transformers would begin its own
loop, the call is either translated into requests for `engine/`, or there is a reason why it is unsupported, named in
words, and the slow loop takes it. The translation reads the very rules that the slow loop would apply; one that it does
not know is such a reason.

Legend: B sequences to be returned, S text bytes, T frames of the prompt, C channels, N = B·C rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation import BaseStreamer
from transformers.modeling_outputs import BaseModelOutput

from ..engine import (
    FrameScheduler,
    RequestBatch,
    SamplingParams,
    SamplingSpec,
    make_frame_decoder,
    make_runner,
    max_frames,
    unsupported_reason_of,
)
from . import logits_process, running_samples
from .per_sample import PER_SAMPLE, SampleSettings
from .stopping_criteria import DiaCancelStoppingCriteria, DiaSampleStoppingCriteria

__all__ = ["DiaCall", "FrameCall"]

_GUIDANCE_OFF = (None, 1)

_COMPUTED_ON_THE_WAY = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")

_MINIMA = (MinNewTokensLengthLogitsProcessor, MinLengthLogitsProcessor)
_KNOWN_RULES = (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    *_MINIMA,
    running_samples.DiaRunningSamplesLogitsProcessor,
    *(getattr(logits_process, name) for name in logits_process.__all__),
)


@dataclass
class DiaCall:
    """One call of `generate()`, as the hooks get to know it.

    Attributes:
        input_ids (`torch.LongTensor` of shape `[texts, S]`): Bytes.
        attention_mask (`torch.LongTensor` of shape `[texts, S]` or `None`): 1 = keep.
        encode (`Callable`): Makes transformers' encoder outputs of bytes and mask.
        is_guided (`bool`): Whether some sample is.
        brings_cache (`bool`): Whether the caller passed a cache or chose its kind.
        settings (`dict[str, list]`): Guidance scale, temperature, top-k, top-p and `max_new_tokens` of each sequence.
        has_own_rules (`bool`): Whether the caller passed logits processors.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    encode: Callable[[torch.Tensor, torch.Tensor | None], BaseModelOutput]
    is_guided: bool
    brings_cache: bool
    settings: dict[str, list] = field(default_factory=dict)
    has_own_rules: bool = False

    def note_rules(self, settings: SampleSettings, logits_processor: LogitsProcessorList | None) -> None:
        """Note what each sequence wants, before transformers is told to leave it to us."""
        self.settings = {name: settings.of(name) for name in PER_SAMPLE}
        self.has_own_rules = bool(logits_processor)

    def encode_all(self, model_kwargs: dict[str, Any]) -> None:
        """Encode the texts for the slow loop; under guidance as many of zeros with them, under the same mask."""
        input_ids, mask = self.input_ids, self.attention_mask
        if self.is_guided:
            input_ids = torch.cat([input_ids, torch.zeros_like(input_ids)])
            mask = None if mask is None else mask.repeat(2, 1)
        outputs = self.encode(input_ids, mask)
        copies = len(model_kwargs["decoder_given_ids"]) // len(self.input_ids)
        outputs.last_hidden_state = outputs.last_hidden_state.repeat_interleave(copies, dim=0)
        model_kwargs["encoder_outputs"] = outputs
        if mask is not None:
            model_kwargs["attention_mask"] = mask.repeat_interleave(copies, dim=0)


class FrameCall:
    """A call where transformers' loop would begin, with all that `generate()` has made ready for it.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        call (`DiaCall` or `None`): What the hooks noted; `None` if the caller encoded the text.
        rows, processors, criteria, config, streamer, model_kwargs: As transformers hands them to its loop.
    """

    def __init__(
        self,
        model: Any,
        call: DiaCall | None,
        rows: torch.Tensor,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: GenerationConfig,
        streamer: BaseStreamer | None,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.model = model
        self.call = call
        self.rows = rows
        self.processors = processors
        self.criteria = criteria
        self.config = config
        self.streamer = streamer
        self.model_kwargs = model_kwargs
        self.decoder = model.config.decoder_config
        self.num_prompt_frames = rows.shape[1]

    def unsupported_reason(self) -> str | None:
        """Say why the fast loop cannot take this call; `None` if it can."""
        config, call = self.config, self.call
        if call is None:
            return "`encoder_outputs` were passed instead of `input_ids`"
        asked = [name for name in _COMPUTED_ON_THE_WAY if getattr(config, name)]
        if config.return_dict_in_generate and asked:
            return f"`return_dict_in_generate` with `{asked[0]}` asks for what the slow loop computes on its way"
        if call.brings_cache or not config.use_cache:
            return "the call chooses a cache of transformers, or none"
        if call.has_own_rules:
            return "a `logits_processor` was passed"
        return self._obstacle_of_rules() or self._obstacle_of_inputs(call) or unsupported_reason_of(self.model)

    def _obstacle_of_rules(self) -> str | None:
        decoder = self.decoder
        for rule in self.processors:
            if type(rule) not in _KNOWN_RULES:
                return f"the rule {type(rule).__name__} is transformers'"
            if isinstance(rule, _MINIMA) and rule.eos_token_id.tolist() != [decoder.eos_token_id]:
                return "`eos_token_id` is not the model's"
        ends = [one for one in self.criteria if isinstance(one, EosTokenCriteria)]
        if len(ends) != 1 or ends[0].eos_token_id.tolist() != [decoder.eos_token_id]:
            return "`eos_token_id` is not the model's"
        if self.config._pad_token_tensor is None or int(self.config._pad_token_tensor) != decoder.pad_token_id:
            return "`pad_token_id` is not the model's"
        for one in self.criteria:
            is_cancel = isinstance(one, DiaSampleStoppingCriteria) and isinstance(
                one.criterion, DiaCancelStoppingCriteria
            )
            if not (is_cancel or isinstance(one, (MaxLengthCriteria, EosTokenCriteria))):
                criterion = one.criterion if isinstance(one, DiaSampleStoppingCriteria) else one
                return f"the stopping criterion {type(criterion).__name__} reads every step"
        if self.model.config.delay_pattern[0] != 0:
            return "channel 0 is delayed"
        return None

    def _obstacle_of_inputs(self, call: DiaCall) -> str | None:
        mask = self.model_kwargs["decoder_attention_mask"]
        if bool((mask[:, 1:] < mask[:, :-1]).any()) or not bool(mask[:, -1].all()):
            return "the prompts are not padded on the left"
        if bool((self._given()[:, :, 0] != self.decoder.pad_token_id).any()):
            return "channel 0 is given beyond the first free slot"
        if self.num_prompt_frames + max(self._max_new()) > max_frames(self.decoder):
            return f"it asks for more than {max_frames(self.decoder)} frames, twice what the decoder has positions for"
        if call.attention_mask is not None and not bool(call.attention_mask.any(dim=-1).all()):
            return "a text is empty"
        return None

    def _given(self) -> torch.Tensor:
        """Tokens of the slots from the first new frame on, `[B, G, C]`, and a frame of free slots behind them."""
        given = self.model_kwargs["decoder_given_ids"][:, self.num_prompt_frames :]
        return torch.cat((given, given.new_full((len(given), 1, given.shape[2]), self.decoder.pad_token_id)), dim=1)

    def run(self) -> torch.Tensor:
        """Speak.

        Returns:
            `torch.LongTensor` of shape `[N, T + new frames]`: Rows, as transformers' loop returns them.
        """
        assert self.call is not None
        compile_options = self._compile_options()
        network = make_frame_decoder(self.model, pack=compile_options is None)
        max_new = self._max_new()
        rules, settings = self._make_rules(max_new, network.device)
        requests = self._make_requests(self.call, settings, max_new, network.device)
        streamer = self.streamer
        if streamer is not None and self.config.max_batch_size is not None:
            raise ValueError(
                f"`max_batch_size` is {self.config.max_batch_size}, but a streamer (or `verbose`) hears all samples at "
                "once; leave one of them out."
            )
        sampler = self.model_kwargs.get("decoder_sampler")
        cancels = [one for one in self.criteria if isinstance(one, DiaSampleStoppingCriteria)]
        loop = FrameScheduler(
            make_runner(network, rules, compile_options),
            self.model.config.delay_pattern,
            requests,
            max_batch_size=self.config.max_batch_size,
            generator=None if sampler is None else sampler.generator,
            on_frame=None if streamer is None else lambda tokens: streamer.put(tokens.flatten()),
            is_canceled=lambda: any(one.criterion.is_canceled() for one in cancels),
        )
        spoken = torch.nn.utils.rnn.pad_sequence(
            loop.run(), batch_first=True, padding_value=self.decoder.pad_token_id
        ).to(self.rows)
        if streamer is not None:
            streamer.end()
        return torch.cat((self.rows, spoken.transpose(1, 2).flatten(0, 1)), dim=1)

    def _compile_options(self) -> dict[str, Any] | None:
        """What `torch.compile` gets, if the call wants it."""
        wanted = self.config.compile_config
        if wanted is None or self.config.disable_compile:
            return None
        options = dict(wanted.options or {})
        # We capture graphs of our own, of the whole step.
        if wanted.backend == "inductor" and wanted.mode not in (None, "default", "reduce-overhead"):
            from torch._inductor import list_mode_options  # not at start-up: it takes long to import

            options = list_mode_options(wanted.mode) | options
        return {"backend": wanted.backend, "options": options}

    def _max_new(self) -> list[int]:
        assert self.call is not None
        whole = self.config.max_length - self.num_prompt_frames
        limits = self.call.settings["max_new_tokens"]
        is_list = "max_new_tokens" in self.config.per_sample
        return [limit if is_list else whole for limit in limits]

    def _min_new(self) -> int:
        """New frames before which nobody ends."""
        minima = [0]
        for rule in self.processors:
            if isinstance(rule, MinNewTokensLengthLogitsProcessor):
                minima.append(rule.min_new_tokens)
            elif isinstance(rule, MinLengthLogitsProcessor):
                minima.append(rule.min_length - self.num_prompt_frames)
        return max(minima)

    def _make_rules(self, max_new: list[int], device: torch.device) -> tuple[SamplingSpec, SamplingParams]:
        assert self.call is not None
        config, decoder, wanted = self.config, self.decoder, self.call.settings
        is_guided, do_sample = self.call.is_guided, bool(config.do_sample)
        vocab_size, num_samples = decoder.vocab_size, len(max_new)
        scales = [0.0 if scale in _GUIDANCE_OFF else float(scale) for scale in wanted["guidance_scale"]]
        top_k = [min(number or vocab_size, vocab_size) for number in wanted["top_k"]]
        filters = [
            scale > 0 and bool(number) and not config.sample_from_guided
            for scale, number in zip(scales, wanted["top_k"], strict=True)
        ]
        top_p = [1.0 if value is None else min(value, 1.0) for value in wanted["top_p"]]

        def tensor(values: list, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)

        settings = SamplingParams(
            guidance_weight=tensor([1 + scale for scale in scales], torch.float32),
            filters=tensor(filters, torch.bool),
            temperature=tensor([1.0 if value is None else value for value in wanted["temperature"]], torch.float32),
            top_k=tensor(top_k, torch.long),
            dropped_mass=tensor([1 - value for value in top_p], torch.float32),
            min_frames=torch.full((num_samples,), self._min_new(), device=device),
            last_begin_of_end=torch.tensor(
                [self.model.config.frames_for_steps(limit) for limit in max_new], device=device
            ),
        )
        rules = SamplingSpec(
            eos_token_id=decoder.eos_token_id,
            pad_token_id=decoder.pad_token_id,
            is_guided=is_guided,
            do_sample=do_sample,
            max_top_k=max(top_k),
            same_top_k=min(top_k) == max(top_k),
            uses_top_k=min(top_k) < vocab_size,
            uses_top_p=min(top_p) < 1,
            all_filter=all(filters),
            any_filters=any(filters),
            eos_logit_scale=config.eos_logit_scale,
        )
        return rules, settings

    def _make_requests(
        self, call: DiaCall, settings: SamplingParams, max_new: list[int], device: torch.device
    ) -> RequestBatch:
        copies = len(max_new) // len(call.input_ids)
        text_of = [text for text in range(len(call.input_ids)) for _ in range(copies)]
        mask = torch.ones_like(call.input_ids) if call.attention_mask is None else call.attention_mask
        last = (mask.flip(-1) != 0).long().argmax(-1)
        lengths = (mask.shape[1] - last).tolist()
        return RequestBatch(
            text_ids=call.input_ids.to(device),
            text_mask=mask.to(device),
            text_of=text_of,
            text_lengths=[lengths[text] for text in text_of],
            prompts=self.model._rows_to_frames(self.rows).to(device),
            prompt_lengths=self.model_kwargs["decoder_attention_mask"].sum(-1).tolist(),
            given=self._given().to(device),
            settings=settings,
            max_new=max_new,
        )
