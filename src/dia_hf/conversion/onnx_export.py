"""Export to ONNX: the text encoder, a step of the decoder with its cache as inputs and outputs, the codec's decoder.

PyTorch's exporter traces the modules themselves, with free numbers of rows, bytes and frames. Guidance, the delay
pattern and sampling are not in the graphs; a step takes frames and returns logits.

Legend: B rows, S bytes, T frames before, C channels, V vocabulary, L layers, K key-value heads, D width of a head.
"""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DacModel, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .._extras import import_extra
from ..modeling_dia import DiaForConditionalGeneration

__all__ = ["CODEC_FILE", "check_onnx", "write_onnx_codec", "write_onnx_model"]

CODEC_FILE = "codec_decoder.onnx"


def check_onnx() -> None:
    """Raise `ImportError` if a package is missing that PyTorch's exporter needs: `onnx` and `onnxscript`."""
    for package in ("onnx", "onnxscript"):
        import_extra(package)


def _export(
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: list[str],
    free: dict[str, dict[int, Any]],
    file: Path,
    metadata: dict[str, int] | None = None,
) -> None:
    """Trace a module, and write a file; beyond 2 GB, the weights are in a second one."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch, about itself
        exporter.setLevel(logging.ERROR)  # torchvision is not installed
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes={name: free.get(name, {}) for name in inputs},
            )
        finally:
            exporter.setLevel(level)
    assert program is not None
    program.model.metadata_props.update({key: str(value) for key, value in (metadata or {}).items()})
    program.save(file)


class _CodecDecoder(nn.Module):
    """Codes `[B, C, T]` to waveforms `[B, T · hop length]`."""

    def __init__(self, codec: DacModel) -> None:
        super().__init__()
        self.quantizer, self.decoder = codec.quantizer, codec.decoder

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.quantizer.from_codes(codes)[0])[:, 0]


def write_onnx_codec(codec: DacModel, folder: Path) -> None:
    """Write the decoder of a codec, in float32.

    The input is `codes` `[B, C, T]`, int64, without special tokens and without delay; the output `waveform`
    `[B, T · hop length]`, float32. The sampling rate and the hop length are in the file's metadata.

    Args:
        codec (`DacModel`): The codec; it is moved to float32.
        folder (`Path`): Folder of the file `codec_decoder.onnx`.
    """
    codes = torch.zeros(2, codec.config.n_codebooks, 4, dtype=torch.long)
    free = {"codes": {0: torch.export.Dim("clips"), 2: torch.export.Dim("frames")}}
    hop_length = math.prod(codec.config.downsampling_ratios)
    metadata = {"sampling_rate": codec.config.sampling_rate, "hop_length": hop_length}
    _export(_CodecDecoder(codec.float()), {"codes": codes}, ["waveform"], free, folder / CODEC_FILE, metadata)


class _TextEncoder(nn.Module):
    """Bytes `[B, S]` to keys and values of the cross-attention, each `[L, B, K, S, D]`."""

    def __init__(self, model: DiaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        # The decoder reads a frame, and nothing of it that does not depend on the text alone is returned.
        self.model(input_ids=input_ids, attention_mask=attention_mask, cache=cache, use_cache=True)
        return _stacked(cache.cross_attention_cache)


class _DecoderStep(nn.Module):
    """A frame `[B, 1, C]` to logits `[B, C, V]`, and the cache with it."""

    def __init__(self, model: DiaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        codes: torch.Tensor,
        position: torch.Tensor,
        attention_mask: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        cross_keys: torch.Tensor,
        cross_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        decoder = self.model.config.decoder_config
        for layer in range(decoder.num_hidden_layers):
            cache.self_attention_cache.update(keys[layer], values[layer], layer)
            cache.cross_attention_cache.update(cross_keys[layer], cross_values[layer], layer)
            cache.is_updated[layer] = True
        # Of the text's states, only their number is read: keys and values are in the cache.
        states = cross_keys.new_zeros(codes.shape[0], attention_mask.shape[1], decoder.cross_hidden_size)
        logits = self.model(
            attention_mask=attention_mask,
            decoder_input_ids=codes,
            decoder_position_ids=position,
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            cache=cache,
            use_cache=True,
        ).logits
        return logits.reshape(codes.shape[0], decoder.num_channels, -1), *_stacked(cache.self_attention_cache)


def _stacked(cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([layer.keys for layer in cache.layers]), torch.stack([layer.values for layer in cache.layers])


def write_onnx_model(model: DiaForConditionalGeneration, folder: Path) -> None:
    """Write the text encoder and a step of the decoder, in float32.

    `text_encoder.onnx`: `input_ids` and `attention_mask` `[B, S]`, int64, to `cross_keys` and `cross_values`
    `[L, B, K, S, D]`.

    `decoder_step.onnx`: `codes` `[B, 1, C]` and `position` `[B, 1]`, int64, the mask, `keys` and `values`
    `[L, B, K, T, D]` of the frames before (T is 0 at the first), and the text's, to `logits` `[B, C, V]`, `new_keys`
    and `new_values` `[L, B, K, T + 1, D]`.

    Args:
        model (`DiaForConditionalGeneration`): The model, in float32; its attention becomes the eager one.
        folder (`Path`): Folder of the files.
    """
    decoder = model.config.decoder_config
    model.set_attn_implementation("eager")
    rows, text, frames = (torch.export.Dim(name) for name in ("rows", "text", "frames"))
    ids = torch.full((2, 5), 65)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    free: dict[str, dict[int, Any]] = {key: {0: rows, 1: text} for key in inputs}
    _export(_TextEncoder(model), inputs, ["cross_keys", "cross_values"], free, folder / "text_encoder.onnx")

    num_layers = decoder.num_hidden_layers
    own = torch.zeros(num_layers, 2, decoder.num_key_value_heads, 3, decoder.head_dim)
    cross = torch.zeros(num_layers, 2, decoder.cross_num_key_value_heads, ids.shape[1], decoder.cross_head_dim)
    inputs = {
        "codes": torch.zeros(2, 1, decoder.num_channels, dtype=torch.long),
        "position": torch.full((2, 1), 3),
        "attention_mask": torch.ones_like(ids),
        "keys": own,
        "values": own.clone(),
        "cross_keys": cross,
        "cross_values": cross.clone(),
    }
    free = {
        **{key: {0: rows} for key in ("codes", "position")},
        "attention_mask": {0: rows, 1: text},
        **{key: {1: rows, 3: frames} for key in ("keys", "values")},
        **{key: {1: rows, 3: text} for key in ("cross_keys", "cross_values")},
    }
    _export(_DecoderStep(model), inputs, ["logits", "new_keys", "new_values"], free, folder / "decoder_step.onnx")
