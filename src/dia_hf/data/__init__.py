"""Recordings and transcripts to a prepared dataset.

`sources` reads rows, `transcripts` and `encoding` make texts and codes of them as `config` says, `report` lists what
was found, and `prepare` puts these together. Needs `pip install "dia-hf[train]"`.
"""

from .config import PrepareConfig
from .prepare import load_prepared, prepare_dataset

__all__ = ["PrepareConfig", "load_prepared", "prepare_dataset"]
