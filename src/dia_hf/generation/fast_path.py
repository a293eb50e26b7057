"""Translation of a call of `generate()` for the fast path, or the reason why the fast path does not support it.

By default `generate()` runs on the fast path: `engine/` computes one frame for every sequence in a step. The hooks of
`generation_dia` collect a call's inputs in a `DiaCall`. In `_sample`, where transformers would start its loop (the
reference path), `FrameCall` translates the call into a `RequestBatch`, `SamplingParams` and a `SamplingSpec`, or names
the reason why it cannot. `SamplingSpec` implements the logits processors that the reference path applies. A processor
of another class, or of a class whose methods were replaced, is such a reason.

Legend: B sequences to be returned, S text bytes, T frames of the prompt, C channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
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
from transformers.utils import logging

from ..engine import (
    Call,
    FrameScheduler,
    RequestBatch,
    SamplingParams,
    SamplingSpec,
    make_frame_decoder,
    max_frames,
    unsupported_reason_of,
)
from . import logits_process, running_samples
from .alignment import check_heads
from .per_sample import GUIDANCE_OFF, SampleSettings
from .stopping_criteria import DiaCancelStoppingCriteria, DiaSampleStoppingCriteria

__all__ = ["DiaCall", "FrameCall", "tell_once"]

logger = logging.get_logger(__name__)

_TOLD: set[str] = set()  # reasons for the reference path that this process has logged

_STEP_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")

_MINIMA = (MinNewTokensLengthLogitsProcessor, MinLengthLogitsProcessor)
_IMPLEMENTED = (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    *_MINIMA,
    running_samples.DiaRunningSamplesLogitsProcessor,
    *(getattr(logits_process, name) for name in logits_process.__all__),
)


def _functions_of(kind: type) -> dict[tuple[type, str], Any]:
    """Collect the functions of a class and its bases, by class and name."""
    bases = [base for base in kind.__mro__ if base not in (object, list)]
    return {(base, name): value for base in bases for name, value in vars(base).items() if callable(value)}


# The functions that `engine/sampling.py` mirrors, as they were when this module was imported.
_ORIGINAL = {kind: _functions_of(kind) for kind in _IMPLEMENTED}


def _unsupported_processor(processor: LogitsProcessor | LogitsProcessorList) -> str | None:
    """Name the reason why the fast path does not implement a processor, or one inside it; `None` if it does."""
    kind = type(processor)
    if kind not in _ORIGINAL:
        return f"the fast path does not implement the logits processor {kind.__name__}"
    current = _functions_of(kind)
    for base, name in sorted(current | _ORIGINAL[kind], key=str):
        if current.get((base, name)) is not _ORIGINAL[kind].get((base, name)):
            return f"`{base.__name__}.{name}` was replaced, and `engine/sampling.py` implements the original"
    inner: Any = ()
    if isinstance(processor, LogitsProcessorList):
        inner = processor
    elif isinstance(processor, logits_process.DiaPerSampleLogitsProcessor):
        inner = [one for one, _ in processor.processors]
    return next((reason for one in inner if (reason := _unsupported_processor(one)) is not None), None)


def tell_once(reason: str) -> None:
    """Log at INFO why the reference path runs, once a reason and process."""
    if logger.isEnabledFor(logging.INFO) and reason not in _TOLD:
        _TOLD.add(reason)
        logger.info(
            "generate() uses the reference path (transformers' loop), which is slower than the fast path, because %s. "
            "With `use_fast_path=True` this is an error.",
            reason,
        )


@dataclass
class DiaCall:
    """Inputs of one call of `generate()`, collected by the hooks.

    Attributes:
        input_ids (`torch.LongTensor` of shape `[texts, S]`): Bytes.
        attention_mask (`torch.LongTensor` of shape `[texts, S]` or `None`): 1 = keep.
        encode (`Callable`): Returns transformers' encoder outputs for bytes and mask.
        is_guided (`bool`): Whether any sample uses guidance.
        brings_cache (`bool`): Whether the caller passed a cache or chose its kind.
        settings (`SampleSettings`): Sampling parameters of each sequence; `None` until they are known.
        has_own_processors (`bool`): Whether the caller passed logits processors.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    encode: Callable[[torch.Tensor, torch.Tensor | None], BaseModelOutput]
    is_guided: bool
    brings_cache: bool
    settings: SampleSettings | None = None
    has_own_processors: bool = False

    def encode_all(self, model_kwargs: dict[str, Any]) -> None:
        """Encode all texts for the reference path; under guidance also zero bytes under the same mask."""
        input_ids, mask = self.input_ids, self.attention_mask
        if self.is_guided:
            input_ids = torch.cat([input_ids, torch.zeros_like(input_ids)])
            mask = None if mask is None else mask.repeat(2, 1)
        outputs = self.encode(input_ids, mask)
        copies = len(model_kwargs["decoder_forced_ids"]) // len(self.input_ids)
        outputs.last_hidden_state = outputs.last_hidden_state.repeat_interleave(copies, dim=0)
        model_kwargs["encoder_outputs"] = outputs
        if mask is not None:
            model_kwargs["attention_mask"] = mask.repeat_interleave(copies, dim=0)


class FrameCall:
    """A call at the point where transformers' loop would start, with everything that `generate()` has prepared.

    Args:
        model (`DiaForConditionalGeneration`): The model.
        call (`DiaCall` or `None`): Inputs collected by the hooks; `None` if the caller encoded the text.
        processors, criteria, config, streamer, model_kwargs: As transformers passes them to its loop.
    """

    def __init__(
        self,
        model: Any,
        call: DiaCall | None,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: GenerationConfig,
        streamer: BaseStreamer | None,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.model = model
        self.call = call
        self.processors = processors
        self.criteria = criteria
        self.config = config
        self.streamer = streamer
        self.model_kwargs = model_kwargs
        self.decoder = model.config.decoder_config
        self.alignment: tuple[torch.Tensor, ...] | None = None  # with `return_alignment`, after `run`

    @property
    def num_prompt_frames(self) -> int:
        """T: complete frames of the prompts."""
        return self.model_kwargs["decoder_attention_mask"].shape[1]

    def unsupported_reason(self) -> str | None:
        """Return the reason why the fast path does not support this call; `None` if it does."""
        config, call = self.config, self.call
        if call is None:
            return "`encoder_outputs` were passed instead of `input_ids`"
        requested = [name for name in _STEP_OUTPUTS if getattr(config, name)]
        if config.return_dict_in_generate and requested:
            return f"`return_dict_in_generate` with `{requested[0]}` requests values that the fast path does not keep"
        if call.brings_cache or not config.use_cache:
            return "the call passes a cache, chooses its kind, or sets `use_cache=False`"
        if call.has_own_processors:
            return "a `logits_processor` was passed"
        return self._unsupported_sampling() or self._unsupported_inputs(call) or unsupported_reason_of(self.model)

    def _unsupported_sampling(self) -> str | None:
        decoder = self.decoder
        for processor in self.processors:
            if (reason := _unsupported_processor(processor)) is not None:
                return reason
            if isinstance(processor, _MINIMA) and processor.eos_token_id.tolist() != [decoder.eos_token_id]:
                return "`eos_token_id` is not the model's"
        ends = [one for one in self.criteria if isinstance(one, EosTokenCriteria)]
        if len(ends) != 1 or ends[0].eos_token_id.tolist() != [decoder.eos_token_id]:
            return "`eos_token_id` is not the model's"
        if self.config._pad_token_tensor is None or int(self.config._pad_token_tensor) != decoder.pad_token_id:
            return "`pad_token_id` is not the model's"
        for one in self.criteria:
            is_wrapped = isinstance(one, DiaSampleStoppingCriteria)
            criterion = one.criterion if is_wrapped else one
            if type(criterion) not in (MaxLengthCriteria, EosTokenCriteria, DiaCancelStoppingCriteria):
                return f"the stopping criterion {type(criterion).__name__} reads every step"
        if self.model.config.delay_pattern[0] != 0:
            return "channel 0 is delayed"
        return None

    def _unsupported_inputs(self, call: DiaCall) -> str | None:
        mask = self.model_kwargs["decoder_attention_mask"]
        if bool((mask[:, 1:] < mask[:, :-1]).any()) or not bool(mask[:, -1].all()):
            return "the prompts are not padded on the left"
        if bool((self._forced_tokens()[:, :, 0] != self.decoder.pad_token_id).any()):
            return "channel 0 has forced tokens after the first free slot"
        if self.num_prompt_frames + max(self._max_new()) > max_frames(self.decoder):
            return f"the call asks for more than {max_frames(self.decoder)} frames, twice the decoder's positions"
        if call.attention_mask is not None and not bool(call.attention_mask.any(dim=-1).all()):
            return "a text is empty"
        return None

    def _forced_tokens(self) -> torch.Tensor:
        """Tokens of the slots from the first new frame on, `[B, G, C]`, followed by a frame of free slots."""
        forced = self.model_kwargs["decoder_forced_ids"][:, self.num_prompt_frames :]
        return torch.cat((forced, forced.new_full((len(forced), 1, forced.shape[2]), self.decoder.pad_token_id)), dim=1)

    def run(self) -> torch.Tensor:
        """Generate.

        Returns:
            `torch.LongTensor` of shape `[B, T + new frames, C]`: Delayed codes, prompt included.
        """
        assert self.call is not None
        compile_options = self._compile_options()
        network = make_frame_decoder(self.model, pack=compile_options is None)
        max_new = self._max_new()
        spec, params = self._make_sampling(max_new, network.device)
        prompts = self.model_kwargs["decoder_forced_ids"][:, : self.num_prompt_frames]
        requests = self._make_requests(self.call, prompts, params, max_new, network.device)
        streamer = self.streamer
        if streamer is not None and self.config.max_batch_size is not None:
            raise ValueError(
                f"`max_batch_size` is {self.config.max_batch_size}, but a streamer (or `verbose`) receives all samples "
                "at once; leave one of them out."
            )
        sampler = self.model_kwargs.get("decoder_sampler")
        cancels = [one for one in self.criteria if isinstance(one, DiaSampleStoppingCriteria)]
        call = Call(
            spec,
            requests,
            generator=None if sampler is None else sampler.generator,
            on_frame=None if streamer is None else lambda tokens: streamer.put(tokens.flatten()),
            is_canceled=lambda: any(one.criterion.is_canceled() for one in cancels),
            max_batch_size=self.config.max_batch_size,
            on_weights=getattr(streamer, "put_alignment", None) if spec.alignment_heads else None,
        )
        engine, delay_pattern = self.model_kwargs.get("decoder_engine"), self.model.config.delay_pattern
        if engine is None:
            frames = FrameScheduler(network, delay_pattern, compile_options).run(call)
        else:
            frames = engine.run(network, delay_pattern, call, compile_options)
        if spec.alignment_heads:
            nothing = torch.zeros(0, 0)  # of a request that was queued at cancellation
            self.alignment = tuple(call.attention.get(request, nothing) for request in range(len(requests)))
        generated = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True, padding_value=self.decoder.pad_token_id)
        if streamer is not None:
            streamer.end()
        return torch.cat((prompts, generated.to(prompts)), dim=1)

    def _compile_options(self) -> dict[str, Any] | None:
        """Return the arguments of `torch.compile`; `None` if the call does not compile."""
        wanted = self.config.compile_config
        if wanted is None or self.config.disable_compile:
            return None
        options = dict(wanted.options or {})
        # `runners` captures CUDA graphs itself, of the whole step.
        if wanted.backend == "inductor" and wanted.mode not in (None, "default", "reduce-overhead"):
            from torch._inductor import list_mode_options  # imported here, because it takes long

            options = list_mode_options(wanted.mode) | options
        return {"backend": wanted.backend, "options": options}

    def _max_new(self) -> list[int]:
        assert self.call is not None
        assert self.call.settings is not None
        settings = self.call.settings
        if settings.are_lists("max_new_tokens"):
            return settings.of("max_new_tokens")
        return [self.config.max_length - self.num_prompt_frames] * settings.batch_size

    def _min_new(self) -> int:
        """Return the number of new frames before which no sample ends."""
        minima = [0]
        for processor in self.processors:
            if isinstance(processor, MinNewTokensLengthLogitsProcessor):
                minima.append(processor.min_new_tokens)
            elif isinstance(processor, MinLengthLogitsProcessor):
                minima.append(processor.min_length - self.num_prompt_frames)
        return max(minima)

    def _make_sampling(self, max_new: list[int], device: torch.device) -> tuple[SamplingSpec, SamplingParams]:
        """Translate the call's sampling parameters."""
        assert self.call is not None
        assert self.call.settings is not None
        config, decoder, value_of = self.config, self.decoder, self.call.settings.of
        is_guided, do_sample = self.call.is_guided, bool(config.do_sample)
        vocab_size, num_samples = decoder.vocab_size, len(max_new)
        scales = [0.0 if scale in GUIDANCE_OFF else float(scale) for scale in value_of("guidance_scale")]
        top_k = [min(number or vocab_size, vocab_size) for number in value_of("top_k")]
        filters = [
            scale > 0 and bool(number) and not config.sample_from_guided
            for scale, number in zip(scales, value_of("top_k"), strict=True)
        ]
        top_p = [1.0 if value is None else min(value, 1.0) for value in value_of("top_p")]

        def tensor(values: list, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)

        params = SamplingParams(
            guidance_weight=tensor([1 + scale for scale in scales], torch.float32),
            filters=tensor(filters, torch.bool),
            temperature=tensor([1.0 if value is None else value for value in value_of("temperature")], torch.float32),
            top_k=tensor(top_k, torch.long),
            dropped_mass=tensor([1 - value for value in top_p], torch.float32),
            min_frames=torch.full((num_samples,), self._min_new(), device=device),
            last_begin_of_end=torch.tensor(
                [self.model.config.frames_for_steps(limit) for limit in max_new], device=device
            ),
        )
        spec = SamplingSpec(
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
            alignment_heads=check_heads(config.alignment_heads, self.model) if config.return_alignment else (),
        )
        return spec, params

    def _make_requests(
        self, call: DiaCall, prompts: torch.Tensor, params: SamplingParams, max_new: list[int], device: torch.device
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
            prompts=prompts.to(device),
            prompt_lengths=self.model_kwargs["decoder_attention_mask"].sum(-1).tolist(),
            forced=self._forced_tokens().to(device),
            params=params,
            max_new=max_new,
        )
