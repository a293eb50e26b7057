"""Every notebook runs from top to bottom, offline, on the miniature, and its outputs are the expected ones."""

import base64
import functools
import re
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest

from dia_hf import MINIATURE, Dia

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "run_notebooks.py"))
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
CHUNK = re.compile(r"<script>diaPlayer\.enqueue\('([\w+/=]+)'\)</script>")

# Outputs of the cells under each heading, in this order.
SOUND = ["audio", "image"]
SHOWN = {
    "finetune.ipynb": {
        "Fine-tune in a notebook": [],
        "Recordings": SOUND,
        "Data preparation": ["text", "image", "text", *SOUND],
        "Batches": ["text", "image"],
        "Training with DiaTrainer": ["text", "image"],
        "Training with a recipe": ["text", "text", *["text", *SOUND] * 3],
        "Before and after": ["text", *SOUND, "text", *SOUND],
        "Memorization test": ["image", "text"],
        "Keep the result": [],
    },
    "generate.ipynb": {
        "Generate in a notebook": [],
        "Text": ["text", *SOUND, *SOUND, "text"],
        "Waveform, spectrogram, codes": ["image", "image", "image"],
        "Voice cloning": [*SOUND, "text", *SOUND, "text"],
        "Streaming": ["text", "player", "chunks", "text", "player", "chunks", "text"],
        "A batch with per-sample sampling parameters": ["text", *SOUND, "text", *SOUND, "text"],
        "Long-form dialogue": ["table", "text", *SOUND],
        "Save the audio": ["text"],
    },
}
# tqdm warns of missing ipywidgets, which a test does not need.
NOT_OURS = "TqdmWarning: "


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Execute a notebook, once."""
    return functools.cache(lambda path: SCRIPT["execute"](path, tmp_path_factory.mktemp("notebook")))


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
    """Return the kinds of outputs, with consecutive chunks, whose number depends on the audio, as one."""
    kinds = [kind(output) for output in outputs]
    return [this for before, this in zip(["", *kinds], kinds, strict=False) if not this == before == "chunks"]


@each_notebook
def test_runs_and_shows_what_it_promises(path, run):
    """A change of the API broke a notebook, or a cell had no output in headless use."""
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
    """Chunks were lost, swapped or in a wrong format on their way to the browser."""
    played = sections(run(FOLDER / "generate.ipynb"))["Streaming"]
    kinds = [kind(output) for output in played]
    first, second = (place for place, name in enumerate(kinds) if name == "player")
    chunks = [CHUNK.fullmatch(output.data["text/html"])[1] for output in played[first + 1 : second - 1]]
    samples = np.frombuffer(b"".join(map(base64.b64decode, chunks)), "<i2")
    assert len(chunks) > 3 and kinds[second:].count("chunks") > 3
    dia = Dia.from_pretrained(MINIATURE, device="cpu")
    expected = dia.generate("[S1] Hello, I am Dia. [S2] Welcome, Dia.", seed=7)
    # A stream is rounded in other places, so a few samples differ by one 16-bit step.
    difference = samples.astype(int) - (expected * 32767).astype(int)
    assert abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.01


@each_notebook
def test_is_stored_with_its_outputs(path):
    """A notebook was stored without outputs, which the repository's and the site's pages show."""
    stored = {
        heading: [kind for kind in kinds_of(outputs) if kind not in ("player", "chunks")]
        for heading, outputs in sections(nbformat.read(path, as_version=4)).items()
    }
    live = {
        heading: [kind for kind in kinds if kind not in ("player", "chunks")]
        for heading, kinds in SHOWN[path.name].items()
    }
    assert stored == live, "run `make notebooks`"


@each_notebook
def test_is_stored_small_and_tidy(path):
    """A notebook contained megabytes, local paths or the names of an editor's kernel."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == SCRIPT["METADATA"]
    assert path.stat().st_size < 500_000
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.id
        assert re.fullmatch(r"[a-z-]+", cell.id), f"{cell.id}: a name says more in a diff"
        for output in cell.get("outputs", []):
            for name in ("text/plain", "text/markdown"):
                assert not re.search(r"(^|[\s'\"`])(/|[A-Z]:\\)\w", output.data.get(name, "")), cell.id
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in notebook.cells))
    ), "cells were run out of order; run `make notebooks`"
    assert path.read_text("utf-8") == nbformat.writes(notebook) + "\n"


@each_notebook
def test_links_lead_somewhere(path):
    """A renamed page left broken links."""
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert target.startswith("http") or (FOLDER / target).exists(), target
