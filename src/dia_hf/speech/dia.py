"""The whole job in one object, under the argument names of nari-labs/dia.

Knows nothing of networks and tokens: it hands text and audio to the processor, its outputs to `generate`, and the
codes back. Called by users and by the command line.

Legend: N samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers.generation import BaseStreamer

from ..assets import MINIATURE
from ..modeling_dia import DiaForConditionalGeneration
from ..processing_dia import DiaProcessor

__all__ = ["Dia"]


def _resolve_device(device: str | torch.device | None) -> torch.device:
    """Choose a device: the one named, or else the fastest there is."""
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


class _SpokenSeconds(BaseStreamer):
    """A streamer that moves a progress bar by one frame's duration for each frame that a step completes."""

    def __init__(self, bar: tqdm, frame_rate: float, max_delay: int) -> None:
        self.bar = bar
        self.seconds_per_frame = 1 / frame_rate
        self.puts_without_frame = 1 + max_delay  # the prompt, then steps until the slowest channel has spoken

    def put(self, value: torch.Tensor) -> None:
        if self.puts_without_frame > 0:
            self.puts_without_frame -= 1
        else:
            self.bar.update(self.seconds_per_frame)

    def end(self) -> None:
        """Nothing is held back."""


class Dia:
    """A model and its processor.

    Args:
        model (`DiaForConditionalGeneration`): The network, on the device and in the dtype to compute with.
        processor (`DiaProcessor`): Its processor; with the codec, unless only codes are wanted.

    Attributes:
        sampling_rate (`int`): Rate in hertz of the waveforms that `generate` returns.

    Example:
    ```python
    >>> from dia_hf import Dia
    >>> dia = Dia.from_pretrained()
    >>> waveform = dia.generate("[S1] Hello. [S2] Hi!", seed=7, max_seconds=0.5)
    >>> waveform.dtype, waveform.ndim, dia.sampling_rate
    (dtype('float32'), 1, 44100)

    ```
    """

    def __init__(self, model: DiaForConditionalGeneration, processor: DiaProcessor) -> None:
        self.model = model
        self.processor = processor
        self.sampling_rate: int = processor.feature_extractor.sampling_rate

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | os.PathLike = MINIATURE,
        compute_dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        load_dac: bool = True,
    ) -> Dia:
        """Load a checkpoint.

        Args:
            model_name (`str` or `os.PathLike`, *optional*): Folder or Hub id, such as "nari-labs/Dia-1.6B-0626"; the
                embedded miniature unless given.
            compute_dtype (`str` or `torch.dtype`, *optional*): "float32", "bfloat16" or "float16"; that of the
                checkpoint unless given. The codec stays in its own.
            device (`str` or `torch.device`, *optional*): A GPU if there is one, unless given.
            load_dac (`bool`, defaults to `True`): Whether to load the codec. Without it `generate` raises.

        Raises:
            OSError: If the checkpoint or a part of it does not exist.
            ValueError: If device or dtype are unknown or not available, or the checkpoint is truncated, incomplete or
                contradicts its config.
        """
        dtype, device = _resolve_dtype(compute_dtype), _resolve_device(device)
        try:
            model, report = DiaForConditionalGeneration.from_pretrained(
                model_name, dtype=dtype, output_loading_info=True
            )
        except (RuntimeError, SafetensorError, StrictDataclassError) as error:
            raise ValueError(f"{str(model_name)!r} cannot be loaded: {error}") from error
        if missing := sorted(report["missing_keys"]):
            # transformers draws them at random, and warns.
            raise ValueError(
                f"{str(model_name)!r} lacks {len(missing)} of the model's tensors, such as {missing[0]!r}; it is "
                "incomplete, or no Dia checkpoint in the Hugging Face layout."
            )
        model = model.to(device).eval()
        processor = DiaProcessor.from_pretrained(model_name, load_codec=load_dac)
        if processor.audio_tokenizer is not None:
            processor.audio_tokenizer.to(device)
        return cls(model, processor)

    def generate(
        self,
        text: str | Sequence[str],
        max_tokens: int | None = None,
        cfg_scale: float | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        use_torch_compile: bool = False,
        cfg_filter_top_k: int | None = None,
        audio_prompt: Any = None,
        verbose: bool = False,
        *,
        seed: int | None = None,
        max_seconds: float | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Speak.

        What is left out is as the checkpoint's `generation_config.json` says; the published one says scale 3.0,
        temperature 1.2, top-p 0.95, top-k 45, which are also nari-labs' defaults.

        Args:
            text (`str` or `Sequence[str]`): What to say, with speaker tags. With a voice prompt, its transcript
                comes first.
            max_tokens (`int`, *optional*): Limit of channel 0 in frames, the prompt included.
            cfg_scale (`float`, *optional*): Guidance, above 0; 1 switches it off.
            temperature (`float`, *optional*): Of sampling, above 0; 0 means the best token always (greedy).
            top_p (`float`, *optional*): Nucleus, in (0, 1].
            use_torch_compile (`bool`, defaults to `False`): Whether to let transformers compile the decoding step (a
                static cache; CUDA only). The first call then takes a minute.
            cfg_filter_top_k (`int`, *optional*): Tokens that guidance lets pass.
            audio_prompt (*optional*): A voice to go on with: a path, or whatever `DiaProcessor` takes; for several
                texts a list of as many, `None` meaning none. It is not part of the result.
            verbose (`bool`, defaults to `False`): Whether to show a progress bar, in seconds of audio.
            seed (`int`, *optional*): Makes sampling reproducible, whatever else runs; the global generator unless
                given.
            max_seconds (`float`, *optional*): Limit of the new audio in seconds, instead of `max_tokens`.

        Returns:
            `np.ndarray` of shape `[N]`, float32, or a list of them where `text` is a list.

        Raises:
            ValueError: If text, prompt or an option is unusable; each error says what would do.
        """
        if max_tokens is not None and max_seconds is not None:
            raise ValueError(f"`max_tokens` ({max_tokens}) and `max_seconds` ({max_seconds}) are both given; give one.")
        codec, max_delay = self.processor.codec, max(self.model.config.delay_pattern)
        options: dict[str, Any] = {
            "max_length": max_tokens,
            "guidance_scale": cfg_scale,
            "top_p": top_p,
            "top_k": cfg_filter_top_k,
            "cache_implementation": "static" if use_torch_compile else None,
        }
        if max_seconds is not None:
            num_frames = int(max_seconds * codec.frame_rate)
            if num_frames < 1:
                raise ValueError(f"`max_seconds` is {max_seconds}; a frame lasts {1 / codec.frame_rate:.3f} s.")
            # Channel 0's end of speech follows the frames; the delay brings the slowest channel's.
            options["max_new_tokens"] = num_frames + 1 + max_delay
        if temperature == 0:
            options["do_sample"] = False
        elif temperature is not None:
            options |= {"do_sample": True, "temperature": temperature}
        if seed is not None:
            options["generator"] = torch.Generator(self.model.device).manual_seed(seed)

        inputs = self.processor(text=text if isinstance(text, str) else list(text), audio=audio_prompt)
        inputs = inputs.to(self.model.device)
        with tqdm(
            desc="speaking", total=max_seconds, unit="s", disable=not verbose, bar_format=_bar_format(max_seconds)
        ) as bar:
            codes = self.model.generate(
                **inputs,
                **{name: value for name, value in options.items() if value is not None},
                streamer=_SpokenSeconds(bar, codec.frame_rate, max_delay) if verbose else None,
            )
        prompt_len = self.processor.get_audio_prompt_len(inputs["decoder_attention_mask"])
        waveforms = [waveform.numpy() for waveform in self.processor.batch_decode(codes, prompt_len)]
        return waveforms[0] if isinstance(text, str) else waveforms

    def save_audio(self, path: str | os.PathLike, audio: np.ndarray) -> None:
        """Write a waveform to a file whose ending chooses the format: wav, flac, mp3 or ogg.

        Args:
            path (`str` or `os.PathLike`): The file; missing folders are made.
            audio (`np.ndarray` of shape `[N]`): From `generate`.

        Raises:
            ValueError: If the ending is unknown.
        """
        self.processor.save_audio(audio, path)


def _bar_format(max_seconds: float | None) -> str:
    spoken = "{n:.1f}" + ("" if max_seconds is None else f"/{max_seconds:.1f}")
    return "{desc}: " + spoken + " s of audio [{elapsed}]"
