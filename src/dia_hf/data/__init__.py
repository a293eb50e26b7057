"""Data preparation: recordings and transcripts to a dataset of texts and codes.

`sources` reads rows (`rows`), whose audio is a clip (`clips`) or a part of a longer recording (`segments`).
`transcripts` and `encoding` make texts and codes of them as configured in `config`; `prepare_report` lists the results.
`prepare` runs all of it, and `prepared` opens the result. Needs `pip install "dia-hf[train]"`.
"""

from .config import PrepareConfig
from .prepare import prepare_dataset
from .prepared import load_prepared

__all__ = ["PrepareConfig", "load_prepared", "prepare_dataset"]
