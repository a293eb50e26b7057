"""Checkpoint of any layout: recognized by content, its tensors planned and checked, its parts made.

Steps: find the files → recognize the layout and read the config → plan and check all tensors with sources and shapes →
make config, processor and tensors. `convert.py` writes the parts, `load.py` makes a model of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from transformers import DacModel, GenerationConfig
from transformers.utils import cached_file

from ..audio.dac import load_dac
from ..configuration_dia import DiaConfig
from ..feature_extraction_dia import DiaFeatureExtractor
from ..hub import check_model, looks_like_path
from ..processing_dia import DiaProcessor
from ..text_files import read_json
from ..tokenization_dia import DiaTokenizer
from .descript import load_descript_codec
from .nari import TensorRule, config_from_v0_1, generation_config_for, tensor_rules
from .tts_cpp import tts_cpp_rules
from .weights import WEIGHT_SUFFIXES, Weights, find_weight_files

__all__ = [
    "DTYPES",
    "Checkpoint",
    "Target",
    "choose_dtype",
    "is_nari",
    "layout_rules",
    "load_codec",
    "locate",
    "make_config",
    "make_generation_config",
    "make_processor",
    "make_tensor",
    "parse_dtype",
    "plan",
    "recognize",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Target:
    """Tensor of the output layout.

    Args:
        name (`str`): Name in the output layout.
        shape (`tuple[int, ...]`): Shape in the output layout.
        sources (`tuple[str, ...]`): Names of the source tensors.
        make (`Callable`): Function that makes it from the source tensors.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[[list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Recognized checkpoint.

    Args:
        weights (`Weights`): Tensors.
        config_file (`Path`): The config.json. Other files (generation config, tokenizer, …) are read from its folder.
        layout (`str`): "huggingface", "nari-0626" or "nari-v0.1".
        config (`DiaConfig`): Content of the config file.
    """

    weights: Weights
    config_file: Path
    layout: str
    config: DiaConfig

    @property
    def folder(self) -> Path:
        """Folder of the config file."""
        return self.config_file.parent

    @property
    def is_ours(self) -> bool:
        """Whether the layout is Hugging Face's."""
        return self.layout == "huggingface"


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the dtype of a name; a dtype and `None` are returned unchanged.

    Raises:
        ValueError: If it is not one of `DTYPES`.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; use one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def locate(source: str | os.PathLike) -> tuple[Path, list[Path]]:
    """Return the folder and the weight files of a source, downloaded from the Hub if it is a Hub id.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If a folder has no weights, or it is ambiguous which files to use.
    """
    path = Path(source)
    is_name = _HUB_NAME.fullmatch(str(source)) and not looks_like_path(source)
    if not path.exists() and is_name and path.suffix not in WEIGHT_SUFFIXES:
        check_model(source)
        path = Path(snapshot_download(str(source), allow_patterns=["*.json", *(f"*{end}" for end in WEIGHT_SUFFIXES)]))
    if path.exists():
        check_model(path if path.is_dir() else path.parent)
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise ValueError(
                f"{path} is an adapter, not a complete model; merge it into its base model: "
                "`dia_hf.training.merge_adapter`."
            )
        return path, find_weight_files(path)
    if path.is_file() and path.suffix == ".json":
        raise ValueError(
            f"{str(source)!r} is a config without weights; give its folder, or the weight file beside it "
            f"({', '.join(WEIGHT_SUFFIXES)})."
        )
    if path.is_file():
        return path.parent, [path]
    raise FileNotFoundError(f"there is no checkpoint at {str(source)!r}: no such folder, file or name on the Hub.")


def is_nari(source: str | os.PathLike) -> bool:
    """Whether a checkpoint is in a layout of nari-labs: v0.1 by its config, 0626 (a local folder) by its tensors."""
    try:
        if {"model", "data"} <= read_json(str(cached_file(source, "config.json"))).keys():
            return True
        return os.path.isdir(source) and any(map(_is_theirs, Weights(find_weight_files(Path(source)))))
    except (OSError, ValueError):
        return False  # loading it raises the error


def _is_theirs(name: str) -> bool:
    return name.endswith(".mlp.wi_fused.weight")


def recognize(weights: Weights, config_file: Path) -> Checkpoint:
    """Detect the layout by content, and read the config.

    Raises:
        ValueError: If the layout is unknown, or the config is missing or invalid.
    """
    names, file = set(weights), weights.files[0]
    if any(name.startswith("quantizer.") for name in names):
        raise ValueError(f"{file} is a DacModel, not a Dia; give it as `codec` (`--codec`) with a Dia as source.")
    if "logits_dense.weight" in names or any(name.startswith("model.") for name in names):
        layout = "huggingface"
    elif any(_is_theirs(name) for name in names):
        layout = "nari"
    else:
        raise ValueError(
            f"{file} is not a Dia in a known layout (Hugging Face, nari-labs 0626, nari-labs v0.1); its tensors are "
            f"named {', '.join(sorted(names)[:3])}, …"
        )
    if not config_file.is_file():
        raise ValueError(f"{config_file} is missing; it is needed for the sizes of the model.")
    try:
        values = read_json(config_file)
        if layout == "nari":
            layout = "nari-v0.1" if "model" in values else "nari-0626"
        config = config_from_v0_1(values) if layout == "nari-v0.1" else DiaConfig.from_dict(values)
    except KeyError as error:
        raise ValueError(f"{config_file} lacks {error}.") from error
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"{config_file} is not valid: {error}") from error
    return Checkpoint(weights, config_file, layout, config)


def layout_rules(layout: str, config: DiaConfig) -> list[TensorRule]:
    """Return the rules of all tensors of a layout, those of one of our tensors at the same place in every layout."""
    if layout == "gguf-tts.cpp":
        return tts_cpp_rules(config)
    rules = tensor_rules(config)
    if layout == "huggingface":
        return [TensorRule(rule.name, (rule.name,), rule.our_shape) for rule in rules]
    return rules


def plan(source: Checkpoint, to: str) -> list[Target]:
    """List the tensors of the output layout, and check that the source has exactly the tensors needed.

    Args:
        source (`Checkpoint`): Source checkpoint.
        to (`str`): Output layout, as for `convert_checkpoint`.

    Raises:
        ValueError: If a tensor is missing, unexpected or of another shape.
    """
    weights, asking = source.weights, source.config_file.name
    targets: list[Target] = []
    expected: dict[str, tuple[int, ...]] = {}
    for read, written in zip(layout_rules(source.layout, source.config), layout_rules(to, source.config), strict=True):
        expected |= dict.fromkeys(read.sources, read.shape)
        targets += _targets(read, written)
    for name, shape in expected.items():
        if name not in weights:
            raise ValueError(f"{weights.files[0]}: the tensor {name!r} required by {asking} is missing.")
        if weights.shape(name) != shape:
            raise ValueError(
                f"{weights.file(name)}: {name!r} has the shape {list(weights.shape(name))}, but {asking} requires "
                f"{list(shape)}."
            )
    if extra := sorted(set(weights) - set(expected)):
        raise ValueError(
            f"{weights.file(extra[0])} has {len(extra)} tensors unknown to {asking}, such as {extra[0]!r}."
        )
    return targets


def _targets(read: TensorRule, written: TensorRule) -> Iterator[Target]:
    """Yield the tensors to write for one of ours."""
    are_equal = (read.shape, read.num_in, len(read.sources)) == (written.shape, written.num_in, len(written.sources))
    for index, name in enumerate(written.sources):
        if are_equal:
            yield Target(name, written.shape, (read.sources[index],), _only)
        else:
            yield Target(name, written.shape, read.sources, partial(_part, read, written, index))


def _only(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0]


def _part(read: TensorRule, written: TensorRule, index: int, tensors: list[torch.Tensor]) -> torch.Tensor:
    return written.to_theirs(read.to_ours(tensors))[index]


def choose_dtype(weights: Weights, asked: torch.dtype | None) -> torch.dtype:
    """Return the requested dtype, or else that of all tensors.

    Raises:
        ValueError: If none is requested and the tensors have several.
    """
    if asked is not None:
        return asked
    dtypes = weights.dtypes()
    dtype = next(iter(dtypes))
    if len(dtypes) > 1 or dtype is None:
        found = ", ".join(sorted("no floating-point" if d is None else str(d).removeprefix("torch.") for d in dtypes))
        raise ValueError(
            f"{weights.files[0]} has tensors of several dtypes ({found}); choose one: `dtype` (`--dtype`)."
        )
    return dtype


def make_tensor(source: Checkpoint, target: Target, dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor from its sources, in separate memory, so that no file stays mapped."""
    # Allocated before the sources are read, whose release would otherwise fragment the memory. Cast before the
    # transposition: the other order takes three times as long.
    made = torch.empty(target.shape, dtype=dtype)
    return made.copy_(target.make([source.weights.read(name).to(dtype) for name in target.sources]))


def make_config(source: Checkpoint, dtype: torch.dtype) -> DiaConfig:
    """Return the config of a checkpoint with weights of `dtype`."""
    config = DiaConfig.from_dict(source.config.to_dict())
    config.architectures = ["DiaForConditionalGeneration"]
    config.dtype = dtype
    return config


def make_generation_config(source: Checkpoint) -> GenerationConfig:
    """Return the generation config of a checkpoint: the source's own, or else the default of its release."""
    if source.is_ours and (source.folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(source.folder)
    return generation_config_for(source.config)


def load_codec(given: str | os.PathLike) -> DacModel:
    """Load a codec from descript's file or from a folder or Hub name in transformers' layout.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it cannot be read or is incomplete.
    """
    path = Path(given)
    if path.is_file():
        return load_descript_codec(path)
    if path.is_dir() and not (path / "config.json").is_file():
        (file,) = find_weight_files(path)
        return load_descript_codec(file)
    if not path.exists() and not _HUB_NAME.fullmatch(str(given)):
        raise FileNotFoundError(f"there is no codec at {str(given)!r}: no such folder, file or name on the Hub.")
    return load_dac(given)


def make_processor(source: Checkpoint, codec: DacModel | None) -> DiaProcessor:
    """Make the processor of a checkpoint, with the source's own tokenizer and feature extractor if it has them."""
    folder = source.folder
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
