"""Compiles the C++ operators of this folder: one shared library for each instruction set.

Called by the build of the wheel (`hatch_build.py`), before `dia_hf` can be imported, so it uses the standard library
alone. In a clone, `python src/dia_hf/native/build.py` compiles them again after a change.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["VARIANTS", "build", "library_name", "source_hash"]

_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni")

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "avx512-bf16": ("avx2", "fma", "f16c", *_AVX512, "avx512bf16", "avx512vbmi"),
    "avx512-vnni": ("avx2", "fma", "f16c", *_AVX512),
    "avx2": ("avx2", "fma", "f16c"),
}
"""Instruction sets, fastest first, and the extensions that each needs, by the compiler's names."""

_FOLDER = Path(__file__).parent
_OPTIONS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-w",
)
# -w: of GCC's own headers of intrinsics, and of vectors that never cross the interface.


def source_hash(folder: Path = _FOLDER) -> str:
    """Return the first digits of the SHA-256 of the sources, which each library holds."""
    sources = sorted([*folder.glob("*.cpp"), *folder.glob("*.h")])
    digest = hashlib.sha256("\n".join([*_OPTIONS, str(dict(VARIANTS))]).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def library_name(variant: str) -> str:
    """Return the path of a variant's library in the folder of the sources.

    In a folder of their own: beside Python's modules they would be taken for extension modules.
    """
    return f"libraries/libdia-{variant}.so"


def build(folder: Path = _FOLDER) -> list[Path]:
    """Compile all variants into a folder of sources, where there is a compiler for this platform.

    Args:
        folder (`Path`): Folder with the sources.

    Returns:
        `list[Path]`: The libraries; empty without a compiler, or on another platform than Linux on x86-64.

    Raises:
        subprocess.CalledProcessError: If a source cannot be compiled.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux" or platform.machine() != "x86_64":
        return []
    sources = [str(source) for source in sorted(folder.glob("*.cpp"))]
    version = f'-DDIA_SOURCE_HASH="{source_hash(folder)}"'
    libraries = []
    with tempfile.TemporaryDirectory() as temporary:
        running = []
        for variant, extensions in VARIANTS.items():
            target = Path(temporary) / f"{variant}.so"
            flags = [f"-m{extension}" for extension in extensions]
            if variant.startswith("avx512"):
                flags.append("-mprefer-vector-width=512")
            command = [*compiler.split(), *_OPTIONS, version, *flags, *sources, "-o", str(target)]
            running.append((variant, target, command, subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
        for variant, target, command, process in running:
            _, errors = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command, stderr=errors)
            libraries.append((target, folder / library_name(variant)))
        for target, library in libraries:
            # Replaced as a whole: a process that has loaded the old one keeps it.
            library.parent.mkdir(exist_ok=True)
            staged = library.with_suffix(".new")
            shutil.copyfile(target, staged)
            staged.replace(library)
    return [library for _, library in libraries]


if __name__ == "__main__":
    built = build()
    print("\n".join(map(str, built)) or "there is no C++ compiler for this platform; nothing was built")  # noqa: T201
