"""A whole checkpoint from any layout: recognised by content, checked before it is written, written beside and moved.

Steps: find files and config → recognise the layout → plan (every tensor, its sources and shapes, checked) → write,
shard by shard → processor and codec → model card → move into place. Called by `dia-hf convert` and
`scripts/convert_checkpoint.py`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import DacModel, GenerationConfig

from ..configuration_dia import DiaConfig
from ..feature_extraction_dia import DiaFeatureExtractor
from ..processing_dia import DiaProcessor, write_codec_reference
from ..tokenization_dia import DiaTokenizer
from .descript import is_descript, load_descript_codec
from .nari import Recipe, config_from_v0_1, config_to_0626, generation_config_for, recipes
from .weights import Weights, find_weight_files, hash_files

__all__ = ["DTYPES", "convert_checkpoint"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class _Target:
    """A tensor to be written: its name and shape, where it is read, and how it is made."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[[list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class _Source:
    """A checkpoint that was recognised."""

    given: str
    folder: Path
    weights: Weights
    layout: str
    config: DiaConfig

    @property
    def is_ours(self) -> bool:
        return self.layout == "huggingface"


def _parse_size(size: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)", size.strip().upper())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"`max_shard_size` is {size!r}; write it as '2GB' or '500MB'.")
    return int(float(match[1]) * _UNITS[match[2]])


def _locate(source: str | os.PathLike) -> tuple[Path, list[Path]]:
    """Return the folder of a source and its weight files, fetched from the Hub where it is a name there."""
    path = Path(source)
    if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        path = Path(
            snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.pth", "*.pt", "*.bin"])
        )
    if path.is_dir():
        return path, find_weight_files(path)
    if path.is_file():
        return path.parent, [path]
    raise FileNotFoundError(f"there is no checkpoint at {str(source)!r}: no such folder, file or name on the Hub.")


def _recognise(given: str, folder: Path, weights: Weights) -> _Source:
    """Tell the layout by content, and read the config."""
    names, file = set(weights), weights.files[0]
    if any(name.startswith("quantizer.") for name in names):
        raise ValueError(f"{file} is a DacModel already, and no Dia; give it as `--codec`, beside the Dia.")
    if "logits_dense.weight" in names or any(name.startswith("model.") for name in names):
        layout = "huggingface"
    elif any(name.endswith(".mlp.wi_fused.weight") for name in names):
        layout = "nari"
    else:
        raise ValueError(
            f"{file} is no Dia in a layout that is known (Hugging Face, nari-labs 0626, nari-labs v0.1); its tensors "
            f"are called {', '.join(sorted(names)[:3])}, …"
        )
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{config_file} is missing; a checkpoint's sizes cannot be guessed from its weights.")
    try:
        values = json.loads(config_file.read_text("utf-8"))
        if layout == "nari":
            layout = "nari-v0.1" if "model" in values else "nari-0626"
        config = config_from_v0_1(values) if layout == "nari-v0.1" else DiaConfig.from_dict(values)
    except KeyError as error:
        raise ValueError(f"{config_file} lacks {error}.") from error
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"{config_file} cannot be used: {error}") from error
    return _Source(given, folder, weights, layout, config)


def _plan(source: _Source, to: str) -> list[_Target]:
    """List what is to be written, and check that the source holds just that."""
    table, weights = recipes(source.config), source.weights
    targets: list[_Target] = []
    expected: dict[str, tuple[int, ...]] = {}
    for recipe in table:
        if source.is_ours:
            expected[recipe.name] = recipe.our_shape
        else:
            expected |= dict.fromkeys(recipe.sources, recipe.shape)
        targets += _targets(recipe, source.is_ours, to)
    for name, shape in expected.items():
        if name not in weights:
            raise ValueError(f"{weights.files[0]}: the tensor {name!r} is missing, which config.json asks for.")
        if weights.shape(name) != shape:
            raise ValueError(
                f"{weights.file(name)}: {name!r} has the shape {list(weights.shape(name))}, but config.json asks for "
                f"{list(shape)}."
            )
    if extra := sorted(set(weights) - set(expected)):
        raise ValueError(
            f"{weights.file(extra[0])} holds {len(extra)} tensors that config.json does not ask for, such as "
            f"{extra[0]!r}."
        )
    return targets


def _targets(recipe: Recipe, from_ours: bool, to: str) -> Iterator[_Target]:
    if to == "huggingface":
        sources = (recipe.name,) if from_ours else recipe.sources
        yield _Target(recipe.name, recipe.our_shape, sources, _only if from_ours else recipe.to_ours)
    elif from_ours:
        for index, name in enumerate(recipe.sources):
            yield _Target(name, recipe.shape, (recipe.name,), partial(_their_part, recipe, index))
    else:
        for name in recipe.sources:
            yield _Target(name, recipe.shape, (name,), _only)


def _only(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0]


def _their_part(recipe: Recipe, index: int, tensors: list[torch.Tensor]) -> torch.Tensor:
    return recipe.to_theirs(tensors[0])[index]


def _split(targets: list[_Target], bytes_per_value: int, limit: int) -> list[list[_Target]]:
    """Fill shards in order, each up to the limit."""
    shards: list[list[_Target]] = [[]]
    size = 0
    for target in targets:
        num_bytes = torch.Size(target.shape).numel() * bytes_per_value
        if shards[-1] and size + num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(target)
        size += num_bytes
    return shards


def _only_dtype(weights: Weights) -> torch.dtype:
    dtypes = weights.dtypes()
    dtype = next(iter(dtypes))
    if len(dtypes) > 1 or dtype is None:
        found = ", ".join(sorted("no floating-point" if d is None else str(d).removeprefix("torch.") for d in dtypes))
        raise ValueError(f"{weights.files[0]} holds tensors of several dtypes ({found}); choose one: `--dtype`.")
    return dtype


def _write_weights(source: _Source, targets: list[_Target], folder: Path, dtype: torch.dtype, limit: int) -> None:
    shards = _split(targets, dtype.itemsize, limit)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    total, index = 0, {}
    with tqdm(total=len(targets), desc="converting", unit=" tensors") as bar:
        for name, shard in zip(names, shards, strict=True):
            tensors = {}
            for target in shard:
                made = target.make([source.weights.read(part) for part in target.sources])
                tensors[target.name] = made.to(dtype, copy=True).contiguous()
                index[target.name] = name
                total += tensors[target.name].nbytes
                bar.update()
            save_file(tensors, folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _load_codec(given: str | os.PathLike) -> DacModel:
    """Load a codec from descript's file or from a folder or Hub name in transformers' layout."""
    path = Path(given)
    if path.is_file():
        return load_descript_codec(path)
    if path.is_dir() and not (path / "config.json").is_file():
        (file,) = find_weight_files(path)
        return load_descript_codec(file)
    if not path.exists() and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(given)):
        raise FileNotFoundError(f"there is no codec at {str(given)!r}: no such folder, file or name on the Hub.")
    codec, report = DacModel.from_pretrained(given, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"the codec {str(given)!r} lacks {len(missing)} tensors, such as {missing[0]!r}.")
    return codec


def _make_processor(source: _Source, codec: DacModel | None) -> DiaProcessor:
    """Make the processor of a checkpoint: the source's own where it has one."""
    folder = source.folder
    if codec is None and (folder / "audio_tokenizer" / "config.json").is_file():
        codec = DacModel.from_pretrained(folder / "audio_tokenizer")
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = DiaTokenizer.from_pretrained(folder)
    else:
        tokenizer = DiaTokenizer(max_length=source.config.encoder_config.max_position_embeddings)
    if (folder / "preprocessor_config.json").is_file() or (folder / "processor_config.json").is_file():
        extractor = DiaFeatureExtractor.from_pretrained(folder)
    else:
        extractor = DiaFeatureExtractor()
    processor = DiaProcessor(extractor, tokenizer, codec, source.config)
    if codec is not None:
        extractor.sampling_rate, extractor.hop_length = processor.codec.sampling_rate, processor.codec.hop_length
    return processor


def _write_rest(source: _Source, processor: DiaProcessor, folder: Path, dest: Path, dtype: torch.dtype) -> None:
    """Write config, generation config, processor and codec."""
    config = DiaConfig.from_dict(source.config.to_dict())
    config.architectures = ["DiaForConditionalGeneration"]
    config.dtype = dtype
    config.save_pretrained(folder)
    if source.is_ours and (source.folder / "generation_config.json").is_file():
        generation_config = GenerationConfig.from_pretrained(source.folder)
    else:
        generation_config = generation_config_for(config)
    generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    reference_file, published = folder / "audio_tokenizer_config.json", source.folder / "audio_tokenizer_config.json"
    if processor.audio_tokenizer is not None:
        reference = json.loads(reference_file.read_text("utf-8"))
        if os.path.isdir(reference["audio_tokenizer_name_or_path"]):
            write_codec_reference(folder, str(dest.absolute() / "audio_tokenizer"))
    elif published.is_file():
        shutil.copy(published, reference_file)
    else:
        write_codec_reference(folder, "descript/dac_44khz")


_CARD = """\
---
library_name: transformers
pipeline_tag: text-to-speech
tags: [dia, text-to-speech, dialogue]
---

# Dia, converted

| | |
|---|---|
| source | `{source}` |
| layout of the source | {layout} |
| SHA-256 of its weights | `{digest}` |
| layout of this folder | {to} |
| dtype | {dtype} |
| codec | {codec} |
{warning}
## How to run it

{how}
"""

_RUN = """\
```python
from transformers import AutoProcessor
from dia_hf import DiaForConditionalGeneration

processor = AutoProcessor.from_pretrained("this/folder")
model = DiaForConditionalGeneration.from_pretrained("this/folder")
inputs = processor(text=["[S1] Hello. [S2] Hi!"], return_tensors="pt")
codes = model.generate(**inputs, max_new_tokens=256)
processor.save_audio(processor.batch_decode(codes), "hello.wav")
```

or `dia-hf generate --model this/folder "[S1] Hello. [S2] Hi!"`.
"""

_V0_1_WARNING = """
**This is a v0.1 model.** It applies rotary embedding in cross-attention, draws codes from the guided logits and scales
the end-of-speech logit. dia_hf reads this from `cross_attention_rope` in `config.json` and from `sample_from_guided`
and `eos_logit_scale` in `generation_config.json`; transformers' own Dia ignores all three and would silently compute
something else.
"""


def _write_card(source: _Source, folder: Path, to: str, dtype: str, codec: str) -> None:
    card = _CARD.format(
        source=Path(source.given).name if Path(source.given).exists() else source.given,
        layout=source.layout,
        digest=hash_files(source.weights.files),
        to=to,
        dtype=dtype,
        codec=codec,
        warning=_V0_1_WARNING if source.config.decoder_config.cross_attention_rope else "",
        how=_RUN if to == "huggingface" else "With nari-labs/dia: `Dia.from_local(config.json, model.safetensors)`.\n",
    )
    (folder / "README.md").write_text(card, "utf-8")


@contextmanager
def _written_beside(dest: Path, force: bool) -> Iterator[Path]:
    """Give a folder to write into that becomes `dest` in the end, or vanishes without a trace on any error."""
    if dest.exists() and not dest.is_dir():
        raise ValueError(f"{dest} is a file; give a folder.")
    if dest.is_dir() and any(dest.iterdir()) and not force:
        raise ValueError(f"{dest} is not empty; give another folder, or `--force` to replace it.")
    made = [parent for parent in dest.absolute().parents if not parent.exists()]
    dest.absolute().parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.absolute().parent))
    try:
        yield beside
        beside.chmod(0o755)
        if dest.is_dir():
            old = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.absolute().parent))
            os.replace(dest, old)
            os.replace(beside, dest)
            shutil.rmtree(old)
        else:
            os.replace(beside, dest)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        for parent in made:
            parent.rmdir()
        if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error):
            raise OSError(errno.ENOSPC, f"the disk is full; {dest} was left as it was") from error
        raise


def _convert_codec(file: Path, dest: Path, dtype: str | None, force: bool, dry_run: bool) -> str:
    """Make a `DacModel` folder of descript's file."""
    codec = load_descript_codec(file)
    if dtype is not None:
        codec = codec.to(DTYPES[dtype])
    state = codec.state_dict()
    rows = [f"{name}  {list(tensor.shape)}" for name, tensor in state.items()]
    summary = f"{len(state)} tensors, {codec.num_parameters():,} parameters, descript -> DacModel, {codec.dtype}"
    if dry_run:
        return "\n".join([*rows, summary, f"{dest} would be written; nothing was."])
    with _written_beside(dest, force) as folder:
        codec.save_pretrained(folder)
    return "\n".join([*rows, summary, f"{dest} was written."])


def convert_checkpoint(
    source: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    codec: str | os.PathLike | None = None,
    dtype: str | None = None,
    max_shard_size: str = "2GB",
    to: str = "huggingface",
    force: bool = False,
    dry_run: bool = False,
) -> str:
    """Convert a checkpoint of any known layout into a complete one.

    Args:
        source (`str` or `os.PathLike`): Folder, weight file with its `config.json` beside it, or Hub id; in the layout
            of Hugging Face, nari-labs 0626 or nari-labs v0.1, told apart by content. A codec as descript publishes it
            becomes a `DacModel` folder.
        dest (`str` or `os.PathLike`): Folder to be made.
        codec (`str` or `os.PathLike`, *optional*): The DAC to put inside: descript's .pth file, or a folder or Hub id
            of a `DacModel`. Unless given, the source's own, or else a mere reference to `descript/dac_44khz`.
        dtype (`str`, *optional*): "float32", "bfloat16" or "float16"; that of the source unless given.
        max_shard_size (`str`, defaults to `"2GB"`): Limit of a weight file; also of the memory in use.
        to (`str`, defaults to `"huggingface"`): Or "nari-0626", for the original code.
        force (`bool`, defaults to `False`): Whether to replace `dest` where it is not empty.
        dry_run (`bool`, defaults to `False`): Whether to write nothing.

    Returns:
        `str`: What was done, or would be: a table of all tensors and a summary.

    Raises:
        ValueError: If source or codec are incomplete, contradict their config, hold code or cannot be read; if `dest`
            is not empty; if the model does not exist in the target layout. The message names file and tensor.
        FileNotFoundError: If there is no such source.
        OSError: If the disk is full. On any error, and when interrupted, `dest` stays as it was.
    """
    dest = Path(dest)
    if to not in ("huggingface", "nari-0626"):
        raise ValueError(f"`to` is {to!r}; a checkpoint can be written as 'huggingface' or 'nari-0626'.")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; use one of {', '.join(DTYPES)}.")
    limit = _parse_size(max_shard_size)
    source_folder, files = _locate(source)
    weights = Weights(files)
    if is_descript(weights):
        if codec is not None or to != "huggingface":
            raise ValueError(f"{files[0]} is a codec; it is made into a DacModel, without `--codec` or `--to`.")
        return _convert_codec(files[0], dest, dtype, force, dry_run)
    opened = _recognise(str(source), source_folder, weights)
    targets = _plan(opened, to)
    target_dtype = DTYPES[dtype] if dtype is not None else _only_dtype(opened.weights)
    rows = [f"{t.name}  {list(t.shape)}  <-  {', '.join(t.sources)}" for t in targets]
    total = sum(torch.Size(t.shape).numel() for t in targets)
    dtype_told = str(target_dtype).removeprefix("torch.")
    if to == "nari-0626":
        their_config = config_to_0626(opened.config, dtype_told)
        limit = 1 << 62  # one file, which is what the original code opens
    summary = f"{len(targets)} tensors, {total:,} parameters, {opened.layout} -> {to}, {dtype_told}"
    if dry_run:
        return "\n".join([*rows, summary, f"{dest} would be written; nothing was."])

    with _written_beside(dest, force) as folder:
        # Small things first: a codec that cannot be read is told before the long work.
        if to == "nari-0626":
            (folder / "config.json").write_text(json.dumps(their_config, indent=2) + "\n", "utf-8")
            codec_told = "none: nari-labs' code fetches its own"
        else:
            processor = _make_processor(opened, _load_codec(codec) if codec is not None else None)
            _write_rest(opened, processor, folder, dest, target_dtype)
            inside = processor.audio_tokenizer is not None
            codec_told = "inside, in `audio_tokenizer/`" if inside else "named in `audio_tokenizer_config.json`"
        _write_weights(opened, targets, folder, target_dtype, limit)
        _write_card(opened, folder, to, dtype_told, codec_told)
    return "\n".join([*rows, summary, f"{dest} was written."])
