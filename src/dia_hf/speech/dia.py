"""`Dia`: model and processor in one object, with the argument names of nari-labs/dia.

Passes text and audio to the processor, its outputs to the model's `generate`, and the codes to the codec. Called by
users and by the command line.

Legend: N samples.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from ..assets import MINIATURE
from ..audio.io import write_audio
from ..calibration import TEXTS
from ..configuration_dia import DiaConfig
from ..engine import Engine
from ..generation import DiaAudioStreamer, find_alignment_heads
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..text_files import shortened
from .align import AlignedWord, align
from .dialogue import Dialogue
from .doubts import SpeechCheck, estimate_text
from .live_timeline import Unit, check_unit
from .loading import ComputeDtype, load_local, load_model, resolve_device
from .options import generate_options
from .progress import SpokenSeconds, spoken_bar
from .script import parse_part, parse_script, remove_tags, render, split_prefix
from .stream_times import StreamTimes, texts_of
from .timestamps import Timeline
from .voices import Voice, load_voice

__all__ = ["ComputeDtype", "Dia", "resolve_device"]

VoiceLike = Voice | str | os.PathLike


class Dia:
    """Model and processor for speech generation.

    Args:
        model (`DiaForConditionalGeneration`): Model, on its device and in its dtype.
        processor (`DiaProcessor`): Its processor; with a codec, unless only codes are needed. The codec is moved to the
            model's device.

    Attributes:
        engine (`Engine`, *optional*): Set to an `Engine`, it computes the calls of all threads in one batch.
        sampling_rate (`int`): Rate in hertz of the waveforms that `generate` returns.
        device, compute_dtype, config, dac_model: Those of the model, and the codec's network, with nari-labs' names.

    Example:
    ```python
    >>> from dia_hf import Dia
    >>> dia = Dia.from_pretrained()
    >>> waveform = dia.generate("[S1] Hello. [S2] Hi!", seed=7, max_seconds=0.5)
    >>> waveform.dtype, waveform.ndim, dia.sampling_rate
    (dtype('float32'), 1, 16000)

    ```
    """

    def __init__(self, model: DiaForConditionalGeneration, processor: DiaProcessor) -> None:
        self.model = model
        self.processor = processor
        self.engine: Engine | None = None
        self.sampling_rate: int = processor.feature_extractor.sampling_rate
        self._finding = threading.Lock()  # of alignment heads
        if processor.audio_tokenizer is not None:
            processor.audio_tokenizer.to(model.device)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the model."""
        return self.model.dtype

    @property
    def config(self) -> DiaConfig:
        """The model's config."""
        return self.model.config

    @property
    def dac_model(self) -> Any:
        """The codec's network; `None` without a codec."""
        return self.processor.audio_tokenizer

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | os.PathLike = MINIATURE,
        compute_dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        load_dac: bool = True,
        *,
        codec: str | os.PathLike | None = None,
        adapter: str | os.PathLike | None = None,
        quantization: str | None = None,
    ) -> Dia:
        """Load a checkpoint, in the Hugging Face layout or any other that `load_checkpoint` reads.

        Args:
            model_name (`str` or `os.PathLike`, *optional*): Folder, weight file or Hub id, such as
                "nari-labs/Dia-1.6B-0626"; the embedded miniature, a small model, unless given.
            compute_dtype (`str` or `torch.dtype`, *optional*): "float32", "bfloat16" or "float16"; that of the
                checkpoint unless given, or bfloat16 with `quantization`. The codec stays in its own.
            device (`str` or `torch.device`, *optional*): A GPU if there is one, unless given.
            load_dac (`bool`, defaults to `True`): Whether to load the codec. Without it `generate` raises.
            codec (`str` or `os.PathLike`, *optional*): Codec: descript's .pth file, a GGUF file with one, or a folder
                or Hub id of a `DacModel`. By default the checkpoint's own, or else "descript/dac_44khz". That of a GGUF
                file can only decode: with it, audio prompts are an error.
            adapter (`str` or `os.PathLike`, *optional*): Adapter to merge into the weights, in float32: folder or Hub
                id of one that PEFT wrote.
            quantization (`str`, *optional*): "int8" or "int4", or "fp8" on a GPU: scheme for the decoder's weights; see
                `quantize_model`.

        Raises:
            OSError: If the checkpoint or a part of it does not exist.
            ValueError: If device or dtype are unknown or not available, or the checkpoint is truncated, incomplete or
                contradicts its config; if the quantization is unknown or not for this device, dtype or size.
            ImportError: If `quantization` is given and torchao is missing: `pip install "dia-hf[quantize]"`; for an
                adapter without PEFT, `"dia-hf[train]"`, and for GGUF without `gguf`, `"dia-hf[gguf]"`.
        """
        return cls(*load_model(model_name, compute_dtype, device, load_dac, quantization, codec, adapter))

    @classmethod
    def from_local(
        cls,
        config_path: str | os.PathLike,
        checkpoint_path: str | os.PathLike,
        compute_dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        load_dac: bool = True,
        *,
        codec: str | os.PathLike = "descript/dac_44khz",
        quantization: str | None = None,
    ) -> Dia:
        """Load nari-labs' files, of either release, without converting them first.

        Args:
            config_path (`str` or `os.PathLike`): Their config.json.
            checkpoint_path (`str` or `os.PathLike`): Their weights, .pth or .safetensors.
            compute_dtype (`str` or `torch.dtype`, *optional*): That of the weights unless given, or bfloat16 with
                `quantization`.
            device (`str` or `torch.device`, *optional*): A GPU if there is one, unless given.
            load_dac (`bool`, defaults to `True`): Whether to load the codec. Without it `generate` raises.
            codec (`str` or `os.PathLike`, defaults to `"descript/dac_44khz"`): The codec: descript's .pth file, a
                folder, or a name on the Hub.
            quantization (`str`, *optional*): See `from_pretrained`.

        Raises:
            OSError: If a file does not exist.
            ValueError: If device or dtype are not available, or the files are no Dia; the error says why.
            ImportError: If `quantization` is given and torchao is missing.
        """
        wanted = codec if load_dac else None
        return cls(*load_local(config_path, checkpoint_path, compute_dtype, device, wanted, quantization))

    def generate(
        self,
        text: str | Sequence[str],
        max_tokens: int | None = None,
        cfg_scale: float | Sequence[float] | None = None,
        temperature: float | Sequence[float] | None = None,
        top_p: float | Sequence[float] | None = None,
        use_torch_compile: bool = False,
        cfg_filter_top_k: int | Sequence[int] | None = None,
        audio_prompt: Any = None,
        audio_prompt_path: Any = None,
        use_cfg_filter: bool | None = None,
        verbose: bool = False,
        *,
        voice: VoiceLike | Sequence[VoiceLike | None] | None = None,
        seed: int | Sequence[int] | None = None,
        max_seconds: float | None = None,
        max_batch_size: int | None = None,
        return_codes: bool = False,
        return_timestamps: Unit | None = None,
    ) -> np.ndarray | list[np.ndarray] | tuple[Any, ...]:
        """Generate speech.

        Sampling parameters default to the checkpoint's `generation_config.json`; the published one has scale 3.0,
        temperature 1.2, top-p 0.95 and top-k 45, which are also nari-labs' defaults.

        Args:
            text (`str` or `Sequence[str]`): Text with speaker tags. With an `audio_prompt`, its transcript comes
                first.
            max_tokens (`int`, *optional*): Limit of channel 0 in frames, prompt included.
            cfg_scale (`float`, *optional*): Classifier-free guidance scale, above 0; 1 disables guidance.
            temperature (`float`, *optional*): Sampling temperature; 0 is greedy decoding.
            top_p (`float`, *optional*): Nucleus sampling, in (0, 1].
            use_torch_compile (`bool`, defaults to `False`): Whether to compile the decoding step. The first call then
                takes a minute; on a CPU it needs a C++ compiler.
            cfg_filter_top_k (`int`, *optional*): Tokens that remain after guidance.
            audio_prompt (*optional*): Recording of a voice to continue: a path, codes (`load_audio`), or any form that
                `DiaProcessor` takes; for several texts a list of as many, `None` for none. The result excludes it.
            audio_prompt_path (*optional*): Older name of `audio_prompt`; deprecated.
            use_cfg_filter (`bool`, *optional*): Without effect, as in nari-labs/dia; deprecated.
            verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.
            voice (`Voice`, path or name, *optional*): Voice, instead of `audio_prompt`; its transcript is put before
                the text. For several texts one for all, or a list of as many, `None` for none.
            seed (`int`, *optional*): Seed of the sampling; the global random generator is used unless given.
            max_seconds (`float`, *optional*): Limit of the new audio in seconds, instead of `max_tokens`.
            max_batch_size (`int`, *optional*): Slots for texts; finished texts free their slot for waiting ones. As
                many as fit into the memory unless given; not with `verbose`.
            return_codes (`bool`, defaults to `False`): Whether to return the codes as well.
            return_timestamps (`str`, *optional*): Whether to return the times of words ("word") or characters ("char")
                as well, from what the model's `alignment_heads` look at while it speaks. The audio is the same. A
                checkpoint without them speaks four sentences first, to find them.

        For several texts, `cfg_scale`, `temperature` (above 0), `top_p`, `cfg_filter_top_k` and `seed` may be lists of
        as many.

        Returns:
            `np.ndarray` of shape `[N]`, float32, or a list of them where `text` is a list.
            With `return_codes` a pair of these and of the codes, `torch.LongTensor` of shape `[T, C]` on the CPU, or a
            list of them. With `return_timestamps` the last is a `list[TimedText]`, or a list of them.

        Raises:
            ValueError: If text, prompt or an option is unusable; each error names a remedy.

        Warns:
            SpeechWarning: Once, if the audio is empty, silent, cut at a limit, or much shorter or longer than
                `estimate_seconds` of the text.
        """
        check_unit("return_timestamps", return_timestamps)
        if audio_prompt_path is not None:
            warnings.warn("`audio_prompt_path` is deprecated; use `audio_prompt`.", FutureWarning, stacklevel=2)
            audio_prompt = audio_prompt_path
        if use_cfg_filter is not None:
            warnings.warn("`use_cfg_filter` has no effect; leave it out.", FutureWarning, stacklevel=2)
        num_texts = len(text) if isinstance(text, Sequence) and not isinstance(text, str) else 1
        sampling = (cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile, seed, num_texts)
        options = self._options(sampling, max_tokens, max_seconds)
        inputs = self._prepare(text, audio_prompt, voice)
        if return_timestamps is not None:
            options |= {"return_alignment": True, "alignment_heads": self.alignment_heads()}
        check = self._check_of(text, inputs, voice, max_tokens, max_seconds)
        frame_rate, max_delay = self.processor.codec.frame_rate, self.model.config.max_delay
        with spoken_bar(max_seconds, is_shown=verbose) as bar:
            streamer = SpokenSeconds(bar, frame_rate, max_delay) if verbose else None
            output: Any = self.model.generate(
                **inputs, **options, streamer=streamer, max_batch_size=max_batch_size, engine=self.engine
            )
        tokens = output if return_timestamps is None else output.sequences
        prompt_len = self.processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
        codes = self.processor.extract_codes(tokens, prompt_len)
        waveforms = [waveform.numpy() for waveform in self.processor.codec.decode(codes)]
        check.add(waveforms)
        check.warn(stacklevel=2)
        results: list[list[Any]] = [waveforms]
        if return_codes:
            results.append(codes)
        if return_timestamps is not None:
            timelines = self._timelines(text, inputs, voice, output.alignment, codes)
            results.append([one.words if return_timestamps == "word" else one.characters for one in timelines])
        if isinstance(text, str):
            results = [result[0] for result in results]
        return results[0] if len(results) == 1 else tuple(results)

    def alignment_heads(self) -> list[list[int]]:
        """Return the heads of cross-attention that look at the byte being spoken, layer and head of each.

        Those of the generation config, if it has some; otherwise they are found in four spoken sentences, and stored
        there.

        Raises:
            ValueError: If no head follows the text.
        """
        config = self.model.generation_config
        if not getattr(config, "alignment_heads", None):
            with self._finding:  # one of several threads; the others wait
                if not getattr(config, "alignment_heads", None):
                    config.alignment_heads = find_alignment_heads(self.model, self.processor.tokenizer, TEXTS[:4])
        return config.alignment_heads

    def align(
        self,
        text: str,
        audio: Any,
        sampling_rate: int | None = None,
        *,
        chunk_length_s: float = 10.0,
        verbose: bool = False,
    ) -> list[AlignedWord]:
        """Align a recording and its transcript: the time of each word, and how far the two agree (see `align.py`).

        Args:
            text (`str`): Transcript with speaker tags.
            audio: The recording, of any length: a path, codes (`load_audio`), or any form that `DiaProcessor` takes.
            sampling_rate (`int`, *optional*): Rate of a waveform in hertz; a file has its own.
            chunk_length_s (`float`, defaults to 10.0): Seconds that the model reads at once; a longer recording is
                read in windows, each from the end of a sentence on.
            verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.

        Returns:
            `list[AlignedWord]`: All words in order. An `evidence` below 0 means that a word is probably not what is
            said there.

        Raises:
            ValueError: If the text or the recording is unusable, or `chunk_length_s` longer than one pass of the model.

        Example:
        ```python
        >>> from dia_hf import Dia
        >>> dia = Dia.from_pretrained()
        >>> speech = dia.generate("[S1] Good morning, father.", temperature=0)
        >>> [word.text for word in dia.align("[S1] Good evening, father.", speech, 16000) if word.evidence < 0]
        ['evening,']

        ```
        """
        heads = self.alignment_heads()
        return align(self.model, self.processor, text, audio, heads, sampling_rate, chunk_length_s, verbose)

    def _timelines(
        self,
        text: str | Sequence[str],
        inputs: BatchFeature,
        voice: Any,
        alignment: Sequence[torch.Tensor],
        codes: Sequence[torch.Tensor],
    ) -> list[Timeline]:
        """Return the times of each text, from the weights `[frames, S]` and codes `[T, C]` of each."""
        texts = [text] if isinstance(text, str) else list(text)
        tokenizer, frame_rate = self.processor.tokenizer, self.processor.codec.frame_rate
        timelines = []
        reads = texts_of(tokenizer, inputs)
        for index, (script, read, weights, spoken) in enumerate(zip(texts, reads, alignment, codes, strict=True)):
            num_given = self.model.config.frames_for_steps(int(inputs["decoder_attention_mask"][index].sum()))
            timeline = Timeline(script, tokenizer.speaker_tokens, frame_rate, tokenizer.language_tokens)
            weights = weights[: num_given + len(spoken)]
            if voice is None:  # the transcript of an `audio_prompt` is in the script
                timeline.add(read, script, weights, num_given)
            else:
                timeline.add(read, script, weights[num_given:])
            timelines.append(timeline)
        return timelines

    def stream(
        self,
        text: str | Sequence[str] | Iterator[str],
        max_tokens: int | None = None,
        cfg_scale: float | Sequence[float] | None = None,
        temperature: float | Sequence[float] | None = None,
        top_p: float | Sequence[float] | None = None,
        use_torch_compile: bool = False,
        cfg_filter_top_k: int | Sequence[int] | None = None,
        audio_prompt: Any = None,
        *,
        voice: VoiceLike | Sequence[VoiceLike | None] | None = None,
        seed: int | Sequence[int] | None = None,
        max_seconds: float | None = None,
        first_chunk_frames: int = 1,
        chunk_frames: int = 64,
        split: str = "sentence",
        language: str = "en",
        return_timestamps: Unit | None = None,
    ) -> Iterator[Any]:
        """Generate speech, and yield it during generation.

        The audio chunks, concatenated, equal the result of `generate`. Generation runs in its own thread, which ends
        with the iterator: at its end, by `close()` or by `break`.

        The text may come in pieces, such as the tokens of a language model: an iterator of strings, of which each
        sentence is spoken as soon as it is complete, with the sentences before it as a prompt. Generation then goes on
        while the consumer plays; lengths of chunks follow from the pace of both. `max_tokens`, `use_torch_compile` and
        `audio_prompt` are for whole texts.

        Args:
            text (`str`, `Sequence[str]` or `Iterator[str]`): Text with speaker tags, several texts, or one in pieces.
            max_tokens, cfg_scale, temperature, top_p, use_torch_compile, cfg_filter_top_k: See `generate`.
            audio_prompt, voice, seed, max_seconds: See `generate`. For a text in pieces, `voice` may be a mapping from
                speaker tags to voices, and `max_seconds` limits the whole, of any length.
            first_chunk_frames, chunk_frames (`int`): Lengths of the first chunk and of the later ones; see
                `DiaAudioStreamer`.
            split, language (`str`): For a text in pieces: where it is split, see `SentenceSplitter`.
            return_timestamps (`str`, *optional*): Whether to return the times of words ("word") or characters ("char")
                as well, each with the chunk that it ends in; see `generate`. The audio is the same. A time is that of
                the most probable path up to the frames that the chunk needs anyway, so it can differ from `generate`'s,
                which reads to the end. For a text in pieces, places are those in the pieces joined.

        Returns:
            An iterator over `np.ndarray` of shape `[N]`, float32; where `text` is a list, over lists of them, of 0
            samples for a finished text. With `return_timestamps` over pairs of these and of a `list[TimedText]`, or a
            list of them.

        Raises:
            ValueError: If text, prompt or an option is unusable; each error names a remedy.

        Warns:
            SpeechWarning: Once, if the audio is empty, silent, cut at a limit, or much shorter or longer than
                `estimate_seconds` of the text.
        """
        check_unit("return_timestamps", return_timestamps)
        if isinstance(text, Iterator):
            for name, value in (("max_tokens", max_tokens), ("audio_prompt", audio_prompt)):
                if value is not None:
                    raise ValueError(f"`{name}` is for a whole text; give `max_seconds` and a `voice` for pieces.")
            if use_torch_compile:
                raise ValueError("`use_torch_compile` is for a whole text; leave it out for pieces.")
            parameters: dict[str, Any] = {
                "cfg_scale": cfg_scale,
                "temperature": temperature,
                "top_p": top_p,
                "cfg_filter_top_k": cfg_filter_top_k,
                "seed": seed,
                "max_seconds": max_seconds,
                "timestamps": return_timestamps,
            }
            return self._stream_pieces(text, voice, split, language, parameters)
        num_texts = len(text) if isinstance(text, Sequence) and not isinstance(text, str) else 1
        sampling = (cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile, seed, num_texts)
        options = self._options(sampling, max_tokens, max_seconds)
        inputs = self._prepare(text, audio_prompt, voice)
        streamer = DiaAudioStreamer(self.processor, first_chunk_frames, chunk_frames)
        times: StreamTimes | None = None
        if return_timestamps is not None:
            heads = self.alignment_heads()
            options |= {"return_alignment": True, "alignment_heads": heads}
            times = StreamTimes(self.model, self.processor, text, inputs, heads, return_timestamps)
            times.begin(has_given=voice is None)
        chunks = streamer.listen(self.model.generate, **inputs, **options, engine=self.engine)
        check = self._check_of(text, inputs, voice, max_tokens, max_seconds)
        is_list = not isinstance(text, str)
        if times is None:
            return self._checked(chunks, check, is_list)
        checked = self._checked(chunks, check, is_list=True, stacklevel=3)
        return times.add(checked, streamer.alignment, is_list)

    def _stream_pieces(
        self, pieces: Iterator[str], voice: Any, split: str, language: str, sampling: dict[str, Any]
    ) -> Iterator[np.ndarray]:
        from .handle import SpeechRequest  # these build on this file
        from .spoken_text import stream_text
        from .text_stream import TextStream

        text = TextStream(split, language)
        return stream_text(self, pieces, text, SpeechRequest(text, voices=_load_voices(voice), **sampling))

    def _checked(
        self, chunks: Generator[Any, None, None], check: SpeechCheck, is_list: bool, stacklevel: int = 2
    ) -> Generator[Any, None, None]:
        """Yield audio chunks, as lists if `is_list`, and warn at the end of implausible audio."""
        with closing(chunks):
            for chunk in chunks:
                parts = chunk if isinstance(chunk, list) else [chunk]
                check.add(parts)
                yield parts if is_list else chunk
        check.warn(stacklevel=stacklevel)

    def _check_of(
        self,
        text: str | Sequence[str],
        inputs: BatchFeature,
        voice: Any,
        max_tokens: int | None,
        max_seconds: float | None,
    ) -> SpeechCheck:
        """Create the check of a call: the expected seconds of each text, and the limit that can cut it."""
        texts, frame_rate = [text] if isinstance(text, str) else list(text), self.processor.codec.frame_rate
        tokenizer = self.processor.tokenizer
        num_read = inputs["decoder_attention_mask"].sum(dim=-1).tolist()
        prompts = [max(self.model.config.frames_for_steps(number), 0) for number in num_read]
        if max_seconds is not None:
            name, limit = f"`max_seconds` ({max_seconds:g})", int(max_seconds * frame_rate)
        else:
            name = "the checkpoint's `max_length`" if max_tokens is None else f"`max_tokens` ({max_tokens})"
            limit = max_tokens or self.model.generation_config.max_length or 0
            # Without BOS and EOS. Another type raises where it is used.
            limit = max(int(limit) - 2 - max(prompts), 1) if isinstance(limit, Integral) and limit else 10**9
        return SpeechCheck(
            expected=[
                estimate_text(remove_tags(words, tokenizer.language_tokens), tokenizer.speaker_tokens)
                for words in texts
            ],
            # The transcript of a voice is not part of `text`; that of an `audio_prompt` is, at an unknown length.
            prompts=[0.0 if voice is not None else prompt / frame_rate for prompt in prompts],
            sampling_rate=self.sampling_rate,
            max_frames=limit,
            limit=name,
            frame_rate=frame_rate,
        )

    def max_frames(self, max_seconds: float | None = None) -> int:
        """Return the maximal number of frames of `generate` for a text without a prompt.

        Args:
            max_seconds (`float`, *optional*): Its limit; the checkpoint's `max_length` unless given.

        Raises:
            ValueError: If the limit is no number, shorter than a frame, or more than the model's positions allow.
        """
        config, frame_rate = self.model.config, self.processor.codec.frame_rate
        longest = config.max_generated_frames
        if max_seconds is None:
            max_length = self.model.generation_config.max_length
            return longest if max_length is None else min(max_length - 2, longest)  # BOS and EOS
        if not isinstance(max_seconds, Real) or not math.isfinite(max_seconds * frame_rate):
            raise ValueError(f"`max_seconds` is {shortened(max_seconds)}; give a number of seconds.")
        num_frames = int(max_seconds * frame_rate)
        if num_frames < 1:
            raise ValueError(f"`max_seconds` is {max_seconds}; a frame lasts {1 / frame_rate:.3f} s.")
        if num_frames > longest:
            raise ValueError(
                f"`max_seconds` is {max_seconds}, but this model generates at most {longest / frame_rate:.1f} s in one "
                "call; use `dialogue` for more."
            )
        return num_frames

    def dialogue(
        self,
        script: str,
        *,
        voices: Mapping[str, VoiceLike] | VoiceLike | None = None,
        chunk_length_s: tuple[float, float] = (5.0, 15.0),
        language: str = "en",
        closing_tag: bool = False,
        folder: str | os.PathLike | None = None,
        cfg_scale: float | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        cfg_filter_top_k: int | None = None,
        use_torch_compile: bool = False,
        seed: int | None = None,
        max_seconds: float | None = None,
        timestamps: bool = False,
    ) -> Dialogue:
        """Plan a script of any length, for `.generate()` or `.stream()` of the result.

        Args:
            script (`str`): Text with speaker tags.
            voices (*optional*): Voice (or its path or name) for some or all speaker tags, `{"[S1]": "anna"}`; or one
                voice whose transcript has the tags of several speakers.
            chunk_length_s, language, closing_tag, folder, seed, max_seconds: See `Dialogue`.
            cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile: See `generate`.
            timestamps (`bool`, defaults to `False`): Whether to find the times of words, the `timeline` of the result.

        Raises:
            ValueError: If the script, a voice, the folder or an option is unusable; each error names a remedy.

        Example:
        ```python
        >>> from dia_hf import Dia
        >>> dialogue = Dia.from_pretrained().dialogue("[S1] Hello. [S2] Hi!", seed=7, max_seconds=0.5)
        >>> len(dialogue.chunks), sum(len(part) for part in dialogue.stream())
        (1, 7680)

        ```
        """
        dialogue = Dialogue(
            self.model,
            self.processor,
            script,
            _load_voices(voices),
            chunk_length_s,
            language,
            closing_tag,
            folder,
            seed,
            max_seconds,
            self._options((cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile)),
            self.engine,
            self.alignment_heads() if timestamps else None,
        )
        for issue in dialogue.issues:
            warnings.warn(issue, stacklevel=2)
        return dialogue

    def load_audio(self, audio_path: str | os.PathLike) -> torch.Tensor:
        """Encode a recording, for repeated use as `audio_prompt`.

        Args:
            audio_path (`str` or `os.PathLike`): The file.

        Returns:
            `torch.LongTensor` of shape `[T, C]`: Codes, on the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no audio.
        """
        features = self.processor.feature_extractor(audio_path, audio_tokenizer=self.processor.codec)
        return features["audio_codes"][0]

    def save_audio(self, path: str | os.PathLike, audio: np.ndarray, metadata: dict[str, Any] | None = None) -> None:
        """Write a waveform to a file; the ending chooses the format: wav, flac, mp3 or ogg.

        Args:
            path (`str` or `os.PathLike`): The file; missing folders are created.
            audio (`np.ndarray` of shape `[N]`): From `generate`.
            metadata (`dict`, *optional*): How it was made, such as text, seed and arguments, for
                `dia_hf.audio.io.read_metadata`.

        Raises:
            ValueError: If the ending is unknown.
            OSError: If the file cannot be written; an existing file is left unchanged.
        """
        write_audio(path, np.asarray(audio, dtype=np.float32), self.sampling_rate, metadata)

    def _options(
        self, sampling: tuple[Any, ...], max_tokens: int | None = None, max_seconds: float | None = None
    ) -> dict[str, Any]:
        """Translate a call's arguments for the model's `generate`; `sampling` is as `generate_options` takes it."""
        if max_tokens is not None and max_seconds is not None:
            raise ValueError(
                f"`max_tokens` ({shortened(max_tokens)}) and `max_seconds` ({shortened(max_seconds)}) are both given; "
                "give one."
            )
        options = generate_options(self.model.device, *sampling)
        if max_tokens is not None:
            options["max_length"] = max_tokens
        if max_seconds is not None:
            # EOS of channel 0 follows the frames; the delay adds the steps of the slowest channel.
            options["max_new_tokens"] = self.model.config.steps_for_frames(self.max_frames(max_seconds))
        return options

    def _prepare(self, text: str | Sequence[str], audio_prompt: Any, voice: Any) -> BatchFeature:
        """Make model inputs, with the transcripts of voices before the texts."""
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(words, str) for words in texts):
            raise TypeError(f"`text` is {shortened(text)}; give a string, or a list of strings.")
        if voice is not None:
            if audio_prompt is not None:
                raise ValueError("`voice` and `audio_prompt` are both given; give one.")
            voices = list(voice) if isinstance(voice, (list, tuple)) else [voice] * len(texts)
            if len(voices) != len(texts):
                raise ValueError(f"{len(texts)} texts but {len(voices)} voices; give one voice (or None) for each.")
            loaded = [None if item is None else load_voice(item) for item in voices]
            texts = [
                words if item is None else self._as_this_voice(item, words)
                for item, words in zip(loaded, texts, strict=True)
            ]
            audio_prompt = [None if item is None else item.codes for item in loaded]
        tokenizer = self.processor.tokenizer
        for words in texts:
            if (num_ids := tokenizer.count_ids(words)) > tokenizer.model_max_length:
                raise ValueError(
                    f"the text has {num_ids} ids (bytes, a tag counting as one), and Dia takes at most "
                    f"{tokenizer.model_max_length} in one call; `Dia.dialogue` and `dia-hf generate` split texts of "
                    "any length into chunks and take a recording and its transcript apart: a `Voice`, or --prompt-text."
                )
        inputs = self.processor(text=texts, audio=audio_prompt)
        return inputs.to(self.model.device)

    def _as_this_voice(self, voice: Voice, text: str) -> str:
        """Put a voice's transcript before a text, under the tag of the text's first speaker."""
        voice.check(self.processor.codec)
        tokenizer = self.processor.tokenizer
        tokens, languages = tokenizer.speaker_tokens, tokenizer.language_tokens
        prefix, spoken = split_prefix(text, languages)
        turns = parse_script(spoken, tokens)
        if not turns:
            raise ValueError("the text is empty; give a text, such as '[S1] Hello.'.")
        is_for_all = len(voice.speakers_of(tokens)) > 1
        transcript = voice.transcript if is_for_all else voice.transcript_as(turns[0].speaker, tokens)
        return render([*parse_part(transcript, tokens, languages, prefix), *turns], prefix=prefix)


def _load_voices(voices: Mapping[str, VoiceLike] | VoiceLike | None) -> dict[str, Voice] | Voice | None:
    if isinstance(voices, Mapping):
        return {speaker: load_voice(voice) for speaker, voice in voices.items()}
    return None if voices is None else load_voice(voices)
