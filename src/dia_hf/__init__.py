"""Dia, the 1.6B text-to-dialogue model, for the Hugging Face ecosystem.

Importing this package makes transformers' Auto classes and pipelines give its classes for `dia` checkpoints.
"""

from .assets import MINIATURE
from .auto import register
from .configuration_dia import DiaConfig, DiaDecoderConfig, DiaEncoderConfig
from .feature_extraction_dia import DiaFeatureExtractor
from .generation import DiaAudioStreamer
from .modeling_dia import DiaForConditionalGeneration, DiaModel, DiaPreTrainedModel
from .processing_dia import DiaProcessor
from .speech import ComputeDtype, Dia, Voice, VoiceLibrary
from .tokenization_dia import DiaTokenizer

register()

__all__ = [
    "MINIATURE",
    "ComputeDtype",
    "Dia",
    "DiaAudioStreamer",
    "DiaConfig",
    "DiaDecoderConfig",
    "DiaEncoderConfig",
    "DiaFeatureExtractor",
    "DiaForConditionalGeneration",
    "DiaModel",
    "DiaPreTrainedModel",
    "DiaProcessor",
    "DiaTokenizer",
    "Voice",
    "VoiceLibrary",
]
__version__ = "0.1.0"
