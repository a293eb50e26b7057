"""The whole job in one object, under the argument names of nari-labs/dia.

Knows nothing of networks and tokens: it hands text and audio to the processor, its outputs to `generate`, and the
codes back. Called by users and by the command line.

Legend: N samples.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import BatchFeature, CompileConfig

from ..assets import MINIATURE
from ..atomic_write import shortened
from ..audio.io import write_audio
from ..configuration_dia import DiaConfig
from ..conversion import load_checkpoint
from ..conversion.source import is_nari
from ..conversion.weights import read_index
from ..generation import DiaAudioStreamer
from ..hub import check_model
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor
from ..quantization import check_scheme, quantize_model
from .dialogue import Dialogue
from .doubts import SpeechStats, estimate_text, find_doubt, tell, warn_unknown_words
from .progress import SpokenSeconds, spoken_bar
from .script import parse_script, render, split_prefix
from .voices import Voice, load_voice

__all__ = ["ComputeDtype", "Dia", "resolve_device"]

VoiceLike = Voice | str | os.PathLike


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Choose a device: the one named, or else the fastest there is.

    Args:
        device (`str` or `torch.device`, *optional*): Such as `"cpu"`, `"cuda:1"` or `"mps"`.

    Raises:
        ValueError: If it is not available here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the device {str(device)!r} is not available here ({reason}); use 'cpu'.") from error
    return device


def _resolve_dtype(dtype: str | torch.dtype | None) -> str | torch.dtype:
    if dtype is None:
        return "auto"
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise ValueError(f"`compute_dtype` is {dtype!r}; use 'float32', 'bfloat16' or 'float16'.")
    return resolved


def _check_folder(model_name: str | os.PathLike) -> None:
    """Say of a folder what transformers' errors do not: that it is an adapter, or has a damaged index."""
    folder = Path(model_name)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{str(model_name)!r} is an adapter and no whole model; merge it into the model that it was trained on: "
            "`dia_hf.training.merge_adapter`."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        read_index(index)


class ComputeDtype(str, Enum):
    """nari-labs' names of the dtypes to compute with; plain strings and `torch.dtype` do as well."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    def to_dtype(self) -> torch.dtype:
        """Return torch's."""
        return getattr(torch, self.value)


class Dia:
    """A model and its processor.

    Args:
        model (`DiaForConditionalGeneration`): The network, on the device and in the dtype to compute with.
        processor (`DiaProcessor`): Its processor; with the codec, unless only codes are wanted. The codec is moved to
            the model's device.

    Attributes:
        sampling_rate (`int`): Rate in hertz of the waveforms that `generate` returns.
        device, compute_dtype, config, dac_model: Those of the model, and the codec's network, by nari-labs' names.

    Example:
    ```python
    >>> from dia_hf import Dia
    >>> dia = Dia.from_pretrained()
    >>> waveform = dia.generate("[S1] Hello. [S2] Hi!", seed=7, max_seconds=0.5)
    >>> waveform.dtype, waveform.ndim, dia.sampling_rate
    (dtype('float32'), 1, 16000)

    ```
    """

    _is_miniature = False  # loaded as the embedded checkpoint, which knows few words

    def __init__(self, model: DiaForConditionalGeneration, processor: DiaProcessor) -> None:
        self.model = model
        self.processor = processor
        self.sampling_rate: int = processor.feature_extractor.sampling_rate
        if processor.audio_tokenizer is not None:
            processor.audio_tokenizer.to(model.device)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the model computes with."""
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
        quantization: str | None = None,
    ) -> Dia:
        """Load a checkpoint.

        Args:
            model_name (`str` or `os.PathLike`, *optional*): Folder or Hub id, such as "nari-labs/Dia-1.6B-0626"; the
                embedded miniature, which knows few words, unless given.
            compute_dtype (`str` or `torch.dtype`, *optional*): "float32", "bfloat16" or "float16"; that of the
                checkpoint unless given, or bfloat16 with `quantization`. The codec stays in its own.
            device (`str` or `torch.device`, *optional*): A GPU if there is one, unless given.
            load_dac (`bool`, defaults to `True`): Whether to load the codec. Without it `generate` raises.
            quantization (`str`, *optional*): "int8" or "int4", or "fp8" on a GPU: fewer bits for the decoder's weights;
                see `quantize_model`.

        Raises:
            OSError: If the checkpoint or a part of it does not exist.
            ValueError: If device or dtype are unknown or not available, or the checkpoint is truncated, incomplete or
                contradicts its config; if the quantization is unknown or not for this device, dtype or size.
            ImportError: If `quantization` is given and torchao is missing: `pip install "dia-hf[quantize]"`.
        """
        dtype, device = _resolve_dtype(compute_dtype), resolve_device(device)
        if quantization is not None:
            dtype = check_scheme(quantization, device, dtype)
        check_model(model_name)
        _check_folder(model_name)
        if is_nari(model_name):
            return cls._from_nari(model_name, dtype, device, load_dac, quantization)
        try:
            model, report = DiaForConditionalGeneration.from_pretrained(
                model_name, dtype=dtype, output_loading_info=True
            )
        except (RuntimeError, SafetensorError, StrictDataclassError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{str(model_name)!r} cannot be loaded: {error}") from error
        if missing := sorted(report["missing_keys"]):
            # transformers draws them at random, and warns.
            raise ValueError(
                f"{str(model_name)!r} lacks {len(missing)} of the model's tensors, such as {missing[0]!r}; it is "
                "incomplete, or no Dia checkpoint in the Hugging Face layout."
            )
        model = model.to(device).eval()
        if quantization is not None:
            quantize_model(model, quantization)
        dia = cls(model, DiaProcessor.from_pretrained(model_name, load_codec=load_dac))
        dia._is_miniature = Path(model_name) == Path(MINIATURE)
        return dia

    @classmethod
    def _from_nari(
        cls,
        model_name: str | os.PathLike,
        dtype: str | torch.dtype,
        device: torch.device,
        load_dac: bool,
        quantization: str | None,
    ) -> Dia:
        """Load a checkpoint in a layout of nari-labs, whose codec is the Hub's unless it lies inside."""
        inside = os.path.join(model_name, "audio_tokenizer")
        codec = inside if os.path.isdir(inside) else "descript/dac_44khz"
        try:
            model, processor = load_checkpoint(
                model_name, dtype=None if dtype == "auto" else dtype, codec=codec if load_dac else None
            )
        except (OSError, ValueError) as error:
            kind = ValueError if isinstance(error, ValueError) else OSError
            raise kind(
                f"{str(model_name)!r} is in nari-labs' layout; name its files, `Dia.from_local(config_path, "
                "checkpoint_path, codec=...)`, or make it whole, `dia-hf convert --codec`. As a folder, "
                f"with the codec {codec!r}, it cannot be loaded: {str(error).splitlines()[0]}"
            ) from error
        model = model.to(device)
        if quantization is not None:
            quantize_model(model, quantization)
        return cls(model, processor)

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
        dtype, device = _resolve_dtype(compute_dtype), resolve_device(device)
        if quantization is not None:
            dtype = check_scheme(quantization, device, dtype)
        model, processor = load_checkpoint(
            checkpoint_path,
            config_path,
            dtype=None if dtype == "auto" else dtype,
            codec=codec if load_dac else None,
        )
        model = model.to(device)
        if quantization is not None:
            quantize_model(model, quantization)
        return cls(model, processor)

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
    ) -> np.ndarray | list[np.ndarray]:
        """Speak.

        What is left out is as the checkpoint's `generation_config.json` says; the published one says scale 3.0,
        temperature 1.2, top-p 0.95, top-k 45, which are also nari-labs' defaults.

        Args:
            text (`str` or `Sequence[str]`): What to say, with speaker tags. With an `audio_prompt`, its transcript
                comes first.
            max_tokens (`int`, *optional*): Limit of channel 0 in frames, the prompt included.
            cfg_scale (`float`, *optional*): Guidance, above 0; 1 switches it off.
            temperature (`float`, *optional*): Of sampling, above 0; 0 means the best token always (greedy).
            top_p (`float`, *optional*): Nucleus, in (0, 1].
            use_torch_compile (`bool`, defaults to `False`): Whether to compile the decoding step. The first call then
                takes a minute; on a CPU it needs a C++ compiler.
            cfg_filter_top_k (`int`, *optional*): Tokens that guidance lets pass.
            audio_prompt (*optional*): A voice to go on with: a path, codes (`load_audio`), or whatever `DiaProcessor`
                takes; for several texts a list of as many, `None` meaning none. It is not part of the result.
            audio_prompt_path (*optional*): The older name of `audio_prompt`; deprecated.
            use_cfg_filter (`bool`, *optional*): Without effect, as in nari-labs/dia; deprecated.
            verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.
            voice (`Voice`, path or name, *optional*): Instead of `audio_prompt`, a voice whose transcript is put before
                the text; for several texts one for all, or a list of as many, `None` meaning none.
            seed (`int`, *optional*): Makes sampling reproducible, whatever else runs; the global generator unless
                given.
            max_seconds (`float`, *optional*): Limit of the new audio in seconds, instead of `max_tokens`.
            max_batch_size (`int`, *optional*): Texts to speak at once; whoever has ended makes room for who waits. As
                many as fit into the memory unless given; not with `verbose`, which hears all at once.

        For several texts, `cfg_scale`, `temperature`, `top_p`, `cfg_filter_top_k` and `seed` may be lists of as many.

        Returns:
            `np.ndarray` of shape `[N]`, float32, or a list of them where `text` is a list.

        Raises:
            ValueError: If text, prompt or an option is unusable; each error says what would do.

        Warns:
            SpeechWarning: Once, if the sound is empty, silent, cut at a limit, or far from what `estimate_seconds` says
                of the text.
            UnknownWordsWarning: A `SpeechWarning`, before generation, if the embedded miniature is given words that it
                was not trained on.
        """
        if audio_prompt_path is not None:
            warnings.warn("`audio_prompt_path` is deprecated; use `audio_prompt`.", FutureWarning, stacklevel=2)
            audio_prompt = audio_prompt_path
        if use_cfg_filter is not None:
            warnings.warn("`use_cfg_filter` has no effect; leave it out.", FutureWarning, stacklevel=2)
        options = self._options(
            cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile, max_tokens, max_seconds, seed
        )
        inputs = self._prepare(text, audio_prompt, voice)
        if self._is_miniature:
            warn_unknown_words([text] if isinstance(text, str) else text, stacklevel=2)
        codec, max_delay = self.processor.codec, max(self.model.config.delay_pattern)
        with spoken_bar(max_seconds, is_shown=verbose) as bar:
            streamer = SpokenSeconds(bar, codec.frame_rate, max_delay) if verbose else None
            codes = self.model.generate(**inputs, **options, streamer=streamer, max_batch_size=max_batch_size)
        prompt_len = self.processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
        waveforms = [waveform.numpy() for waveform in self.processor.batch_decode(codes, prompt_len)]
        heard = [SpeechStats(self.sampling_rate) for _ in waveforms]
        for one, waveform in zip(heard, waveforms, strict=True):
            one.add(waveform)
        tell(self._doubts(heard, text, inputs, voice, max_tokens, max_seconds), stacklevel=2)
        return waveforms[0] if isinstance(text, str) else waveforms

    def stream(
        self,
        text: str | Sequence[str],
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
    ) -> Iterator[Any]:
        """Speak, and hear it while it is spoken.

        The chunks, put together, are what `generate` returns. Generation runs in a thread of its own and ends with the
        iterator, be it at its end, by `close()` or by a `break`.

        Args:
            text, max_tokens, cfg_scale, temperature, top_p, use_torch_compile, cfg_filter_top_k, audio_prompt, voice,
                seed, max_seconds: See `generate`.
            first_chunk_frames, chunk_frames (`int`): Lengths of the first chunk and of the later ones; see
                `DiaAudioStreamer`.

        Returns:
            An iterator over `np.ndarray` of shape `[N]`, float32; where `text` is a list, over lists of them, of 0
            samples where a text has been said.

        Raises:
            ValueError: If text, prompt or an option is unusable; each error says what would do.

        Warns:
            SpeechWarning: Once, if the sound is empty, silent, cut at a limit, or far from what `estimate_seconds` says
                of the text.
            UnknownWordsWarning: A `SpeechWarning`, before generation, if the embedded miniature is given words that it
                was not trained on.
        """
        options = self._options(
            cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile, max_tokens, max_seconds, seed
        )
        inputs = self._prepare(text, audio_prompt, voice)
        if self._is_miniature:
            warn_unknown_words([text] if isinstance(text, str) else text, stacklevel=2)
        streamer = DiaAudioStreamer(self.processor, first_chunk_frames, chunk_frames)
        chunks = streamer.listen(self.model.generate, **inputs, **options)
        return self._listen(chunks, text, inputs, voice, max_tokens, max_seconds)

    def _listen(
        self,
        chunks: Generator[Any, None, None],
        text: str | Sequence[str],
        inputs: BatchFeature,
        voice: Any,
        max_tokens: int | None,
        max_seconds: float | None,
    ) -> Iterator[Any]:
        """Hand chunks on, lists for lists, and say at the end what is wrong with the whole."""
        heard = [SpeechStats(self.sampling_rate) for _ in range(len(inputs["input_ids"]))]
        with closing(chunks):
            for chunk in chunks:
                parts = chunk if isinstance(chunk, list) else [chunk]
                for one, part in zip(heard, parts, strict=True):
                    one.add(part)
                yield chunk if isinstance(text, str) else parts
        tell(self._doubts(heard, text, inputs, voice, max_tokens, max_seconds), stacklevel=2)

    def _doubts(
        self,
        heard: Sequence[SpeechStats],
        text: str | Sequence[str],
        inputs: BatchFeature,
        voice: Any,
        max_tokens: int | None,
        max_seconds: float | None,
    ) -> list[str]:
        """Say of each text why its sound cannot be all of it."""
        texts, frame_rate = [text] if isinstance(text, str) else list(text), self.processor.codec.frame_rate
        max_delay = max(self.model.config.delay_pattern)
        prompts = (inputs["decoder_attention_mask"].sum(dim=-1) - 1 - max_delay).clamp(min=0).tolist()
        longest_prompt = max(prompts)
        doubts = []
        for index, (one, words, prompt) in enumerate(zip(heard, texts, prompts, strict=True)):
            if max_seconds is not None:
                name, limit = f"`max_seconds` ({max_seconds:g})", int(max_seconds * frame_rate)
            else:
                name = "the checkpoint's `max_length`" if max_tokens is None else f"`max_tokens` ({max_tokens})"
                limit = max_tokens or self.model.generation_config.max_length or 0
                limit = max(limit - 2 - longest_prompt, 1) if limit else 10**9  # without beginning and end of speech
            is_cut = round(one.seconds * frame_rate) >= limit
            unknown = 0.0 if voice is not None else prompt / frame_rate
            expected = estimate_text(words, self.processor.tokenizer.speaker_tokens)
            if (doubt := find_doubt(one, expected, unknown, name if is_cut else None)) is not None:
                doubts.append(doubt if len(texts) == 1 else f"text {index}: {doubt}")
        return doubts

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
    ) -> Dialogue:
        """Plan a script of any length; `.generate()` or `.stream()` of the result speaks it.

        Args:
            script (`str`): What to say, with speaker tags.
            voices (*optional*): A voice (or its path or name) for some or all speaker tags, `{"[S1]": "anna"}`; or one
                whose transcript has the tags of all its speakers.
            chunk_length_s, language, closing_tag, folder, seed, max_seconds: See `Dialogue`.
            cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile: See `generate`.

        Raises:
            ValueError: If the script, a voice, the folder or an option is unusable; each error says what would do.

        Warns:
            UnknownWordsWarning: If the embedded miniature is given words that it was not trained on.

        Example:
        ```python
        >>> from dia_hf import Dia
        >>> dialogue = Dia.from_pretrained().dialogue("[S1] Hello. [S2] Hi!", seed=7, max_seconds=0.5)
        >>> len(dialogue.passes), sum(len(chunk) for chunk in dialogue.stream())
        (1, 7680)

        ```
        """
        loaded: dict[str, Voice] | Voice | None = None
        if isinstance(voices, Mapping):
            loaded = {speaker: load_voice(voice) for speaker, voice in voices.items()}
        elif voices is not None:
            loaded = load_voice(voices)
        dialogue = Dialogue(
            self.model,
            self.processor,
            script,
            loaded,
            chunk_length_s,
            language,
            closing_tag,
            folder,
            seed,
            max_seconds,
            self._options(cfg_scale, temperature, top_p, cfg_filter_top_k, use_torch_compile),
        )
        if self._is_miniature:
            warn_unknown_words([script], stacklevel=2)
        return dialogue

    def load_audio(self, audio_path: str | os.PathLike) -> torch.Tensor:
        """Encode a recording, to be used as `audio_prompt` more than once.

        Args:
            audio_path (`str` or `os.PathLike`): The file.

        Returns:
            `torch.LongTensor` of shape `[T, C]`: Codes, on the CPU.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no audio.
        """
        features = self.processor.feature_extractor(audio_path, audio_tokenizer=self.processor.codec.model)
        return features["audio_codes"][0]

    def save_audio(self, path: str | os.PathLike, audio: np.ndarray, metadata: dict[str, Any] | None = None) -> None:
        """Write a waveform to a file whose ending chooses the format: wav, flac, mp3 or ogg.

        Args:
            path (`str` or `os.PathLike`): The file; missing folders are made.
            audio (`np.ndarray` of shape `[N]`): From `generate`.
            metadata (`dict`, *optional*): How it was made, such as text, seed and arguments, for
                `dia_hf.audio.io.read_metadata`.

        Raises:
            ValueError: If the ending is unknown.
            OSError: If the file cannot be written; what was there before is still there.
        """
        write_audio(path, np.asarray(audio, dtype=np.float32), self.sampling_rate, metadata)

    def _options(
        self,
        cfg_scale: Any,
        temperature: Any,
        top_p: Any,
        cfg_filter_top_k: Any,
        use_torch_compile: bool,
        max_tokens: int | None = None,
        max_seconds: float | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Say in the words of the model's `generate` what the caller said; what is `None` stays unsaid."""
        if max_tokens is not None and max_seconds is not None:
            raise ValueError(
                f"`max_tokens` ({shortened(max_tokens)}) and `max_seconds` ({shortened(max_seconds)}) are both given; "
                "give one."
            )
        options: dict[str, Any] = {
            "max_length": max_tokens,
            "guidance_scale": cfg_scale,
            "top_p": top_p,
            "top_k": cfg_filter_top_k,
            "compile_config": CompileConfig() if use_torch_compile else None,
        }
        if max_seconds is not None:
            config, frame_rate = self.model.config, self.processor.codec.frame_rate
            if not isinstance(max_seconds, Real) or not math.isfinite(max_seconds * frame_rate):
                raise ValueError(f"`max_seconds` is {shortened(max_seconds)}; give a number of seconds.")
            num_frames, positions = int(max_seconds * frame_rate), config.decoder_config.max_position_embeddings
            if num_frames < 1:
                raise ValueError(f"`max_seconds` is {max_seconds}; a frame lasts {1 / frame_rate:.3f} s.")
            # Channel 0's end of speech follows the frames; the delay brings the slowest channel's.
            options["max_new_tokens"] = num_frames + 1 + max(config.delay_pattern)
            if options["max_new_tokens"] >= positions:
                longest = (positions - 2 - max(config.delay_pattern)) / frame_rate
                raise ValueError(
                    f"`max_seconds` is {max_seconds}, but this model says at most {longest:.1f} s in one go; "
                    "`dialogue` says more."
                )
        if isinstance(temperature, (int, float)) and temperature == 0:
            options["do_sample"] = False
        elif temperature is not None:
            options |= {"do_sample": True, "temperature": temperature}
        seeds = list(seed) if isinstance(seed, Sequence) and not isinstance(seed, str) else [seed]
        if seed is not None and not all(isinstance(one, Integral) and not isinstance(one, bool) for one in seeds):
            raise TypeError(f"`seed` is {shortened(seed)}; give a whole number, or one for each text.")
        if isinstance(seed, Sequence):
            options["generator"] = [torch.Generator(self.model.device).manual_seed(one) for one in seed]
        elif seed is not None:
            options["generator"] = torch.Generator(self.model.device).manual_seed(seed)
        return {name: value for name, value in options.items() if value is not None}

    def _prepare(self, text: str | Sequence[str], audio_prompt: Any, voice: Any) -> BatchFeature:
        """Make model inputs, the transcripts of voices put before the texts."""
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
                    f"the text has {num_ids} ids (bytes, a speaker tag counting as one), and Dia reads at most "
                    f"{tokenizer.model_max_length} in one go; `Dia.dialogue` and `dia-hf generate` speak texts of any "
                    "length in passes, and take a recording with its transcript apart: a `Voice`, or --prompt-text."
                )
        inputs = self.processor(text=texts, audio=audio_prompt)
        return inputs.to(self.model.device)

    def _as_this_voice(self, voice: Voice, text: str) -> str:
        """Put a voice's transcript before a text, under the tag of the text's first speaker."""
        voice.check(self.processor.codec)
        tokens = self.processor.tokenizer.speaker_tokens
        prefix, spoken = split_prefix(text, tokens)
        turns = parse_script(spoken, tokens)
        if not turns:
            raise ValueError("the text is empty; give something to say, such as '[S1] Hello.'.")
        transcript = voice.transcript if len(voice.speakers) > 1 else voice.transcript_as(turns[0].speaker)
        return render([*parse_script(transcript, tokens), *turns], prefix=prefix)
