"""Weight files, read tensor by tensor: safetensors and PyTorch's pickles, whole or sharded.

Knows nothing of layouts or names. A file is mapped anew for each tensor that is wanted, a pickle, which takes long to
open, after as much as `_BYTES_PER_MAPPING`: no more of a file than that counts against the memory.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..text_files import first_line, read_json, shortened

__all__ = ["WEIGHT_SUFFIXES", "Weights", "check_sums", "find_weight_files", "hash_files", "read_index"]

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PICKLES = (".pth", ".pt", ".bin")
WEIGHT_SUFFIXES = (".safetensors", *_PICKLES)
# What training scripts put a state_dict under, and torch before its names: `torch.compile` and `DataParallel`.
_STATE_KEYS = ("state_dict", "model", "model_state_dict")
_WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")
_BYTES_PER_MAPPING = 1 << 27
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_index(index: Path) -> list[Path]:
    """List the files of an index of weight files.

    Raises:
        ValueError: If it is none, is empty, or a file of it is missing or lies elsewhere.
    """
    try:
        weight_map = read_json(index).get("weight_map")
    except ValueError as error:
        raise ValueError(f"{index} has no `weight_map`: {error}") from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise ValueError(
            f"{index} is no index of weight files: it has no `weight_map` of names of tensors to names of files."
        )
    files = sorted({index.parent / file for file in weight_map.values()})
    for file in files:
        if not file.is_file():
            raise ValueError(f"{index} lists {file.name}, which is missing.")
    return files


def find_weight_files(folder: Path) -> list[Path]:
    """List the weight files of a folder: those of its index, or else its safetensors, or else its pickles.

    Raises:
        ValueError: If there is none, a file of the index is missing, or several files could be meant.
    """
    for name in _INDICES:
        if (folder / name).is_file():
            return read_index(folder / name)
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


def check_sums(files: list[Path]) -> None:
    """Compare the contents of PyTorch's zip files with their CRC-32 sums, which `torch.load` does not look at.

    Costs one read of each file, without decoding; call it once per conversion. Files without sums pass: safetensors,
    the format of torch before 1.6, and what was saved under `torch.serialization.set_crc32_options(False)`.

    Args:
        files (`list[Path]`): Weight files of any kind.

    Raises:
        ValueError: If a member of a file differs from its sum; the message names file and member.
    """
    for file in files:
        if file.suffix == ".safetensors" or not zipfile.is_zipfile(file):
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip() if any(member.CRC for member in archive.infolist()) else None
        except OSError:
            raise
        except Exception as error:  # what damaged headers lead to, such as an unknown compression
            raise ValueError(f"{file} is damaged: its zip headers cannot be read ({first_line(error)}).") from error
        if damaged is not None:
            raise ValueError(
                f"{file} is damaged: {shortened(damaged)} inside it differs from its CRC-32 sum; download or copy the "
                "file again."
            )


def _load_pickle(file: Path, mmap: bool = True) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: it holds more than weights ({str(error).strip().splitlines()[0]}). A pickle can run "
            "code; open such a file only where you trust its author, and save its state_dict as safetensors."
        ) from error
    except Exception as error:  # what the instructions of a damaged pickle run into
        if mmap and "mmap can only be used" in str(error):  # the format of torch before 1.6
            return _load_pickle(file, mmap=False)
        raise ValueError(f"{file} cannot be read: it is truncated or no PyTorch file ({first_line(error)}).") from error


def _load_state_dict(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return a pickle's tensors by name, and what stands beside them as `metadata`."""
    content = _load_pickle(file)
    metadata: Any = {}
    for key in _STATE_KEYS:
        if isinstance(content, dict) and key in content and not isinstance(content[key], torch.Tensor):
            content, metadata = content[key], (content.get("metadata") if key == "state_dict" else None) or {}
            break
    if not isinstance(content, dict) or not isinstance(metadata, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; expected a state_dict, tensors by name.")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{file}: {name!r} is no tensor but {type(tensor).__name__}; expected a state_dict.")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            kind = "meta" if tensor.is_meta else f"{str(tensor.layout).removeprefix('torch.')}, {tensor.dtype}"
            raise ValueError(f"{file}: {name!r} is no dense tensor of real numbers ({kind}); save it as one.")
        own_name = _WRAPPERS.sub("", name)
        if own_name in tensors:
            raise ValueError(f"{file} holds {own_name!r} twice, once as {name!r}; save one of them.")
        tensors[own_name] = tensor
    return tensors, metadata


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
        self._name_in_file: dict[str, str] = {}
        self._shape_of: dict[str, tuple[int, ...]] = {}
        self._dtype_of: dict[str, torch.dtype | None] = {}
        self._mapped: tuple[Path | None, dict[str, torch.Tensor]] = None, {}
        self._num_bytes_read = 0
        for file in files:
            for name, shape, dtype in self._list(file):
                if name in self._file_of:
                    raise ValueError(f"{file} holds the tensor {name!r}, which {self._file_of[name]} holds, too.")
                self._file_of[name] = file
                self._shape_of[name] = shape
                self._dtype_of[name] = dtype

    def _list(self, file: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype | None]]:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (no mapping)
                        tensor = opened.get_slice(name)
                        own_name = _WRAPPERS.sub("", name)
                        self._name_in_file[own_name] = name
                        yield own_name, tuple(tensor.get_shape()), _DTYPES.get(tensor.get_dtype())
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{file} cannot be read: it is truncated or no safetensors file ({error}).") from error
            return
        tensors, self.metadata = _load_state_dict(file)
        for name, tensor in tensors.items():
            yield name, tuple(tensor.shape), tensor.dtype if tensor.is_floating_point() else None

    def __contains__(self, name: str) -> bool:
        return name in self._shape_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._shape_of[name]

    def dtypes(self) -> set[torch.dtype | None]:
        """Return all dtypes that occur; `None` stands for what is not floating-point."""
        return set(self._dtype_of.values())

    def file(self, name: str) -> Path:
        """Return the file that holds a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        file = self._file_of[name]
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(self._name_in_file[name])
        if self._mapped[0] != file or self._num_bytes_read >= _BYTES_PER_MAPPING:
            self._mapped = None, {}  # let go first: the format of torch before 1.6 cannot be mapped and is held whole
            self._mapped = file, _load_state_dict(file)[0]
            self._num_bytes_read = 0
        tensor = self._mapped[1][name]
        self._num_bytes_read += tensor.nbytes
        return tensor
