"""`generate()` for parallel channels, as hooks over transformers' `GenerationMixin`.

Two paths lead from here. By default the **fast path** runs: `_sample` hands the call to `fast_path.FrameCall`, which
runs it in `engine/`. The **reference path** is transformers' own loop over `modeling_dia.py` and `logits_process.py`.
It runs when `use_fast_path=False` is set, or when the fast path does not support a call; the reason is then logged once
at INFO. Both return the same codes, and the tests compare them.

transformers works on token rows `[rows, length]`. Here each channel of each sample is a row (row b·C + c). On the
reference path the hooks fold rows into frames `[B, T, C]` before the network is called, and double the batch for
guidance. The state of a call travels in `model_kwargs`, under names that begin with `decoder_`, because transformers
does not pass those to the encoder. The model is not changed, so threads can share it.

Legend: B batch, T frames, C channels, N = B·C rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
)
from transformers.generation import BaseStreamer, GenerateEncoderDecoderOutput, GenerationMode
from transformers.modeling_outputs import BaseModelOutput

from .._compat import CACHE_NAME, rename_cache
from ..configuration_dia import DiaConfig
from ..delay_pattern import apply_delay
from ..engine import Engine
from .arguments import check_arguments, check_generation_config, check_prompt
from .fast_path import DiaCall, FrameCall, tell_once
from .logits_process import (
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
    DiaEOSScaleLogitsProcessor,
    DiaForcedTokensLogitsProcessor,
    DiaSeededSamplingLogitsProcessor,
)
from .per_sample import GUIDANCE_OFF, SampleSettings, make_guidance, make_warpers, take_lists
from .running_samples import DiaRunningSamplesLogitsProcessor, RunningSamples
from .stopping_criteria import DiaCancelStoppingCriteria, DiaSampleStoppingCriteria
from .streaming import DiaCodesStreamer

if TYPE_CHECKING:
    from transformers.generation.utils import GenerateOutput

__all__ = ["DiaGenerationMixin"]

# Dia's own fields of the generation config; the defaults are the 0626 release's.
_OWN_DEFAULTS: dict[str, Any] = {
    "sample_from_guided": False,
    "eos_logit_scale": 1.0,
    "per_sample": {},
    "use_fast_path": None,
    "max_batch_size": None,
    "alignment_heads": None,
    "return_alignment": False,
}

_WARPERS = ("temperature", "top_k", "top_p")

# Outputs that have one entry for each row of the network's batch, which guidance doubles.
_OF_NETWORK = (
    "logits",
    "encoder_attentions",
    "encoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "decoder_hidden_states",
)


@dataclass
class DiaGenerateOutput(GenerateEncoderDecoderOutput):
    """transformers' output, with the alignment of `return_alignment`.

    Attributes:
        alignment (`tuple[torch.FloatTensor, ...]`, *optional*): One of shape `[T, S]` for each returned sequence, on
            the CPU: mean weights of the alignment heads at each step, T steps on S bytes of the text.
    """

    alignment: tuple[torch.Tensor, ...] | None = None


def _first_rows(value: Any, num_rows: int) -> Any:
    """Cut the tensors of nested tuples down to their first rows."""
    if isinstance(value, torch.Tensor):
        return value[:num_rows]
    return tuple(_first_rows(item, num_rows) for item in value)


class DiaGenerationMixin(GenerationMixin):
    """`generate()` of `DiaForConditionalGeneration`."""

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
        engine: Engine | None = None,
        **kwargs: Any,
    ) -> GenerateOutput | torch.Tensor:
        """Generate delayed codes, greedily or by sampling.

        Args:
            inputs (`torch.LongTensor` of shape `[B, S]`, *optional*): Bytes; the same as `input_ids`.
            generation_config (`GenerationConfig`, *optional*): Defaults to the checkpoint's. Of note:
                `max_new_tokens`, the number of steps, of which the last `max(delay_pattern)` complete earlier frames
                (see `DiaConfig.steps_for_frames`); `min_new_tokens`, the steps before which no sample ends;
                `max_length`, the limit of channel 0 including the prompt; `guidance_scale`, above 0 (None or 1: off);
                `top_k`, which under guidance filters by the guided logits; `temperature`, above 0; `top_p`;
                `do_sample`; `num_return_sequences`. Dia's own fields: `sample_from_guided`, whether codes are drawn
                from the guided logits instead of the conditional ones (default `False`; v0.1 `True`);
                `eos_logit_scale`, a factor on channel 0's logit of end of speech (default 1.0; v0.1 0.8);
                `use_fast_path`: `None`, the default, uses the fast path where it supports the call, `False` always
                uses the reference path, and `True` raises an error where the fast path does not support the call;
                `max_batch_size`, the most samples that the fast path computes at once while the others are queued (as
                many as fit into memory unless given). `compile_config` compiles the fast path's step.
                `return_alignment`, whether to record what the `alignment_heads` look at (see `alignment.py`); the
                codes are the same.
            logits_processor (`LogitsProcessorList`, *optional*): Further processors, applied after guidance and before
                Dia's own processors and the warpers, on token history `[B·C, T]` and scores `[B·C, V]`.
            stopping_criteria (`StoppingCriteriaList`, *optional*): Further criteria, on token history `[B·C, T]`. A
                criterion that is met in any channel ends that sample at once, its last frames incomplete.
            generator (`torch.Generator` or a sequence of them, *optional*): Source of randomness of this call alone.
                With one generator for each returned sequence, a sample's draws do not depend on its batch.
            streamer (`BaseStreamer`, *optional*): Receives the prompt `[B·C, T₀]`, then the tokens of each frame
                `[B·C]`. A `DiaAudioStreamer` turns them into audio, receives errors, and can end the call.
            engine (`Engine`, *optional*): Computes the call in one batch with those of other threads. A call that needs
                the reference path is computed by itself.
            kwargs: The processor's outputs, and any field of the generation config. `guidance_scale`, `temperature`,
                `top_k`, `top_p` and `max_new_tokens` may be lists of one value a sample. `decoder_input_ids`
                (`[B, T₀, C]`, delayed, padding in the free slots) and `decoder_attention_mask` (`[B, T₀]`) default
                to one beginning-of-speech frame.

        Returns:
            `torch.LongTensor` of shape `[B · num_return_sequences, T, C]`: delayed codes, prompt included, every
            channel closed by end of speech and padded; or, with `return_dict_in_generate=True`, transformers'
            `GenerateEncoderDecoderOutput` with these as `sequences` (with `return_alignment=True` a
            `DiaGenerateOutput`). Its scores and logits are of rows, `[B·C, V]`; attentions and hidden states are those
            of the conditional samples. The cache, which the fast path does not return, holds the conditional samples,
            then the unconditional ones.

        Raises:
            ValueError: If beams or an assistant are requested, the guidance scale or the temperature is not above 0, a
                list is not as long as the batch, the prompt's shape does not fit the batch or its mask, `labels` are
                given, or `use_fast_path` is `True` and the fast path does not support the call.
            TypeError: If a tensor, a number, a flag or the streamer is of another type.
        """
        check_arguments({"inputs": inputs, "streamer": streamer, **kwargs})
        kwargs = rename_cache(kwargs, CACHE_NAME)
        sampler = None
        if generator is not None:
            sampler = DiaSeededSamplingLogitsProcessor(generator, self.config.decoder_config.num_channels)
            kwargs["decoder_sampler"] = sampler
        if engine is not None:
            kwargs["decoder_engine"] = engine
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
            return self._as_frames(output)
        output.sequences = self._as_frames(output.sequences)
        num_samples = len(output.sequences)
        num_rows = num_samples * self.config.decoder_config.num_channels
        if sampler is not None and output.scores is not None:
            output.scores = tuple(sampler.scores)
        for name in _OF_NETWORK:
            if output.get(name) is not None:
                output[name] = _first_rows(output[name], num_rows if name == "logits" else num_samples)
        return output

    def _rows_to_frames(self, rows: torch.Tensor) -> torch.Tensor:
        """Fold token rows `[B·C, T]` into frames `[B, T, C]`."""
        return rows.unflatten(0, (-1, self.config.decoder_config.num_channels)).transpose(1, 2)

    def _as_frames(self, sequences: torch.Tensor) -> torch.Tensor:
        """Return frames `[B, T, C]` as they are (fast path), and rows `[B·C, T]` folded (transformers' loops)."""
        return sequences if sequences.ndim == 3 else self._rows_to_frames(sequences).contiguous()

    def _validate_generation_mode(
        self, generation_mode: GenerationMode, generation_config: GenerationConfig, generation_mode_kwargs: dict
    ) -> None:
        if generation_mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            raise ValueError(
                f"Dia cannot generate by {generation_mode.value!r}: a frame is one token a channel, chosen at once, so "
                "there is no single next token by which to rank beams or check an assistant. "
                "Use `do_sample=True` or greedy search (`num_beams=1`, no assistant)."
            )
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Set Dia's own fields in transformers' order: the call's value, the config's, the default."""
        own = {name: kwargs.pop(name) for name in _OWN_DEFAULTS if name in kwargs}
        if lists := take_lists(kwargs):
            own["per_sample"] = lists
        for name in ("num_return_sequences", "num_beams"):  # transformers accepts None for the other fields
            if kwargs.get(name, 1) is None:
                del kwargs[name]
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        for name, default in _OWN_DEFAULTS.items():
            setattr(generation_config, name, own.get(name, getattr(generation_config, name, default)))
        check_generation_config(generation_config)
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
        """Store the texts in a `DiaCall`: the reference path encodes them all at once, the fast path in batches."""
        scales = generation_config.per_sample.get("guidance_scale", [generation_config.guidance_scale])
        is_encoded = model_kwargs.get("encoder_outputs") is not None
        is_guided = not is_encoded and not all(scale in GUIDANCE_OFF for scale in scales)
        brings_cache = model_kwargs.get(CACHE_NAME) is not None
        # Ended samples are dropped from the network's batch, unless the call returns or passes per-sample state.
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
        # Until `_sample`, transformers reads only the shape.
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
        """Split the delayed prompt into complete frames, which the network reads first, and forced tokens."""
        decoder = self.config.decoder_config
        delayed = model_kwargs.pop("decoder_input_ids", None)
        attention_mask = model_kwargs.pop("decoder_attention_mask", None)
        if delayed is None:
            start = torch.full((batch_size, 1, decoder.num_channels), decoder.bos_token_id, device=device)
            delayed = apply_delay(start, self.config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id)
            attention_mask = None
        num_frames = check_prompt(delayed, attention_mask, batch_size, decoder)
        delayed = delayed.to(device, torch.long)
        if attention_mask is None:
            attention_mask = torch.ones(delayed.shape[:2], dtype=torch.long, device=device)
        attention_mask = attention_mask[:, :num_frames].to(device, torch.long)
        model_kwargs["decoder_forced_ids"] = delayed
        model_kwargs["decoder_attention_mask"] = attention_mask
        # Positions of a row that is padded on the left start at its first frame.
        model_kwargs["decoder_position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return delayed[:, :num_frames].transpose(1, 2).flatten(0, 1), model_kwargs

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
        """Replace the checkpoint's limit by `max_new_tokens` if that is given; else extend the limit by the delay."""
        length, positions = kwargs["input_ids_length"], self.config.decoder_config.max_position_embeddings
        if length >= positions:
            raise ValueError(
                f"the prompt has {length - 1} frames, but this model has {positions} positions for the prompt and the "
                "generated frames; give a shorter one."
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
        # The limit applies to channel 0; the slowest channel ends `max_delay` frames later.
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
        """Compose: guidance, transformers' processors, the user's, end of speech, warpers, delayed end, forced tokens.

        The reference path applies them. The fast path checks that it implements each (`FrameCall`).
        """
        decoder, delay_pattern = self.config.decoder_config, self.config.delay_pattern
        model_kwargs = model_kwargs or {}
        settings = SampleSettings(generation_config, len(model_kwargs["decoder_forced_ids"]), decoder.num_channels)
        if (call := model_kwargs.get("decoder_call")) is not None:
            call.settings, call.has_own_processors = settings, bool(logits_processor)

        before = LogitsProcessorList()
        if (running := model_kwargs.get("decoder_running")) is not None:
            before.append(DiaRunningSamplesLogitsProcessor(running))
        if model_kwargs.get("decoder_is_guided"):
            make = partial(make_guidance, decoder, generation_config.sample_from_guided)
            before.append(settings.make_processor(make, "guidance_scale", "top_k"))
        elif not all(scale in GUIDANCE_OFF for scale in settings.of("guidance_scale")):
            raise ValueError(
                "guidance needs the text: pass `input_ids` instead of `encoder_outputs`, or `guidance_scale=None`."
            )
        # transformers would add its own guidance, which runs the model a second time.
        generation_config.guidance_scale = None

        own = LogitsProcessorList(logits_processor or [])
        if generation_config.eos_logit_scale != 1:
            own.append(
                DiaEOSScaleLogitsProcessor(
                    decoder.num_channels, decoder.eos_token_id, generation_config.eos_logit_scale
                )
            )
        own.append(DiaEOSChannelFilterLogitsProcessor(decoder.num_channels, decoder.eos_token_id))
        if generation_config.do_sample and settings.are_lists(*_WARPERS):
            own.append(settings.make_processor(make_warpers, *_WARPERS))
            for name in _WARPERS:
                setattr(generation_config, name, None)
        processors = super()._get_logits_processor(
            generation_config=generation_config,
            input_ids_seq_length=input_ids_seq_length,
            logits_processor=own,
            # Left out: transformers would read the attention masks [B, T] as masks of rows.
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
            DiaForcedTokensLogitsProcessor(model_kwargs["decoder_forced_ids"], decoder.pad_token_id),
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
        """Wrap the user's criteria so that they end whole samples."""
        criteria = super()._get_stopping_criteria(generation_config, stopping_criteria, **kwargs)
        num_channels = self.config.decoder_config.num_channels
        return StoppingCriteriaList(
            # transformers' loop looks these two up by type.
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
        """Run the fast path where it supports the call, else the reference path (transformers' loop).

        Returns:
            Frames `[B, T, C]` on the fast path, rows `[B·C, T]` on the reference path, or an output with these.
        """
        call: DiaCall | None = model_kwargs.get("decoder_call")
        fast = FrameCall(self, call, logits_processor, stopping_criteria, generation_config, streamer, model_kwargs)
        requested = generation_config.use_fast_path
        reason = "`use_fast_path` is False" if requested is False else fast.unsupported_reason()
        if reason is not None and generation_config.return_alignment:
            raise ValueError(
                f"`return_alignment` needs the fast path, but {reason}; leave it out, or see `attend_to_text`."
            )
        if synced_gpus:
            reason = "`synced_gpus` makes several processes take the same number of steps"
        if reason is None:
            frames = fast.run()
            if generation_config.return_alignment:
                return DiaGenerateOutput(sequences=frames, alignment=fast.alignment)
            if generation_config.return_dict_in_generate:
                return GenerateEncoderDecoderOutput(sequences=frames)
            return frames
        if requested:
            raise ValueError(
                f"`use_fast_path` is True, but {reason}; leave `use_fast_path` out to generate on the reference path."
            )
        if requested is None:
            tell_once(reason)
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
        decoder_forced_ids: torch.Tensor | None = None,
        decoder_sampler: LogitsProcessor | None = None,
        decoder_engine: Engine | None = None,
        decoder_call: DiaCall | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Fold rows `[N, T]` into frames `[B, T, C]` of the samples that have not ended, doubled under guidance.

        The `decoder_` arguments named here are not passed to the network. The number of samples is that of the
        encoder's output, where there is one.
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
