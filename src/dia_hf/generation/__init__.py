"""From logits to delayed codes: rules (`logits_process`) and hooks over `GenerationMixin` (`generation_dia`)."""

from .generation_dia import DiaGenerationMixin
from .logits_process import (
    DiaClassifierFreeGuidanceLogitsProcessor,
    DiaEOSChannelFilterLogitsProcessor,
    DiaEOSDelayPatternLogitsProcessor,
    DiaEOSScaleLogitsProcessor,
    DiaGivenTokensLogitsProcessor,
    DiaGuidanceTopKLogitsProcessor,
    DiaSeededSamplingLogitsProcessor,
)

__all__ = [
    "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor",
    "DiaEOSDelayPatternLogitsProcessor",
    "DiaEOSScaleLogitsProcessor",
    "DiaGenerationMixin",
    "DiaGivenTokensLogitsProcessor",
    "DiaGuidanceTopKLogitsProcessor",
    "DiaSeededSamplingLogitsProcessor",
]
