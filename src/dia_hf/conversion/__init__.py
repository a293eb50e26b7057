"""Conversion of checkpoints between all known layouts.

`locate.py` finds files, here or on the Hub, and `weights.py` reads them tensor by tensor, GGUF by `gguf_file.py` and
MLX's quantized tensors by `mlx.py`; `nari.py`, `tts_cpp.py` and `descript.py` are tables of names, and `gguf_model.py`
reads the rest of a GGUF file; `checkpoint.py` opens and checks a checkpoint and makes its parts, which `convert.py`
writes to a folder and `load.py` puts into a model; `adapters.py` merges adapters. Called by `dia-hf convert`,
`scripts/convert_checkpoint.py` and `Dia`.
"""

from .convert import convert_checkpoint
from .descript import load_descript_codec
from .load import load_checkpoint

__all__ = ["convert_checkpoint", "load_checkpoint", "load_descript_codec"]
