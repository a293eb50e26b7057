"""The hooks of the documentation's site, without building it (`make docs` does)."""

import re
import runpy
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
SITE = runpy.run_path(str(ROOT / "scripts" / "site_pages.py"))


def rewritten(text: str, source: str, here: str) -> str:
    return SITE["LINK"].sub(lambda link: SITE["rewritten"](link, source, here), text)


def test_links_of_a_page_in_docs():
    """`../benchmarks/README.md` is right in the repository and a broken link in the site."""
    text = (
        "[a](voices.md#save-a-voice), [b](../benchmarks/README.md), [c](notebooks/generate.ipynb), [d](https://x.org)"
    )
    assert rewritten(text, "docs/streaming.md", "streaming.md") == (
        "[a](voices.md#save-a-voice), [b](benchmarks/figures.md), [c](notebooks/generate.md), [d](https://x.org)"
    )


def test_links_of_a_page_outside_docs():
    """The front page is beside `docs/` in the repository, and at the top of the site."""
    text = "![p](docs/images/demo.png) [a](docs/api/index.md) [b](examples/miniature/README.md)"
    expected = "![p](images/demo.png) [a](api/index.md) [b](miniature/from-scratch.md)"
    assert rewritten(text, "README.md", "index.md") == expected
    back = rewritten("[a](../../docs/training.md#loss)", "examples/miniature/README.md", "miniature/from-scratch.md")
    assert back == "[a](../training.md#loss)"


def test_a_file_that_is_no_page_becomes_its_path():
    """A link to a recipe became a link to a page that does not exist."""
    assert rewritten("[License](LICENSE)", "README.md", "index.md") == "License (`LICENSE`)"
    # A link to no file stays as it is, and the strict build refuses it.
    assert rewritten("[x](nowhere.yaml)", "README.md", "index.md") == "[x](nowhere.yaml)"


def test_code_stays_as_it_is():
    """Brackets and parentheses of Python were taken for links."""

    class Page:
        class file:  # noqa: N801
            src_uri = "streaming.md"

    text = "[a](../README.md)\n\n```python\nnames[0](../README.md)\n```\n"
    assert SITE["on_page_markdown"](text, Page) == text.replace("[a](../README.md)", "[a](index.md)")


def test_notebooks_show_sound_pictures_and_text():
    """The site's notebooks had no outputs."""
    text = SITE["notebook_text"](ROOT / "docs" / "notebooks" / "generate.ipynb")
    assert text.startswith("# Generate in a notebook")
    assert text.count("<audio") == 7 and text.count("data:image/png;base64,") == 10
    assert re.search(r"^```text\ntorch\.Size\(\[1, \d+, 9\]\)\n```$", text, re.MULTILINE)
    for block in re.findall(r"^<div>.*?</div>$", text, re.DOTALL | re.MULTILINE):
        assert "\n\n" not in block, "Markdown ends an HTML block at a blank line"


def test_every_page_is_in_the_navigation():
    """A page was missing in the navigation."""
    lines = (ROOT / "mkdocs.yml").read_text("utf-8").replace("!!python/name:", "")
    named = re.findall(r"[\w/-]+\.md", yaml.safe_dump(yaml.safe_load(lines)["nav"]))
    docs = [
        path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".ipynb")
    ]
    assert set(map(SITE["site_path"], [*docs, *SITE["PAGES"]])) == set(named)
    assert all((ROOT / source).is_file() for source in [*SITE["PAGES"], *SITE["PICTURES"]])
