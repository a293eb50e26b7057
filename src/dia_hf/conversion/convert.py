"""Conversion of a checkpoint of any layout to a complete one: checked first, written to a temporary folder, and moved.

Steps: open the source and plan (`checkpoint.py`) → check the layout of other software (`outputs.py`) → write config,
processor and codec → write weights, shard by shard → model card → move into place. Called by `dia-hf convert` and
`scripts/convert_checkpoint.py`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import DacModel

from ..atomic_write import atomic_write_folder, find_held
from ..audio.codec import as_codec, network_name
from ..audio.dac import DacDecoder
from ..model_card import HOW_TO_RUN, make_model_card
from ..processing_dia import DiaProcessor, write_codec_reference
from ..text_files import read_json
from .adapters import locate_adapter, merged_checkpoint
from .checkpoint import (
    Checkpoint,
    choose_dtype,
    load_codec,
    load_own_codec,
    make_config,
    make_generation_config,
    make_processor,
    parse_dtype,
    plan,
    recognize,
)
from .descript import is_descript
from .gguf_file import is_gguf
from .gguf_model import has_codec, is_gguf_model
from .locate import locate
from .onnx_export import CODEC_FILE, check_onnx, write_onnx_codec
from .outputs import OTHER_LAYOUTS, QUANTIZED_LAYOUTS, Request, prepare
from .shards import write_shards
from .weights import Weights, check_sums, hash_files

__all__ = ["convert_checkpoint"]

_LAYOUTS = ("huggingface", *OTHER_LAYOUTS, "onnx-codec")
_WITHOUT_CODEC = ("nari-0626", "nari-v0.1", "mlx")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def _parse_size(size: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)", size.strip().upper())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"`max_shard_size` is {size!r}; give a size such as '2GB' or '500MB'.")
    return int(float(match[1]) * _UNITS[match[2]])


def _write_rest(source: Checkpoint, processor: DiaProcessor, folder: Path, dest: Path, dtype: torch.dtype) -> None:
    """Write config, generation config, processor and codec."""
    make_config(source, dtype).save_pretrained(folder)
    make_generation_config(source).save_pretrained(folder)
    processor.save_pretrained(folder)
    reference_file, published = folder / "audio_tokenizer_config.json", source.find("audio_tokenizer_config.json")
    if processor.audio_tokenizer is not None:
        reference = read_json(reference_file)
        if os.path.isdir(reference["audio_tokenizer_name_or_path"]):
            network = network_name(processor.audio_tokenizer)
            write_codec_reference(folder, str(dest.absolute() / "audio_tokenizer"), network)
    elif published is not None:
        shutil.copy(published, reference_file)
    else:
        write_codec_reference(folder, "descript/dac_44khz")


def _choose_codec(source: Checkpoint, asked: str | os.PathLike | None) -> DacModel | None:
    """Load the requested codec, or else the source's own."""
    return load_codec(asked) if asked is not None else load_own_codec(source)


def _describe_codec(network: DacModel | None) -> str:
    if network is None:
        return "named in `audio_tokenizer_config.json`"
    inside = "included, in `audio_tokenizer/`"
    return f"{inside}, without its encoder: no voice prompts" if isinstance(network, DacDecoder) else inside


_V0_1_NOTE = """\
**This is a v0.1 model.** It applies rotary embedding in cross-attention, samples codes from the guided logits and
scales the end-of-speech logit. dia_hf reads this from `cross_attention_rope` in `config.json` and from
`sample_from_guided` and `eos_logit_scale` in `generation_config.json`; transformers' own Dia ignores all three and
silently computes something else."""

_GGUF_NOTE = """\
**Of a GGUF file.** Such a file does not say which release it was made of: it is taken for the first one (v0.1), as the
programs do that read it. Sizes that it does not store are those of its tensors."""


def _public_name(given: str | os.PathLike) -> str:
    """Return a Hub id, or the name of a file or folder without its path on this machine."""
    return f"`{os.path.basename(os.path.abspath(given)) if Path(given).exists() else given}`"


def _write_card(
    given: str | os.PathLike,
    source: Checkpoint,
    folder: Path,
    to: str,
    dtype: str,
    codec: str,
    adapter: str | os.PathLike | None,
    how: str = HOW_TO_RUN,
    losses: str = "",
) -> None:
    facts = {
        "source": _public_name(given),
        "layout of the source": f"{source.layout} ({source.details})" if source.details else source.layout,
        "SHA-256 of its weights": f"`{hash_files(source.weights.files)}`",
        "layout of this folder": to,
        "dtype": dtype,
        "codec": codec,
    }
    if adapter is not None:
        facts["merged adapter"] = _public_name(adapter)
    notes = [losses] if losses else []
    if to == "huggingface" and source.config.decoder_config.cross_attention_rope:
        notes.append(_V0_1_NOTE)
    if source.is_gguf:
        notes.append(_GGUF_NOTE)
    note = "\n\n".join(notes)
    (folder / "README.md").write_text(make_model_card("Dia, converted", facts, note, how), "utf-8")


@contextmanager
def _written_beside(dest: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary folder that replaces `dest` at the end, or is removed on any error."""
    with atomic_write_folder(dest, force) as folder:
        try:
            yield folder
        except Exception as error:
            number = error.errno if isinstance(error, OSError) else None
            if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
                number = int(found[1])  # safetensors does not raise OSError
            if number == errno.ENOSPC or "No space left" in str(error):
                raise OSError(errno.ENOSPC, "the disk is full") from error
            if number is not None and not isinstance(error, OSError):
                raise OSError(number, os.strerror(number)) from error
            raise


def _check_apart(dest: Path, given: Sequence[str | os.PathLike | None], files: list[Path]) -> None:
    """Raise `ValueError` if replacing the destination would delete what is read, also through links."""
    folders = [Path(path) for path in given if path is not None and Path(path).is_dir()]
    folders += [file.parent for file in files]
    inside = [path for folder in folders for path in (*folder.iterdir(), *(folder / "audio_tokenizer").glob("*"))]
    if (held := find_held(dest, [*given, *folders, *files, *inside])) is not None:
        raise ValueError(f"{dest} is or contains {held}, which is read and would be lost. Give another folder.")


def _convert_codec(file: Path, dest: Path, dtype: torch.dtype | None, force: bool, dry_run: bool) -> str:
    """Convert descript's file, or the codec in a GGUF file, to a `DacModel` folder."""
    codec = load_codec(file)
    if dtype is not None:
        codec = codec.to(dtype)
    state = codec.state_dict()
    rows = [f"{name}  {list(tensor.shape)}" for name, tensor in state.items()]
    layout = "gguf" if is_gguf(file) else "descript"
    kind = type(codec).__name__
    summary = f"{len(state)} tensors, {codec.num_parameters():,} parameters, {layout} -> {kind}, {codec.dtype}"
    if dry_run:
        return "\n".join([*rows, summary, f"{dest} would be written (dry run)."])
    with _written_beside(dest, force) as folder:
        codec.save_pretrained(folder)
    return "\n".join([*rows, summary, f"{dest} was written."])


def _export_codec(
    source: str | os.PathLike,
    source_folder: Path,
    weights: Weights,
    codec: str | os.PathLike | None,
    dest: Path,
    dtype: torch.dtype | None,
    force: bool,
    dry_run: bool,
) -> str:
    """Export the decoder of a codec: the given one, the source itself, or the source's own."""
    if dtype not in (None, torch.float32):
        raise ValueError(f"`dtype` is {dtype}; the codec is exported in float32.")
    own = source_folder / "audio_tokenizer"
    if codec is None and (is_descript(weights) or has_codec(weights)):
        codec = weights.files[0] if weights.is_gguf else source
    elif codec is None and (own / "config.json").is_file():
        codec = own
    if codec is None:
        raise ValueError(f"{source} has no codec inside; give one: `codec` (`--codec`).")
    check_onnx()
    network = load_codec(codec)
    config = network.config
    rows = [f"codes  [clips, {config.n_codebooks}, frames]", f"waveform  [clips, {config.hop_length} * frames]"]
    summary = f"decoder of a codec, {config.sampling_rate} Hz, DacModel -> onnx-codec, float32"
    if dry_run:
        return "\n".join([*rows, summary, f"{dest} would be written (dry run)."])
    with _written_beside(dest, force) as folder:
        write_onnx_codec(network, folder)
        facts = {
            "source": _public_name(codec),
            "SHA-256 of its codebooks' signs": f"`{as_codec(network).fingerprint}`",
            "layout of this folder": "onnx-codec",
            "dtype": "float32",
        }
        how = f"""\
```python
import onnxruntime

decoder = onnxruntime.InferenceSession("{CODEC_FILE}")
(waveform,) = decoder.run(None, {{"codes": codes}})  # [clips, {config.n_codebooks}, frames], int64
```
"""
        note = "The codec's encoder is not inside. Codes are without special tokens, and their delay is reverted."
        (folder / "README.md").write_text(make_model_card("Decoder of Dia's codec", facts, note, how), "utf-8")
    return "\n".join([*rows, summary, f"{dest} was written."])


def convert_checkpoint(
    source: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    codec: str | os.PathLike | None = None,
    adapter: str | os.PathLike | None = None,
    dtype: str | None = None,
    max_shard_size: str = "2GB",
    to: str = "huggingface",
    bits: int | None = None,
    extra_tags: Sequence[str] | Mapping[str, int | None] = (),
    force: bool = False,
    dry_run: bool = False,
    verbose: bool = True,
) -> str:
    """Convert a checkpoint of any known layout to a complete one.

    Args:
        source (`str` or `os.PathLike`): Folder, weight file with its `config.json` beside it, GGUF file, or Hub id; see
            `load_checkpoint` for the layouts, which are detected by content. A codec file of descript or in GGUF
            becomes a `DacModel` folder.
        dest (`str` or `os.PathLike`): Output folder.
        codec (`str` or `os.PathLike`, *optional*): Codec to include: descript's .pth file, a GGUF file with one, or a
            folder or Hub id of a `DacModel`. By default the source's own, or else a reference to
            `descript/dac_44khz`.
        adapter (`str` or `os.PathLike`, *optional*): Adapter to merge: folder or Hub id of one that PEFT wrote. The
            model is in memory as a whole then, in float32.
        dtype (`str`, *optional*): "float32", "bfloat16" or "float16"; by default that of the source, or float32 for
            GGUF with tensors of several types.
        max_shard_size (`str`, defaults to `"2GB"`): Maximum size of a weight file, which also limits the memory used.
        to (`str`, defaults to `"huggingface"`): Output layout: "huggingface"; "nari-0626" or "nari-v0.1", for the code
            of nari-labs; "mlx", for mlx-audio; "gguf-tts.cpp", for TTS.cpp; "onnx", for ONNX Runtime, and "onnx-codec",
            the codec's decoder alone.
        bits (`int`, *optional*): Bits of quantized weights: 8, 5 or 4 in "gguf-tts.cpp", 8, 6 or 4 in "mlx".
        extra_tags (`Sequence[str]` or `Mapping[str, int | None]`, *optional*): Tags that a fine-tune knows beside those
            of its tokenizer, such as `{"[nl]": 14}`; see `DiaTokenizer.with_tags`.
        force (`bool`, defaults to `False`): Whether to replace a `dest` that is not empty.
        dry_run (`bool`, defaults to `False`): Whether to check only, without writing.
        verbose (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        `str`: Table of all tensors and a summary.

    Raises:
        ValueError: If source or codec are incomplete, contradict their config, hold code, are damaged (a pickle is
            read once more to compare it with its CRC-32 sums) or cannot be read; if `dest` is not empty, holds the
            source, the codec or the adapter, or is being written by another process; if an option is not for the target
            layout, or software that reads it would compute something else than the model. The message names file and
            tensor.
        FileNotFoundError: If the source or the adapter does not exist.
        ImportError: If a package is missing: `gguf` for GGUF, `mlx` to quantize for MLX, `onnx` and `onnxscript` for
            ONNX, `peft` for an adapter.
        OSError: If `dest` cannot be written, for instance on a full disk. On any error or interruption `dest` is
            unchanged.
    """
    if not os.fspath(dest):  # not the current folder
        raise ValueError("the name of the output folder is empty; give one.")
    dest = Path(dest)
    if to not in _LAYOUTS:
        raise ValueError(f"`to` is {to!r}; it must be one of {', '.join(map(repr, _LAYOUTS))}.")
    if dest.suffix in (".gguf", ".onnx"):
        raise ValueError(f"{dest} would be a folder; give a name without {dest.suffix}, and find the file in it.")
    if bits is not None and to not in QUANTIZED_LAYOUTS:
        raise ValueError(f"`bits` (`--bits`) is for the layouts {' and '.join(QUANTIZED_LAYOUTS)}; `to` is {to!r}.")
    if extra_tags and to != "huggingface":
        raise ValueError(f"`extra_tags` are for a tokenizer, which the layout {to!r} does not have; leave them out.")
    if codec is not None and to in _WITHOUT_CODEC:
        raise ValueError(f"`codec` (`--codec`) would not be written: the layout {to!r} has no codec; leave it out.")
    if adapter is not None and to == "onnx-codec":
        raise ValueError("`adapter` (`--adapter`) is for a model, and 'onnx-codec' is its codec alone; leave it out.")
    asked_dtype, limit = parse_dtype(dtype), _parse_size(max_shard_size)
    source_folder, files = locate(source)
    adapter_folder = None if adapter is None else locate_adapter(adapter)
    _check_apart(dest, [source, codec, adapter_folder], files)
    weights = Weights(files)
    if to == "onnx-codec":
        return _export_codec(source, source_folder, weights, codec, dest, asked_dtype, force, dry_run)
    if is_descript(weights) or (weights.is_gguf and has_codec(weights) and not is_gguf_model(weights)):
        if codec is not None or adapter is not None or to != "huggingface":
            raise ValueError(
                f"{files[0]} is a codec, which is converted to a DacModel; leave out `--codec`, `--adapter` and `--to`."
            )
        return _convert_codec(files[0], dest, asked_dtype, force, dry_run)
    opened = recognize(weights, source_folder / "config.json")
    if asked_dtype is None and bits is not None and to == "gguf-tts.cpp":
        asked_dtype = torch.float32  # of what is not quantized
    target_dtype = choose_dtype(opened.weights, asked_dtype)
    if adapter_folder is not None:
        opened = merged_checkpoint(opened, adapter_folder, source, to)
    targets = plan(opened, to)
    check_sums(files)
    kind = str(target_dtype).removeprefix("torch.")
    output = None
    if to in OTHER_LAYOUTS:
        own_codec = partial(_choose_codec, opened, codec)
        output = prepare(to, Request(opened, target_dtype, bits, limit, own_codec, verbose))
        kind = output.kind
    rows = [f"{t.name}  {list(t.shape)}  <-  {', '.join(t.sources)}" for t in targets]
    total = sum(torch.Size(t.shape).numel() for t in targets)
    summary = f"{len(targets)} tensors, {total:,} parameters, {opened.layout} -> {to}, {kind}"
    if dry_run:
        return "\n".join([*rows, summary, f"{dest} would be written (dry run)."])

    note = ""
    with _written_beside(dest, force) as folder:
        if output is not None:
            output.write(folder, opened, targets)
            _write_card(source, opened, folder, to, kind, output.codec, adapter, output.how, output.losses)
        else:
            # Small files first: an unreadable codec is an error before the long conversion.
            network = _choose_codec(opened, codec)
            processor = make_processor(opened, network)
            if extra_tags:
                processor.tokenizer = processor.tokenizer.with_tags(extra_tags)
            _write_rest(opened, processor, folder, dest, target_dtype)
            write_shards(opened, targets, folder, target_dtype, limit, verbose)
            _write_card(source, opened, folder, to, kind, _describe_codec(network), adapter)
            if network is None:
                note = " It has no codec, and loads that of descript from the Hub; `codec` (`--codec`) puts one inside."
    return "\n".join([*rows, summary, f"{dest} was written.{note}"])
