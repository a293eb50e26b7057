"""Consistency of the project's files: imports and dependencies, workflow and `.ci/run`."""

import ast
import re
import sys
from pathlib import Path

import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Distributions whose name differs from their import.
DISTRIBUTIONS = {"yaml": "pyyaml", "pynvml": "nvidia_ml_py", "dac": "descript_audio_codec"}
OURS = {"dia_hf", "dia_hf_command"}


def normalized(name: str) -> str:
    return re.match(r"[\w.-]+", name)[0].lower().replace("-", "_")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported(body: list[ast.stmt], is_deep: bool):
    """Yield the top-level packages that statements import, those inside functions only if `is_deep`."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        elif is_deep or not (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(node)):
            children = [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)
            ]
            yield from imported(children, is_deep)


def packages(is_deep: bool) -> dict[str, str]:
    """Return each package that src/ imports, as its distribution, with a file that imports it."""
    found = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for name in imported(ast.parse(path.read_text("utf-8")).body, is_deep):
            if name not in sys.stdlib_module_names | OURS:
                found[normalized(DISTRIBUTIONS.get(name, name))] = path.relative_to(ROOT).as_posix()
    return found


def test_what_is_always_imported_is_a_dependency():
    """`huggingface_hub` and `tqdm` were installed with transformers only; a release without them breaks the import."""
    required = {normalized(line) for line in PROJECT["dependencies"]}
    extras = {"src/dia_hf/training/": "train", "src/dia_hf/serving/": "serve"}  # what is imported on request
    extras["src/dia_hf/serving/wyoming.py"] = "wyoming"
    for name, path in packages(is_deep=False).items():
        lines = [PROJECT["optional-dependencies"][extra] for room, extra in extras.items() if path.startswith(room)]
        allowed = required | {normalized(line) for extra in lines for line in extra}
        assert name in allowed, f"{path} imports {name}, which [project] dependencies of pyproject.toml lack"


def test_what_is_ever_imported_is_declared():
    """An error named a package that no extra installs."""
    declared = {normalized(line) for line in PROJECT["dependencies"]}
    for name, extra in PROJECT["optional-dependencies"].items():
        declared |= {normalized(line) for line in extra if name != "dev"}
    for name, path in packages(is_deep=True).items():
        assert name in declared, f"{path} imports {name}, which no extra of pyproject.toml has"


def test_the_workflow_runs_what_ci_runs():
    """A change passed locally and failed in the workflow."""
    commands = re.findall(r"^make (\S+)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["make"]
    assert job["strategy"]["matrix"]["target"] == commands
    assert job["steps"][-1]["run"] == "make ${{ matrix.target }}"


def test_one_version():
    """The citation or the package had another version than the code."""
    text = (ROOT / "src" / "dia_hf" / "__init__.py").read_text("utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert f'__version__ = "{PROJECT["version"]}"' in text
    assert citation["version"] == PROJECT["version"]


def test_tests_named_in_contributing_exist():
    """CONTRIBUTING.md named a test of a private part of transformers that does not exist."""
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
