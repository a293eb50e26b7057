"""Build hook of the wheel: compiles the C++ operators where there is a compiler, and leaves them out where not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NATIVE = Path("src") / "dia_hf" / "native"


class NativeBuildHook(BuildHookInterface):
    """Adds the libraries to the wheel, which is then for this platform, though for every Python 3.

    `DIA_HF_BUILD_NATIVE=0` leaves them out; with `1`, a wheel without them is an error.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the files of the wheel are collected."""
        wanted = os.environ.get("DIA_HF_BUILD_NATIVE", "")
        if wanted == "0":
            return
        sys.path.insert(0, str(Path(self.root) / _NATIVE))
        import build

        sys.path.pop(0)
        try:
            libraries = build.build(Path(self.root) / _NATIVE)
        except (subprocess.CalledProcessError, OSError) as error:
            if wanted == "1":
                raise
            self.app.display_warning(f"the C++ operators were left out: {getattr(error, 'stderr', None) or error}")
            return
        if not libraries:
            if wanted == "1":
                raise RuntimeError("DIA_HF_BUILD_NATIVE=1, but there is no C++ compiler for this platform.")
            return
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"
        build_data["artifacts"] += [f"/{library.relative_to(self.root).as_posix()}" for library in libraries]
