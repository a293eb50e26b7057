"""Codecs: waveforms to codes and back, the table of the known ones, and clips that are decoded while they grow.

`Codec` is the interface of every codec. A codec of another kind is a file beside `dac.py` with a subclass of it, and an
entry in `_CODECS`; all other files take rate, hop length, codebooks and margins from the codec. This file does not
depend on the delay pattern, special tokens or text.

Legend: B batch, N samples, T frames (one every `hop_length` samples), C codebooks.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import torch
from transformers.utils import cached_file

__all__ = ["Codec", "DecoderStream", "as_codec", "codec_class", "load_network", "network_name", "register_codec"]

_CODECS: dict[str, type[Codec] | tuple[str, str]] = {
    "DacModel": ("dia_hf.audio.dac", "DacCodec"),
    "DacDecoder": ("dia_hf.audio.dac", "DacCodec"),
    "DAC": ("dia_hf.audio.dac", "DacCodec"),  # descript's own class
}
"""Class name of a network → its codec, as a class or as module and name of one that is imported when it is needed."""


class Codec(Protocol):
    """Interface of every codec: two functions on clips, `encode` and `decode`, and the geometry of the codes.

    An implementation derives from this class, takes the arguments below, sets the attributes and defines the abstract
    methods. Streams follow from `decode`, `decoder_context` and `decoder_margin`; a codec with a cheaper way to decode
    a part of a clip overrides `decode_spans`. It is found by the class name of its network: see `register_codec`.

    Args:
        model (`torch.nn.Module`): The network.
        max_frames_per_batch (`int`): Frames to compute at once at most, for a codec that can bound its memory.

    Attributes:
        model (`torch.nn.Module`): The network; it stays on its device and in its dtype, and may be moved meanwhile.
        sampling_rate (`int`): In hertz.
        hop_length (`int`): Samples a frame.
        num_codebooks (`int`): Codes a frame.
        codebook_size (`int`): Entries a codebook; valid codes are 0 to `codebook_size - 1`.
        decoder_context (`int`): Frames before a frame whose codes its samples depend on.
        decoder_margin (`int`): Frames after a frame whose codes its samples depend on; a stream lags by as many.
    """

    model: Any
    sampling_rate: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    decoder_context: int
    decoder_margin: int

    @abstractmethod
    def __init__(self, model: Any, max_frames_per_batch: int = 1024) -> None: ...

    @abstractmethod
    def encode(self, waveforms: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn waveforms into codes, with the result of each clip alone.

        Args:
            waveforms (`Sequence[torch.Tensor]`, each of shape `[N_i]`): Mono, at `sampling_rate`, of any floating
                dtype and any length; padded with zeros to whole frames.

        Returns:
            `list[torch.LongTensor]`, each of shape `[T_i, C]` with `T_i = ceil(N_i / hop_length)`, on the CPU.

        Raises:
            ValueError: If a waveform has another number of dimensions.
        """

    @abstractmethod
    def decode(self, codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Turn codes into waveforms, with the result of each clip alone.

        Args:
            codes (`Sequence[torch.Tensor]`, each of shape `[T_i, C]`, integer): Codes; T_i may be 0.

        Returns:
            `list[torch.Tensor]`, each of shape `[about T_i · hop_length]`, float32, on the CPU.

        Raises:
            ValueError: If codes are unusable; see `check_codes`.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal for two codecs exactly if their codes have the same meaning.

        It must not depend on the dtype and device of the network.
        """

    @classmethod
    @abstractmethod
    def load(cls, name: str | os.PathLike, **options: Any) -> Any:
        """Load a network.

        Args:
            name (`str` or `os.PathLike`): Folder or Hub id.
            options: As for `from_pretrained` of transformers: `subfolder`, `revision`, `device_map`, `dtype`, …

        Raises:
            OSError: If there is none.
            ValueError: If its files are damaged or incomplete.
        """

    @abstractmethod
    def save(self, folder: str | os.PathLike) -> None:
        """Write the network to a folder, for `load`; one of the files is `config.json`.

        Raises:
            ValueError: If this network has no file format that `load` reads.
        """

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.hop_length

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.model.parameters()).device

    def check_codes(self, clip: torch.Tensor) -> None:
        """Raise `ValueError` if a clip has another shape than `[T, C]`, no integers, or a code outside the codebook."""
        if clip.ndim != 2 or clip.shape[1] != self.num_codebooks:
            raise ValueError(f"codes have the shape {tuple(clip.shape)}; expected [frames, {self.num_codebooks}].")
        if len(clip) == 0:
            return
        if clip.is_floating_point():
            raise ValueError(f"codes are of the dtype {clip.dtype}; expected integers.")
        if not 0 <= clip.min() <= clip.max() < self.codebook_size:
            raise ValueError(
                f"codes range from {clip.min()} to {clip.max()}; this codec knows 0 to {self.codebook_size - 1}, "
                "special tokens must be cut off before decoding."
            )

    def decode_spans(self, spans: Sequence[tuple[torch.Tensor, int, int]]) -> list[torch.Tensor]:
        """Decode some frames of each clip.

        Args:
            spans: Clips of shape `[T_i, C]`, and for each the first frame wanted and the one after the last.

        Returns:
            `list[torch.Tensor]`, each of shape `[N_i]`, float32, on the CPU: the part of `decode` of the whole clip.
        """
        firsts = [max(start - self.decoder_context, 0) for _, start, _ in spans]
        pieces = [
            clip[first : stop + self.decoder_margin] for first, (clip, _, stop) in zip(firsts, spans, strict=True)
        ]
        return [
            waveform[(start - first) * self.hop_length : (stop - first) * self.hop_length]
            for first, (_, start, stop), waveform in zip(firsts, spans, self.decode(pieces), strict=True)
        ]

    def decode_next(self, streams: Sequence[DecoderStream], num_frames: Sequence[int]) -> list[torch.Tensor]:
        """Decode the next frames of several growing clips, for `pop_many`, which has checked the numbers.

        A codec that can compute a growing clip without its context keeps its state in `DecoderStream.state`.
        """
        spans = [
            (stream._codes, stream._next, stream._next + count)
            for stream, count in zip(streams, num_frames, strict=True)
        ]
        return self.decode_spans(spans)

    def stream(self) -> DecoderStream:
        """Create a clip that is decoded while it grows."""
        return DecoderStream(self)

    @torch.no_grad()
    def pop_many(self, streams: Sequence[DecoderStream], num_frames: Sequence[int]) -> list[torch.Tensor]:
        """Take the next frames of several growing clips, decoded together.

        Args:
            streams (`Sequence[DecoderStream]`): Clips, each at most once, of this codec.
            num_frames (`Sequence[int]`): Frames to take of each: 0 to its `num_ready`.

        Returns:
            `list[torch.Tensor]`, each as `DecoderStream.pop` returns it.

        Raises:
            ValueError: If a clip has fewer frames ready, is given twice or belongs to another codec. No clip is
                changed then.
        """
        if len({id(stream) for stream in streams}) < len(streams):
            raise ValueError("a stream is given twice; add up its frames.")
        for stream, count in zip(streams, num_frames, strict=True):
            if stream.codec.model is not self.model:
                raise ValueError("a stream belongs to another codec; use the one whose `stream` made it.")
            if not 0 <= count <= stream.num_ready:
                raise ValueError(
                    f"{count} frames were asked for; {stream.num_ready} are ready. The last {self.decoder_margin} are "
                    "ready once the stream is closed."
                )
        waveforms = self.decode_next(streams, num_frames)
        for stream, count in zip(streams, num_frames, strict=True):
            stream._drop(count)
        return waveforms


def register_codec(network: str, codec: type[Codec]) -> None:
    """Make a codec known to `as_codec`, and through it to `DiaProcessor`, `Dia` and `prepare_dataset`.

    Args:
        network (`str`): Class name of its network, which is also written into a checkpoint that holds one.
        codec (`type[Codec]`): The class; it replaces one that is known under this name.
    """
    _CODECS[network] = codec


def codec_class(network: str) -> type[Codec]:
    """Return the codec for networks of a class.

    Args:
        network (`str`): The name of the class, such as `"DacModel"`.

    Raises:
        ValueError: If there is none.
    """
    if network not in _CODECS:
        raise ValueError(
            f"there is no codec for a network of the class {network!r}; known are {', '.join(map(repr, _CODECS))}."
        )
    found = _CODECS[network]
    return getattr(import_module(found[0]), found[1]) if isinstance(found, tuple) else found


def as_codec(network: Any, **options: Any) -> Codec:
    """Return the codec of a network; a codec is returned as it is.

    Args:
        network (`torch.nn.Module` or `Codec`): Such as a `DacModel`, a `dac.DAC`, or one of a class that
            `register_codec` was given.
        options: Of the codec: `max_frames_per_batch`.

    Raises:
        TypeError: If there is no codec for a network of this class.

    Example:
    ```python
    >>> from transformers import DacConfig, DacModel
    >>> from dia_hf.audio.codec import as_codec
    >>> codec = as_codec(DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=32)))
    >>> codec.sampling_rate, codec.hop_length, codec.num_codebooks, codec.codebook_size
    (16000, 512, 9, 1024)

    ```
    """
    if hasattr(type(network), "decode_spans"):
        return network
    return codec_class(network_name(network))(network, **options)


def network_name(network: Any) -> str:
    """Return the name under which a network's class, or the nearest of its base classes, has a codec.

    Raises:
        TypeError: If there is none.
    """
    for kind in type(network).__mro__:
        if kind.__name__ in _CODECS:
            return kind.__name__
    raise TypeError(
        f"the codec is a {type(network).__name__}; use transformers' DacModel or descript's dac.DAC, or make its codec "
        "known with `dia_hf.audio.codec.register_codec`."
    )


def load_network(name: str | os.PathLike, network: str | None = None, **options: Any) -> Any:
    """Load the network of a codec.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub id.
        network (`str`, *optional*): Name of its class; unless given, the one that `architectures` in its `config.json`
            names, or else `"DacModel"`.
        options: See `Codec.load`.

    Raises:
        OSError: If there is none.
        ValueError: If there is no codec for networks of this class; and as `Codec.load` of the codec does.
    """
    if network is None:
        network = "DacModel"
        hub_options = {key: value for key, value in options.items() if key not in ("device_map", "dtype")}
        try:
            with open(cached_file(name, "config.json", **hub_options) or "", encoding="utf-8") as file:
                network = next((kind for kind in json.load(file)["architectures"] if kind in _CODECS), network)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass  # `load` raises an error that names the reason
    return codec_class(network).load(name, **options)


class DecoderStream:
    """Clip that is decoded while it grows. Created by `Codec.stream`.

    Codes are pushed as they arrive, and samples popped as soon as no later code can change them. The popped samples,
    concatenated, are those of `Codec.decode` on all pushed codes. Only codes that are still needed are kept. To pop
    several clips in one batch, see `Codec.pop_many`.

    Args:
        codec (`Codec`): Codec of the codes.

    Example:
    ```python
    >>> import torch
    >>> from transformers import DacConfig, DacModel
    >>> from dia_hf.audio.codec import as_codec
    >>> codec = as_codec(DacModel(DacConfig(encoder_hidden_size=4, decoder_hidden_size=32)))
    >>> stream = codec.stream()
    >>> stream.push(torch.randint(0, 1024, (20, 9)))
    >>> stream.num_ready == 20 - codec.decoder_margin
    True
    >>> stream.pop(2).shape
    torch.Size([1024])
    >>> stream.close()
    >>> stream.num_ready
    18

    ```
    """

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._codes = torch.zeros(0, codec.num_codebooks, dtype=torch.long)
        self._next = 0  # the first frame of `_codes` that was not popped; those before it are its context
        self.is_closed = False
        self.state: Any = None  # of the codec; changed by replacement only

    @property
    def codes(self) -> torch.Tensor:
        """Codes `[T, C]` that were pushed and not popped."""
        return self._codes[self._next :]

    @property
    def num_pending(self) -> int:
        """Frames that were pushed and not popped."""
        return len(self._codes) - self._next

    @property
    def num_ready(self) -> int:
        """Frames that can be popped: all but the last `decoder_margin`, or, of a closed stream, all."""
        return max(self.num_pending - (0 if self.is_closed else self.codec.decoder_margin), 0)

    def push(self, codes: torch.Tensor) -> None:
        """Add codes to the clip's end.

        Args:
            codes (`torch.Tensor` of shape `[T, C]`, integer): Codes; T may be 0.

        Raises:
            ValueError: If the stream is closed; and as `Codec.decode`.
        """
        if self.is_closed:
            raise ValueError("the stream is closed; begin another: `codec.stream()`.")
        self.codec.check_codes(codes)
        self._codes = torch.cat([self._codes, codes.to("cpu", torch.long)])

    def close(self) -> None:
        """End the clip: no further codes come."""
        self.is_closed = True

    def pop(self, num_frames: int) -> torch.Tensor:
        """Take the next frames.

        Args:
            num_frames (`int`): 0 to `num_ready`.

        Returns:
            `torch.Tensor` of shape `[num_frames · hop_length]`, float32, on the CPU. The last of a closed stream has
            as many samples as the whole clip has left: with odd strides, fewer.

        Raises:
            ValueError: If fewer frames are ready.
        """
        return self.codec.pop_many([self], [num_frames])[0]

    def _drop(self, num_frames: int) -> None:
        self._next += num_frames
        num_needless = max(self._next - self.codec.decoder_context, 0)
        self._codes = self._codes[num_needless:].clone()
        self._next -= num_needless
