"""MkDocs hooks: the repository's pages outside `docs/` and the notebooks as pages of the site.

Links between pages are relative paths in the repository, so that they also work where the repository is browsed. They
are rewritten to the site's own paths; a link to a file that is no page of the site, such as a recipe, becomes its path.
MkDocs then checks all links: `make docs` fails at a broken one.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from posixpath import normpath, relpath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent

# Pages outside docs/: path in the repository to path in the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks/figures.md",
    "benchmarks/results/batch.md": "benchmarks/batch.md",
    "benchmarks/results/codec.md": "benchmarks/codec.md",
    "benchmarks/results/conversion.md": "benchmarks/conversion.md",
    "benchmarks/results/cpu_context.md": "benchmarks/cpu-context.md",
    "benchmarks/results/cpu_ggml.md": "benchmarks/cpu-ggml.md",
    "benchmarks/results/cpu_steps.md": "benchmarks/cpu-steps.md",
    "benchmarks/results/interruptions.md": "benchmarks/interruptions.md",
    "benchmarks/results/long_dialogue.md": "benchmarks/long-dialogue.md",
    "benchmarks/results/miniature.md": "benchmarks/miniature.md",
    "benchmarks/results/open_vocabulary.md": "benchmarks/open-vocabulary.md",
    "benchmarks/results/page.md": "benchmarks/page.md",
    "benchmarks/results/quantization.md": "benchmarks/quantization.md",
    "benchmarks/results/serving.md": "benchmarks/serving.md",
    "benchmarks/results/serving_replicas.md": "benchmarks/serving-replicas.md",
    "benchmarks/results/serving_soak.md": "benchmarks/serving-soak.md",
    "benchmarks/results/start.md": "benchmarks/start.md",
    "benchmarks/results/streaming.md": "benchmarks/streaming.md",
    "benchmarks/results/runtimes.md": "benchmarks/runtimes.md",
    "benchmarks/results/word_times.md": "benchmarks/word-times.md",
    "benchmarks/results/text_streaming.md": "benchmarks/text-streaming.md",
    "examples/miniature/README.md": "miniature/from-scratch.md",
    "src/dia_hf/assets/miniature/README.md": "miniature/model-card.md",
}
PICTURES = ("benchmarks/results/speed-full-bfloat16.png",)
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside `docs/`, their pictures, and a page for each notebook."""
    from mkdocs.structure.files import File

    for source, target in PAGES.items():
        text = FRONT_MATTER.sub("", (ROOT / source).read_text("utf-8"))
        files.append(File.generated(config, target, content=text))
    for picture in PICTURES:
        files.append(File.generated(config, site_path(picture), abs_src_path=str(ROOT / picture)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        text = notebook_text(Path(str(notebook.abs_src_path)))
        files.append(File.generated(config, f"{notebook.src_uri[:-6]}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page to paths of the site; code stays as it is."""
    here = page.file.src_uri
    source = next((source for source, target in PAGES.items() if target == here), f"docs/{here}")
    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(lambda link: rewritten(link, source, here), part) for part in parts[::2]]
    return "".join(parts)


def site_path(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    path = PAGES.get(path, path).removeprefix("docs/")
    return f"{path[:-6]}.md" if path.endswith(".ipynb") else path


def rewritten(link: re.Match, source: str, here: str) -> str:
    """Return a link of the page `source` as the site has it, on the page `here`."""
    mark, text, target = link.groups()
    if re.match(r"[a-z]+:|#", target):
        return link[0]
    path, hash_sign, anchor = target.partition("#")
    path = normpath(f"{Path(source).parent.as_posix()}/{path}")
    if not (path.startswith("docs/") or path in PAGES or path in PICTURES) and (ROOT / path).exists():
        return f"{text} (`{path}`)" if text.strip("`") != path else f"`{path}`"
    return f"{mark}[{text}]({relpath(site_path(path), Path(here).parent.as_posix())}{hash_sign}{anchor})"


def notebook_text(path: Path) -> str:
    """Return a notebook with its outputs as Markdown; sound and pictures are inside, in base64."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [output_text(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def output_text(output: dict[str, Any]) -> str:
    """Return one output of a cell as Markdown, in the richest form that it has."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    forms = {kind: "".join(content) for kind, content in data.items() if not isinstance(content, dict)}
    if "image/png" in forms:
        return f'<img alt="output of the cell above" src="data:image/png;base64,{forms["image/png"].strip()}">'
    if "text/markdown" in forms:
        return forms["text/markdown"]
    if "text/html" in forms:
        # One block without blank lines, which Markdown leaves alone.
        return "<div>" + re.sub(r"\n\s*", "\n", forms["text/html"].strip()) + "</div>"
    return f"```text\n{forms['text/plain'].rstrip()}\n```"
