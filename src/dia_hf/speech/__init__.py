"""Speech generation: `Dia`, streaming, long dialogues, and saved voices."""

from .align import AlignedWord
from .dia import ComputeDtype, Dia
from .dialogue import Dialogue, DialogueError
from .doubts import SpeechWarning
from .engine import SpeechEngine, SpeechHandle, SpeechRequest
from .subtitles import format_subtitles
from .text_stream import TextStream
from .timestamps import TimedText
from .voice_import import VoiceImportError, import_voices
from .voices import Voice, VoiceLibrary, load_voice, transcribe

__all__ = [
    "AlignedWord",
    "ComputeDtype",
    "Dia",
    "Dialogue",
    "DialogueError",
    "SpeechEngine",
    "SpeechHandle",
    "SpeechRequest",
    "SpeechWarning",
    "TextStream",
    "TimedText",
    "Voice",
    "VoiceImportError",
    "VoiceLibrary",
    "format_subtitles",
    "import_voices",
    "load_voice",
    "transcribe",
]
