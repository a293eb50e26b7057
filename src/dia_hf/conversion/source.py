"""A checkpoint of any layout, opened: recognized by content, its tensors planned and checked, its parts made.

Steps: find the files → recognize the layout and read the config → plan (every tensor, its sources and shapes, checked)
→ make config, processor and, one by one, tensors. Does not know where they go: `convert.py` writes them, `load.py`
makes a model of them.
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
from .weights import WEIGHT_SUFFIXES, Weights, find_weight_files

__all__ = [
    "DTYPES",
    "Checkpoint",
    "Target",
    "choose_dtype",
    "is_nari",
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
    """A tensor to be made.

    Args:
        name (`str`): Its name in the layout asked for.
        shape (`tuple[int, ...]`): Its shape there.
        sources (`tuple[str, ...]`): The tensors that are read for it.
        make (`Callable`): Makes it of them.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    make: Callable[[list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was recognized.

    Args:
        weights (`Weights`): Its tensors.
        config_file (`Path`): Its config.json. What else a checkpoint may have (generation config, tokenizer, …) lies
            beside it.
        layout (`str`): "huggingface", "nari-0626" or "nari-v0.1".
        config (`DiaConfig`): What the config file says.
    """

    weights: Weights
    config_file: Path
    layout: str
    config: DiaConfig

    @property
    def folder(self) -> Path:
        """Where the config file is."""
        return self.config_file.parent

    @property
    def is_ours(self) -> bool:
        """Whether the layout is Hugging Face's."""
        return self.layout == "huggingface"


def parse_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Read a dtype by its name, or as it is; `None` stays.

    Raises:
        ValueError: If it is none of `DTYPES`.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; use one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def locate(source: str | os.PathLike) -> tuple[Path, list[Path]]:
    """Return the folder of a source and its weight files, fetched from the Hub where it is a name there.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If a folder holds no weights, or several files could be meant.
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
                f"{path} is an adapter and no whole model; merge it into the model that it was trained on: "
                "`dia_hf.training.merge_adapter`."
            )
        return path, find_weight_files(path)
    if path.is_file() and path.suffix == ".json":
        raise ValueError(
            f"{str(source)!r} is a config and holds no weights; give its folder, or the weight file beside it "
            f"({', '.join(WEIGHT_SUFFIXES)})."
        )
    if path.is_file():
        return path.parent, [path]
    raise FileNotFoundError(f"there is no checkpoint at {str(source)!r}: no such folder, file or name on the Hub.")


def is_nari(source: str | os.PathLike) -> bool:
    """Whether a checkpoint is in a layout of nari-labs: v0.1 by its config, 0626, if it is a folder, by its tensors."""
    try:
        if {"model", "data"} <= read_json(str(cached_file(source, "config.json"))).keys():
            return True
        return os.path.isdir(source) and any(map(_is_theirs, Weights(find_weight_files(Path(source)))))
    except (OSError, ValueError):
        return False  # whoever loads it says why


def _is_theirs(name: str) -> bool:
    return name.endswith(".mlp.wi_fused.weight")


def recognize(weights: Weights, config_file: Path) -> Checkpoint:
    """Tell the layout by content, and read the config.

    Raises:
        ValueError: If the layout is not known, or the config is missing or cannot be used.
    """
    names, file = set(weights), weights.files[0]
    if any(name.startswith("quantizer.") for name in names):
        raise ValueError(f"{file} is a DacModel already, and no Dia; give it as `codec` (`--codec`), beside the Dia.")
    if "logits_dense.weight" in names or any(name.startswith("model.") for name in names):
        layout = "huggingface"
    elif any(_is_theirs(name) for name in names):
        layout = "nari"
    else:
        raise ValueError(
            f"{file} is no Dia in a layout that is known (Hugging Face, nari-labs 0626, nari-labs v0.1); its tensors "
            f"are called {', '.join(sorted(names)[:3])}, …"
        )
    if not config_file.is_file():
        raise ValueError(f"{config_file} is missing; a checkpoint's sizes cannot be guessed from its weights.")
    try:
        values = read_json(config_file)
        if layout == "nari":
            layout = "nari-v0.1" if "model" in values else "nari-0626"
        config = config_from_v0_1(values) if layout == "nari-v0.1" else DiaConfig.from_dict(values)
    except KeyError as error:
        raise ValueError(f"{config_file} lacks {error}.") from error
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"{config_file} cannot be used: {error}") from error
    return Checkpoint(weights, config_file, layout, config)


def plan(source: Checkpoint, to: str) -> list[Target]:
    """List the tensors of the layout asked for, and check that the source holds just what they are made of.

    Args:
        source (`Checkpoint`): A checkpoint.
        to (`str`): "huggingface" or "nari-0626".

    Raises:
        ValueError: If a tensor is missing, too many or of another shape.
    """
    table, weights, asking = tensor_rules(source.config), source.weights, source.config_file.name
    targets: list[Target] = []
    expected: dict[str, tuple[int, ...]] = {}
    for rule in table:
        if source.is_ours:
            expected[rule.name] = rule.our_shape
        else:
            expected |= dict.fromkeys(rule.sources, rule.shape)
        targets += _targets(rule, source.is_ours, to)
    for name, shape in expected.items():
        if name not in weights:
            raise ValueError(f"{weights.files[0]}: the tensor {name!r} is missing, which {asking} asks for.")
        if weights.shape(name) != shape:
            raise ValueError(
                f"{weights.file(name)}: {name!r} has the shape {list(weights.shape(name))}, but {asking} asks for "
                f"{list(shape)}."
            )
    if extra := sorted(set(weights) - set(expected)):
        raise ValueError(
            f"{weights.file(extra[0])} holds {len(extra)} tensors that {asking} does not ask for, such as {extra[0]!r}."
        )
    return targets


def _targets(rule: TensorRule, from_ours: bool, to: str) -> Iterator[Target]:
    if to == "huggingface":
        sources = (rule.name,) if from_ours else rule.sources
        yield Target(rule.name, rule.our_shape, sources, _only if from_ours else rule.to_ours)
    elif from_ours:
        for index, name in enumerate(rule.sources):
            yield Target(name, rule.shape, (rule.name,), partial(_their_part, rule, index))
    else:
        for name in rule.sources:
            yield Target(name, rule.shape, (name,), _only)


def _only(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0]


def _their_part(rule: TensorRule, index: int, tensors: list[torch.Tensor]) -> torch.Tensor:
    return rule.to_theirs(tensors[0])[index]


def choose_dtype(weights: Weights, asked: torch.dtype | None) -> torch.dtype:
    """Return the dtype asked for, or else the one that all tensors have.

    Raises:
        ValueError: If they have several, and none is asked for.
    """
    if asked is not None:
        return asked
    dtypes = weights.dtypes()
    dtype = next(iter(dtypes))
    if len(dtypes) > 1 or dtype is None:
        found = ", ".join(sorted("no floating-point" if d is None else str(d).removeprefix("torch.") for d in dtypes))
        raise ValueError(
            f"{weights.files[0]} holds tensors of several dtypes ({found}); choose one: `dtype` (`--dtype`)."
        )
    return dtype


def make_tensor(source: Checkpoint, target: Target, dtype: torch.dtype) -> torch.Tensor:
    """Read what a tensor is made of, and make it, in memory of its own: no file stays mapped for it."""
    # Allocated before what is read and let go again, which would leave holes between the tensors that stay. Cast before
    # it is turned: the other way round takes three times as long.
    made = torch.empty(target.shape, dtype=dtype)
    return made.copy_(target.make([source.weights.read(name).to(dtype) for name in target.sources]))


def make_config(source: Checkpoint, dtype: torch.dtype) -> DiaConfig:
    """Make the config of a checkpoint, the weights being of `dtype`."""
    config = DiaConfig.from_dict(source.config.to_dict())
    config.architectures = ["DiaForConditionalGeneration"]
    config.dtype = dtype
    return config


def make_generation_config(source: Checkpoint) -> GenerationConfig:
    """Make the generation config of a checkpoint: the source's own where it has one."""
    if source.is_ours and (source.folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(source.folder)
    return generation_config_for(source.config)


def load_codec(given: str | os.PathLike) -> DacModel:
    """Load a codec from descript's file or from a folder or Hub name in transformers' layout.

    Raises:
        FileNotFoundError: If there is none.
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
    """Make the processor of a checkpoint: the source's own tokenizer and feature extractor where it has them."""
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
