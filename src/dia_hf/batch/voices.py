"""Voices of rows: saved ones by name or file, and recordings, found before the work and loaded once.

A row names them; `find` needs no model, so that a missing voice is known before the model is loaded. Called by `run.py`
and, for the voices themselves, by `speak.py`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ..processing_dia import DiaProcessor
from ..speech.fingerprints import fingerprint_of_voice
from ..speech.voices import Voice, VoiceLibrary, voice_of_first_speaker
from ..tokenization_dia import speaker_tag
from .rows import BatchRow

__all__ = ["RowVoices"]

logger = logging.getLogger(__name__)

_DEFAULT = "default"
_MAX_LOADED = 256  # voices in memory


class RowVoices:
    """Voices that the rows of a table name. Its methods can be called from any thread.

    Args:
        table (`Path`): The table; paths of recordings and of voices' files are relative to its folder.
        library (`str` or `os.PathLike`, *optional*): Folder of saved voices; see `VoiceLibrary`.
    """

    def __init__(self, table: Path, library: str | os.PathLike | None = None) -> None:
        self._base = table.parent
        self._library = VoiceLibrary(library)
        self._loaded: OrderedDict[tuple[str, str], Voice] = OrderedDict()
        self._lock = threading.Lock()
        self._find_voice = lru_cache(maxsize=4096)(self._find_file)

    def find(self, row: BatchRow) -> str:
        """Find the files of a row's voices; return the fingerprints of saved ones.

        Raises:
            ValueError: If there is no such voice or recording, or the voice is damaged.
        """
        if row.audio_prompt is not None:
            self._find_recording(row.audio_prompt)
            return ""
        return " ".join(self._find_voice(name)[1] for name in _names_of(row).values())

    def load(self, row: BatchRow, processor: DiaProcessor) -> dict[str, Voice] | Voice | None:
        """Load a row's voices, each for a speaker tag; one voice is that of the first speaker in the text.

        Args:
            row (`BatchRow`): The row.
            processor (`DiaProcessor`): Encodes recordings.

        Raises:
            ValueError, OSError: If a voice or a recording is missing, or cannot be used.
        """
        if row.audio_prompt is not None:
            assert row.audio_prompt_transcript is not None
            recording = str(self._find_recording(row.audio_prompt))
            voice = self._load(recording, row.audio_prompt_transcript, processor)
            return voice_of_first_speaker(voice, row.text, processor.tokenizer.speaker_tokens)
        named = {
            tag: self._load(str(path), "", processor)
            for tag, name in _names_of(row).items()
            if (path := self._find_voice(name)[0]) is not None
        }
        if isinstance(row.voices, str) and named:
            return voice_of_first_speaker(next(iter(named.values())), row.text, processor.tokenizer.speaker_tokens)
        return named or None

    def _find_recording(self, name: str) -> Path:
        path = self._base / name
        if not path.is_file():
            raise ValueError(f"`audio_prompt` is {name!r}, and there is no file {str(path)!r}.")
        return path

    def _find_file(self, name: str) -> tuple[Path | None, str]:
        """Return the file of a voice, `None` for the model's own, and the fingerprint of the voice."""
        if name.casefold() == _DEFAULT:
            return None, ""
        path = self._base / name if name.endswith(".safetensors") else self._library.find(name)
        if path is None or not path.is_file():
            where = f"at {str(path)!r}" if path is not None else f"in the library {str(self._library.folder)!r}"
            raise ValueError(f"there is no voice {name!r} {where}; add it, or give another one.")
        return path, fingerprint_of_voice(Voice.load(path))

    def _load(self, path: str, transcript: str, processor: DiaProcessor) -> Voice:
        """Load a saved voice, or make one of a recording with a transcript."""
        with self._lock:  # one recording at a time: bounds memory
            voice = self._loaded.pop((path, transcript), None)
            if voice is None and transcript:
                voice, doubts = Voice.from_audio_with_doubts(path, transcript, processor)
                for doubt in doubts:
                    logger.warning("%s may give a bad voice: %s", path, doubt)
            elif voice is None:
                voice = Voice.load(path)
            self._loaded[path, transcript] = voice
            while len(self._loaded) > _MAX_LOADED:
                self._loaded.popitem(last=False)
            return voice


def _names_of(row: BatchRow) -> Mapping[str, str]:
    """Return names of voices by speaker tag; the tag of a single voice has no meaning."""
    if row.voices is None:
        return {}
    if isinstance(row.voices, str):
        return {"[S1]": row.voices}
    return {speaker_tag(speaker): name for speaker, name in row.voices.items()}
