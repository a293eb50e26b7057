"""`generate()` for parallel channels, by hooks over transformers' `GenerationMixin`.

The loop itself is transformers'. It knows token rows `[rows, length]`; here each channel of each sample is such a row
(row b·C + c), and the hooks fold rows into frames `[B, T, C]` where the network is called, double the batch for
guidance, and compose the rules of `logits_process`. Everything about a call travels in the call (`model_kwargs`), under
names that begin with `decoder_` because transformers keeps those from the encoder; the model itself stays untouched,
so that threads can share it. Knows nothing of text or audio.

Legend: B batch, T frames, C channels, N = B·C rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation import BaseStreamer, GenerateEncoderDecoderOutput, GenerationMode
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from .._compat import CACHE_NAME, rename_cache
from ..atomic_write import shortened
from ..configuration_dia import DiaConfig, DiaDecoderConfig
from ..delay_pattern import apply_delay, num_prompt_frames
from .fast_path import DiaCall, FrameCall
from .logits_process import (
    DiaClassifierFreeGuidanceLogitsProcessor,
    DiaConditionalLogitsProcessor,
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
    DiaEOSScaleLogitsProcessor,
    DiaForcedTokensLogitsProcessor,
    DiaGuidanceTopKLogitsProcessor,
    DiaSeededSamplingLogitsProcessor,
)
from .per_sample import SampleSettings, take_lists
from .running_samples import DiaRunningSamplesLogitsProcessor, RunningSamples
from .stopping_criteria import DiaCancelStoppingCriteria, DiaSampleStoppingCriteria
from .streaming import DiaCodesStreamer

if TYPE_CHECKING:
    from transformers.generation.utils import GenerateOutput

logger = logging.get_logger(__name__)

__all__ = ["DiaGenerationMixin"]


# Dia's own fields of the generation config; the defaults are the 0626 release's.
_OWN_DEFAULTS: dict[str, Any] = {
    "sample_from_guided": False,
    "eos_logit_scale": 1.0,
    "per_sample": {},
    "use_fast_path": None,
    "max_batch_size": None,
}

_WARPERS = ("temperature", "top_k", "top_p")
_GUIDANCE_OFF = (None, 1)

# What `generate` can return of the network's batch, which guidance doubles.
_OF_NETWORK = (
    "logits",
    "encoder_attentions",
    "encoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "decoder_hidden_states",
)


def _guidance(
    decoder: DiaDecoderConfig, sample_from_guided: bool, scale: float | None, top_k: int | None
) -> LogitsProcessor:
    """The rule that makes scores of conditional and unconditional logits."""
    if scale in _GUIDANCE_OFF:
        return DiaConditionalLogitsProcessor()
    if top_k and not sample_from_guided:
        return DiaGuidanceTopKLogitsProcessor(scale, top_k, decoder.eos_token_id, decoder.num_channels)
    return DiaClassifierFreeGuidanceLogitsProcessor(scale)


def _warpers(temperature: float | None, top_k: int | None, top_p: float | None) -> LogitsProcessor:
    """transformers' warpers, under its conditions and in its order."""
    warpers = LogitsProcessorList()
    if temperature not in (None, 1):
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers


_TENSORS = ("inputs", "input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
_PER_SAMPLE = ("guidance_scale", "temperature", "top_k", "top_p", "max_new_tokens")
_NUMBERS = (*_PER_SAMPLE, "min_new_tokens", "max_length", "min_length", "num_return_sequences", "num_beams")


def _check_types(given: dict[str, Any]) -> None:
    """Refuse what is neither a tensor nor a number where one is wanted, before somebody else stumbles over it."""
    for name in _TENSORS:
        value = given.get(name)
        if value is not None and (not isinstance(value, torch.Tensor) or value.ndim == 0):
            kind = "a tensor without dimensions" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            raise TypeError(f"`{name}` is {kind}; give a torch.Tensor with one row a sample, as the processor does.")
    for name in _NUMBERS:
        value = given.get(name)
        values = value if name in _PER_SAMPLE and isinstance(value, list | tuple) else [value]
        for one in values:
            is_scalar = isinstance(one, torch.Tensor) and one.numel() == 1 and not one.is_complex()
            if not (one is None or is_scalar or isinstance(one, Real)):
                raise TypeError(
                    f"`{name}` is {shortened(value)}; give a number{' or one a sample' * (name in _PER_SAMPLE)}."
                )
    if not isinstance(do_sample := given.get("do_sample"), bool | None):
        raise TypeError(f"`do_sample` is {shortened(do_sample)}; give True or False.")
    ids, mask = (given.get(name) for name in ("input_ids", "attention_mask"))
    if ids is not None and mask is not None and mask.shape[-1] != ids.shape[-1]:
        raise ValueError(
            f"`attention_mask` has the shape {tuple(mask.shape)}, but `input_ids` {tuple(ids.shape)}; give a 1 or 0 "
            "for each id."
        )
    streamer = given.get("streamer")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise TypeError(f"`streamer` is {shortened(streamer)}; give a BaseStreamer, such as DiaAudioStreamer.")


def _first_rows(value: Any, num_rows: int) -> Any:
    """Cut the tensors of nested tuples down to their first rows."""
    if isinstance(value, torch.Tensor):
        return value[:num_rows]
    return tuple(_first_rows(item, num_rows) for item in value)


class DiaGenerationMixin(GenerationMixin):
    """The generating half of `DiaForConditionalGeneration`."""

    config: DiaConfig

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ) -> GenerateOutput | torch.Tensor:
        """Generate delayed codes, greedily or by sampling.

        Args:
            inputs (`torch.LongTensor` of shape `[B, S]`, *optional*): Bytes; the same as `input_ids`.
            generation_config (`GenerationConfig`, *optional*): Defaults to the checkpoint's. Of note:
                `max_new_tokens`, the frames to add, of which the last `max(delay_pattern)` only complete those before;
                `min_new_tokens`, the frames before which nobody ends;
                `max_length`, the limit of channel 0 with the prompt; `guidance_scale`, above 0 (None or 1: off);
                `top_k`, which under guidance is the filter on the guided logits; `temperature`, above 0; `top_p`;
                `do_sample`; `num_return_sequences`; and Dia's own, for the first release (v0.1):
                `sample_from_guided`, whether codes are drawn from the guided logits instead of the conditional ones
                (default `False`; v0.1 `True`), and `eos_logit_scale`, a factor on channel 0's logit of end of speech
                (default 1.0; v0.1 0.8). `use_fast_path` is for or against the fast loop: `None`, the default, lets it
                take the calls that it can, `False` none, and `True` is an error where it cannot; `compile_config`
                compiles its step; `max_batch_size` limits the samples that it computes at once, the others wait (as
                many as fit into memory unless given).
            logits_processor (`LogitsProcessorList`, *optional*): Further rules, run after guidance and before Dia's own
                rules and the warpers, on token history `[B·C, T]` and scores `[B·C, V]`.
            stopping_criteria (`StoppingCriteriaList`, *optional*): Further criteria, on token history `[B·C, T]`. One
                that is met in any channel ends that sample at once, its last frames incomplete.
            generator (`torch.Generator` or a sequence of them, *optional*): Source of randomness of this call alone,
                whatever else draws; one for each returned sequence makes its draws independent of its neighbors, too.
            streamer (`BaseStreamer`, *optional*): Gets the prompt `[B·C, T₀]`, then the tokens of each frame `[B·C]`.
                A `DiaAudioStreamer` turns them into sound, hears of an error, and can end the call.
            kwargs: The processor's outputs, and any field of the generation config. `guidance_scale`, `temperature`,
                `top_k`, `top_p` and `max_new_tokens` may be lists of one value a sample. `decoder_input_ids`
                (`[B, T₀, C]`, delayed, padding in the free slots) and `decoder_attention_mask` (`[B, T₀]`) default
                to a mere beginning of speech.

        Returns:
            `torch.LongTensor` of shape `[B · num_return_sequences, T, C]`: delayed codes, prompt included, every
            channel closed by end of speech and padded; or, with `return_dict_in_generate=True`, transformers'
            `GenerateEncoderDecoderOutput` with these as `sequences`. Its scores and logits are of rows, `[B·C, V]`;
            attentions and hidden states are those of the conditional samples; the cache, which the fast loop leaves
            out, holds the unconditional ones behind them.

        Raises:
            ValueError: If beams or an assistant are asked for, the guidance scale or the temperature is not above 0,
                a list is not as long as the batch, the prompt has another shape than the text's batch, or its mask than
                the prompt; or if `labels` are given, as `Seq2SeqTrainer` does.
            TypeError: If what must be a tensor or a number is neither.
        """
        if kwargs.get("labels") is not None:
            raise ValueError(
                "`labels` are for a loss, and `generate` has none; leave them out. If `Seq2SeqTrainer` gave them: set "
                "`predict_with_generate=False`, as it pads rows of tokens, and Dia generates frames of codes. "
                "`dia_hf.training.SpeakCallback` speaks at evaluations, and `DiaTrainer` gives `compute_metrics` the "
                "logits."
            )
        _check_types({"inputs": inputs, "streamer": streamer, **kwargs})
        kwargs = rename_cache(kwargs, CACHE_NAME)
        sampler = None
        if generator is not None:
            sampler = DiaSeededSamplingLogitsProcessor(generator, self.config.decoder_config.num_channels)
            kwargs["decoder_sampler"] = sampler
        if isinstance(streamer, DiaCodesStreamer):
            cancel = DiaCancelStoppingCriteria(lambda: streamer.is_canceled)
            stopping_criteria = StoppingCriteriaList([*(stopping_criteria or []), cancel])
        try:
            output = super().generate(
                inputs,
                generation_config=generation_config,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                streamer=streamer,
                **kwargs,
            )
        except BaseException as error:
            if isinstance(streamer, DiaCodesStreamer):
                streamer.fail(error)
            raise
        if isinstance(output, torch.Tensor):
            return self._rows_to_frames(output).contiguous()
        num_rows = len(output.sequences)
        num_samples = num_rows // self.config.decoder_config.num_channels
        output.sequences = self._rows_to_frames(output.sequences).contiguous()
        if sampler is not None and output.scores is not None:
            output.scores = tuple(sampler.scores)
        for name in _OF_NETWORK:
            if output.get(name) is not None:
                output[name] = _first_rows(output[name], num_rows if name == "logits" else num_samples)
        return output

    def _rows_to_frames(self, rows: torch.Tensor) -> torch.Tensor:
        """Fold token rows `[B·C, T]` into frames `[B, T, C]`."""
        return rows.unflatten(0, (-1, self.config.decoder_config.num_channels)).transpose(1, 2)

    def _validate_generation_mode(
        self, generation_mode: GenerationMode, generation_config: GenerationConfig, generation_mode_kwargs: dict
    ) -> None:
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            raise ValueError(
                f"Dia cannot generate by {generation_mode.value!r}: a frame is one token a channel, chosen at once, so "
                "there is no single next token to rank beams or to check an assistant by. "
                "Use `do_sample=True` or greedy search (`num_beams=1`, no assistant)."
            )
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Settle Dia's own fields as transformers settles its own: the call's, the config's, the default."""
        own = {name: kwargs.pop(name) for name in _OWN_DEFAULTS if name in kwargs}
        if lists := take_lists(kwargs):
            own["per_sample"] = lists
        for name in ("num_return_sequences", "num_beams"):  # of the others, transformers takes None for the default
            if kwargs.get(name, 1) is None:
                del kwargs[name]
        if (size := own.get("max_batch_size")) is not None and size < 1:
            raise ValueError(f"`max_batch_size` is {size}; give at least 1, or leave it out.")
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name, default in _OWN_DEFAULTS.items():
            setattr(generation_config, name, own.get(name, getattr(generation_config, name, default)))
        for temperature in [generation_config.temperature, *generation_config.per_sample.get("temperature", ())]:
            # Of the others, those that are not above 0 are refused where they are used.
            if temperature is not None and temperature > 0 and not 1e-30 <= temperature <= 1e30:
                raise ValueError(
                    f"`temperature` is {temperature}, and logits divided by it are beyond float32; give 1e-30 to 1e30, "
                    "or `do_sample=False` for the best token."
                )
        return generation_config, model_kwargs

    def _maybe_prepare_encoder_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self._encode_for_guidance(super()._maybe_prepare_encoder_kwargs_for_generation, *args, **kwargs)

    def _prepare_encoder_decoder_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # The name of the same hook in transformers 5.17.
        return self._encode_for_guidance(super()._prepare_encoder_decoder_kwargs_for_generation, *args, **kwargs)

    def _encode_for_guidance(
        self,
        encode: Callable[..., dict[str, Any]],
        inputs_tensor: torch.Tensor,
        model_kwargs: dict[str, Any],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Any]:
        """Note the texts, to be encoded when the loop begins: by the slow one at once, by the fast one as it needs."""
        scales = generation_config.per_sample.get("guidance_scale", [generation_config.guidance_scale])
        is_encoded = model_kwargs.get("encoder_outputs") is not None
        is_guided = not is_encoded and not all(scale in _GUIDANCE_OFF for scale in scales)
        brings_cache = model_kwargs.get(CACHE_NAME) is not None
        # What the network computes, or its cache, may be the caller's; else samples that have ended are dropped.
        if not generation_config.return_dict_in_generate and not brings_cache:
            decoder, delays = self.config.decoder_config, self.config.delay_pattern
            ends = (decoder.eos_token_id, decoder.pad_token_id)
            model_kwargs["decoder_running"] = RunningSamples(
                decoder.num_channels, delays.index(self.config.max_delay), ends, is_guided
            )
        if is_encoded:
            return model_kwargs
        model_kwargs["decoder_is_guided"] = is_guided
        noted = dict(model_kwargs)

        def encode_now(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> BaseModelOutput:
            inputs = noted | ({} if attention_mask is None else {"attention_mask": attention_mask})
            return encode(input_ids, inputs, model_input_name, generation_config)["encoder_outputs"]

        model_kwargs["decoder_call"] = DiaCall(
            inputs_tensor,
            model_kwargs.get("attention_mask"),
            encode_now,
            is_guided,
            brings_cache or generation_config.cache_implementation is not None,
        )
        # Until the loop begins, all that is asked for is the shape.
        model_kwargs["encoder_outputs"] = BaseModelOutput(inputs_tensor.new_empty(*inputs_tensor.shape, 0))
        return model_kwargs

    def _prepare_decoder_input_ids_for_generation(
        self,
        batch_size: int,
        model_input_name: str,
        model_kwargs: dict[str, Any],
        decoder_start_token_id: torch.Tensor,
        device: torch.device | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Split the delayed prompt into the frames that the network may read and the slots that stay given."""
        decoder = self.config.decoder_config
        given = model_kwargs.pop("decoder_input_ids", None)
        attention_mask = model_kwargs.pop("decoder_attention_mask", None)
        if given is None:
            start = torch.full((batch_size, 1, decoder.num_channels), decoder.bos_token_id, device=device)
            given = apply_delay(start, self.config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id)
            attention_mask = None
        if given.ndim != 3 or given.shape[0] != batch_size or given.shape[2] != decoder.num_channels:
            raise ValueError(
                f"`decoder_input_ids` have the shape {tuple(given.shape)}; expected [{batch_size}, frames, "
                f"{decoder.num_channels}], as `DiaProcessor` makes them."
            )
        num_frames = num_prompt_frames(given, decoder.pad_token_id)
        if num_frames == 0:
            raise ValueError(
                f"`decoder_input_ids` begin with a free slot ({decoder.pad_token_id}); they must begin with a frame of "
                f"{decoder.bos_token_id}, the beginning of speech."
            )
        given = given.to(device, torch.long)
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=device)
        if attention_mask.ndim != 2 or len(attention_mask) != batch_size or attention_mask.shape[1] < num_frames:
            raise ValueError(
                f"`decoder_attention_mask` has the shape {tuple(attention_mask.shape)}, but `decoder_input_ids` "
                f"{tuple(given.shape)}; give a 1 or 0 for each frame: {list(given.shape[:2])}."
            )
        attention_mask = attention_mask[:, :num_frames].to(device, torch.long)
        model_kwargs["decoder_given_ids"] = given
        model_kwargs["decoder_attention_mask"] = attention_mask
        # A row padded on the left counts from its own beginning, as it would alone.
        model_kwargs["decoder_position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return given[:, :num_frames].transpose(1, 2).flatten(0, 1), model_kwargs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Repeat samples, not rows."""
        if input_ids is not None and expand_size > 1:
            samples = input_ids.unflatten(0, (-1, self.config.decoder_config.num_channels))
            input_ids = samples.repeat_interleave(expand_size, dim=0).flatten(0, 1)
        _, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=None, **model_kwargs
        )
        return input_ids, model_kwargs

    def _prepare_generated_length(self, generation_config: GenerationConfig, **kwargs: Any) -> GenerationConfig:
        """Let `max_new_tokens` replace the limit of the checkpoint, and extend that limit by the delay."""
        length, positions = kwargs["input_ids_length"], self.config.decoder_config.max_position_embeddings
        if length >= positions:
            raise ValueError(
                f"the prompt has {length - 1} frames, but this model has {positions} positions for the prompt and what "
                "follows; give a shorter one."
            )
        if generation_config.max_new_tokens is not None:
            generation_config.max_length = None
            return super()._prepare_generated_length(generation_config, **kwargs)
        limit = generation_config.max_length
        if limit is not None and length >= limit:
            raise ValueError(
                f"the prompt has {length - 1} frames, which leaves nothing of `max_length` ({limit}), as that counts "
                "it; give a shorter prompt, or `max_new_tokens`, which does not."
            )
        generation_config = super()._prepare_generated_length(generation_config, **kwargs)
        # The limit is meant for channel 0; the slowest channel ends that much later.
        generation_config.max_length += self.config.max_delay
        return generation_config

    def _get_logits_processor(
        self,
        generation_config: GenerationConfig,
        input_ids_seq_length: int,
        logits_processor: LogitsProcessorList | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LogitsProcessorList:
        """Compose: guidance, transformers' rules, the user's, end of speech, warpers, delayed end, given slots."""
        decoder, delay_pattern = self.config.decoder_config, self.config.delay_pattern
        model_kwargs = model_kwargs or {}
        settings = SampleSettings(generation_config, len(model_kwargs["decoder_given_ids"]), decoder.num_channels)
        if (call := model_kwargs.get("decoder_call")) is not None:
            call.note_rules(settings, logits_processor)

        before = LogitsProcessorList()
        if (running := model_kwargs.get("decoder_running")) is not None:
            before.append(DiaRunningSamplesLogitsProcessor(running))
        if model_kwargs.get("decoder_is_guided"):
            make = partial(_guidance, self.config.decoder_config, generation_config.sample_from_guided)
            before.append(settings.make_rule(make, "guidance_scale", "top_k"))
        elif not all(scale in _GUIDANCE_OFF for scale in settings.of("guidance_scale")):
            raise ValueError(
                "guidance needs the text: pass `input_ids` instead of `encoder_outputs`, or `guidance_scale=None`."
            )
        # transformers' own guidance would run the model a second time.
        generation_config.guidance_scale = None

        rules = LogitsProcessorList(logits_processor or [])
        if generation_config.eos_logit_scale != 1:
            rules.append(
                DiaEOSScaleLogitsProcessor(
                    decoder.num_channels, decoder.eos_token_id, generation_config.eos_logit_scale
                )
            )
        rules.append(DiaEOSChannelFilterLogitsProcessor(decoder.num_channels, decoder.eos_token_id))
        if generation_config.do_sample and settings.are_lists(*_WARPERS):
            rules.append(settings.make_rule(_warpers, *_WARPERS))
            for name in _WARPERS:
                setattr(generation_config, name, None)
        processors = super()._get_logits_processor(
            generation_config=generation_config,
            input_ids_seq_length=input_ids_seq_length,
            logits_processor=rules,
            # Not handed on: transformers would read attention masks [B, T] as if they were of rows.
            model_kwargs=None,
            **kwargs,
        )
        max_length = generation_config.max_length
        if settings.are_lists("max_new_tokens"):
            shortest = min(settings.of("max_new_tokens"))
            if shortest <= self.config.max_delay:
                raise ValueError(
                    f"`max_new_tokens` holds {shortest}; the delay alone takes {self.config.max_delay} frames, so give "
                    f"each sample at least {self.config.steps_for_frames(0)}."
                )
            max_length = [input_ids_seq_length + limit for limit in settings.of("max_new_tokens")]
        after = [
            DiaEOSDelayPatternLogitsProcessor(
                delay_pattern,
                decoder.eos_token_id,
                max_length,
                begin_index=input_ids_seq_length,
                device=kwargs["device"],
            ),
            DiaForcedTokensLogitsProcessor(model_kwargs["decoder_given_ids"], decoder.pad_token_id),
        ]
        if (sampler := model_kwargs.get("decoder_sampler")) is not None and generation_config.do_sample:
            if not isinstance(sampler.generator, torch.Generator) and len(sampler.generator) != settings.batch_size:
                raise ValueError(
                    f"`generator` is a list of {len(sampler.generator)}, but {settings.batch_size} sequences are to be "
                    "returned; give one generator for each, or one for all."
                )
            sampler.keeps_scores = generation_config.return_dict_in_generate and generation_config.output_scores
            after.append(sampler)
        return LogitsProcessorList([*before, *processors, *after])

    def _get_stopping_criteria(
        self,
        generation_config: GenerationConfig,
        stopping_criteria: StoppingCriteriaList | None,
        **kwargs: Any,
    ) -> StoppingCriteriaList:
        """Let the user's criteria end whole samples."""
        criteria = super()._get_stopping_criteria(generation_config, stopping_criteria, **kwargs)
        num_channels = self.config.decoder_config.num_channels
        return StoppingCriteriaList(
            # The loop looks these two up, the one for the length, the other for what to pad.
            one
            if isinstance(one, (MaxLengthCriteria, EosTokenCriteria))
            else DiaSampleStoppingCriteria(one, num_channels)
            for one in criteria
        )

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **model_kwargs: Any,
    ) -> GenerateOutput | torch.Tensor:
        """Take the fast loop where it can take the call, transformers' where it cannot."""
        call: DiaCall | None = model_kwargs.get("decoder_call")
        fast = FrameCall(
            self, call, input_ids, logits_processor, stopping_criteria, generation_config, streamer, model_kwargs
        )
        wish = generation_config.use_fast_path
        unsupported_reason = "`use_fast_path` is False" if wish is False else fast.unsupported_reason()
        if synced_gpus:
            unsupported_reason = "`synced_gpus` lets several processes walk in step"
        if unsupported_reason is None:
            rows = fast.run()
            return GenerateEncoderDecoderOutput(sequences=rows) if generation_config.return_dict_in_generate else rows
        if wish:
            raise ValueError(
                f"`use_fast_path` is True, but {unsupported_reason}; leave it out to let the slow loop take the call."
            )
        logger.debug("the slow loop takes this call: %s", unsupported_reason)
        if generation_config.use_cache and model_kwargs.get(CACHE_NAME) is None:
            raise RuntimeError(
                f"transformers {transformers.__version__} passes no cache as {CACHE_NAME!r}, under which this version "
                "of dia_hf expects it: upgrade dia_hf, or install an older transformers."
            )
        if call is not None:
            call.encode_all(model_kwargs)
        return super()._sample(
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            synced_gpus=synced_gpus,
            streamer=streamer,
            **model_kwargs,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        decoder_is_guided: bool = False,
        decoder_running: RunningSamples | None = None,
        decoder_given_ids: torch.Tensor | None = None,
        decoder_sampler: LogitsProcessor | None = None,
        decoder_call: DiaCall | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Fold rows `[N, T]` into frames `[B, T, C]`, those of the samples that still speak, twice under guidance.

        What only the rules need ends here. The number of samples is that of the encoder's output, where there is one.
        """
        if (encoder_outputs := kwargs.get("encoder_outputs")) is not None:
            batch_size = len(encoder_outputs[0]) // (2 if decoder_is_guided else 1)
            input_ids = input_ids.reshape(batch_size * self.config.decoder_config.num_channels, -1)
        frames = self._rows_to_frames(input_ids)
        if decoder_running is not None:
            decoder_running.drop_ended(frames, kwargs.get(CACHE_NAME))
            frames, kwargs = decoder_running.select(frames, kwargs)
        if decoder_is_guided:
            frames = frames.repeat(2, 1, 1)
            for name in ("decoder_attention_mask", "decoder_position_ids"):
                if kwargs.get(name) is not None:
                    kwargs[name] = kwargs[name].repeat(2, 1)
        return super().prepare_inputs_for_generation(frames, **kwargs)
