"""Run the notebooks and store them with their outputs: `python scripts/run_notebooks.py [NOTEBOOK ...]`.

Without names, all of docs/notebooks/. Runs offline, in this interpreter's environment, in an empty temporary folder.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder below `folder`, away from the user's own settings.

    Args:
        path (`Path`): The notebook; the file stays as it is.
        folder (`Path`): An existing folder.

    Returns:
        `nbformat.NotebookNode`: The notebook with its outputs.

    Raises:
        RuntimeError: If the notebook leaves files in its folder, or the kernel would be another interpreter.
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    environment = os.environ | {
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
    }
    desk = folder / "desk"
    desk.mkdir()
    notebook = nbformat.read(path, as_version=4)
    # Without folders to search, "python3" is this interpreter and not a kernel that happens to be installed.
    kernels = KernelSpecManager(kernel_dirs=[])
    manager = AsyncKernelManager(kernel_spec_manager=kernels, connection_file=str(folder / "kernel.json"))
    if manager.kernel_spec.argv[0] != sys.executable:
        raise RuntimeError(f"the kernel is {manager.kernel_spec.argv[0]}, not {sys.executable}.")
    client = NotebookClient(notebook, manager, timeout=300, resources={"metadata": {"path": str(desk)}})
    client.execute(env=environment)
    if left := sorted(path.name for path in desk.iterdir()):
        raise RuntimeError(f"{path.name} leaves files in its folder: {left}.")
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook as it is stored: small, and without what changes from run to run for no reason.

    Left out are progress bars and other streams, the editor's metadata, and the chunks for the browser's player, which
    are of use only while they are generated. Pictures keep 64 colors.
    """
    notebook.metadata = METADATA
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if is_stored(output)]
        for output in cell.outputs:
            output.metadata = {}
            output.data["text/plain"] = re.sub(r"^<(IPython[\w.]*|Figure).*>$", r"<\1>", output.data["text/plain"])
            if "image/png" in output.data:
                output.data["image/png"] = smaller(output.data["image/png"])
    return nbformat.writes(notebook) + "\n"


def is_stored(output: nbformat.NotebookNode) -> bool:
    """Return whether an output is of use to the readers of a stored notebook."""
    return output.output_type != "stream" and "diaPlayer" not in output.data.get("text/html", "")


def smaller(png: str) -> str:
    """Return a picture in base64 with 64 colors."""
    drawn = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(drawn, format="PNG", optimize=True)
    return base64.b64encode(drawn.getvalue()).decode()


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            path.write_text(tidy(execute(path, Path(folder))), "utf-8")
