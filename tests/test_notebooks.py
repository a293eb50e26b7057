"""Every notebook runs from top to bottom, offline, on the miniature, and shows what it promises."""

import base64
import functools
import os
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from dia_hf import MINIATURE, Dia

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
CHUNK = re.compile(r"<script>diaPlayer\.enqueue\('([\w+/=]+)'\)</script>")

# What the cells under each heading show, in this order.
SHOWN = {
    "finetune.ipynb": {
        "A voice of your own in an afternoon": [],
        "The recordings": ["audio"],
        "Preparing them": ["text", "image", "text", "audio"],
        "What a batch looks like": ["text", "image"],
        "Training, in a few lines": ["text", "image"],
        "The same by a recipe": ["text", "text", *["text", "audio"] * 3],
        "Before and after": ["text", "audio", "text", "audio"],
        "Learned by heart": ["image", "text"],
        "Keeping it": [],
    },
    "generate.ipynb": {
        "Dia in a notebook": [],
        "Text": ["text", "audio", "audio", "text"],
        "What came out": ["image", "image", "image"],
        "A voice": ["audio", "text", "audio", "text"],
        "Hearing it while it is spoken": ["text", "player", "chunks", "text", "player", "chunks", "text"],
        "A batch, with settings for each": ["text", "audio", "text", "audio", "text"],
        "A long dialogue": ["table", "text", "audio"],
        "Keeping it": ["text"],
    },
}
# tqdm misses ipywidgets, which a test does without.
NOT_OURS = "TqdmWarning: "


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Execute a notebook, once, in a process of this interpreter and away from the user's own settings."""

    @functools.cache
    def execute(path: Path) -> nbformat.NotebookNode:
        folder = tmp_path_factory.mktemp("notebook")
        environment = os.environ | {
            "IPYTHONDIR": str(folder / "ipython"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "OMP_NUM_THREADS": "1",
        }
        desk = folder / "desk"
        desk.mkdir()
        notebook = nbformat.read(path, as_version=4)
        # Without folders to look into, "python3" is this interpreter and no kernel that happens to be installed.
        kernels = KernelSpecManager(kernel_dirs=[])
        manager = AsyncKernelManager(kernel_spec_manager=kernels, connection_file=str(folder / "kernel.json"))
        assert manager.kernel_spec.argv[0] == sys.executable
        client = NotebookClient(notebook, manager, timeout=300, resources={"metadata": {"path": str(desk)}})
        client.execute(env=environment)
        assert list(desk.iterdir()) == [], "the notebook leaves files beside itself"
        return notebook

    return execute


def sections(notebook: nbformat.NotebookNode) -> dict[str, list[nbformat.NotebookNode]]:
    """Return the outputs under each heading."""
    found: dict[str, list[nbformat.NotebookNode]] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found[next(reversed(found))] += cell.outputs
        elif heading := re.match(r"##? (.*)", cell.source):
            found[heading[1]] = []
    return found


def kind(output: nbformat.NotebookNode) -> str:
    data = output.data
    html = data.get("text/html", "")
    if "image/png" in data:
        return "image"
    if "<audio" in html:
        return "audio"
    if "new AudioContext" in html:
        return "player"
    if CHUNK.fullmatch(html):
        return "chunks"
    return "table" if data.get("text/markdown", "").startswith("| ") else "text"


def kinds_of(outputs: list[nbformat.NotebookNode]) -> list[str]:
    """Return the kinds of outputs; chunks one after the other, which are as many as there is speech, once."""
    kinds = [kind(output) for output in outputs]
    return [this for before, this in zip(["", *kinds], kinds, strict=False) if not this == before == "chunks"]


@each_notebook
def test_runs_and_shows_what_it_promises(path, run):
    """A notebook breaks with the first change of the API that nobody tried it on, or shows nothing in headless use."""
    notebook = run(path)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                assert "Warning: " not in re.sub(NOT_OURS, "", output.text), f"{cell.id}: {output.text}"
    shown = {
        heading: [output for output in outputs if output.output_type != "stream"]
        for heading, outputs in sections(notebook).items()
    }
    kinds = {heading: kinds_of(outputs) for heading, outputs in shown.items()}
    assert kinds == SHOWN[path.name]
    texts = [output.data["text/plain"] for outputs in shown.values() for output in outputs]
    assert "False" not in texts, "what the notebook says is the same is not"


def test_the_player_gets_the_whole_sound(run):
    """Chunks that are lost, swapped or of a wrong format on their way to the browser are heard there alone."""
    played = sections(run(FOLDER / "generate.ipynb"))["Hearing it while it is spoken"]
    kinds = [kind(output) for output in played]
    first, second = (place for place, name in enumerate(kinds) if name == "player")
    chunks = [CHUNK.fullmatch(output.data["text/html"])[1] for output in played[first + 1 : second - 1]]
    samples = np.frombuffer(b"".join(map(base64.b64decode, chunks)), "<i2")
    assert len(chunks) > 3 and kinds[second:].count("chunks") > 3
    dia = Dia.from_pretrained(MINIATURE, device="cpu")
    expected = dia.generate("[S1] Hello, I am Dia. [S2] Welcome, Dia.", seed=7, max_seconds=3)
    # A stream is rounded in other places; so a few samples fall on the other side of a 16-bit step.
    difference = samples.astype(int) - (expected * 32767).astype(int)
    assert abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


@each_notebook
def test_is_stored_without_outputs(path):
    """Outputs, counts and the names of an editor's kernel make diffs that nobody can read."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.id
        assert re.fullmatch(r"[a-z-]+", cell.id), f"{cell.id}: a name says more in a diff"
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
    assert path.read_text("utf-8") == nbformat.writes(notebook) + "\n"


@each_notebook
def test_links_lead_somewhere(path):
    """A page that was renamed leaves dead links behind."""
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert target.startswith("http") or (FOLDER / target).exists(), target
