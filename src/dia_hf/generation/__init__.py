"""`generate()`: hooks over transformers' `GenerationMixin`, and streaming of codes and audio.

`generation_dia` holds the hooks. By default they hand a call to the fast path (`fast_path`, `engine/`). The reference
path is transformers' loop with the processors (`logits_process`, `running_samples`) and criteria (`stopping_criteria`)
of this package. `arguments` checks calls, `per_sample` reads lists of parameters, `streaming` delivers codes and audio
while they are generated.
"""

from .alignment import attend_to_text, find_alignment_heads, find_path
from .generation_dia import DiaGenerateOutput, DiaGenerationMixin
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
    "DiaGenerateOutput",
    "DiaGenerationMixin",
    "DiaGuidanceTopKLogitsProcessor",
    "DiaPerSampleLogitsProcessor",
    "DiaRunningSamplesLogitsProcessor",
    "DiaSampleStoppingCriteria",
    "DiaSeededSamplingLogitsProcessor",
    "attend_to_text",
    "find_alignment_heads",
    "find_path",
]
