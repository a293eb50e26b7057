"""The C++ operators: loads the library for this processor, if the package was built with a C++ compiler.

The libraries have a plain C interface and know nothing of PyTorch: Python passes the addresses of tensors. So one build
works with every release of PyTorch. Whoever calls an operator has a way without it, which is its oracle in the tests.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from pathlib import Path

import torch

from .build import VARIANTS, library_name, source_hash

__all__ = ["library", "unavailable_reason", "variant_name"]

_FOLDER = Path(__file__).parent
_VARIABLE = "DIA_HF_NATIVE"

logger = logging.getLogger(__name__)

# The kernel's names of extensions, where they are not the compiler's.
_KERNEL_NAMES = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}


def library() -> ctypes.CDLL | None:
    """Return the library of the operators, or `None` where there is none; see `unavailable_reason`."""
    return _loaded()[0]


def variant_name() -> str | None:
    """Return the instruction set of the library in use, or `None` where there is none."""
    return _loaded()[1]


def unavailable_reason() -> str | None:
    """Return the reason why there is no library; `None` if there is one."""
    return _loaded()[2]


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None, str | None]:
    wanted = os.environ.get(_VARIABLE, "")
    if wanted == "0":
        return None, None, f"{_VARIABLE}=0"
    if wanted and wanted not in VARIANTS:
        raise ValueError(f"{_VARIABLE} is {wanted!r}; use {', '.join(VARIANTS)}, or 0 for none.")
    there = [name for name in VARIANTS if (_FOLDER / library_name(name)).is_file()]
    if not there:
        return None, None, "the package was built without a C++ compiler"
    extensions = _extensions_of_this_processor()
    usable = [name for name in there if name == wanted or (not wanted and extensions.issuperset(VARIANTS[name]))]
    if not usable:
        return None, None, (wanted and f"no library for {wanted}") or "this processor has no AVX2"
    openmp = _openmp()
    if openmp is None:
        return None, None, "this PyTorch has an OpenMP without `GOMP_parallel`"
    name = usable[0]
    try:
        loaded = ctypes.CDLL(str(_FOLDER / library_name(name)))
    except OSError as error:
        return None, None, f"{library_name(name)} cannot be loaded: {error}"
    loaded.dia_source_hash.restype = ctypes.c_char_p
    if list(_FOLDER.glob("*.cpp")) and loaded.dia_source_hash().decode() != source_hash():
        reason = "the libraries are older than their sources; run `python src/dia_hf/native/build.py`"
        logger.warning("the C++ operators are not used: %s.", reason)
        return None, None, reason
    loaded.dia_set_openmp(openmp)
    return loaded, name, None


def _openmp() -> ctypes.c_void_p | None:
    """Find the OpenMP that PyTorch has loaded, among its dependencies."""
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return ctypes.cast(torch_cpu.GOMP_parallel, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None


def _extensions_of_this_processor() -> set[str]:
    """Read the extensions of the instruction set that the processor and the kernel support."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {ours for ours in {name for names in VARIANTS.values() for name in names} if _kernel_name(ours) in flags}


def _kernel_name(extension: str) -> str:
    return _KERNEL_NAMES.get(extension, extension)
