"""Run the README's quickstart on the embedded miniature, with the package that is installed, in the current folder.

    python tests/quickstart.py

`make test-wheel` calls it from an empty folder, in an environment that has the wheel alone.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import dia_hf
from dia_hf import native

README = Path(__file__).parent.parent / "README.md"
REAL = "nari-labs/Dia-1.6B-0626"


def main() -> None:
    """Run each block; the files that it writes must exist afterwards."""
    assert README.parent not in Path(dia_hf.__file__).parents or "site-packages" in dia_hf.__file__, dia_hf.__file__
    section = README.read_text("utf-8").split("## Quickstart", 1)[1].split("\n## ", 1)[0]
    commands = Path(sys.executable).parent
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        code = code.replace(REAL, dia_hf.MINIATURE)
        if language == "python":
            subprocess.run([sys.executable, "-c", code], check=True)
        else:
            for line in code.splitlines():
                name, *arguments = shlex.split(line)
                subprocess.run([commands / name, *arguments], check=True)
    for name in ("hello.wav", "dialogue.mp3"):
        assert Path(name).stat().st_size > 1000, name
    print(f"C++ operators: {native.variant_name() or native.unavailable_reason()}")  # noqa: T201


if __name__ == "__main__":
    main()
