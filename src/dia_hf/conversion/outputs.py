"""Layouts of other software: each checked first, against its model, and written when all checks have passed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import DacModel
from transformers.utils import logging

from .checkpoint import Checkpoint, Target, make_config, make_generation_config, make_processor, make_tensor
from .gguf_writer import check_tts_cpp, choose_type, find_limits, make_keys, write_gguf
from .load import make_model
from .mlx_writer import check_quantizable, config_to_mlx, is_quantized, quantize
from .nari import config_to_0626, config_to_v0_1
from .onnx_export import check_onnx, write_onnx_codec, write_onnx_model
from .shards import write_shards

__all__ = ["OTHER_LAYOUTS", "QUANTIZED_LAYOUTS", "Output", "Request", "prepare"]

logger = logging.get_logger(__name__)

_ONE_FILE = 1 << 62  # bytes; the original code opens a single file


@dataclass(frozen=True)
class Request:
    """A conversion that is asked for.

    Args:
        source (`Checkpoint`): The model.
        dtype (`torch.dtype`): Of the tensors.
        bits (`int`, *optional*): Bits of quantized weights.
        limit (`int`): Bytes of a weight file, where a layout has several.
        codec (`Callable`): Loads the codec; `None` if there is none.
        verbose (`bool`): Whether to show progress.
    """

    source: Checkpoint
    dtype: torch.dtype
    bits: int | None
    limit: int
    codec: Callable[[], DacModel | None]
    verbose: bool

    @property
    def dtype_name(self) -> str:
        """Name of the dtype."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Output:
    """Checked conversion.

    Args:
        write (`Callable`): Writes config and weights to a folder; takes it, the model and its tensors in the layout.
        how (`str`): How to run it, as Markdown.
        codec (`str`): Where the codec is.
        kind (`str`): Types of the weights.
        losses (`str`, defaults to `""`): What the layout does not hold, as Markdown.
    """

    write: Callable[[Path, Checkpoint, list[Target]], None]
    how: str
    codec: str
    kind: str
    losses: str = ""


def _write_json(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def _find_losses(request: Request) -> str:
    """Tell what runtimes with fixed tags and sampling parameters do not take from a checkpoint."""
    losses = "Not in these files: sampling parameters, channel weights of the loss."
    tokenizer = make_processor(request.source, None).tokenizer
    tags = tokenizer.speaker_ids | tokenizer.language_ids
    if others := [tag for tag, number in tags.items() if {"[S1]": 1, "[S2]": 2}.get(tag) != number]:
        losses += f" The tags {', '.join(others)} are read as their letters: the runtime knows [S1] and [S2]."
        logger.warning(losses)
    return losses


def _prepare_nari(request: Request, release: str) -> Output:
    if release == "0626":
        config, name = config_to_0626(request.source.config, request.dtype_name), "model.safetensors"
    else:
        config, name = config_to_v0_1(request.source.config, request.dtype_name), "dia-v0_1.pth"

    def write(folder: Path, source: Checkpoint, targets: list[Target]) -> None:
        _write_json(folder / "config.json", config)
        if release == "0626":
            write_shards(source, targets, folder, request.dtype, _ONE_FILE, request.verbose)
            return
        tensors = {
            target.name: make_tensor(source, target, request.dtype)
            for target in tqdm(targets, desc="converting", unit=" tensors", disable=not request.verbose)
        }
        with (folder / name).open("wb") as file:
            torch.save(tensors, file)

    return Output(
        write,
        how=f"With nari-labs/dia{'' if release == '0626' else ' v0.1'}: `Dia.from_local(config.json, {name})`.\n",
        codec="none: nari-labs' code downloads its own",
        kind=request.dtype_name,
        losses=_find_losses(request),
    )


def _prepare_mlx(request: Request) -> Output:
    bits = request.bits
    config = config_to_mlx(request.source.config, request.dtype_name, bits)
    if bits is not None:
        check_quantizable(request.source.config, bits)

    def pack(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: tensor} if bits is None or not is_quantized(name) else quantize(name, tensor, bits)

    def write(folder: Path, source: Checkpoint, targets: list[Target]) -> None:
        _write_json(folder / "config.json", config)
        write_shards(source, targets, folder, request.dtype, request.limit, request.verbose, pack, "mlx")

    return Output(
        write,
        how='With mlx-audio, on Apple silicon: `mlx_audio.tts.generate --model this/folder --text "[S1] Hello."`.\n',
        codec="none: mlx-audio downloads its own",
        kind=request.dtype_name + (f", embeddings of {bits} bits" if bits is not None else ""),
        losses=_find_losses(request),
    )


def _prepare_tts_cpp(request: Request) -> Output:
    config = request.source.config
    check_tts_cpp(config)
    kind = choose_type(request.dtype, request.bits)
    codec = request.codec()
    if codec is None:
        raise ValueError(
            "a GGUF file of TTS.cpp holds the codec's decoder, and the source has no codec inside; give one: `codec` "
            "(`--codec`)."
        )
    make_processor(request.source, codec)  # the two fit together
    check_tts_cpp(config, codec.config)
    losses = _find_losses(request) + " The codec's encoder: voice prompts need the checkpoint itself."
    if limits := find_limits(config):
        losses += f" TTS.cpp will not load this file, because of sizes that are fixed in it: {'; '.join(limits)}."
        logger.warning(losses)
    keys = make_keys(config, codec, make_generation_config(request.source).guidance_scale)

    def write(folder: Path, source: Checkpoint, targets: list[Target]) -> None:
        write_gguf(folder / "model.gguf", source, targets, codec, keys, kind, request.verbose)

    return Output(
        write,
        how='With TTS.cpp: `tts-cli --model-path model.gguf --prompt "[S1] Hello. [S2] Hi!" --save-path hello.wav`.\n',
        codec="its decoder is included",
        kind=kind,
        losses=losses,
    )


def _prepare_onnx(request: Request) -> Output:
    if request.dtype != torch.float32:
        raise ValueError(f"the model is exported in float32, and not in {request.dtype_name}: `dtype` (`--dtype`).")
    check_onnx()
    codec = request.codec()
    make_processor(request.source, codec)

    def write(folder: Path, source: Checkpoint, targets: list[Target]) -> None:
        make_config(source, torch.float32).save_pretrained(folder)
        if codec is not None:
            write_onnx_codec(codec, folder)
        write_onnx_model(make_model(source, targets, torch.float32, ""), folder)

    return Output(
        write,
        how=_ONNX_HOW,
        codec="its decoder is included" if codec is not None else "none: `dia-hf convert --to onnx-codec` writes it",
        kind="float32",
        losses=_find_losses(request) + " Guidance, delay pattern and sampling are left to the caller.",
    )


_ONNX_HOW = """\
With ONNX Runtime: `text_encoder.onnx` once a text; `decoder_step.onnx` once a frame, with the tokens that are chosen as
the next `codes`, and `new_keys` and `new_values` as the next `keys` and `values`; `codec_decoder.onnx` at the end.
"""

_PREPARE: dict[str, Callable[[Request], Output]] = {
    "nari-0626": lambda request: _prepare_nari(request, "0626"),
    "nari-v0.1": lambda request: _prepare_nari(request, "v0.1"),
    "mlx": _prepare_mlx,
    "gguf-tts.cpp": _prepare_tts_cpp,
    "onnx": _prepare_onnx,
}
OTHER_LAYOUTS = tuple(_PREPARE)
QUANTIZED_LAYOUTS = ("gguf-tts.cpp", "mlx")


def prepare(layout: str, request: Request) -> Output:
    """Check a conversion to a layout of other software.

    Args:
        layout (`str`): One of `OTHER_LAYOUTS`.
        request (`Request`): What is to be written.

    Raises:
        ValueError: If that software would compute something else than the model, a codec is missing, or the layout has
            no such dtype or number of bits.
    """
    return _PREPARE[layout](request)
