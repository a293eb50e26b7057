"""Weight files, read tensor by tensor: safetensors and PyTorch's pickles, whole or sharded.

Knows nothing of layouts or names. A file is opened when one of its tensors is wanted and can be closed in between, so
that its pages do not count against the memory for ever.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

__all__ = ["Weights", "find_weight_files", "hash_files"]

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PICKLES = (".pth", ".pt", ".bin")


def find_weight_files(folder: Path) -> list[Path]:
    """List the weight files of a folder: those of its index, or else its safetensors, or else its pickles.

    Raises:
        ValueError: If there is none, a file of the index is missing, or several files could be meant.
    """
    for name in _INDICES:
        if (folder / name).is_file():
            files = sorted({folder / file for file in json.loads((folder / name).read_text())["weight_map"].values()})
            for file in files:
                if not file.is_file():
                    raise ValueError(f"{folder / name} lists {file.name}, which is missing.")
            return files
    for suffixes in ((".safetensors",), _PICKLES):
        files = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
        # Beside other files, the name that everybody gives the weights decides.
        files = [path for path in files if path.stem in ("model", "pytorch_model")] or files
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise ValueError(
                f"{folder} holds several weight files ({names}) and no index; give the file that you mean."
            )
        if files:
            return files
    raise ValueError(f"{folder} holds no weights; expected a .safetensors, .pth, .pt or .bin file.")


def hash_files(files: list[Path]) -> str:
    """Return the SHA-256 over the files' contents, in order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _load_pickle(file: Path) -> dict[str, Any]:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: it holds more than weights ({str(error).strip().splitlines()[0]}). A pickle can run "
            "code; open such a file only where you trust its author, and save its state_dict as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: it is truncated or no PyTorch file ({error}).") from error


class Weights:
    """The tensors of one or several files.

    Args:
        files (`list[Path]`): .safetensors, .pth, .pt or .bin.

    Attributes:
        metadata (`dict`): What a pickle holds beside its `state_dict` (descript's `metadata`).

    Raises:
        ValueError: If a file is truncated, refused, or no weight file.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.metadata: dict[str, Any] = {}
        self._file_of: dict[str, Path] = {}
        self._shape_of: dict[str, tuple[int, ...]] = {}
        self._pickles: dict[Path, dict[str, torch.Tensor]] = {}
        self._opened: dict[Path, Any] = {}
        for file in files:
            for name, shape in self._list(file):
                self._file_of[name] = file
                self._shape_of[name] = shape

    def _list(self, file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
        if file.suffix == ".safetensors":
            opened = self._open(file)
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                yield name, tuple(opened.get_slice(name).get_shape())
            self.close()
            return
        content = _load_pickle(file)
        if isinstance(content.get("state_dict"), dict):
            self.metadata = content.get("metadata", {})
            content = content["state_dict"]
        self._pickles[file] = content
        for name, tensor in content.items():
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"{file}: {name!r} is no tensor but {type(tensor).__name__}; expected a state_dict.")
            yield name, tuple(tensor.shape)

    def _open(self, file: Path) -> Any:
        if file not in self._opened:
            try:
                self._opened[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file} cannot be read: it is truncated or no safetensors file ({error}).") from error
        return self._opened[file]

    def __contains__(self, name: str) -> bool:
        return name in self._shape_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape_of)

    def __len__(self) -> int:
        return len(self._shape_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._shape_of[name]

    def file(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        file = self._file_of[name]
        if file in self._pickles:
            return self._pickles[file][name]
        return self._open(file).get_tensor(name)

    def close(self) -> None:
        """Let go of what is mapped; the next `read` opens it again."""
        self._opened.clear()
