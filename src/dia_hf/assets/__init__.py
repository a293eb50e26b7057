"""Data that comes with the package."""

from pathlib import Path

__all__ = ["MINIATURE"]

MINIATURE = str(Path(__file__).parent / "miniature")
"""Folder of the embedded miniature: a whole checkpoint, codec included, that needs no network.

It is a small Dia that speaks English sentences in two voices, with errors here and there.
"""
