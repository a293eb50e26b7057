"""`dia-hf ui`: a server with the page, opened in the browser."""

from __future__ import annotations

import argparse
import threading
import webbrowser

from . import serve

__all__ = ["run"]


def run(args: argparse.Namespace) -> None:
    """Run `dia-hf ui` until SIGTERM or SIGINT."""
    args.ui = True
    serve.run(args, None if args.no_browser else _open_in_thread)


def _open_in_thread(address: str) -> None:
    threading.Thread(target=webbrowser.open, args=(address,), name="dia-browser", daemon=True).start()
