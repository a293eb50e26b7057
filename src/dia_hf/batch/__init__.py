"""Speech for tables of texts: audio files and a manifest, resumed after an interruption, on one device or on a cluster.

Heavy imports stay in the files: `run_batch_on_ray` needs `pip install "dia-hf[ray]"`.
"""

from .rows import BatchSettings
from .run import BatchReport, run_batch

__all__ = ["BatchReport", "BatchSettings", "run_batch"]
