"""The fast path of `generate()`: one frame for every sequence of a batch in a step, on preallocated memory.

Packed weights (`linear`), the decoder on them (`decoder`), sampling (`sampling`), a step of both (`step`), how it is
launched (`runners`), and which requests are in the batch (`scheduler`). The reference path (`modeling_dia.py` under
transformers' loop) is its oracle in the tests.
"""

from .decoder import FrameDecoder, make_frame_decoder, max_frames, unsupported_reason_of
from .runners import make_runner
from .sampling import SamplingParams, SamplingSpec
from .scheduler import FrameScheduler, RequestBatch

__all__ = [
    "FrameDecoder",
    "FrameScheduler",
    "RequestBatch",
    "SamplingParams",
    "SamplingSpec",
    "make_frame_decoder",
    "make_runner",
    "max_frames",
    "unsupported_reason_of",
]
