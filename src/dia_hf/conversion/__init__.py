"""Checkpoints of every layout in the wild, and the ways between them.

`weights.py` reads files tensor by tensor; `nari.py` and `descript.py` are tables of names; `convert.py` puts a whole
checkpoint together. Called by `dia-hf convert` and `scripts/convert_checkpoint.py`.
"""

from .convert import convert_checkpoint
from .descript import load_descript_codec

__all__ = ["convert_checkpoint", "load_descript_codec"]
