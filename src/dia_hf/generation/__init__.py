"""From logits to delayed codes, and to sound while they come.

Rules (`logits_process`), ends (`stopping_criteria`, `running_samples`), streamers (`streaming`), and the hooks over
`GenerationMixin` that put them together (`generation_dia`).
"""

from .generation_dia import DiaGenerationMixin
from .logits_process import (
    DiaClassifierFreeGuidanceLogitsProcessor,
    DiaConditionalLogitsProcessor,
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
    DiaEOSScaleLogitsProcessor,
    DiaForcedTokensLogitsProcessor,
    DiaGuidanceTopKLogitsProcessor,
    DiaPerSampleLogitsProcessor,
    DiaSeededSamplingLogitsProcessor,
)
from .running_samples import DiaRunningSamplesLogitsProcessor
from .stopping_criteria import DiaCancelStoppingCriteria, DiaSampleStoppingCriteria
from .streaming import DiaAudioStreamer, DiaCodesStreamer

__all__ = [
    "DiaAudioStreamer",
    "DiaCancelStoppingCriteria",
    "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaCodesStreamer",
    "DiaConditionalLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor",
    "DiaEOSDelayPatternLogitsProcessor",
    "DiaEOSScaleLogitsProcessor",
    "DiaForcedTokensLogitsProcessor",
    "DiaGenerationMixin",
    "DiaGuidanceTopKLogitsProcessor",
    "DiaPerSampleLogitsProcessor",
    "DiaRunningSamplesLogitsProcessor",
    "DiaSampleStoppingCriteria",
    "DiaSeededSamplingLogitsProcessor",
]
