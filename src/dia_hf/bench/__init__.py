"""Benchmarks behind `dia-hf bench`: speed against transformers' own Dia, accuracy in reduced precision, and servers.

`candidates.py` makes the models and finds the baseline; `speed.py`, `parity.py` and `serving.py` measure and return
dataclasses; `limits.py` computes the bounds that the hardware sets; `tables.py` writes tables, JSON and plots.
Benchmarks of training, memory and energy are scripts in the repository's `benchmarks/`.
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
from .parity import ParityReport, compare, parity, record_reference
from .speed import SpeedReport, measure_speed

__all__ = [
    "Candidate",
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
