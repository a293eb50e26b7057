"""The voices that a server offers: a library's, uploads to it, and the names that OpenAI's clients send."""

from __future__ import annotations

import logging
import os
import threading
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..asr.recognizers import Recognizer, load_recognizer
from ..data.config import MAX_CHARACTERS_PER_SECOND
from ..speech.dia import Dia
from ..speech.voices import Voice, check_name, transcribe
from ..text_files import shortened
from .recordings import read_recording
from .voice_store import RemoteVoiceLibrary, open_library

__all__ = ["OPENAI_VOICES", "ServedVoices", "VoiceInfo"]

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse", "marin", "cedar",
)  # fmt: skip
"""Names that OpenAI's clients offer, and send by default."""

_DEFAULT = "default"
_MAX_LISTED = 20  # names in an error message
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VoiceInfo:
    """Description of a voice for clients.

    Args:
        id (`str`): Identifier for requests; derived from the name, so that it is the same after a restart.
        name (`str`): Name, as it was spelled when the voice was added.
        created_at (`int`): Unix time in seconds; for a name without a file, the start of the server.
        type (`str`): "audio_sample" for a saved voice, "built_in" for a name that a client may expect.
    """

    id: str
    name: str
    created_at: int
    type: str


def _id_of(name: str) -> str:
    return f"voice_{blake2b(name.encode(), digest_size=12).hexdigest()}"


def _info_of(name: str, path: Path) -> VoiceInfo:
    return VoiceInfo(_id_of(name), name, int(path.stat().st_mtime), "audio_sample")


class ServedVoices:
    """Voices of a server: saved ones of a library, and OpenAI's 13 names. Its methods can be called from any thread.

    A name of OpenAI's stands for the voice that `names` gives, else for the saved voice of that name, else for the
    model's own voice, which the seed of a request determines.

    Args:
        dia (`Dia`): Model, whose codec makes and reads the voices.
        folder (`str` or `os.PathLike`, *optional*): Folder of the library, or address of a store (`s3://…`); that of
            `VoiceLibrary` unless given. Voices that other programs add to it are served at once.
        names (`Mapping[str, str]`, *optional*): Further names of saved voices, such as `{"alloy": "anna"}`.
        transcribe_model (`str`, `os.PathLike` or `Recognizer`, *optional*): Speech recognizer for recordings that come
            without a transcript, see `load_recognizer`; loaded at once.
        max_seconds (`float`, defaults to 30.0): Longest recording to accept, in seconds.
        max_voices (`int`, defaults to 1000): Number of saved voices above which none is added.

    Raises:
        ValueError: If a name stands for a voice that does not exist or cannot be used, or is "default".
        OSError: If there is no such speech recognizer, or `folder` is a file.
    """

    def __init__(
        self,
        dia: Dia,
        folder: str | os.PathLike | None = None,
        names: Mapping[str, str] | None = None,
        transcribe_model: str | os.PathLike | Recognizer | None = None,
        max_seconds: float = 30.0,
        max_voices: int = 1000,
    ) -> None:
        self.library = open_library(folder)
        self.max_seconds, self.max_voices = max_seconds, max_voices
        self._processor, self._codec = dia.processor, dia.processor.codec
        self._recognizer = (
            load_recognizer(transcribe_model) if isinstance(transcribe_model, (str, os.PathLike)) else transcribe_model
        )
        self._started = int(time.time())
        self._cached: dict[Path, tuple[tuple[int, int], Voice | None]] = {}
        self._lock = threading.Lock()  # of `_cached`
        self._making = threading.Lock()  # one recording at a time: bounds memory, and what is taken from generation
        self._names: dict[str, str] = {}
        for name, saved in (names or {}).items():
            if name.casefold() in ("", _DEFAULT):
                raise ValueError(
                    f"{name!r} cannot stand for {saved!r}: it is the model's own voice; give another name."
                )
            self.resolve(saved)
            self._names[name.casefold()] = saved

    def list(self) -> Sequence[VoiceInfo]:
        """List the saved voices that can be used, sorted by name, then the other names."""
        files = self._files()
        infos = {}
        for name, path in files.items():
            try:
                if self._load(path) is not None:
                    infos[name.casefold()] = _info_of(name, path)
            except FileNotFoundError:  # deleted in the meantime
                continue
        with self._lock:
            self._cached = {path: entry for path, entry in self._cached.items() if path in set(files.values())}
        for name in (*self._names, *OPENAI_VOICES):
            infos.setdefault(name, VoiceInfo(name, name, self._started, "built_in"))
        return [*infos.values()]

    def resolve(self, voice: str | Mapping[str, Any] | None) -> Voice | None:
        """Return the voice that a request names.

        Args:
            voice (`str`, `Mapping` or `None`): A name in any case, an id, or `{"id": ...}` of either.

        Returns:
            `Voice`, *optional*: The voice; `None`, "default", "" and names of OpenAI's that stand for no saved voice
            give `None`, the model's own voice.

        Raises:
            ValueError: If there is no such voice, or its file is damaged or of another codec.
        """
        if isinstance(voice, Mapping):
            if not isinstance(voice.get("id"), str):
                raise ValueError(
                    f"`voice` is the object {shortened(dict(voice))}; it needs an `id`, which is a string."
                )
            voice = voice["id"]
        if voice is None:
            return None
        if not isinstance(voice, str):
            raise ValueError(f"`voice` is {shortened(voice)}; give a name, or an object with an `id`.")
        name = self._names.get(voice.casefold(), voice)
        if name.casefold() in ("", _DEFAULT):
            return None
        path = self._find(name)
        if path is None and name.casefold() in OPENAI_VOICES:
            return None
        if path is None and isinstance(self.library, RemoteVoiceLibrary):  # another server may just have added it
            self.library.refresh()
            path = self._find(name)
        try:
            loaded = None if path is None else self._load(path)
        except FileNotFoundError:  # deleted in the meantime
            path = None
        if path is None:
            known = [info.name for info in self.list()]
            more = f" and {len(known) - _MAX_LISTED} more" if len(known) > _MAX_LISTED else ""
            raise ValueError(f"there is no voice {shortened(voice)}; there are {', '.join(known[:_MAX_LISTED])}{more}.")
        if loaded is None:
            raise ValueError(
                f"the voice {shortened(voice)} cannot be used: its file is damaged, or of another codec (the server's "
                "log says which); add it again from its recording."
            )
        return loaded

    def from_recording(self, content: bytes, transcript: str | None = None) -> Voice:
        """Create a voice from an uploaded recording, without saving it.

        Args:
            content (`bytes`): Content of an audio file, see `read_recording`.
            transcript (`str`, *optional*): Its exact transcript; unless given, the speech recognizer writes it.

        Raises:
            ValueError: If the recording cannot be read, is silent or too long, or the transcript is missing and there
                is no recognizer, has no words, or is too long.
        """
        transcript = (transcript or "").strip() or None
        max_characters = round(MAX_CHARACTERS_PER_SECOND * self.max_seconds)
        if transcript is None and self._recognizer is None:
            raise ValueError(
                "the transcript of the recording is missing, and this server has no speech recognizer: send its exact "
                "words in the field `transcript`, or `audio_prompt_transcript` beside `audio_prompt`."
            )
        if transcript is not None and len(transcript) > max_characters:
            raise ValueError(
                f"the transcript has {len(transcript)} characters, and a recording of at most {self.max_seconds:g} s "
                f"has at most {max_characters}; send its exact words."
            )
        with self._making:
            waveform, rate = read_recording(content, self.max_seconds)
            if transcript is None:
                assert self._recognizer is not None
                transcript = transcribe(waveform, self._recognizer, rate)
            voice, doubts = Voice.from_audio_with_doubts(waveform, transcript, self._processor, rate)
        for doubt in doubts:
            logger.warning("an uploaded recording may give a bad voice: %s", doubt)
        return voice

    def add(
        self,
        name: str,
        content: bytes,
        filename: str | None = None,
        transcript: str | None = None,
        consent: str | None = None,
    ) -> VoiceInfo:
        """Save a voice from an uploaded recording.

        Args:
            name (`str`): As `VoiceLibrary.add` takes it, but not "default", an id, or a name that the server was
                started with. One of OpenAI's names stands for this voice from now on.
            content (`bytes`): Content of an audio file; the format is recognized from it.
            filename (`str`, *optional*): Its name, for errors.
            transcript (`str`, *optional*): Its exact transcript, see `from_recording`.
            consent (`str`, *optional*): Identifier of the speaker's consent, which OpenAI's API asks for; logged.

        Raises:
            ValueError: If the name cannot be used or exists, the library is full, or as `from_recording` does.
            OSError: If the voice cannot be written, as on a full disk.
        """
        name = unicodedata.normalize("NFC", name)
        check_name(name)
        if name.casefold() == _DEFAULT or name.casefold() in self._names or self._find(name) is not None:
            raise _taken(name)
        if len(self.library.files()) >= self.max_voices:
            raise ValueError(f"this server keeps at most {self.max_voices} voices; delete one.")
        try:
            voice = self.from_recording(content, transcript)
        except ValueError as error:
            raise ValueError(f"{shortened(filename)}: {error}" if filename else str(error)) from error
        try:
            path = self.library.add(name, voice)
        except ValueError:  # another request has added it in the meantime
            raise _taken(name) from None
        logger.info("voice %r added, consent %s", name, shortened(consent))
        return _info_of(name, path)

    def delete(self, voice: str) -> VoiceInfo:
        """Delete a saved voice; requests that speak with it go on.

        Args:
            voice (`str`): Its name or id.

        Raises:
            KeyError: If there is no such saved voice.
        """
        path = self._find(voice)
        if path is None:
            raise KeyError(f"there is no saved voice {shortened(voice)}")
        try:
            info = _info_of(unicodedata.normalize("NFC", path.stem), path)
            self.library.remove(path.stem)
        except (FileNotFoundError, ValueError):
            raise KeyError(f"there is no saved voice {shortened(voice)}") from None
        logger.info("voice %r deleted", info.name)
        return info

    def _files(self) -> dict[str, Path]:
        """Return the files by name, without those whose name is no text, and could not be sent."""
        return {name: path for name, path in self.library.files().items() if name.isprintable()}

    def _find(self, voice: str) -> Path | None:
        """Return the file of a name or id. An id comes first, so that no upload can take the place of another."""
        if voice.startswith("voice_"):
            for name, path in self._files().items():
                if _id_of(name) == voice:
                    return path
        return self.library.find(voice)

    def _load(self, path: Path) -> Voice | None:
        """Load a voice, or return `None` if it cannot be used; the reason is logged once for each state of the file."""
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        with self._lock:
            cached = self._cached.get(path)
        if cached is not None and cached[0] == stamp:
            return cached[1]
        voice: Voice | None = None
        try:
            voice = Voice.load(path)
            voice.check(self._codec)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            voice = None
            logger.warning("a voice is left out: %s", error if str(path) in str(error) else f"{path}: {error}")
        with self._lock:
            self._cached[path] = (stamp, voice)
        return voice


def _taken(name: str) -> ValueError:
    return ValueError(f"there is already a voice {name!r}; choose another name, or delete that voice first.")
