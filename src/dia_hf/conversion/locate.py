"""Files of a checkpoint: in a folder, by themselves, or on the Hub.

Says as well which checkpoints are read by `load_checkpoint` and which by `from_pretrained`.
"""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import cached_file

from ..hub import check_model, is_hub_id, is_nari_name
from ..text_files import read_json
from .gguf_file import GGUF_SUFFIX
from .gguf_model import is_gguf_model
from .nari import is_nari_config
from .weights import INDICES, WEIGHT_KINDS, WEIGHT_SUFFIXES, Weights, find_weight_files

__all__ = ["locate", "needs_conversion"]

_USUAL_FILES = (*INDICES, "model.safetensors", "pytorch_model.bin")  # that `from_pretrained` of transformers reads


def locate(source: str | os.PathLike) -> tuple[Path, list[Path]]:
    """Return the folder and the weight files of a source, downloaded from the Hub if it is a Hub id.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If a folder has no weights, or it is ambiguous which files to use.
    """
    path = Path(source)
    if not str(source):  # not the current folder
        raise FileNotFoundError("the name of the checkpoint is empty; give a folder, a file or a name on the Hub.")
    if not path.exists() and is_hub_id(str(source)) and path.suffix not in WEIGHT_SUFFIXES:
        check_model(source)
        path = _download(str(source))
    if path.exists():
        check_model(path if path.is_dir() else path.parent)
    if path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise ValueError(
                f"{path} is an adapter, not a complete model; give its base model, and the adapter as `adapter` "
                "(`--adapter`)."
            )
        return path, _find_files(path)
    if path.is_file() and path.suffix == ".json":
        raise ValueError(
            f"{str(source)!r} is a config without weights; give its folder, or the weight file beside it "
            f"({', '.join(WEIGHT_SUFFIXES)})."
        )
    if path.is_file():
        return path.parent, [path]
    raise FileNotFoundError(f"there is no checkpoint at {str(source)!r}: no such folder, file or name on the Hub.")


def _find_files(folder: Path) -> list[Path]:
    """List the weight files of a folder; of several GGUF files the one that is a model, beside its codec."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHT_SUFFIXES and path.is_file()]
    if len(found) > 1 and all(path.suffix == GGUF_SUFFIX for path in found):
        models = [path for path in found if is_gguf_model(Weights([path]))]
        if len(models) == 1:
            return models
    return find_weight_files(folder)


def _download(name: str) -> Path:
    """Download a repository's JSON files, and its weights of one kind, to the cache; return their folder there."""
    kinds = list(WEIGHT_SUFFIXES)
    try:
        files = HfApi().list_repo_files(name)
    except (OSError, HfHubHTTPError):
        files = []  # without a network: what was downloaded before
    for suffixes in WEIGHT_KINDS:
        weights = [file for file in files if file.endswith(suffixes) and "/" not in file]
        if len([file for file in weights if not file.startswith("dac")]) > 1 and suffixes == (GGUF_SUFFIX,):
            raise ValueError(
                f"{name!r} has several GGUF files ({', '.join(weights)}); download one, `hf download {name} "
                f"{weights[0]}`, and give the file."
            )
        if weights:
            kinds = list(suffixes)
            break
    return Path(snapshot_download(name, allow_patterns=["*.json", *(f"*{suffix}" for suffix in kinds)]))


def needs_conversion(source: str | os.PathLike) -> bool:
    """Whether `load_checkpoint` is to read a checkpoint: a file, or a folder or Hub id in another layout.

    What cannot be opened is left to `from_pretrained`, whose errors say why.

    Raises:
        ImportError: If it is a GGUF file, and the package `gguf` is missing.
    """
    path = Path(source)
    try:
        if path.is_file():
            return True
        if not path.is_dir():
            return _needs_conversion_on_hub(str(source))
        config = path / "config.json"
        if config.is_file() and _is_other_config(config):
            return True
        if not any((path / name).is_file() for name in _USUAL_FILES):
            return any(file.suffix in WEIGHT_SUFFIXES for file in path.iterdir())
        return _has_other_names(Weights(_find_files(path)))
    except (OSError, ValueError):
        return False


def _has_other_names(weights: Weights) -> bool:
    return weights.is_gguf or weights.is_wrapped or any(map(is_nari_name, weights))


def _is_other_config(file: str | os.PathLike) -> bool:
    values = read_json(file)
    return is_nari_config(values) or "quantization" in values  # of MLX; Hugging Face's is `quantization_config`


def _needs_conversion_on_hub(name: str) -> bool:
    """Ask for the files in the order in which `from_pretrained` does, which finds them in the cache afterwards."""

    def find(file: str) -> str | None:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False)

    config = find("config.json")
    if config is None or _is_other_config(config):
        return True
    if (file := find("model.safetensors")) is not None:
        return _has_other_names(Weights([Path(file)]))
    if (file := find("model.safetensors.index.json")) is not None:
        return any(map(is_nari_name, read_json(file).get("weight_map", ())))
    return find("pytorch_model.bin") is None and find("pytorch_model.bin.index.json") is None
