"""Benchmarks: how fast against transformers' own Dia, and how exact in fewer bits.

`candidates.py` makes models and finds the baseline; `speed.py`, `parity.py` and `training.py` measure and return
dataclasses; `limits.py` says what hardware allows; `host_syncs.py` counts where the host waits; `report.py` makes
tables, JSON and plots. The command line (`dia-hf bench`) puts them together. `training.py` needs `dia-hf[train]` and is
imported by itself.
"""

from .candidates import (
    Candidate,
    make_candidates,
    make_config,
    make_model,
    make_processor,
    random_inputs,
    reduce_precision,
    transformers_twin,
)
from .host_syncs import HostSyncCounter
from .parity import ParityReport, compare, parity, record_reference
from .speed import SpeedReport, measure_speed

__all__ = [
    "Candidate",
    "HostSyncCounter",
    "ParityReport",
    "SpeedReport",
    "compare",
    "make_candidates",
    "make_config",
    "make_model",
    "make_processor",
    "measure_speed",
    "parity",
    "random_inputs",
    "record_reference",
    "reduce_precision",
    "transformers_twin",
]
