"""Reader of weight files, tensor by tensor: safetensors and PyTorch's pickles, whole or sharded, and GGUF.

Knows nothing of layouts or names of models. A file is mapped again for each tensor; a pickle, which is slow to open,
after every `_BYTES_PER_MAPPING`. This bounds the mapped pages that count as used memory.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..text_files import first_line, read_json, shortened
from .gguf_file import GGUF_SUFFIX, GgufFile, is_gguf

__all__ = [
    "INDICES",
    "WEIGHT_KINDS",
    "WEIGHT_SUFFIXES",
    "Weights",
    "check_sums",
    "find_weight_files",
    "hash_files",
    "read_index",
]

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Names of indices of weight files."""
_PICKLES = (".pth", ".pt", ".bin")
WEIGHT_KINDS = ((".safetensors",), _PICKLES, (GGUF_SUFFIX,))
"""Suffixes of weight files, the kind that has precedence first."""
WEIGHT_SUFFIXES = tuple(suffix for kind in WEIGHT_KINDS for suffix in kind)
# Keys of a state_dict in files of training scripts, also one within the other, and the modules that `torch.compile`,
# `DataParallel`, FSDP and activation checkpointing put around another, in any order and around any part.
_STATE_KEYS = ("state_dict", "model", "model_state_dict")
_MOST_KEYS = 4
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_BYTES_PER_MAPPING = 1 << 27
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_index(index: Path) -> list[Path]:
    """List the files of an index of weight files.

    Raises:
        ValueError: If it is not an index, is empty, or lists a file that is missing or in another folder.
    """
    try:
        weight_map = read_json(index).get("weight_map")
    except ValueError as error:
        raise ValueError(f"{index} has no `weight_map`: {error}") from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise ValueError(
            f"{index} is not an index of weight files: it has no `weight_map` from tensor names to file names."
        )
    files = sorted({index.parent / file for file in weight_map.values()})
    for file in files:
        if not file.is_file():
            raise ValueError(f"{index} lists {file.name}, which is missing.")
    return files


def find_weight_files(folder: Path) -> list[Path]:
    """List the weight files of a folder: those of its index, or else its safetensors, its pickles, or its GGUF file.

    Raises:
        ValueError: If there is none, a file of the index is missing, or it is ambiguous which file to use.
    """
    for name in INDICES:
        if (folder / name).is_file():
            return read_index(folder / name)
    for suffixes in WEIGHT_KINDS:
        files = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
        # Among several files, the usual names of weights take precedence.
        files = [path for path in files if path.stem in ("model", "pytorch_model")] or files
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise ValueError(f"{folder} has several weight files ({names}) and no index; give the file itself.")
        if files:
            return files
    raise ValueError(f"{folder} has no weights; expected a .safetensors, .pth, .pt, .bin or .gguf file.")


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
        if file.suffix == ".safetensors" or is_gguf(file) or not zipfile.is_zipfile(file):
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
            f"{file} is refused: it contains more than weights ({str(error).strip().splitlines()[0]}). A pickle can "
            "run code; open such a file only if you trust its author, and save its state_dict as safetensors."
        ) from error
    except Exception as error:  # damaged pickles raise many types of errors
        if mmap and "mmap can only be used" in str(error):  # the format of torch before 1.6
            return _load_pickle(file, mmap=False)
        raise ValueError(
            f"{file} cannot be read: it is truncated or not a PyTorch file ({first_line(error)})."
        ) from error


def _load_state_dict(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], bool]:
    """Return a pickle's tensors by name, its `metadata`, and whether they are under a key or have other names there."""
    content = whole = _load_pickle(file)
    metadata: Any = {}
    for _ in range(_MOST_KEYS):
        key = next((key for key in _STATE_KEYS if isinstance(content, dict) and key in content), None)
        if key is None or isinstance(content[key], torch.Tensor):
            break
        metadata = (content.get("metadata") if key == "state_dict" else None) or metadata
        content = content[key]
    if not isinstance(content, dict) or not isinstance(metadata, dict):
        raise ValueError(f"{file} contains a {type(content).__name__}; expected a state_dict, tensors by name.")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{file}: {name!r} is a {type(tensor).__name__}, not a tensor; expected a state_dict.")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
            kind = "meta" if tensor.is_meta else f"{str(tensor.layout).removeprefix('torch.')}, {tensor.dtype}"
            raise ValueError(f"{file}: {name!r} is not a dense tensor of real numbers ({kind}); save it as one.")
        own_name = _WRAPPERS.sub("", name)
        if own_name in tensors:
            raise ValueError(f"{file} contains {own_name!r} twice, once as {name!r}; save one of them.")
        tensors[own_name] = tensor
    return tensors, metadata, content is not whole or tensors.keys() != content.keys()


@dataclass(frozen=True)
class _Derived:
    """A tensor that is computed from others of the files."""

    sources: tuple[str, ...]
    make: Callable[[list[torch.Tensor]], torch.Tensor]


class Weights:
    """Tensors of one or several weight files.

    Args:
        files (`list[Path]`): Files with the suffix .safetensors, .pth, .pt, .bin or .gguf; GGUF is recognized by its
            content.

    Attributes:
        metadata (`dict`): Metadata of a pickle beside its `state_dict` (descript's `metadata`), or the key-value pairs
            of a GGUF file.
        is_wrapped (`bool`): Whether tensors are under a key of a training script, or have the names of a compiled or
            distributed module.

    Raises:
        ValueError: If a file is truncated, refused, or not a weight file.
        ImportError: If a file is GGUF, and the package `gguf` is missing.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.metadata: dict[str, Any] = {}
        self.is_wrapped = False
        self._file_of: dict[str, Path] = {}
        self._name_in_file: dict[str, str] = {}
        self._shape_of: dict[str, tuple[int, ...]] = {}
        self._dtype_of: dict[str, torch.dtype | None] = {}
        self._kind_of: dict[str, str] = {}
        self._derived: dict[str, _Derived] = {}
        self._gguf: dict[Path, GgufFile] = {}
        self._mapped: tuple[Path | None, dict[str, torch.Tensor]] = None, {}
        self._num_bytes_read = 0
        for file in files:
            for name, shape, dtype, kind in self._list(file):
                if name in self._file_of:
                    raise ValueError(f"{file} contains the tensor {name!r}, which is also in {self._file_of[name]}.")
                self._file_of[name] = file
                self._shape_of[name] = shape
                self._dtype_of[name] = dtype
                self._kind_of[name] = kind

    def _list(self, file: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype | None, str]]:
        if is_gguf(file):
            self._gguf[file] = opened_gguf = GgufFile(file)
            self.metadata = opened_gguf.fields
            for name in opened_gguf:
                yield name, opened_gguf.shape(name), opened_gguf.dtype(name), opened_gguf.kind(name)
            return
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (not a mapping)
                        tensor = opened.get_slice(name)
                        own_name = _WRAPPERS.sub("", name)
                        self._name_in_file[own_name] = name
                        self.is_wrapped |= own_name != name
                        kind = tensor.get_dtype()
                        yield own_name, tuple(tensor.get_shape()), _DTYPES.get(kind), kind
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{file} cannot be read: it is truncated or not a safetensors file ({error})."
                ) from error
            return
        tensors, self.metadata, is_wrapped = _load_state_dict(file)
        self.is_wrapped |= is_wrapped
        for name, tensor in tensors.items():
            dtype = tensor.dtype if tensor.dtype in _DTYPES.values() else None
            yield name, tuple(tensor.shape), dtype, str(tensor.dtype).removeprefix("torch.")

    def __contains__(self, name: str) -> bool:
        return name in self._shape_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape_of)

    @property
    def is_gguf(self) -> bool:
        """Whether the files are GGUF."""
        return bool(self._gguf)

    def kind(self, name: str) -> str:
        """Return how a tensor is stored, in the words of its file: such as "F32", "U32", "Q8_0" or "float16"."""
        return self._kind_of[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return self._shape_of[name]

    def dtype(self, name: str) -> torch.dtype | None:
        """Return a tensor's dtype without reading it; `None` for one that is not floating-point."""
        return self._dtype_of[name]

    def dtypes(self) -> set[torch.dtype | None]:
        """Return all dtypes; `None` stands for dtypes that are not floating-point."""
        return set(self._dtype_of.values())

    def file(self, name: str) -> Path:
        """Return the file of a tensor."""
        return self._file_of[name]

    def only(self, prefix: str) -> Weights:
        """Return the tensors of these whose names begin with `prefix`."""
        chosen = copy(self)
        for name, table in vars(self).items():
            if name in ("_file_of", "_shape_of", "_dtype_of"):
                setattr(chosen, name, {key: value for key, value in table.items() if key.startswith(prefix)})
        return chosen

    def derive(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        sources: tuple[str, ...],
        make: Callable[[list[torch.Tensor]], torch.Tensor],
    ) -> None:
        """Put a tensor that is computed when it is read in the place of those that it is computed from."""
        file = self._file_of[sources[0]] if sources else self.files[0]
        for source in sources:
            del self._shape_of[source], self._dtype_of[source]
        self._derived[name] = _Derived(sources, make)
        self._file_of[name], self._shape_of[name], self._dtype_of[name] = file, shape, dtype

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        if (derived := self._derived.get(name)) is not None:
            return derived.make([self._read(source) for source in derived.sources])
        return self._read(name)

    def _read(self, name: str) -> torch.Tensor:
        file = self._file_of[name]
        if file in self._gguf:
            return self._gguf[file].read(name)
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(self._name_in_file[name])
        if self._mapped[0] != file or self._num_bytes_read >= _BYTES_PER_MAPPING:
            self._mapped = (
                None,
                {},
            )  # released first: the format of torch before 1.6 cannot be mapped and is loaded whole
            self._mapped = file, _load_state_dict(file)[0]
            self._num_bytes_read = 0
        tensor = self._mapped[1][name]
        self._num_bytes_read += tensor.nbytes
        return tensor
