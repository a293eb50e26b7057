"""Feature extractor: any audio to mono float32 at the codec's rate, padded to whole frames, and to codes.

This file does not depend on text, tokens or the delay pattern; called by `DiaProcessor`.

Legend: B clips, N samples, T frames, C codebooks.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from .audio.codec import as_codec
from .audio.io import FAR_BEYOND_FULL_SCALE, read_audio, resample

__all__ = ["DiaFeatureExtractor", "as_clips"]

# The most channels of a recording: a longer axis is time.
_MAX_AUDIO_CHANNELS = 8


def _to_mono(samples: np.ndarray) -> np.ndarray:
    """Average the channels of `[channels, N]` or `[N, channels]` to `[N]`, float32."""
    if samples.dtype in (np.int16, np.int32):  # PCM, whose full scale follows from the dtype
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif samples.dtype.kind != "f":
        raise ValueError(f"audio has the dtype {samples.dtype}; give floats in [-1, 1], or PCM as int16 or int32.")
    samples = samples.astype(np.float32, copy=False)
    if samples.ndim == 1:
        return samples
    if samples.ndim == 2 and min(samples.shape) <= _MAX_AUDIO_CHANNELS:
        return samples.mean(axis=0 if samples.shape[0] <= _MAX_AUDIO_CHANNELS else 1)
    raise ValueError(
        f"audio has the shape {samples.shape}; one clip is [samples], [channels, samples] or [samples, channels], with "
        f"at most {_MAX_AUDIO_CHANNELS} channels, and a batch is a list of clips."
    )


def as_clips(raw_audio: Any) -> list[Any]:
    """Return a list of clips for one clip or a batch; see `DiaFeatureExtractor.load_waveforms` for the forms."""
    # Any sequence, such as a column of a `datasets.Dataset`.
    if isinstance(raw_audio, Sequence) and not isinstance(raw_audio, (str, bytes)):
        is_one_clip = len(raw_audio) > 0 and (isinstance(raw_audio[0], Real) or _is_pair(raw_audio))
        return [raw_audio] if is_one_clip else list(raw_audio)
    is_batch = isinstance(raw_audio, (np.ndarray, torch.Tensor)) and raw_audio.ndim == 3
    return list(raw_audio) if is_batch else [raw_audio]


def _is_pair(clip: Any) -> bool:
    """Return whether a clip is a pair: `(rate, array)`, as in Gradio, or `(array, rate)`, as in soundfile."""
    if not isinstance(clip, (tuple, list)) or len(clip) != 2:
        return False
    rate, samples = clip if isinstance(clip[0], Integral) else reversed(clip)
    is_clip = isinstance(samples, list) or (isinstance(samples, (np.ndarray, torch.Tensor)) and samples.ndim > 0)
    return isinstance(rate, Integral) and is_clip


def _carries_rate(clip: Any) -> bool:
    if isinstance(clip, dict) and clip.get("array") is not None:
        return clip.get("sampling_rate") is not None
    return isinstance(clip, (str, bytes, os.PathLike, dict)) or hasattr(clip, "get_all_samples") or _is_pair(clip)


class DiaFeatureExtractor(SequenceFeatureExtractor):
    """Prepare audio for the codec.

    Args:
        feature_size (`int`, defaults to 1): Kept for the file layout. Any number of channels is averaged to one.
        sampling_rate (`int`, defaults to 44100): The codec's rate in hertz; audio at another rate is resampled.
        padding_value (`float`, defaults to 0.0): Silence.
        hop_length (`int`, defaults to 512): Samples a frame; clips are padded to whole frames.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf import DiaFeatureExtractor
    >>> extractor = DiaFeatureExtractor()
    >>> stereo = np.zeros((2, 48000), dtype=np.float32)
    >>> extractor(stereo, sampling_rate=48000, return_tensors="pt")["input_values"].shape
    torch.Size([1, 1, 44544])

    ```
    """

    model_input_names = ["input_values", "padding_mask"]  # noqa: RUF012 (transformers reads it off the class)

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 44100,
        padding_value: float = 0.0,
        hop_length: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length

    def load_waveforms(self, raw_audio: Any, sampling_rate: int | None = None) -> list[np.ndarray]:
        """Convert any audio to mono waveforms at `self.sampling_rate`.

        Args:
            raw_audio: One clip or a list of clips. A clip is a numpy array, a torch tensor or a list of floats, of
                shape `[N]`, `[channels, N]` or `[N, channels]`; a path, or the bytes of a file; a dictionary of
                `array` and `sampling_rate`, or of `bytes` and `path`, or a decoder, as in `datasets`; a pair of
                rate and array, as in Gradio. A 3-D array or tensor `[B, channels, N]` is a batch, and so is
                a column of a `datasets.Dataset`.
            sampling_rate (`int`, *optional*): Rate in hertz of clips without a rate of their own.

        Returns:
            `list[np.ndarray]`, each `[N_i]`, float32.

        Raises:
            ValueError: If a rate is unknown or contradicts the clip's own, or a clip is empty (before or after
                resampling), has NaN or infinite samples, another integer dtype or another shape.
            FileNotFoundError: If there is no such file.

        Warns:
            UserWarning: If floats are far beyond ±1, like integers without scaling.
        """
        clips = as_clips(raw_audio)
        if not clips:
            raise ValueError("an empty list holds no audio; give at least one clip.")
        return [self._load_waveform(clip, sampling_rate) for clip in clips]

    def _load_waveform(self, clip: Any, sampling_rate: int | None) -> np.ndarray:
        own_rate = None
        if isinstance(clip, dict) and clip.get("array") is None:
            file = clip.get("path") if clip.get("bytes") is None else clip["bytes"]
            if file is None:
                raise ValueError(
                    f"the audio is a dictionary of {', '.join(map(repr, clip)) or 'nothing'} without samples; give "
                    "'array' and 'sampling_rate', or 'bytes' or 'path' of an audio file."
                )
            clip = file
        if isinstance(clip, (str, bytes, os.PathLike)):
            clip, own_rate = read_audio(clip)
        elif hasattr(clip, "get_all_samples"):  # torchcodec's decoder, which `datasets` returns
            samples = clip.get_all_samples()
            clip, own_rate = samples.data, samples.sample_rate
        elif isinstance(clip, dict) or _is_pair(clip):
            if isinstance(clip, dict):
                clip, own_rate = clip["array"], clip.get("sampling_rate")
            else:
                own_rate, clip = clip if isinstance(clip[0], Integral) else reversed(clip)
            if own_rate is not None and sampling_rate not in (None, own_rate):
                raise ValueError(
                    f"`sampling_rate` is {sampling_rate} Hz but the clip says {own_rate} Hz; leave `sampling_rate` out."
                )
        rate = sampling_rate if own_rate is None else own_rate
        if rate is None:
            raise ValueError(
                "the sampling rate of the audio is unknown: pass `sampling_rate` in hertz, or give a path or a "
                '`{"array": ..., "sampling_rate": ...}` dictionary.'
            )
        if isinstance(clip, torch.Tensor):
            clip = clip.detach().cpu().float().numpy() if clip.is_floating_point() else clip.cpu().numpy()
        waveform = _to_mono(np.asarray(clip))
        if waveform.size == 0:
            raise ValueError("the audio holds 0 samples; give at least one.")
        peak = np.maximum(waveform.max(), -waveform.min())
        if not np.isfinite(peak):
            raise ValueError(
                f"the audio holds {np.count_nonzero(~np.isfinite(waveform))} samples that are NaN or infinite."
            )
        if peak > FAR_BEYOND_FULL_SCALE:
            warnings.warn(
                f"the audio goes up to {peak:g}, and full scale is 1; if it was integers, give them as they are (int16 "
                "or int32), or divide them by their full scale (32768 for int16).",
                stacklevel=4,
            )
        resampled = resample(waveform, rate, self.sampling_rate)
        if resampled.size == 0:
            raise ValueError(
                f"the audio holds {waveform.size} samples at {rate} Hz, which are 0 samples at {self.sampling_rate} "
                "Hz; give at least one."
            )
        return resampled

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        audio_tokenizer: Any = None,
    ) -> BatchFeature:
        """Prepare one clip or several.

        Args:
            raw_audio: See `load_waveforms`.
            padding (`bool` or `str`, *optional*): `True` or `"longest"` (the default), `"max_length"`, or `False`.
                Padded lengths are whole frames.
            truncation (`bool`, defaults to `False`): Whether to cut clips at `max_length`.
            max_length (`int`, *optional*): In samples at `self.sampling_rate`.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`; lists of arrays unless given.
            sampling_rate (`int`, *optional*): Rate in hertz of clips without a rate of their own. If it is
                missing, `self.sampling_rate` is assumed, with a warning, because transformers' examples omit it.
            audio_tokenizer (*optional*): A codec or its network (see `as_codec`); with it, `audio_codes` are returned,
                too.

        Returns:
            `BatchFeature` with `input_values` (float32 `[B, 1, N]`), `padding_mask` (int32 `[B, N]`, 1 where there
            is audio) and, given the codec, `audio_codes` (a list of int64 `[T_i, C]`).

        Raises:
            ValueError: See `load_waveforms`; also if the codec runs at another rate than this feature extractor.
        """
        clips = as_clips(raw_audio)
        if sampling_rate is None and not all(_carries_rate(clip) for clip in clips):
            rate = self.sampling_rate
            warnings.warn(
                f"audio without `sampling_rate` is taken to be at {rate} Hz; pass `sampling_rate` to be sure.",
                stacklevel=2,
            )
            arrays = [clip["array"] if isinstance(clip, dict) and "array" in clip else clip for clip in clips]
            clips = [
                clip if _carries_rate(clip) else {"array": array, "sampling_rate": rate}
                for clip, array in zip(clips, arrays, strict=True)
            ]
        waveforms = self.load_waveforms(clips, sampling_rate)
        mono = copy.copy(self)
        mono.feature_size = 1  # the channels are averaged, regardless of the config
        padded = mono.pad(
            BatchFeature({"input_values": waveforms}),
            padding=True if padding is None else padding,
            truncation=truncation,
            max_length=max_length,
            pad_to_multiple_of=self.hop_length,
            return_attention_mask=True,
        )
        features = BatchFeature(
            {
                "input_values": [values[None] for values in padded["input_values"]],
                "padding_mask": padded["attention_mask"],
            },
            tensor_type=return_tensors,
        )
        if audio_tokenizer is not None:
            codec = as_codec(audio_tokenizer)
            if codec.sampling_rate != self.sampling_rate:
                raise ValueError(
                    f"the feature extractor works at {self.sampling_rate} Hz and the codec at {codec.sampling_rate} "
                    "Hz; they must belong together."
                )
            lengths = [int(np.sum(mask)) for mask in padded["attention_mask"]]
            features["audio_codes"] = codec.encode(
                [torch.from_numpy(values[:n]) for values, n in zip(padded["input_values"], lengths, strict=True)]
            )
        return features
