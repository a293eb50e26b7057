"""The architecture's laws, checked in the source."""

import ast
from pathlib import Path

import pytest

import dia_hf

SOURCE = Path(dia_hf.__file__).parent
FLOORS = {
    "_compat": 0,
    "_extras": 0,
    "atomic_write": 0,
    "text_files": 0,
    "assets": 1,
    "configuration_dia": 1,
    "delay_pattern": 1,
    "hub": 1,
    "int4": 1,
    "loss": 1,
    "native": 1,
    "ray_cluster": 1,
    "rotary": 1,
    "packing": 1,
    "tokenization_dia": 1,
    "audio": 2,
    "batch": 7,
    "engine": 2,
    "model_card": 2,
    "asr": 3,
    "calibration": 3,
    "feature_extraction_dia": 3,
    "generation": 3,
    "modeling_dia": 4,
    "processing_dia": 4,
    "auto": 5,
    "conversion": 5,
    "data": 5,
    "quantization": 5,
    "speech": 6,
    "evaluation": 7,
    "training": 7,
    "bench": 8,
    "serving": 8,
    "cli": 9,
    "__init__": 10,
}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """Yield the imports of a file: absolute names, and modules of this package as `.room`."""
    package = path.relative_to(SOURCE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = package[: len(package) - node.level + 1]
            parts = [*inner, *(node.module.split(".") if node.module else [node.names[0].name])]
            yield f".{parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_import_from_lower_floors_only(path):
    """An import of a higher layer makes a cycle, and a network that cannot be used without the command line."""
    room = room_of(path)
    for name in imports_of(path):
        if name.startswith(".") and name[1:] != room:
            lower = FLOORS[name[1:]] < FLOORS[room]
            assert lower, f"{room} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_leans_on_transformers_own_dia(path):
    """A class imported from the peer would be tested against itself."""
    for name in imports_of(path):
        assert not name.startswith("transformers.models.dia")
        assert not name.startswith("transformers.Dia")


def test_the_delay_pattern_needs_torch_alone():
    """An import added to the delay pattern prevents its use without the rest of the package."""
    assert {name.split(".")[0] for name in imports_of(SOURCE / "delay_pattern.py")} <= {
        "__future__",
        "collections",
        "torch",
    }


REFERENCE_PATH = ("modeling_dia.py", "generation/logits_process.py", "generation/running_samples.py")


@pytest.mark.parametrize("name", REFERENCE_PATH)
def test_files_of_the_reference_path_name_the_fast_path(name):
    """A sampling rule was changed in a file that does not run by default and whose header did not state it."""
    lines = ast.get_docstring(ast.parse((SOURCE / name).read_text("utf-8"))).splitlines()
    assert "reference path" in lines[0].lower()
    assert "By default `generate()`" in " ".join(lines[:5]) or "`generate()` does not call" in " ".join(lines[:5])
    assert "engine/" in " ".join(lines[:8])
