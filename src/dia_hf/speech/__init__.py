"""Speech generation: `Dia`, streaming, long dialogues, and saved voices."""

from .dia import ComputeDtype, Dia
from .dialogue import Dialogue, DialogueError
from .doubts import SpeechWarning
from .voices import Voice, VoiceLibrary, load_voice, transcribe

__all__ = [
    "ComputeDtype",
    "Dia",
    "Dialogue",
    "DialogueError",
    "SpeechWarning",
    "Voice",
    "VoiceLibrary",
    "load_voice",
    "transcribe",
]
