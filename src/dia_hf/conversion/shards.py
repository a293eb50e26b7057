"""Writer of weights as safetensors files of bounded size, with an index where there are several."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm

from .checkpoint import Checkpoint, Target, make_tensor

__all__ = ["write_shards"]


def _split(targets: list[Target], bytes_per_value: int, limit: int) -> list[list[Target]]:
    """Distribute tensors to shards in order, each up to the limit."""
    shards: list[list[Target]] = [[]]
    size = 0
    for target in targets:
        num_bytes = torch.Size(target.shape).numel() * bytes_per_value
        if shards[-1] and size + num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(target)
        size += num_bytes
    return shards


def write_shards(
    source: Checkpoint,
    targets: list[Target],
    folder: Path,
    dtype: torch.dtype,
    limit: int,
    verbose: bool,
    pack: Callable[[str, torch.Tensor], dict[str, torch.Tensor]] | None = None,
    framework: str = "pt",
) -> None:
    """Write all tensors; memory holds those of one file.

    Args:
        source (`Checkpoint`): The model.
        targets (`list[Target]`): Its tensors, in order.
        folder (`Path`): Folder of the files.
        dtype (`torch.dtype`): Of the tensors.
        limit (`int`): Bytes of a file, if no single tensor is larger.
        verbose (`bool`): Whether to show a progress bar.
        pack (`Callable`, *optional*): Function from name and tensor to the tensors to write in its place.
        framework (`str`, defaults to `"pt"`): The `format` in the files' metadata.
    """
    shards = _split(targets, dtype.itemsize, limit)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    total = 0
    index: dict[str, str] = {}
    with tqdm(total=len(targets), desc="converting", unit=" tensors", disable=not verbose) as bar:
        for name, shard in zip(names, shards, strict=True):
            tensors: dict[str, torch.Tensor] = {}
            for target in shard:
                tensor = make_tensor(source, target, dtype)
                tensors |= {target.name: tensor} if pack is None else pack(target.name, tensor)
                bar.update()
            index |= dict.fromkeys(tensors, name)
            total += sum(tensor.nbytes for tensor in tensors.values())
            save_file(tensors, folder / name, metadata={"format": framework})
            del tensors, tensor
    if len(shards) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
