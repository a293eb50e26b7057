"""The arguments of `dia-hf ui`."""

from __future__ import annotations

import argparse

from .serve import add_options

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf ui`."""
    page = verbs.add_parser(
        "ui",
        help="open a page in the browser to generate speech",
        description="Serve speech with a page at /ui, and open it in the browser (dia-hf[ui]). The other options are "
        "those of `dia-hf serve`.",
    )
    page.add_argument("--no-browser", action="store_true", help="print the address only")
    add_options(page)
