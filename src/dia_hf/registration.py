"""Make transformers' Auto classes and pipelines give ours for `model_type` "dia".

The one file that touches transformers' tables. Runs once, when `dia_hf` is imported. transformers' own Dia stays
importable and unchanged; only the look-up by name or config changes.
"""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTextToWaveform,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from .configuration_dia import DiaConfig, DiaDecoderConfig, DiaEncoderConfig
from .feature_extraction_dia import DiaFeatureExtractor
from .modeling_dia import DiaForConditionalGeneration, DiaModel
from .processing_dia import DiaProcessor
from .tokenization_dia import DiaTokenizer

__all__ = ["register"]


def register() -> None:
    """Register all classes; doing so twice changes nothing."""
    for config in (DiaConfig, DiaEncoderConfig, DiaDecoderConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(DiaConfig, DiaModel, exist_ok=True)
    # transformers lists its own Dia under speech-to-sequence; the right place is text-to-waveform.
    for auto_model in (AutoModelForTextToWaveform, AutoModelForSpeechSeq2Seq):
        auto_model.register(DiaConfig, DiaForConditionalGeneration, exist_ok=True)
    AutoTokenizer.register(DiaConfig, DiaTokenizer, exist_ok=True)
    # AutoProcessor and AutoFeatureExtractor look a class up by its name, in the built-in table first, where the same
    # names stand for transformers' own: those rows have to go.
    PROCESSOR_MAPPING_NAMES.pop(DiaConfig.model_type, None)
    FEATURE_EXTRACTOR_MAPPING_NAMES.pop(DiaConfig.model_type, None)
    AutoFeatureExtractor.register(DiaConfig, DiaFeatureExtractor, exist_ok=True)
    AutoProcessor.register(DiaConfig, DiaProcessor, exist_ok=True)
