"""The fast path of `generate()`, which runs by default: one frame for every sequence of a batch in a step.

Fused linear layers (`linear`), the decoder on preallocated memory (`decoder`), sampling (`sampling`), a step of both
(`step`), the same by C++ operators (`native`), launching of steps (`runners`), and continuous batching (`scheduler`).
`generation/fast_path.py` translates calls for it. The reference path (`modeling_dia.py` and
`generation/logits_process.py` under transformers' loop) is its oracle in the tests.
"""

from .decoder import AlignmentHeads, FrameDecoder, make_frame_decoder, max_frames, unsupported_reason_of
from .engine import Engine, EngineError, QueueFullError
from .runners import make_runner
from .sampling import SamplingParams, SamplingSpec
from .scheduler import Call, FrameScheduler, RequestBatch

__all__ = [
    "AlignmentHeads",
    "Call",
    "Engine",
    "EngineError",
    "FrameDecoder",
    "FrameScheduler",
    "QueueFullError",
    "RequestBatch",
    "SamplingParams",
    "SamplingSpec",
    "make_frame_decoder",
    "make_runner",
    "max_frames",
    "unsupported_reason_of",
]
