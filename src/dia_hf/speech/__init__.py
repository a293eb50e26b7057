"""Speech generation: `Dia`, streaming, long dialogues, and saved voices."""

from .dia import ComputeDtype, Dia
from .dialogue import Dialogue, DialogueError
from .doubts import SpeechWarning
from .engine import SpeechEngine, SpeechHandle, SpeechRequest
from .text_stream import TextStream
from .voices import Voice, VoiceLibrary, load_voice, transcribe

__all__ = [
    "ComputeDtype",
    "Dia",
    "Dialogue",
    "DialogueError",
    "SpeechEngine",
    "SpeechHandle",
    "SpeechRequest",
    "SpeechWarning",
    "TextStream",
    "Voice",
    "VoiceLibrary",
    "load_voice",
    "transcribe",
]
