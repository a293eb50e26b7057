"""The application: text in, waveform out; at once, as a stream, as a dialogue of any length, in a voice that stays."""

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
