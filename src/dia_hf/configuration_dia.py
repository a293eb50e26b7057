# Copyright 2026 the dia_hf authors. Licensed under the Apache License, Version 2.0; see LICENSE.
"""Configuration of Dia: encoder, decoder, delay pattern and special tokens.

Token ids and the delay pattern are defined here only; so are the conversions between frames of speech and decoding
steps. Two file layouts are read: that of transformers 4.53 (token ids at the top level, `rope_theta`) and that of 5.x
(token ids on the decoder, `rope_parameters`). The latter is written.

The defaults are those of the published `nari-labs/Dia-1.6B-0626` checkpoint (its `config.json`) unless noted
otherwise.
"""

# No `from __future__ import annotations` here: `@strict` checks values by the annotations themselves.
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ._compat import CACHE_NAMES
from .text_files import read_json

__all__ = ["DiaConfig", "DiaDecoderConfig", "DiaEncoderConfig"]


if TYPE_CHECKING:  # types after construction
    _Rope: TypeAlias = dict
else:  # types that are accepted
    _Rope = dict | None


_TOKEN_IDS = ("pad_token_id", "eos_token_id", "bos_token_id")
_MOST_PARTS = 4096  # layers, heads or channels: loops over them run before anything is allocated


def _check_positive(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise ValueError(f"{type(config).__name__}: `{name}` is {value}; it must be at least 1.")
        if "num_" in name and value > _MOST_PARTS:
            raise ValueError(f"{type(config).__name__}: `{name}` is {value}; it must be at most {_MOST_PARTS}.")


def _check_groups(config: PreTrainedConfig, heads: str, key_value_heads: str) -> None:
    num_heads, num_key_value_heads = getattr(config, heads), getattr(config, key_value_heads)
    if num_heads % num_key_value_heads:
        divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ValueError(
            f"{type(config).__name__}: `{heads}` ({num_heads}) cannot be divided among `{key_value_heads}` "
            f"({num_key_value_heads}) evenly; with {num_heads} heads, `{key_value_heads}` can be {divisors}."
        )


def _check_rope(config: PreTrainedConfig) -> None:
    rope_type = config.rope_parameters["rope_type"]
    if rope_type != "default":
        raise ValueError(
            f"{type(config).__name__}: `rope_parameters['rope_type']` is {rope_type!r}; Dia supports only 'default' "
            "(plain rotary embedding), which every published checkpoint uses."
        )


@strict
class DiaEncoderConfig(PreTrainedConfig):
    """The text encoder: a bidirectional transformer over UTF-8 bytes.

    Args:
        max_position_embeddings (`int`, defaults to 1024): Longest text, in bytes.
        num_hidden_layers (`int`, defaults to 12): Number of layers.
        hidden_size (`int`, defaults to 1024): Width of the residual stream.
        num_attention_heads (`int`, defaults to 16): Number of query heads.
        num_key_value_heads (`int`, defaults to 16): Number of key and value heads; divides `num_attention_heads`.
        head_dim (`int`, defaults to 128): Width of a head; even, because rotary embedding rotates pairs.
        intermediate_size (`int`, defaults to 4096): Width of the SwiGLU block.
        norm_eps (`float`, defaults to 1e-5): Epsilon of the RMS normalizations.
        vocab_size (`int`, defaults to 256): One id a byte.
        hidden_act (`str`, defaults to `"silu"`): Activation of the gate.
        rope_parameters (`dict`, *optional*): `{"rope_type": "default", "rope_theta": 10000.0}` unless given.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new weights.

    Raises:
        ValueError: If a size is not positive, the heads do not divide, or `head_dim` is odd.
    """

    model_type = "dia_encoder"
    base_config_key = "encoder_config"

    max_position_embeddings: int = 1024
    num_hidden_layers: int = 12
    hidden_size: int = 1024
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 128
    intermediate_size: int = 4096
    norm_eps: float = 1e-5
    vocab_size: int = 256
    hidden_act: str = "silu"
    rope_parameters: _Rope = None  # type: ignore[assignment]
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Checked here as well as by `@strict`, which would wrap the ValueError in a class of its own.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Raise `ValueError` for inconsistent sizes."""
        _check_positive(self, "max_position_embeddings", "num_hidden_layers", "hidden_size", "num_attention_heads")
        _check_positive(self, "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size")
        _check_groups(self, "num_attention_heads", "num_key_value_heads")
        _check_rope(self)
        if self.head_dim % 2:
            raise ValueError(f"DiaEncoderConfig: `head_dim` is {self.head_dim}; rotary embedding needs an even number.")


@strict
class DiaDecoderConfig(PreTrainedConfig):
    """The audio decoder: a causal transformer over frames of `num_channels` codes.

    Args:
        max_position_embeddings (`int`, defaults to 3072): Longest audio, in frames, the delay included.
        num_hidden_layers (`int`, defaults to 18): Number of layers.
        hidden_size (`int`, defaults to 2048): Width of the residual stream.
        intermediate_size (`int`, defaults to 8192): Width of the SwiGLU block.
        num_attention_heads (`int`, defaults to 16): Query heads of the self-attention.
        num_key_value_heads (`int`, defaults to 4): Key and value heads of the self-attention.
        head_dim (`int`, defaults to 128): Width of a self-attention head; even.
        cross_num_attention_heads (`int`, defaults to 16): Query heads of the cross-attention.
        cross_head_dim (`int`, defaults to 128): Width of a cross-attention head.
        cross_num_key_value_heads (`int`, defaults to 16): Key and value heads of the cross-attention.
        cross_hidden_size (`int`, defaults to 1024): Width of the encoder states attended to; the encoder's
            `hidden_size`.
        cross_attention_rope (`bool`, defaults to `False`): Whether cross-attention uses rotary embedding, for queries
            by the frame's position and for keys by the byte's, as in the first release (v0.1).
        norm_eps (`float`, defaults to 1e-5): Epsilon of the RMS normalizations.
        vocab_size (`int`, defaults to 1028): Tokens a channel: 1024 codes and the special ones.
        hidden_act (`str`, defaults to `"silu"`): Activation of the gate.
        num_channels (`int`, defaults to 9): Codebooks of the codec.
        rope_parameters (`dict`, *optional*): `{"rope_type": "default", "rope_theta": 10000.0}` unless given.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new weights.
        use_cache (`bool`, defaults to `True`): Whether `generate` keeps keys and values.
        pad_token_id (`int`, defaults to 1025): Padding after the end; marks a free slot in `decoder_input_ids`.
        eos_token_id (`int`, defaults to 1024): End of speech; every id below it is a code.
        bos_token_id (`int`, defaults to 1026): Beginning of speech.

    Raises:
        ValueError: If a size is not positive or the heads do not divide; `check_token_ids` checks the tokens.
    """

    model_type = "dia_decoder"
    base_config_key = "decoder_config"

    max_position_embeddings: int = 3072
    num_hidden_layers: int = 18
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    cross_num_attention_heads: int = 16
    cross_head_dim: int = 128
    cross_num_key_value_heads: int = 16
    cross_hidden_size: int = 1024
    cross_attention_rope: bool = False
    norm_eps: float = 1e-5
    vocab_size: int = 1028
    hidden_act: str = "silu"
    num_channels: int = 9
    rope_parameters: _Rope = None  # type: ignore[assignment]
    initializer_range: float = 0.02
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int = 1025
    eos_token_id: int = 1024
    bos_token_id: int = 1026

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Raise `ValueError` for inconsistent sizes."""
        _check_positive(self, "max_position_embeddings", "num_hidden_layers", "hidden_size", "intermediate_size")
        _check_positive(self, "num_attention_heads", "num_key_value_heads", "head_dim", "cross_num_attention_heads")
        _check_positive(self, "cross_head_dim", "cross_num_key_value_heads", "cross_hidden_size", "vocab_size")
        _check_positive(self, "num_channels")
        _check_groups(self, "num_attention_heads", "num_key_value_heads")
        _check_groups(self, "cross_num_attention_heads", "cross_num_key_value_heads")
        _check_rope(self)
        for name in ("head_dim", "cross_head_dim") if self.cross_attention_rope else ("head_dim",):
            if getattr(self, name) % 2:
                raise ValueError(
                    f"DiaDecoderConfig: `{name}` is {getattr(self, name)}; rotary embedding needs an even number."
                )

    def check_token_ids(self) -> None:
        """Raise `ValueError` for token ids that are inconsistent with each other or the vocabulary.

        Not part of construction: with ids at the top level of a file, or a vocabulary overridden at load, the parts are
        consistent only when all are set. `DiaForConditionalGeneration` and `DiaProcessor` call it.
        """
        ids = {name: getattr(self, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
        for name, token_id in ids.items():
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"DiaDecoderConfig: `{name}` is {token_id}; it must lie within the vocabulary, 0 to "
                    f"{self.vocab_size - 1}."
                )
        if len(set(ids.values())) < len(ids) or self.eos_token_id != min(ids.values()):
            raise ValueError(
                f"DiaDecoderConfig: {ids}; the three must differ and `eos_token_id` be the smallest, because every id "
                "below it is a code of the codec."
            )


if TYPE_CHECKING:  # types after construction
    _EncoderConfig: TypeAlias = DiaEncoderConfig
    _DecoderConfig: TypeAlias = DiaDecoderConfig
    _DelayPattern: TypeAlias = list[int]
else:  # types that are accepted
    _EncoderConfig = PreTrainedConfig | dict | None
    _DecoderConfig = PreTrainedConfig | dict | None
    _DelayPattern = list[int] | None


@strict
class DiaConfig(PreTrainedConfig):
    """Configuration of a Dia model.

    Args:
        encoder_config (`DiaEncoderConfig` or `dict`, *optional*): The text encoder.
        decoder_config (`DiaDecoderConfig` or `dict`, *optional*): The audio decoder.
        delay_pattern (`list[int]`, *optional*): Frames by which each channel lags behind; one entry a channel,
            `[0, 8, 9, 10, 11, 12, 13, 14, 15]` unless given.
        channel_loss_weights (`list[float]`, *optional*): Weight of each channel in the loss, 0 or more; only their
            ratios count. All the same unless given.
        norm_eps (`float`, defaults to 1e-5): Kept for the file layout; the sub-configs' values are used.
        initializer_range (`float`, defaults to 0.02): Standard deviation of new weights.
        use_cache (`bool`, defaults to `True`): Kept for the file layout; the decoder's value is used.
        pad_token_id, eos_token_id, bos_token_id (`int`, *optional*): Accepted here because files of transformers 4.53
            have them at the top level; they are moved to `decoder_config` and are `None` here afterwards.

    Raises:
        ValueError: If the delay pattern or the loss weights do not fit the channels or hold a negative number, or if
            the decoder does not expect the encoder's width.

    Example:
    ```python
    >>> from dia_hf import DiaConfig
    >>> config = DiaConfig(decoder_config={"num_hidden_layers": 2})
    >>> config.decoder_config.num_hidden_layers, config.decoder_config.eos_token_id, config.max_delay
    (2, 1024, 15)
    >>> config.steps_for_frames(100), config.max_generated_frames
    (116, 3055)

    ```
    """

    model_type = "dia"
    keys_to_ignore_at_inference = [  # noqa: RUF012 (read by Trainer)
        *CACHE_NAMES,
        "channel_losses",
        "channel_accuracies",
        "channel_counts",
    ]
    # Two names for one table: transformers 5.17 reads the first, later versions the second.
    sub_configs = {"encoder_config": DiaEncoderConfig, "decoder_config": DiaDecoderConfig}  # noqa: RUF012
    sub_configs_defaults = sub_configs

    encoder_config: _EncoderConfig = None  # type: ignore[assignment]
    decoder_config: _DecoderConfig = None  # type: ignore[assignment]
    delay_pattern: _DelayPattern = None  # type: ignore[assignment]
    channel_loss_weights: list[float | int] | None = None
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    is_encoder_decoder: bool = True
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    bos_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # Set before the decoder is made: its own defaults may lie outside of its vocabulary.
        above = {name: getattr(self, name) for name in _TOKEN_IDS if getattr(self, name) is not None}
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if not isinstance(value, config_class):
                # A config of another implementation is copied by its values.
                values = value.to_dict() if isinstance(value, PreTrainedConfig) else dict(value or {})
                setattr(self, name, config_class(**{**values, **(above if name == "decoder_config" else {})}))
        if self.delay_pattern is None:
            self.delay_pattern = [0, 8, 9, 10, 11, 12, 13, 14, 15]
        for name, token_id in above.items():
            setattr(self.decoder_config, name, token_id)
            setattr(self, name, None)
        super().__post_init__(**kwargs)
        self.validate_architecture()

    @property
    def max_delay(self) -> int:
        """Frames by which the slowest channel lags behind."""
        return max(self.delay_pattern)

    def steps_for_frames(self, num_frames: int) -> int:
        """Count the decoding steps that frames of speech take: one a frame, the end of speech, and the largest delay.

        This is the `max_new_tokens` of a call of `generate()` that is to end after that many frames.

        Args:
            num_frames (`int`): Frames of speech, without the beginning-of-speech frame.

        Returns:
            `int`: `num_frames + 1 + max_delay`.
        """
        return num_frames + 1 + self.max_delay

    def frames_for_steps(self, num_steps: int) -> int:
        """Count the frames of speech that fit into decoding steps: the inverse of `steps_for_frames`.

        Args:
            num_steps (`int`): Steps, such as `max_new_tokens`.

        Returns:
            `int`: `num_steps - 1 - max_delay`; negative if the steps do not cover the delay.
        """
        return num_steps - 1 - self.max_delay

    @property
    def max_training_frames(self) -> int:
        """Frames of the longest clip that training can read whole: inputs end before the last position's label."""
        return self.frames_for_steps(self.decoder_config.max_position_embeddings)

    @property
    def max_generated_frames(self) -> int:
        """Frames of speech that one call can generate without a prompt: the beginning-of-speech frame takes one."""
        return self.frames_for_steps(self.decoder_config.max_position_embeddings - 1)

    def validate_architecture(self) -> None:
        """Raise `ValueError` for inconsistent parts."""
        self.decoder_config.validate_architecture()
        num_channels = self.decoder_config.num_channels
        if len(self.delay_pattern) != num_channels:
            raise ValueError(
                f"DiaConfig: `delay_pattern` has {len(self.delay_pattern)} entries for {num_channels} channels; give "
                "one delay for each channel, or change `decoder_config.num_channels`."
            )
        if min(self.delay_pattern) < 0:
            raise ValueError(f"DiaConfig: `delay_pattern` is {self.delay_pattern}; a delay is 0 frames or more.")
        weights = self.channel_loss_weights
        if weights is not None and (
            len(weights) != num_channels or min(weights) < 0 or not 0 < sum(weights) < math.inf
        ):
            raise ValueError(
                f"DiaConfig: `channel_loss_weights` is {weights}; give {num_channels} weights, one for each channel, "
                "0 or more and not all 0."
            )
        if self.decoder_config.cross_hidden_size != self.encoder_config.hidden_size:
            raise ValueError(
                f"DiaConfig: `decoder_config.cross_hidden_size` ({self.decoder_config.cross_hidden_size}) must equal "
                f"`encoder_config.hidden_size` ({self.encoder_config.hidden_size})."
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load as in the base class, and check that the file exists and is a Dia's.

        Raises:
            OSError: If there is no such checkpoint, or it has no `config.json`: the defaults would make a
                model of 1.6 billion random weights.
            ValueError: If the file is no config of a Dia in this layout, or a field has an invalid value.
        """
        name = str(pretrained_model_name_or_path)
        file = Path(name, kwargs.get("subfolder") or "", "config.json")
        if os.path.isdir(name) and not file.is_file():
            raise OSError(
                f"{name!r} has no file `config.json`, which holds the sizes of a model; a checkpoint is a "
                "folder with `config.json`, `model.safetensors` and the processor's files."
            )
        try:
            if file.is_file():
                read_json(file)  # transformers' reader takes a list or deep nesting for granted
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (StrictDataclassError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"the `config.json` of {name!r} cannot be used: {error}") from error

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read as in the base class; raise `ValueError` for another model's file."""
        values, kwargs = super().get_config_dict(*args, **kwargs)
        if "model" in values and "data" in values:
            raise ValueError(
                "it is in the layout of nari-labs' first release (v0.1); load it with `Dia.from_pretrained` or "
                "`dia_hf.conversion.load_checkpoint`, or make a checkpoint of it, `dia-hf convert`"
            )
        if (model_type := values.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"`model_type` is {model_type!r}; a Dia's is {cls.model_type!r}")
        return values, kwargs

    def get_text_config(self, *args: Any, **kwargs: Any) -> DiaDecoderConfig:
        """Return the decoder's config: transformers' text config is that of the part that generates."""
        return self.decoder_config
