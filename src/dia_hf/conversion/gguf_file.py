"""Reader of GGUF files, tensor by tensor, with the package `gguf`.

Knows nothing of models. The package reads a header as it is written; so its counts and lengths are compared with the
file's size first, and a file of any content costs no more memory than its size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from .._extras import import_extra
from ..text_files import first_line, shortened

__all__ = ["GGUF_SUFFIX", "GgufFile", "is_gguf"]

GGUF_SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_ENTRIES = 100_000  # tensors, key-value pairs, and elements of an array; a Dia has some hundreds
_MOST_DIMS = 4
_STRING, _ARRAY = 8, 9
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by the number of its type."""

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def is_gguf(file: Path) -> bool:
    """Whether a file begins as GGUF does."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class _Header:
    """Walks over a header, and refuses one that does not fit into its file."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    def check(self) -> None:
        version = self._number("I", 4)
        if version not in _VERSIONS:
            raise ValueError(f"its version is {version}; known are {', '.join(map(str, _VERSIONS))}")
        num_tensors, num_fields = self._count("tensors"), self._count("key-value pairs")
        for _ in range(num_fields):
            self._skip(self._number("Q"))  # the key
            self._skip_value(self._number("I"))
        for _ in range(num_tensors):
            self._skip(self._number("Q"))  # the name
            num_dims = self._number("I")
            if num_dims > _MOST_DIMS:
                raise ValueError(f"a tensor has {num_dims} dimensions; at most {_MOST_DIMS} are known")
            num_elements = math.prod(self._number("Q") for _ in range(num_dims))
            if num_elements > 64 * self._size:  # less than a bit each
                raise ValueError(f"a tensor has {num_elements} elements, in a file of {self._size} bytes")
            self._skip(4 + 8)  # type and offset

    def _number(self, kind: str, offset: int | None = None) -> int:
        if offset is not None:
            self._stream.seek(offset)
        content = self._stream.read(struct.calcsize(f"<{kind}"))
        try:
            return int(struct.unpack(f"<{kind}", content)[0])
        except struct.error:
            raise ValueError("it ends within its header") from None

    def _count(self, of: str) -> int:
        number = self._number("Q")
        if number > _MOST_ENTRIES:
            raise ValueError(f"its header tells of {number} {of}; at most {_MOST_ENTRIES} are read")
        return number

    def _skip(self, num_bytes: int) -> None:
        if num_bytes > self._size - self._stream.tell():
            raise ValueError("it ends within its header")
        self._stream.seek(num_bytes, 1)

    def _skip_value(self, kind: int) -> None:
        if kind in _SCALARS:
            self._skip(_SCALARS[kind])
        elif kind == _STRING:
            self._skip(self._number("Q"))
        elif kind == _ARRAY:
            of, number = self._number("I"), self._count("elements of an array")
            if of == _ARRAY:
                raise ValueError("it has an array of arrays")
            for _ in range(number):
                self._skip_value(of)
        else:
            raise ValueError(f"it has a value of the unknown type {kind}")


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]  # in torch's order
    kind: Any  # gguf.GGMLQuantizationType
    offset: int
    num_bytes: int


class GgufFile:
    """Tensors and key-value pairs of a GGUF file.

    Args:
        file (`Path`): Version 2 or 3, little-endian.

    Attributes:
        fields (`dict`): The key-value pairs.

    Raises:
        ValueError: If the file is truncated or damaged, or has tensors of a type that the package cannot dequantize.
        ImportError: If the package `gguf` is missing: `pip install "dia-hf[gguf]"`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        gguf = import_extra("gguf")
        self._quants = import_extra("gguf.quants")
        try:
            with file.open("rb") as stream:
                _Header(stream, file.stat().st_size).check()
            reader = gguf.GGUFReader(file)
            self.fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, RuntimeError) as error:
            raise ValueError(
                f"{file} cannot be read: it is truncated or not a GGUF file ({first_line(error)})."
            ) from error
        # Positions only: the reader maps the file, whose pages would count as used memory.
        self._tensors = {
            tensor.name: _Tensor(
                tuple(reversed(tensor.shape.tolist())), tensor.tensor_type, int(tensor.data_offset), int(tensor.n_bytes)
            )
            for tensor in reader.tensors
        }
        self._check(gguf.GGML_QUANT_SIZES)

    def _check(self, block_sizes: Mapping[Any, tuple[int, int]]) -> None:
        size, checked = self._file.stat().st_size, set()
        for name, tensor in self._tensors.items():
            if tensor.offset + tensor.num_bytes > size:
                raise ValueError(
                    f"{self._file} cannot be read: it is truncated, {shortened(name)} would end at byte "
                    f"{tensor.offset + tensor.num_bytes} of {size}."
                )
            if tensor.kind.name not in _PLAIN and tensor.kind not in checked:
                checked.add(tensor.kind)
                try:
                    self._quants.dequantize(np.zeros((1, block_sizes[tensor.kind][1]), dtype=np.uint8), tensor.kind)
                except NotImplementedError as error:
                    raise ValueError(
                        f"{self._file}: {shortened(name)} is of the type {tensor.kind.name}, which cannot be "
                        "dequantized; use a file of F32, F16, BF16, Q8_0, Q5_0 or Q4_0."
                    ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, in torch's order."""
        return self._tensors[name].shape

    def kind(self, name: str) -> str:
        """Return a tensor's type, such as "F16" or "Q8_0"."""
        return self._tensors[name].kind.name

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype in which a tensor is read: its own, or float32 for a quantized one."""
        return _PLAIN.get(self.kind(name), torch.float32)

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor, dequantized."""
        tensor = self._tensors[name]
        content = np.fromfile(self._file, dtype=np.uint8, count=tensor.num_bytes, offset=tensor.offset)
        if tensor.kind.name in _PLAIN:
            return torch.from_numpy(content).view(self.dtype(name)).reshape(tensor.shape)
        blocks = content.reshape(*tensor.shape[:-1], -1)
        return torch.from_numpy(self._quants.dequantize(blocks, tensor.kind)).reshape(tensor.shape)
