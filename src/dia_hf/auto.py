"""Make transformers' Auto classes and pipelines give ours for `model_type` "dia".

The one file that touches transformers' tables. Runs once, when `dia_hf` is imported. transformers' own Dia stays
importable and unchanged; only the look-up by name or config changes, and what a text-to-speech pipeline of a Dia saves.
"""

from __future__ import annotations

import functools
from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTextToWaveform,
    AutoProcessor,
    AutoTokenizer,
    TextToAudioPipeline,
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
    _save_processor_with_pipeline()


def _save_processor_with_pipeline() -> None:
    """Have a pipeline around a Dia save its processor; transformers saves model and tokenizer, and loses the codec."""
    save_pretrained = TextToAudioPipeline.save_pretrained
    if getattr(save_pretrained, "saves_dia", False):
        return

    @functools.wraps(save_pretrained)
    def save_processor_too(self: TextToAudioPipeline, save_directory: Any, **kwargs: Any) -> None:
        if not isinstance(self.processor, DiaProcessor):
            save_pretrained(self, save_directory, **kwargs)
            return
        # The pipeline of transformers 5.17 copies the generation config into the model's, which then cannot be saved.
        fields = DiaConfig().to_dict()
        for name in self.model.generation_config.to_dict():
            if name in vars(self.model.config) and name not in fields:
                delattr(self.model.config, name)
        save_pretrained(self, save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    save_processor_too.saves_dia = True  # type: ignore[attr-defined]
    TextToAudioPipeline.save_pretrained = save_processor_too
