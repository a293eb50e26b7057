"""Export of the codec's decoder to ONNX: codes of any number of clips and frames to waveforms."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import DacModel

from .._extras import import_extra

__all__ = ["ONNX_FILE", "write_onnx_codec"]

ONNX_FILE = "codec_decoder.onnx"


class _Decoder(nn.Module):
    """Codes `[B, codebooks, T]` to waveforms `[B, T · hop length]`."""

    def __init__(self, codec: DacModel) -> None:
        super().__init__()
        self.quantizer, self.decoder = codec.quantizer, codec.decoder

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.quantizer.from_codes(codes)[0])[:, 0]


def write_onnx_codec(codec: DacModel, folder: Path) -> None:
    """Write the decoder of a codec, in float32.

    The input is `codes` `[B, codebooks, T]`, int64, codes of the codebooks without special tokens and without delay;
    the output `waveform` `[B, T · hop length]`, float32. B and T are free. The sampling rate and the hop length are in
    the file's metadata.

    Args:
        codec (`DacModel`): The codec; it is moved to float32.
        folder (`Path`): Folder of the file `codec_decoder.onnx`.

    Raises:
        ImportError: If `onnx` or `onnxscript`, which PyTorch's exporter needs, is missing.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package)
    decoder = _Decoder(codec.float()).eval()
    codes = torch.zeros(2, codec.config.n_codebooks, 4, dtype=torch.long)
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        exporter.setLevel(logging.ERROR)  # torchvision is not installed
        try:
            program = torch.onnx.export(
                decoder,
                (codes,),
                dynamo=True,
                verbose=False,
                input_names=["codes"],
                output_names=["waveform"],
                dynamic_shapes={"codes": {0: torch.export.Dim("clips"), 2: torch.export.Dim("frames")}},
            )
        finally:
            exporter.setLevel(level)
    assert program is not None
    program.model.metadata_props["sampling_rate"] = str(codec.config.sampling_rate)
    program.model.metadata_props["hop_length"] = str(math.prod(codec.config.downsampling_ratios))
    program.save(folder / ONNX_FILE)
