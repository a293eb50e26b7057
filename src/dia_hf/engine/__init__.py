"""The fast loop: a frame for every sample of a batch in one step, on memory that is there already.

Weights made ready (`linear`, `network`), rules (`rules`), a step of both (`step`), how it is launched (`launch`), how
the host hears of it (`late`), and who is in the batch (`loop`).
Called by `generate()`, whose slow loop is the oracle.
"""

from .runners import make_steps
from .scheduler import FrameLoop, FrameRequests
from .decoder import FrameNetwork, max_frames, network_of, obstacle_of_network
from .sampling import FrameRules, FrameSettings

__all__ = [
    "FrameLoop",
    "FrameNetwork",
    "FrameRequests",
    "FrameRules",
    "FrameSettings",
    "make_steps",
    "max_frames",
    "network_of",
    "obstacle_of_network",
]
