"""Data that comes with the package."""

from pathlib import Path

__all__ = ["MINIATURE", "miniature_vocabulary"]

MINIATURE = str(Path(__file__).parent / "miniature")
"""Folder of the embedded miniature: a whole checkpoint, codec included, that needs no network.

It is a Dia of 5.6 million weights that says any English in two synthetic voices.
"""


def miniature_vocabulary() -> list[str]:
    """Return the words that the miniature was taught, as they are written inside a sentence.

    They stand in `vocabulary.txt` of its folder, a word a line, perhaps with its pronunciation; a line that begins with
    "#" is a comment.

    Returns:
        `list[str]`: Each once, by subject.

    Example:
    ```python
    >>> from dia_hf.assets import miniature_vocabulary
    >>> words = miniature_vocabulary()
    >>> words[:3], "hello" in words, "Monday" in words, "42" in words
    (['zero', 'one', 'two'], True, True, False)

    ```
    """
    lines = (Path(MINIATURE) / "vocabulary.txt").read_text("utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
