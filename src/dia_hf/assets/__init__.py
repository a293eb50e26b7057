"""Data that comes with the package."""

from pathlib import Path

__all__ = ["MINIATURE"]

MINIATURE = str(Path(__file__).parent / "miniature")
"""Folder of the embedded miniature: a whole checkpoint, codec included, that needs no network.

It is a Dia of 5.6 million weights that says any English in two synthetic voices.
"""
