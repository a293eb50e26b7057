"""Conversion of checkpoints between all known layouts.

`weights.py` reads files tensor by tensor; `nari.py`, `tts_cpp.py` and `descript.py` are tables of names;
`checkpoint.py` opens and checks a checkpoint and makes its parts, which `convert.py` writes to a folder and `load.py`
puts into a model. Called by `dia-hf convert`, `scripts/convert_checkpoint.py` and `Dia.from_local`.
"""

from .convert import convert_checkpoint
from .descript import load_descript_codec
from .load import load_checkpoint

__all__ = ["convert_checkpoint", "load_checkpoint", "load_descript_codec"]
