"""Checkpoint of any layout: recognized by content, its tensors planned and checked, its parts made.

Steps: find the files (`locate.py`) → recognize the layout and read the config → plan and check all tensors with sources
and shapes → make config, processor and tensors. `convert.py` writes the parts, `load.py` makes a model of them.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import DacModel, GenerationConfig

from ..audio.dac import load_dac
from ..configuration_dia import DiaConfig
from ..feature_extraction_dia import DiaFeatureExtractor
from ..hub import check_model, is_hub_id, is_nari_name
from ..processing_dia import DiaProcessor
from ..text_files import read_json
from ..tokenization_dia import DiaTokenizer
from .descript import load_descript_codec
from .gguf_file import is_gguf
from .gguf_model import config_from_gguf, has_codec, is_gguf_model, load_gguf_codec
from .mlx import unpack_weights
from .nari import TensorRule, config_from_v0_1, generation_config_for, tensor_rules
from .tts_cpp import tts_cpp_rules
from .weights import Weights, find_weight_files

__all__ = [
    "DTYPES",
    "Checkpoint",
    "Target",
    "choose_dtype",
    "layout_rules",
    "load_codec",
    "load_own_codec",
    "make_config",
    "make_generation_config",
    "make_processor",
    "make_tensor",
    "parse_dtype",
    "plan",
    "recognize",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_SIBLING_CODEC = "dac*44khz*.gguf"  # the names that CrispASR looks for beside a model


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
        config_file (`Path`): The config.json, or the GGUF file, which is one.
        layout (`str`): "huggingface", "nari-0626", "nari-v0.1" or "gguf-tts.cpp".
        config (`DiaConfig`): Content of the config file.
        details (`str`, defaults to `""`): How the tensors are stored, where that is not plain.
    """

    weights: Weights
    config_file: Path
    layout: str
    config: DiaConfig
    details: str = ""

    def find(self, name: str) -> Path | None:
        """Return another file of the checkpoint (generation config, tokenizer, …), if there is one.

        They are beside the config. A GGUF file is complete: what lies beside it belongs to something else.
        """
        file = self.config_file.parent / name
        return file if file.is_file() and not self.is_gguf else None

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file."""
        return self.config_file in self.weights.files

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


def recognize(weights: Weights, config_file: Path) -> Checkpoint:
    """Detect the layout by content, and read the config.

    Raises:
        ValueError: If the layout is unknown, or the config is missing or invalid.
    """
    names, file = set(weights), weights.files[0]
    if weights.is_gguf:
        return _recognize_gguf(weights)
    if any(name.startswith("quantizer.") for name in names):
        raise ValueError(f"{file} is a DacModel, not a Dia; give it as `codec` (`--codec`) with a Dia as source.")
    if "logits_dense.weight" in names or any(name.startswith("model.") for name in names):
        layout = "huggingface"
    elif any(map(is_nari_name, names)):
        layout = "nari"
    else:
        raise ValueError(
            f"{file} is not a Dia in a known layout (Hugging Face, nari-labs 0626, nari-labs v0.1, GGUF); its tensors "
            f"are named {', '.join(sorted(names)[:3])}, …"
        )
    if not config_file.is_file():
        raise ValueError(f"{config_file} is missing; it is needed for the sizes of the model.")
    try:
        values = read_json(config_file)
        if layout == "nari":
            layout = "nari-v0.1" if "model" in values else "nari-0626"
        details = unpack_weights(weights, values["quantization"]) if "quantization" in values else ""
        if layout == "nari-v0.1":
            config = config_from_v0_1(_with_widths(values, weights, config_file))
        else:
            config = DiaConfig.from_dict(values)
    except KeyError as error:
        raise ValueError(f"{config_file} lacks {error}.") from error
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"{config_file} is not valid: {error}") from error
    return Checkpoint(weights, config_file, layout, config, details)


def _recognize_gguf(weights: Weights) -> Checkpoint:
    file = weights.files[0]
    if not is_gguf_model(weights):
        if has_codec(weights):
            raise ValueError(f"{file} is a codec, not a Dia; give it as `codec` (`--codec`) with a Dia as source.")
        names = ", ".join(sorted(weights)[:3])
        raise ValueError(f"{file} is not a Dia of TTS.cpp or CrispASR; its tensors are named {names}, …")
    try:
        config = config_from_gguf(weights)
    except KeyError as error:
        raise ValueError(f"{file} lacks {error}.") from error
    except (ValueError, TypeError, IndexError, AttributeError, StrictDataclassError) as error:
        raise ValueError(f"{file} is not valid: {error}") from error
    own = weights.only("dia.")
    kinds = Counter(map(own.kind, own))
    return Checkpoint(own, file, "gguf-tts.cpp", config, ", ".join(f"{n} tensors {k}" for k, n in kinds.most_common()))


def _with_widths(values: dict[str, Any], weights: Weights, config_file: Path) -> dict[str, Any]:
    """Return a config of v0.1 with the widths of the tensors: fine-tunes were published with others in it."""
    model = dict(values["model"])
    for part in ("encoder", "decoder"):
        name, told = f"{part}.norm.weight", model[part]["n_embd"]
        width = weights.shape(name) if name in weights else ()
        if len(width) == 1 and isinstance(told, int) and told != width[0]:
            warnings.warn(
                f"{config_file}: `n_embd` of the {part} is {told}, but its tensors are {width[0]} wide; {width[0]} is "
                "used.",
                stacklevel=4,
            )
            model[part] = {**model[part], "n_embd": width[0]}
    return {**values, "model": model}


def layout_rules(layout: str, config: DiaConfig) -> list[TensorRule]:
    """Return the rules of all tensors of a layout, those of one of our tensors at the same place in every layout."""
    if layout == "gguf-tts.cpp":
        return tts_cpp_rules(config)
    rules = tensor_rules(config)
    if layout in ("huggingface", "onnx"):
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
    """Return the requested dtype, or else that of all tensors; of GGUF, whose tensors differ, one that holds them all.

    Raises:
        ValueError: If none is requested and the tensors have several, or one that is none of a model.
    """
    if asked is not None:
        return asked
    dtypes = weights.dtypes()
    if weights.is_gguf and len(dtypes) > 1:
        return torch.float32
    dtype = next(iter(dtypes))
    if len(dtypes) > 1 or dtype is None:
        found = sorted({str(weights.dtype(name) or weights.kind(name)).removeprefix("torch.") for name in weights})
        several = "several dtypes" if len(found) > 1 else "a dtype that a model is not loaded in"
        raise ValueError(
            f"{weights.files[0]} has tensors of {several} ({', '.join(found)}); choose one: `dtype` (`--dtype`)."
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
    if source.is_ours and (file := source.find("generation_config.json")) is not None:
        return GenerationConfig.from_pretrained(file.parent)
    return generation_config_for(source.config)


def load_codec(given: str | os.PathLike) -> DacModel:
    """Load a codec from descript's file, a GGUF file, or a folder or Hub name in transformers' layout.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it cannot be read or is incomplete.
    """
    path = Path(given)
    if not str(given):  # not the current folder
        raise FileNotFoundError("the name of the codec is empty; give a folder, a file or a name on the Hub.")
    if path.is_dir() and not (path / "config.json").is_file():
        (path,) = find_weight_files(path)
    if path.is_file():
        return load_gguf_codec(path) if is_gguf(path) else load_descript_codec(path)
    if not path.exists() and not is_hub_id(str(given)):
        raise FileNotFoundError(f"there is no codec at {str(given)!r}: no such folder, file or name on the Hub.")
    check_model(given)
    return load_dac(given)


def load_own_codec(source: Checkpoint) -> DacModel | None:
    """Load the codec inside a checkpoint; `None` if it has none.

    A GGUF file may hold the decoder of one, or lie beside a file of it, as CrispASR's do.

    Raises:
        ValueError: If it cannot be read or is incomplete.
    """
    if source.is_gguf:
        file = source.config_file
        beside = sorted(file.parent.glob(_SIBLING_CODEC))
        if has_codec(Weights([file])):
            return load_gguf_codec(file)
        return load_gguf_codec(beside[0]) if len(beside) == 1 and is_gguf(beside[0]) else None
    config = source.find("audio_tokenizer/config.json")
    return None if config is None else load_dac(config.parent)


def make_processor(source: Checkpoint, codec: DacModel | None) -> DiaProcessor:
    """Make the processor of a checkpoint, with the source's own tokenizer and feature extractor if it has them."""
    if (file := source.find("tokenizer_config.json")) is not None:
        tokenizer = DiaTokenizer.from_pretrained(file.parent)
    else:
        tokenizer = DiaTokenizer(max_length=source.config.encoder_config.max_position_embeddings)
    file = source.find("preprocessor_config.json") or source.find("processor_config.json")
    extractor = DiaFeatureExtractor() if file is None else DiaFeatureExtractor.from_pretrained(file.parent)
    processor = DiaProcessor(extractor, tokenizer, codec, source.config)
    if codec is not None:
        extractor.sampling_rate, extractor.hop_length = processor.codec.sampling_rate, processor.codec.hop_length
    return processor
