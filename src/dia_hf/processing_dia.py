"""Processor: text and audio to model inputs and labels, generated codes to waveforms.

Combines tokenizer, feature extractor, codec and delay pattern. Token ids and delay pattern come from the checkpoint's
`DiaConfig`. This file does not depend on the network; called by users, by `pipeline` and by `speech/`.

Legend: B batch, S text bytes, T frames, D the largest delay, C channels, N samples.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy, cached_file

from .audio.codec import Codec, as_codec, codec_class, load_network, network_name
from .audio.io import write_audio
from .configuration_dia import DiaConfig
from .delay_pattern import apply_delay, valid_codes
from .feature_extraction_dia import DiaFeatureExtractor, as_clips
from .hub import check_huggingface_layout, check_model, is_hub_id
from .loss import IGNORE_INDEX
from .text_files import first_line, read_json, shortened
from .tokenization_dia import DiaTokenizer

__all__ = ["DiaProcessor", "write_codec_reference"]

_CODEC_FOLDER = "audio_tokenizer"
_CODEC_REFERENCE = "audio_tokenizer_config.json"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")

# transformers' names of what a tokenizer does to texts of different lengths, beside True and False.
_STRATEGIES = {
    "padding": [strategy.value for strategy in PaddingStrategy],
    "truncation": [strategy.value for strategy in TruncationStrategy],
}


def _is_codes(clip: Any) -> bool:
    """Return whether a clip is codes `[T, C]`: int64, which is no dtype of sound (PCM is int16 or int32)."""
    return isinstance(clip, (torch.Tensor, np.ndarray)) and clip.ndim == 2 and clip.dtype in (torch.int64, np.int64)


def _find_file(checkpoint: str | os.PathLike, name: str, **hub_options: Any) -> str | None:
    """Return the path of a checkpoint's file, downloaded if needed, or `None` if the checkpoint has no such file."""
    return cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False, **hub_options)


def _load_codec(checkpoint: str | os.PathLike, hub_options: dict[str, Any], **options: Any) -> Any:
    """Load the codec's network inside a checkpoint, or else the one that the checkpoint names."""
    reference = None
    if (path := _find_file(checkpoint, _CODEC_REFERENCE, **hub_options)) is not None:
        reference = read_json(path)
    elif (path := _find_file(checkpoint, "processor_config.json", **hub_options)) is not None:
        reference = read_json(path).get("audio_tokenizer")
    if reference is not None and not (
        isinstance(reference, dict) and isinstance(reference.get("audio_tokenizer_name_or_path", ""), str)
    ):
        raise ValueError(
            f"{path} names no codec: `audio_tokenizer_name_or_path` is to be a folder or a name on the Hub."
        )
    subfolder = os.path.join(hub_options.get("subfolder", ""), _CODEC_FOLDER)
    if _find_file(checkpoint, "config.json", **{**hub_options, "subfolder": subfolder}) is not None:
        codec = load_network(checkpoint, **{**hub_options, "subfolder": subfolder}, **options)
        # transformers sets the checkpoint's name, under which there is no codec alone.
        name = (reference or {}).get("audio_tokenizer_name_or_path", "")
        codec.name_or_path = name if is_hub_id(name) else ""
        if hasattr(codec, "config"):
            codec.config.name_or_path = codec.name_or_path
        return codec
    if reference is None:
        raise ValueError(
            f"{str(checkpoint)!r} has neither a codec in {_CODEC_FOLDER!r} nor a {_CODEC_REFERENCE} that names one; "
            "pass one: `DiaProcessor.from_pretrained(..., audio_tokenizer=DacModel.from_pretrained(...))`."
        )
    kind = reference.get("audio_tokenizer_class", "DacModel")
    try:
        codec_class(kind)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(checkpoint)!r} names a codec of the class {kind!r}: {error}") from error
    if not (name := reference.get("audio_tokenizer_name_or_path")):
        raise ValueError(f"{path} has no `audio_tokenizer_name_or_path`; write the codec's folder or Hub id there.")
    beside = os.path.join(checkpoint, hub_options.get("subfolder", ""), name)
    if not os.path.isabs(name) and os.path.isdir(beside):
        name = beside
    if not is_hub_id(name) and not os.path.isdir(name):
        raise FileNotFoundError(
            f"{str(checkpoint)!r} names the codec {name!r} in its {_CODEC_REFERENCE}, but there is no such folder, "
            "inside it or here; write the codec's folder or its name on the Hub there, or pass one: "
            "`DiaProcessor.from_pretrained(..., audio_tokenizer=DacModel.from_pretrained(...))`."
        )
    # The named codec is another repository: `revision` and `subfolder` of this one do not apply to it.
    elsewhere = {name: value for name, value in hub_options.items() if name not in ("revision", "subfolder")}
    if not elsewhere:
        try:
            check_model(name)
        except OSError as error:
            raise OSError(
                f"{str(checkpoint)!r} has no codec inside, and names {name!r}: {first_line(error, 400)} A codec can be "
                "given, too: `Dia.from_pretrained(..., codec=...)`, `--codec`."
            ) from error
    return load_network(name, kind, **elsewhere, **options)


def write_codec_reference(folder: Path, name: str, network: str = "DacModel") -> None:
    """Write the Hub id or path of a checkpoint's codec to the file that transformers' own processor reads."""
    reference = {"audio_tokenizer_class": network, "audio_tokenizer_name_or_path": name}
    (folder / _CODEC_REFERENCE).write_text(json.dumps(reference, indent=2) + "\n", "utf-8")


class DiaProcessor(ProcessorMixin):
    """Processor of Dia: tokenizer, feature extractor, codec and delay pattern in one object.

    Args:
        feature_extractor (`DiaFeatureExtractor`): For audio.
        tokenizer (`DiaTokenizer`): For text.
        audio_tokenizer (`DacModel`, `dac.DAC` or a network that `register_codec` knows, *optional*): The codec;
            without it, audio can be neither encoded nor decoded.
        config (`DiaConfig`, *optional*): Token ids and delay pattern; the published ones unless given.

    Raises:
        TypeError: If the codec is of another class.

    Example:
    ```python
    >>> from dia_hf import MINIATURE, DiaProcessor
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> inputs = processor(text=["[S1] Hello.", "[S2] Hi!"], return_tensors="pt")
    >>> {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    {'input_ids': (2, 8), 'attention_mask': (2, 8), 'decoder_input_ids': (2, 16, 9), 'decoder_attention_mask': (2, 16)}

    ```
    """

    # Defaults of the arguments of a call; a subclass may change them.
    text_kwargs: dict[str, Any] = {"padding": True, "truncation": False}  # noqa: RUF012
    audio_kwargs: dict[str, Any] = {"generation": True}  # noqa: RUF012

    def __init__(
        self,
        feature_extractor: DiaFeatureExtractor,
        tokenizer: DiaTokenizer,
        audio_tokenizer: Any = None,
        config: DiaConfig | None = None,
    ) -> None:
        # The base class would refuse descript's own codec.
        super().__init__(feature_extractor, tokenizer)
        self.audio_tokenizer = audio_tokenizer
        self._codec = None if audio_tokenizer is None else as_codec(audio_tokenizer)
        self.config = config if config is not None else DiaConfig()
        self.config.decoder_config.check_token_ids()
        self._is_for_hub = False

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Any = None,
        output_labels: bool = False,
        *,
        generation: bool | None = None,
        sampling_rate: int | None = None,
        padding: bool | str | None = None,
        truncation: bool | None = None,
        max_length: int | None = None,
        return_tensors: str = "pt",
        text_kwargs: dict[str, Any] | None = None,
        audio_kwargs: dict[str, Any] | None = None,
    ) -> BatchFeature:
        """Prepare model inputs, and labels for training.

        Args:
            text (`str` or `Sequence[str]`): Texts with speaker tags; with a voice prompt, its transcript comes first.
            audio (*optional*): One clip a text: sound, see `DiaFeatureExtractor.load_waveforms`, or its codes, int64
                `[T, C]`. With `generation=True` a voice prompt, `None` in a list for none; with
                `generation=False` the training target.
            output_labels (`bool`, defaults to `False`): Whether to return labels; needs `generation=False`.
            generation (`bool`, defaults to `True`): Whether the audio is a prompt to continue (without end of speech)
                or complete (with end of speech).
            sampling_rate (`int`, *optional*): Rate in hertz of clips without a rate of their own. If it is missing, the
                codec's is assumed, with a warning, because transformers' examples omit it.
            padding (`bool` or `str`, defaults to `True`): Of text, on the right: to the longest, or `"max_length"`.
            truncation (`bool`, defaults to `False`): Whether to truncate long text instead of raising.
            max_length (`int`, *optional*): Of text, in bytes, for truncation or padding.
            return_tensors (`str`, defaults to `"pt"`): The only supported value.
            text_kwargs, audio_kwargs (`dict`, *optional*): The arguments above, in the form of transformers
                (`text_kwargs={"truncation": True}`, `audio_kwargs={"sampling_rate": 48000}`).

        Returns:
            `BatchFeature` with `input_ids` and `attention_mask` (int64 `[B, S]`), `decoder_input_ids` (int32
            `[B, 1 + T + D, C]`: delayed, with padding in free positions; shorter clips are padded on the left with BOS)
            and `decoder_attention_mask` (int64 `[B, 1 + T + D]`, 1 = keep); one frame more with `generation=False`;
            with labels one less, and `labels` (int64 `[B·C, T]`, -100 at ignored positions).

        Raises:
            ValueError: If text is empty or too long, text and audio differ in number, audio is missing in training,
                or labels are asked for in generation; and as `DiaFeatureExtractor.load_waveforms` does.
        """
        arguments = {
            "generation": generation,
            "sampling_rate": sampling_rate,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
        }
        options: dict[str, Any] = dict.fromkeys(arguments)
        direct = {name: value for name, value in arguments.items() if value is not None}
        for given in (self.text_kwargs, self.audio_kwargs, direct, text_kwargs, audio_kwargs):
            for name, value in (given or {}).items():
                if name not in options:
                    raise TypeError(f"`DiaProcessor` has no option {name!r}; its options are {', '.join(options)}.")
                options[name] = value
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` is {shortened(return_tensors)}; `DiaProcessor` returns 'pt' only.")
        for name, kind, wanted in (
            ("generation", bool, "True or False"),
            ("output_labels", bool, "True or False"),
            ("padding", bool | str, "True, False or 'max_length'"),
            ("sampling_rate", Real, "a number of hertz"),
            ("max_length", Integral, "a whole number of bytes"),
        ):
            value = output_labels if name == "output_labels" else options[name]
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"`{name}` is {shortened(value)}; give {wanted}.")
        for name, known in _STRATEGIES.items():
            if isinstance(value := options[name], str) and value not in known:
                raise ValueError(
                    f"`{name}` is {shortened(value)}; give True, False or one of {', '.join(map(repr, known))}."
                )
        generation = options["generation"]
        if generation and output_labels:
            raise ValueError("labels are for training: pass `generation=False` with `output_labels=True`.")

        # Any sequence, such as a column of a `datasets.Dataset`.
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, Sequence) else None
        if texts is None or not all(isinstance(item, str) for item in texts):
            raise ValueError(f"`text` is {shortened(text)}; it must be a string or a list of strings.")
        for index, item in enumerate(texts):
            if not item.strip():
                raise ValueError(f"text {index} is empty; give a text, such as '[S1] Hello.'.")
        clips = [None] * len(texts) if audio is None else as_clips(audio)
        if len(clips) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(clips)} audio clips; give one clip (or None) for each text.")
        if not generation and any(clip is None for clip in clips):
            raise ValueError("training needs audio for each text; `generation=False` was given without.")

        model_inputs = dict(
            self.tokenizer(
                list(texts),
                padding=options["padding"],
                padding_side="right",
                truncation=options["truncation"],
                max_length=options["max_length"],
                return_tensors="pt",
            )
        )
        vocab_size = self.config.encoder_config.vocab_size
        if (largest := int(model_inputs["input_ids"].max())) >= vocab_size:
            raise ValueError(
                f"the text holds {self.tokenizer.convert_ids_to_tokens(largest)!r}, whose id is {largest}, but the "
                f"model reads ids below {vocab_size}; after `add_tokens`, call "
                "`model.resize_token_embeddings(len(tokenizer))` and give the processor `model.config`."
            )
        codes = self._encode_clips(clips, options["sampling_rate"])
        model_inputs |= self._make_decoder_inputs(codes, with_eos=not generation)
        if output_labels:
            model_inputs |= self._make_labels(**model_inputs)
        return BatchFeature(model_inputs)

    def encode_audio(self, audio: Any, sampling_rate: int | None = None) -> list[torch.Tensor]:
        """Encode audio to codes; codes stay as they are.

        Args:
            audio: One clip or a list of clips, in any form that `__call__` takes.
            sampling_rate (`int`, *optional*): Rate in hertz of clips without a rate of their own.

        Returns:
            `list[torch.LongTensor]`, each `[T_i, C]`, on the CPU.

        Raises:
            ValueError: If the codes have another shape or are out of range; and as `load_waveforms` does.
        """
        return self._encode_clips(as_clips(audio), sampling_rate)

    def _encode_clips(self, clips: list[Any], sampling_rate: int | None) -> list[torch.Tensor]:
        """Encode clips to codes `[T_i, C]`, `None` to `[0, C]`."""
        decoder = self.config.decoder_config
        codes = [torch.as_tensor(clip).cpu() if _is_codes(clip) else None for clip in clips]
        for clip in codes:
            if clip is not None and clip.shape[1] != decoder.num_channels:
                raise ValueError(
                    f"audio of int64 is codes, but has the shape {tuple(clip.shape)}; expected [frames, "
                    f"{decoder.num_channels}]. Sound is floats, int16 or int32."
                )
            if clip is not None and len(clip) and not 0 <= clip.min() <= clip.max() < decoder.eos_token_id:
                raise ValueError(
                    f"audio given as codes ranges from {clip.min()} to {clip.max()}; codes are 0 to "
                    f"{decoder.eos_token_id - 1}, without special tokens or delay."
                )
        present = [clip for clip, own in zip(clips, codes, strict=True) if clip is not None and own is None]
        encoded: list[torch.Tensor] = []
        if present:
            features = self.feature_extractor(present, sampling_rate=sampling_rate, audio_tokenizer=self.codec)
            encoded = features["audio_codes"]
        remaining = iter(encoded)
        no_codes = torch.zeros(0, decoder.num_channels, dtype=torch.long)
        return [
            no_codes if clip is None else own if own is not None else next(remaining)
            for clip, own in zip(clips, codes, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the processor's description, without weights."""
        codec = self.audio_tokenizer
        return {
            "processor_class": type(self).__name__,
            "feature_extractor": self.feature_extractor.to_dict(),
            "audio_tokenizer": None if codec is None else type(codec).__name__,
        }

    @property
    def model_input_names(self) -> list[str]:
        """Names of the outputs of `__call__`, without labels."""
        return ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"]

    @property
    def codec(self) -> Codec:
        """Codec of the processor; the same object as long as `audio_tokenizer` is the same network.

        Raises:
            ValueError: If there is none.
        """
        if self.audio_tokenizer is None:
            raise ValueError("this processor has no codec; give it one: `processor.audio_tokenizer = DacModel...`.")
        if self._codec is None or self._codec.model is not self.audio_tokenizer:
            self._codec = as_codec(self.audio_tokenizer)
        return self._codec

    def _make_decoder_inputs(self, codes: list[torch.Tensor], with_eos: bool) -> dict[str, torch.Tensor]:
        """Add BOS (and EOS) to codes, align them on the right, and delay them."""
        decoder = self.config.decoder_config
        num_frames = 1 + max(len(clip) for clip in codes) + with_eos
        frames = torch.full((len(codes), num_frames, decoder.num_channels), decoder.bos_token_id, dtype=torch.int)
        attention_mask = torch.zeros(len(codes), num_frames + self.config.max_delay, dtype=torch.long)
        for row, (clip, mask) in enumerate(zip(codes, attention_mask, strict=True)):
            end = num_frames - with_eos
            frames[row, end - len(clip) : end] = clip
            frames[row, end:] = decoder.eos_token_id
            mask[end - len(clip) - 1 :] = 1
        delayed = apply_delay(frames, self.config.delay_pattern, decoder.bos_token_id, decoder.pad_token_id)
        return {"decoder_input_ids": delayed, "decoder_attention_mask": attention_mask}

    def _make_labels(
        self, decoder_input_ids: torch.Tensor, decoder_attention_mask: torch.Tensor, **kwargs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Make inputs and labels from the same frames: each position's label is the token of the next one."""
        decoder = self.config.decoder_config
        following = decoder_input_ids[:, 1:].long()
        counts = (following != decoder.pad_token_id) & (following != decoder.bos_token_id)
        return {
            "decoder_input_ids": decoder_input_ids[:, :-1],
            "decoder_attention_mask": decoder_attention_mask[:, :-1],
            "labels": following.masked_fill(~counts, IGNORE_INDEX).transpose(1, 2).flatten(0, 1).contiguous(),
        }

    def get_audio_prompt_len(self, decoder_attention_mask: torch.Tensor) -> int:
        """Return the number of frames before the first generated one, for `batch_decode`.

        Args:
            decoder_attention_mask (`torch.Tensor` of shape `[B, 1 + T + D]`): As `__call__` returned it.

        Returns:
            `int`: 1 + T, the same for all rows, because prompts are aligned on the right.
        """
        return decoder_attention_mask.shape[1] - self.config.max_delay

    def batch_decode(self, decoder_input_ids: torch.Tensor, audio_prompt_len: int | None = None) -> list[torch.Tensor]:
        """Decode generated codes to waveforms.

        Args:
            decoder_input_ids (`torch.LongTensor` of shape `[B, T, C]`): Delayed codes, as `generate` returns them.
            audio_prompt_len (`int`, *optional*): Frames to omit at the beginning (`get_audio_prompt_len`);
                unless given, the waveform includes the voice prompt.

        Returns:
            `list[torch.Tensor]`, each `[N_i]`, float32, at the codec's rate, on the CPU; of 0 samples where nothing
            was generated. Frames that are incomplete in a channel are omitted.

        Raises:
            ValueError: If there is no codec, or the codes have another shape or are out of range.
        """
        return self.codec.decode(self.extract_codes(decoder_input_ids, audio_prompt_len))

    def extract_codes(self, decoder_input_ids: torch.Tensor, audio_prompt_len: int | None = None) -> list[torch.Tensor]:
        """Extract codes from generated tokens: revert the delay, cut special tokens and incomplete frames.

        Args:
            decoder_input_ids, audio_prompt_len: See `batch_decode`.

        Returns:
            `list[torch.LongTensor]`, each of shape `[T_i, C]`, on the CPU.
        """
        decoder = self.config.decoder_config
        codes = valid_codes(decoder_input_ids, self.config.delay_pattern, decoder.eos_token_id, decoder.pad_token_id)
        begins = (decoder_input_ids[:, :, 0] == decoder.bos_token_id).sum(dim=1)
        if audio_prompt_len is not None:
            begins = torch.full_like(begins, audio_prompt_len)
        return [row[begin:].cpu() for row, begin in zip(codes, begins.tolist(), strict=True)]

    def decode(self, decoder_input_ids: torch.Tensor, audio_prompt_len: int | None = None) -> torch.Tensor:
        """Decode the codes of one sample, `[1, T, C]`, to its waveform `[N]`; see `batch_decode`.

        Raises:
            ValueError: If there is more than one sample; and as `batch_decode` does.
        """
        if decoder_input_ids.shape[0] != 1:
            raise ValueError(f"`decode` takes one sample but got {decoder_input_ids.shape[0]}; use `batch_decode`.")
        return self.batch_decode(decoder_input_ids, audio_prompt_len)[0]

    def save_audio(
        self,
        audio: torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray],
        saving_path: str | os.PathLike | Sequence[str | os.PathLike],
        sampling_rate: int | None = None,
    ) -> None:
        """Write waveforms to files; the endings choose the format: wav, flac, mp3 or ogg.

        Args:
            audio: One waveform (`[N]` or `[channels, N]`) or a list of them.
            saving_path: One path or a list of as many; missing folders are created.
            sampling_rate (`int`, *optional*): In hertz; the codec's unless given.

        Raises:
            ValueError: If there are not as many paths as waveforms, or an ending is unknown.
        """
        waveforms = [audio] if isinstance(audio, (torch.Tensor, np.ndarray)) else list(audio)
        paths = [saving_path] if isinstance(saving_path, (str, os.PathLike)) else list(saving_path)
        if len(waveforms) != len(paths):
            raise ValueError(f"{len(waveforms)} waveforms but {len(paths)} paths; give one path for each waveform.")
        for waveform, path in zip(waveforms, paths, strict=True):
            samples = torch.as_tensor(waveform).detach().cpu().float().numpy()
            write_audio(path, samples, sampling_rate or self.feature_extractor.sampling_rate)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> DiaProcessor:
        """Load tokenizer, feature extractor, config and codec of a checkpoint.

        A codec inside the checkpoint takes precedence over one that the checkpoint names, so that a folder can be
        moved and used without a network.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            kwargs: `audio_tokenizer` (such as a `DacModel`), for another codec; `load_codec=False` for none;
                `device_map` and `dtype` of the codec; transformers' options for the Hub (`revision`, `token`,
                `cache_dir`, …).

        Raises:
            OSError: If a file is missing.
            ValueError: If no codec can be found, it is incomplete or damaged, or the feature extractor works at another
                rate.
        """
        hub_options = {name: kwargs[name] for name in _HUB_OPTIONS if kwargs.get(name) is not None}
        if not hub_options:
            check_model(pretrained_model_name_or_path)
            check_huggingface_layout(pretrained_model_name_or_path)
        audio_tokenizer = kwargs.get("audio_tokenizer")
        if audio_tokenizer is None and kwargs.get("load_codec", True):
            placement = {name: kwargs[name] for name in ("device_map", "dtype") if name in kwargs}
            audio_tokenizer = _load_codec(pretrained_model_name_or_path, hub_options, **placement)
        has_config = _find_file(pretrained_model_name_or_path, "config.json", **hub_options) is not None
        processor = cls(
            feature_extractor=DiaFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **hub_options),
            tokenizer=DiaTokenizer.from_pretrained(pretrained_model_name_or_path, **hub_options),
            audio_tokenizer=audio_tokenizer,
            config=DiaConfig.from_pretrained(pretrained_model_name_or_path, **hub_options) if has_config else None,
        )
        if audio_tokenizer is not None:
            extractor, codec = processor.feature_extractor, processor.codec
            for name in ("sampling_rate", "hop_length"):
                if getattr(extractor, name) != getattr(codec, name):
                    raise ValueError(
                        f"the feature extractor of {str(pretrained_model_name_or_path)!r} has the `{name}` "
                        f"{getattr(extractor, name)}, but the codec {getattr(codec, name)}; they must belong together: "
                        "correct `preprocessor_config.json`, or give the codec that it was made for."
                    )
        return processor

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Save all parts, the codec included, in the layout of the published checkpoints.

        Args:
            save_directory (`str` or `os.PathLike`): Folder; created if missing. An existing `config.json` (the
                model's) is left unchanged.
            push_to_hub (`bool`, defaults to `False`): Whether to upload the processor as well.
            kwargs: For `push_to_hub` (`repo_id`, `token`, …).

        Returns:
            `list[str]`: Files in the folder itself.

        Raises:
            ValueError: If the codec is a `dac.DAC`, which has no folder layout.
        """
        folder = Path(save_directory)
        if self.audio_tokenizer is not None:
            self.codec.save(folder / _CODEC_FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        # AutoProcessor finds the class by this entry in the tokenizer's file.
        self.tokenizer._set_processor_class(type(self).__name__)
        self.feature_extractor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if not self._is_for_hub and not (folder / "config.json").exists():
            self.config.save_pretrained(folder)
        if self.audio_tokenizer is not None:
            # transformers' own processor reads this reference, not a codec inside a checkpoint. A codec from the
            # Hub keeps its id; the path of a folder is replaced by the new one. A checkpoint for the Hub has no path of
            # this machine: its reference is the name inside the checkpoint.
            name = getattr(self.audio_tokenizer, "name_or_path", "")
            if not is_hub_id(name):
                name = _CODEC_FOLDER if self._is_for_hub else str((folder / _CODEC_FOLDER).absolute())
            write_codec_reference(folder, name, network_name(self.audio_tokenizer))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return sorted(str(path) for path in folder.iterdir() if path.is_file())

    def for_hub(self) -> DiaProcessor:
        """Return a copy whose `save_pretrained` writes a form for the Hub: no path of this machine, no config.

        A codec inside is then referenced by its place in the checkpoint, which this package reads and transformers' own
        processor refuses; a codec from the Hub keeps its id. Used by `push_to_hub` and `DiaTrainer`.
        """
        published = copy.copy(self)
        published._is_for_hub = True
        return published

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload all parts, including the codec, except `config.json`, which is the model's.

        Args:
            repo_id (`str`): Repository; created if missing.
            kwargs: As in transformers: `commit_message`, `private`, `token`, `revision`, `create_pr`, …

        Returns:
            `str`: URL of the commit.
        """
        if self._is_for_hub:
            return super().push_to_hub(repo_id, **kwargs)
        return self.for_hub().push_to_hub(repo_id, **kwargs)
