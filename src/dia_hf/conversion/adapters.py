"""Adapters that PEFT wrote, merged into the weights of their base model, of any layout.

Called by `Dia.from_pretrained`, the conversion, serving and training.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open

from .._extras import import_extra
from ..hub import is_hub_id
from ..modeling_dia import DiaForConditionalGeneration
from ..text_files import first_line, read_json
from .checkpoint import Checkpoint, plan
from .load import load_checkpoint, make_model
from .weights import Weights

if TYPE_CHECKING:
    from peft import PeftModel

__all__ = ["locate_adapter", "merge_adapter", "merged_checkpoint", "without_warnings_of_names"]

_CONFIG = "adapter_config.json"


@contextmanager
def without_warnings_of_names() -> Iterator[None]:
    """Silence a deprecation warning about PEFT's own use of transformers, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def locate_adapter(adapter: str | os.PathLike) -> Path:
    """Return the folder of an adapter, downloaded from the Hub if it is a Hub id.

    Args:
        adapter (`str` or `os.PathLike`): Folder that PEFT wrote, such as a run's `adapter`, or Hub id.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(adapter).expanduser()
    if not folder.exists() and is_hub_id(os.fspath(adapter)):
        try:
            folder = Path(snapshot_download(os.fspath(adapter), allow_patterns=["adapter_*"]))
        except (OSError, HfHubHTTPError) as error:
            raise FileNotFoundError(
                f"there is no adapter in {os.fspath(adapter)!r}: no such folder, and the Hub gives none "
                f"({first_line(error)})."
            ) from error
    if not (folder / _CONFIG).is_file():
        raise FileNotFoundError(f"there is no adapter in {os.fspath(adapter)!r}: it has no {_CONFIG}.")
    return folder


def merge_adapter(
    model: DiaForConditionalGeneration | str | os.PathLike | None, adapter: str | os.PathLike
) -> DiaForConditionalGeneration:
    """Merge an adapter into the weights of its base model, in float32.

    Args:
        model (`DiaForConditionalGeneration`, `str` or `os.PathLike`, *optional*): Base model, modified in place, or its
            folder, file or Hub id, in any layout; by default the one that the adapter names.
        adapter (`str` or `os.PathLike`): Folder that PEFT wrote, such as a run's `adapter`, or Hub id.

    Returns:
        `DiaForConditionalGeneration`: Merged model in float32.

    Raises:
        FileNotFoundError: If the folder has no adapter.
        ValueError: If the adapter does not fit the model, or neither names one nor is given one.
        ImportError: If PEFT is not installed: `pip install "dia-hf[train]"`.

    Example: from an adapter alone to a complete checkpoint
    ```python
    >>> import tempfile
    >>> from dia_hf import MINIATURE, Dia, DiaForConditionalGeneration, DiaProcessor
    >>> from dia_hf.training import merge_adapter
    >>> from dia_hf.training.lora import attach_lora
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     attach_lora(DiaForConditionalGeneration.from_pretrained(MINIATURE)).save_pretrained(f"{folder}/adapter")
    ...     merge_adapter(None, f"{folder}/adapter").save_pretrained(f"{folder}/merged")
    ...     _ = DiaProcessor.from_pretrained(MINIATURE).save_pretrained(f"{folder}/merged")
    ...     dia = Dia.from_pretrained(f"{folder}/merged")

    ```
    """
    peft = import_extra("peft")
    folder = locate_adapter(adapter)
    if model is None:
        model = read_json(folder / _CONFIG).get("base_model_name_or_path")
        if not model:
            raise ValueError(
                f"{folder / _CONFIG} names no base model; give the model that the adapter was trained with."
            )
    if isinstance(model, (str, os.PathLike)):
        model, _ = load_checkpoint(model, dtype=torch.float32)
    try:
        with without_warnings_of_names():
            wrapped = peft.PeftModel.from_pretrained(model.float(), os.fspath(folder))
            _check_complete(wrapped, folder)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        told = first_line(str(error).partition(":\n")[2] or error, 300)  # of PyTorch's list of errors, the first
        raise ValueError(f"the adapter {os.fspath(adapter)!r} does not fit the model: {told}") from error
    return wrapped.merge_and_unload(safe_merge=True)


def _check_complete(wrapped: PeftModel, folder: Path) -> None:
    """Raise `ValueError` where PEFT would leave a layer without its tensors, or tensors without a layer."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():  # a pickle, of old releases
        return
    with safe_open(file, framework="pt") as opened:
        found = set(opened.keys())
    expected = set(import_extra("peft").get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    if missing := sorted(expected - found):
        raise ValueError(f"it has {len(missing)} tensors less than its config says, such as {missing[0]!r}")
    if extra := sorted(name for name in found - expected if ".lora_" in name):
        raise ValueError(f"{len(extra)} of its tensors belong to no layer of the model, such as {extra[0]!r}")


class _MergedWeights:
    """The tensors of a merged model, which is made when the first one is read; each is released after its last read."""

    def __init__(self, source: Checkpoint, adapter: Path, name: str | os.PathLike) -> None:
        self._source, self._adapter, self._name = source, adapter, name
        self.targets = plan(source, "huggingface")
        self.num_reads: Counter[str] = Counter()

    @cached_property
    def _tensors(self) -> dict[str, torch.Tensor]:
        model = make_model(self._source, self.targets, torch.float32, self._name)
        return merge_adapter(model, self._adapter).state_dict()

    def read(self, name: str, _: list[torch.Tensor]) -> torch.Tensor:
        self.num_reads[name] -= 1
        return self._tensors[name] if self.num_reads[name] > 0 else self._tensors.pop(name)


def merged_checkpoint(source: Checkpoint, adapter: Path, name: str | os.PathLike, to: str) -> Checkpoint:
    """Return a checkpoint in the Hugging Face layout, whose tensors are those of the merged model, float32 in memory.

    Args:
        source (`Checkpoint`): Base model.
        adapter (`Path`): Folder of the adapter.
        name (`str` or `os.PathLike`): Name of the base model.
        to (`str`): Layout whose tensors will be made of it, each once.

    Raises:
        ValueError: If a tensor of the base model is missing, unexpected or of another shape; and when the first tensor
            is read, if the adapter does not fit it.
    """
    merged, weights = _MergedWeights(source, adapter, name), Weights([])
    weights.files = source.weights.files
    for target in merged.targets:
        weights.derive(target.name, target.shape, torch.float32, (), partial(merged.read, target.name))
    checkpoint = replace(source, weights=weights, layout="huggingface")
    merged.num_reads.update(name for target in plan(checkpoint, to) for name in target.sources)
    return checkpoint
