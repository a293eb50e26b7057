"""Saved voices: codes of a recording with its transcript, in one small file, found by name.

`DiaProcessor` takes the codes as a clip, and the transcript as the beginning of the text. Called by users, by `Dia` and
by the command line.

Legend: N samples, T frames, C codebooks.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from ..asr.recognizers import Recognizer, load_recognizer
from ..atomic_write import LOCK, atomic_write, locked
from ..audio.codec import Codec
from ..audio.effects import trim_silence
from ..data.clips import AUDIO_SUFFIXES
from ..data.config import MAX_CHARACTERS_PER_SECOND, MIN_CHARACTERS_PER_SECOND
from ..feature_extraction_dia import DiaFeatureExtractor
from ..processing_dia import DiaProcessor
from ..text_files import shortened
from ..tokenization_dia import SPEAKER_TAG, any_of

__all__ = ["Voice", "VoiceLibrary", "check_name", "load_voice", "name_key", "transcribe", "voice_of_first_speaker"]

_FORMAT = "dia_hf voice"
_VERSION = "1"
_SUFFIX = ".safetensors"
_MAX_CODE = torch.iinfo(torch.int16).max
_MAX_NAME_LENGTH = 50  # of up to 4 bytes each; a file name has at most 255 bytes, ending included
_LEADING_TAGS = re.compile(r"(?:\[[^\[\]\s]+\]\s*)*")
# Seconds. From nari-labs' advice (5 to 10 s); below and above these, users report noise and rushed speech.
_SHORT_PROMPT, _LONG_PROMPT = 3.0, 15.0


def _check_transcript(transcript: str) -> None:
    if not transcript or not SPEAKER_TAG.sub("", transcript).strip():
        raise ValueError(
            f"the transcript is {transcript!r}, which has no words; give the words of the recording, or the "
            "result of `transcribe`."
        )


def _load_clip(audio: Any, extractor: DiaFeatureExtractor, sampling_rate: int | None) -> np.ndarray:
    """Return the only clip of `audio`, `[N]`, at the extractor's rate."""
    waveforms = extractor.load_waveforms(audio, sampling_rate)
    if len(waveforms) != 1:
        raise ValueError(f"there are {len(waveforms)} clips; give one, and the others in calls of their own.")
    return waveforms[0]


@dataclass(frozen=True, eq=False, repr=False)
class Voice:
    """Voice for generation: codes and their transcript.

    Args:
        codes (`torch.LongTensor` of shape `[T, C]`): Codes of the recording, T at least 1.
        transcript (`str`): Transcript, with or without speaker tags.
        codec (`str`): Fingerprint of the codec of the codes (`Codec.fingerprint`).
        sampling_rate (`int`): The codec's rate in hertz.
        hop_length (`int`): Samples a frame.

    Raises:
        ValueError: If the codes are of another shape or dtype, empty, or below 0 or above 32767; if the transcript
            has no words; or if rate or hop are not positive.

    Example:
    ```python
    >>> import numpy as np
    >>> from dia_hf import MINIATURE, DiaProcessor
    >>> from dia_hf.speech.voices import Voice
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> recording = np.sin(np.arange(4 * 44100) / 20, dtype=np.float32)
    >>> voice = Voice.from_audio(recording, "This is how I sound.", processor, sampling_rate=44100)
    >>> voice
    <Voice of 4.0 s: 'This is how I sound.'>
    >>> voice.transcript_as("[S2]")
    '[S2] This is how I sound.'

    ```
    """

    codes: torch.Tensor
    transcript: str
    codec: str
    sampling_rate: int
    hop_length: int

    def __post_init__(self) -> None:
        codes = self.codes
        if codes.ndim != 2 or codes.numel() == 0 or codes.dtype != torch.int64:
            raise ValueError(
                f"codes have the shape {tuple(codes.shape)} and the dtype {codes.dtype}; expected [frames, codebooks], "
                "at least one of each, and torch.int64."
            )
        if not 0 <= codes.min() <= codes.max() <= _MAX_CODE:
            raise ValueError(f"codes range from {codes.min()} to {codes.max()}; expected 0 to {_MAX_CODE}.")
        _check_transcript(self.transcript)
        if self.sampling_rate <= 0 or self.hop_length <= 0:
            raise ValueError(
                f"the sampling rate is {self.sampling_rate} Hz and the hop {self.hop_length} samples; they must be "
                "positive."
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Voice):
            return NotImplemented
        mine, others = ({**vars(voice), "codes": None} for voice in (self, other))
        return mine == others and torch.equal(self.codes, other.codes)

    def __repr__(self) -> str:
        words = self.transcript if len(self.transcript) <= 40 else f"{self.transcript[:39]}…"
        return f"<Voice of {self.seconds:.1f} s: {words!r}>"

    @classmethod
    def from_audio(
        cls, audio: Any, transcript: str, processor: DiaProcessor, sampling_rate: int | None = None
    ) -> Voice:
        """Create a voice from a recording; silence at its ends is trimmed.

        Args:
            audio: One clip, see `DiaFeatureExtractor.load_waveforms`; five to ten seconds work best.
            transcript (`str`): Its exact transcript; see `transcribe`.
            processor (`DiaProcessor`): Processor, with the codec of the model.
            sampling_rate (`int`, *optional*): Rate of `audio` in hertz, needed for a clip without a rate of its own.

        Raises:
            ValueError: If the transcript has no words, the recording is silent, there are several clips or no codec;
                and as `load_waveforms` does.
            FileNotFoundError: If there is no such file.

        Warns:
            UserWarning: If less than 3 or more than 15 seconds remain, or the length of the transcript does not fit:
                fewer than 3 or more than 40 characters a second, which `dia-hf prepare` rejects.
        """
        voice, doubts = cls.from_audio_with_doubts(audio, transcript, processor, sampling_rate)
        for doubt in doubts:
            warnings.warn(doubt, stacklevel=2)
        return voice

    @classmethod
    def from_audio_with_doubts(
        cls, audio: Any, transcript: str, processor: DiaProcessor, sampling_rate: int | None = None
    ) -> tuple[Voice, list[str]]:
        """Create a voice as `from_audio` does, and return its warnings: `warnings` is shared by all threads.

        Returns:
            `tuple[Voice, list[str]]`: The voice, and the texts that `from_audio` warns with.

        Raises:
            ValueError, FileNotFoundError: As `from_audio` does.
        """
        _check_transcript(transcript)
        processor.tokenizer.check_text(transcript)
        codec, extractor = processor.codec, processor.feature_extractor
        recording = _load_clip(audio, extractor, sampling_rate)
        waveform = trim_silence(recording, extractor.sampling_rate)
        if len(waveform) == 0:
            raise ValueError(
                f"the recording is silent for all of its {len(recording) / extractor.sampling_rate:.1f} s; give one "
                "with speech in it, or a louder one."
            )
        seconds = len(waveform) / extractor.sampling_rate
        doubts = []
        if not _SHORT_PROMPT <= seconds <= _LONG_PROMPT:
            doubts.append(
                f"the recording has {seconds:.1f} s without the silence at its ends; voices come out best from 5 to "
                "10 s."
            )
        pace = len(" ".join(SPEAKER_TAG.sub(" ", transcript).split())) / seconds
        if not MIN_CHARACTERS_PER_SECOND <= pace <= MAX_CHARACTERS_PER_SECOND:
            doubts.append(
                f"the transcript has {pace:.1f} characters for each of the {seconds:.1f} s of the recording, and "
                f"speech has {MIN_CHARACTERS_PER_SECOND:g} to "
                f"{MAX_CHARACTERS_PER_SECOND:g}; it must say all that is heard, and nothing else."
            )
        features = extractor(waveform, sampling_rate=extractor.sampling_rate, audio_tokenizer=codec)
        codes = features["audio_codes"][0]
        return cls(codes, transcript, codec.fingerprint, codec.sampling_rate, codec.hop_length), doubts

    @classmethod
    def load(cls, path: str | os.PathLike) -> Voice:
        """Load a file of `save`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is no voice, damaged, or of a newer version of the format; the error says which.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no voice at {str(path)!r}.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(
                        f"{str(path)!r} is a safetensors file but no voice: it holds {len(file.keys())} tensors and no "
                        "mark of ours; make a voice of a recording with `Voice.from_audio`."
                    )
                if metadata.get("version") != _VERSION:
                    raise ValueError(
                        f"{str(path)!r} is a voice in version {metadata.get('version')} of the format; this dia_hf "
                        f"reads version {_VERSION}: update it."
                    )
                codes = file.get_tensor("codes")
        except SafetensorError as error:
            if path.suffix.lower() in AUDIO_SUFFIXES:
                raise ValueError(
                    f"{str(path)!r} is a recording and no voice; make one of it, `dia-hf voices add NAME "
                    f"{str(path)!r} --transcript TEXT`, or give it as --audio-prompt (`audio_prompt`)."
                ) from error
            raise ValueError(
                f"{str(path)!r} is no voice: it is damaged, cut off, or another kind of file ({error})."
            ) from error
        try:
            return cls(
                codes.long() if codes.dtype == torch.int16 else codes,
                metadata["transcript"],
                metadata["codec"],
                int(metadata["sampling_rate"]),
                int(metadata["hop_length"]),
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is a damaged voice ({error}); make it again.") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the voice to a file atomically; missing folders are created.

        Args:
            path (`str` or `os.PathLike`): Should end in .safetensors; an existing file is replaced.

        Raises:
            OSError: If it cannot be written, as on a full disk; an existing file stays unchanged.
        """
        metadata = {
            "format": _FORMAT,
            "version": _VERSION,
            "transcript": self.transcript,
            "codec": self.codec,
            "sampling_rate": str(self.sampling_rate),
            "hop_length": str(self.hop_length),
        }
        content = to_safetensors({"codes": self.codes.to("cpu", torch.int16).contiguous()}, metadata)
        with atomic_write(path) as beside:
            beside.write_bytes(content)  # not by `save_file`, whose files only their owner may read

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return len(self.codes) * self.hop_length / self.sampling_rate

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speaker tags of the transcript, each once, in order of first occurrence."""
        return tuple(dict.fromkeys(SPEAKER_TAG.findall(self.transcript)))

    def speakers_of(self, speaker_tokens: Sequence[str]) -> tuple[str, ...]:
        """Return the tags of speakers as `speakers` does, by the tags of a tokenizer, which may be names."""
        tags = any_of([*speaker_tokens, *self.speakers])
        return tuple(dict.fromkeys(tags.findall(self.transcript)))

    def transcript_as(self, speaker: str, speaker_tokens: Sequence[str] = ()) -> str:
        """Return the transcript with the tag of one speaker.

        Args:
            speaker (`str`): A tag, such as "[S2]".
            speaker_tokens (`Sequence[str]`, *optional*): Tags of the tokenizer, where they are not `[S1]`, `[S2]` and
                so on alone.

        Returns:
            `str`: Transcript, beginning with the tag; another tag is replaced by it.

        Raises:
            ValueError: If `speaker` is no tag, or the transcript has several speakers.
        """
        if not SPEAKER_TAG.fullmatch(speaker) and speaker not in speaker_tokens:
            raise ValueError(f"`speaker` is {speaker!r}; give a tag, such as '[S1]'.")
        if len(speakers := self.speakers_of(speaker_tokens)) > 1:
            raise ValueError(
                f"the voice has {len(speakers)} speakers ({', '.join(speakers)}) and cannot be {speaker} "
                "alone; use its transcript as it is, for the whole dialogue, or give each speaker a voice."
            )
        transcript = any_of(speakers).sub(lambda _: speaker, self.transcript.strip())
        before = _LEADING_TAGS.match(transcript)
        is_first = before is not None and speaker in before[0]  # behind the tag of a language, or alone
        return transcript if is_first or transcript.startswith(speaker) else f"{speaker} {transcript}"

    def check(self, codec: Codec) -> None:
        """Check that the voice was made with this codec; in another, its codes have another meaning.

        Raises:
            ValueError: If it was not.
        """
        if self.codec != codec.fingerprint:
            raise ValueError(
                f"the voice was made with the codec {self.codec} at {self.sampling_rate} Hz, but the model speaks "
                f"through {codec.fingerprint} at {codec.sampling_rate} Hz; make the voice again from its "
                "recording: `Voice.from_audio(recording, voice.transcript, processor)`."
            )


def name_key(name: str) -> str:
    """Normalize names that some file system cannot distinguish: Unicode's canonical caseless matching, D145."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def check_name(name: str) -> None:
    """Check that a library can have a voice of this name.

    Raises:
        ValueError: If it cannot.
    """
    is_plain = all(unicodedata.category(character)[0] in "LMN" or character in "-_." for character in name)
    if not is_plain or not 0 < len(name) <= _MAX_NAME_LENGTH or name[0] in "-." or name.lower().endswith(_SUFFIX):
        raise ValueError(
            f"a voice cannot be called {shortened(name)}; a name has 1 to {_MAX_NAME_LENGTH} letters, digits, '-', "
            f"'_' and '.', does not begin with '-' or '.', and does not end in {_SUFFIX!r}."
        )


class VoiceLibrary:
    """Library of voices by name: a folder with one file for each voice.

    Names that differ only in case, or in the Unicode form of an accent, are equal, so that a library can move between
    file systems; a voice keeps its spelling from `add`.

    Args:
        folder (`str` or `os.PathLike`, *optional*): The folder; unless given, that of the environment variable
            `DIA_HF_VOICES`, or "voices" in the user's data folder. Created by the first `add`.

    Example:
    ```python
    >>> import tempfile
    >>> import torch
    >>> from dia_hf.speech.voices import Voice, VoiceLibrary
    >>> library = VoiceLibrary(tempfile.mkdtemp())
    >>> file = library.add("anna", Voice(torch.zeros(431, 9, dtype=torch.long), "[S1] Hello.", "0123", 44100, 512))
    >>> library.get("Anna")
    <Voice of 5.0 s: '[S1] Hello.'>
    >>> list(library)
    ['anna']

    ```
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        if folder is None:
            folder = os.environ.get("DIA_HF_VOICES") or platformdirs.user_data_path("dia_hf") / "voices"
        self.folder = Path(folder).expanduser()

    def files(self) -> dict[str, Path]:
        """Return the files by name, sorted."""
        if not self.folder.is_dir():
            return {}
        files = {
            unicodedata.normalize("NFC", path.stem): path
            for path in self.folder.iterdir()
            if path.suffix == _SUFFIX and not path.name.startswith(".") and path.is_file()
        }
        return dict(sorted(files.items()))

    def find(self, name: str) -> Path | None:
        """Return the file of a voice, or `None` if there is none of this name."""
        files = self.files()
        alike = [path for other, path in files.items() if name_key(other) == name_key(name)]
        # Several are equal only if files were added by hand.
        return files.get(unicodedata.normalize("NFC", name)) or next(iter(alike), None)

    def _file(self, name: str) -> Path:
        """Return the file of an existing voice."""
        if (path := self.find(name)) is not None:
            return path
        nearest = sorted(self, key=lambda other: -SequenceMatcher(None, name_key(name), name_key(other)).ratio())
        there_is = f"it has {', '.join(map(repr, nearest))}" if nearest else "it is empty"
        raise ValueError(f"there is no voice {name!r} in the library {str(self.folder)!r}; {there_is}.")

    def add(self, name: str, voice: Voice, force: bool = False) -> Path:
        """Save a voice under a name.

        Args:
            name (`str`): At most 50 letters and digits of any script, '-', '_' and '.', not beginning with '-' or
                '.'.
            voice (`Voice`): The voice.
            force (`bool`, defaults to `False`): Whether to replace an existing voice.

        Returns:
            `Path`: Its file.

        Raises:
            ValueError: If the name is invalid, or exists and `force` is not given.
        """
        name = unicodedata.normalize("NFC", name)
        check_name(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / LOCK):  # two processes may add one name at once
            path = self.find(name)
            if path is not None and not force:
                raise ValueError(
                    f"there is already a voice {path.stem!r} in the library {str(self.folder)!r}; choose another name, "
                    "or replace it with `force=True` (`--force`)."
                )
            path = path or self.folder / f"{name}{_SUFFIX}"
            voice.save(path)
        return path

    def get(self, name: str) -> Voice:
        """Load a voice.

        Raises:
            ValueError: If there is none of this name (the error lists the existing ones, the nearest first), or its
                file is no voice.
        """
        return Voice.load(self._file(name))

    def list(self) -> dict[str, Voice | str]:
        """Load all voices, sorted by name; for an unreadable file, the error message takes its place."""
        voices: dict[str, Voice | str] = {}
        for name, path in self.files().items():
            try:
                voices[name] = Voice.load(path)
            except (OSError, ValueError) as error:
                voices[name] = str(error)
        return voices

    def remove(self, name: str) -> None:
        """Delete a voice.

        Raises:
            ValueError: If there is none of this name, as `get` does.
        """
        self._file(name).unlink()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, sorted."""
        return iter(self.files())


def load_voice(voice: Voice | str | os.PathLike) -> Voice:
    """Load a voice by name or from a file.

    Args:
        voice (`Voice`, `str` or `os.PathLike`): A voice, which is returned as it is; a file: a `Path`, or a string that
            ends in .safetensors or names a file; or a name in `VoiceLibrary()`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no voice of this name, or the file is no voice.
    """
    if isinstance(voice, Voice):
        return voice
    if isinstance(voice, os.PathLike) or voice.endswith(_SUFFIX) or os.path.isfile(voice):
        return Voice.load(voice)
    return VoiceLibrary().get(voice)


def voice_of_first_speaker(
    voice: Voice, text: str, speaker_tokens: Sequence[str] = ("[S1]",)
) -> dict[str, Voice] | Voice:
    """Give a voice to the first speaker of a text; one of several speakers is for all of them, and returned as it is.

    Args:
        voice (`Voice`): The voice.
        text (`str`): The text, or its beginning.
        speaker_tokens (`Sequence[str]`, defaults to `("[S1]",)`): Tags of the tokenizer. The first one is that of the
            speaker of a text without tags.
    """
    if len(voice.speakers_of(speaker_tokens)) > 1:
        return voice
    tags = [*any_of(speaker_tokens).findall(text)[:1], *SPEAKER_TAG.findall(text)[:1]]
    return {min(tags, key=text.find, default=speaker_tokens[0]): voice}


def transcribe(
    audio: Any,
    model: str | os.PathLike | Recognizer,
    sampling_rate: int | None = None,
    device: str | int | torch.device | None = None,
) -> str:
    """Transcribe a recording with a speech recognizer.

    Args:
        audio: One clip, see `DiaFeatureExtractor.load_waveforms`.
        model (`str`, `os.PathLike` or `Recognizer`): Folder or Hub id of a model for transformers' pipeline
            "automatic-speech-recognition", such as "openai/whisper-small"; or the result of `load_recognizer`, for
            several recordings.
        sampling_rate (`int`, *optional*): Rate of `audio` in hertz, needed for a clip without a rate of its own.
        device (`str`, `int` or `torch.device`, *optional*): Device of the recognizer; transformers' default unless
            given.

    Returns:
        `str`: Transcript, without speaker tags. Dia needs an exact one: check it.

    Raises:
        ValueError: If no speech is recognized, or there are several clips; and as `load_waveforms` does.
        OSError: If there is no such model.
    """
    recognizer = load_recognizer(model, device=device) if isinstance(model, (str, os.PathLike)) else model
    rate = recognizer.sampling_rate
    waveform = _load_clip(audio, DiaFeatureExtractor(sampling_rate=rate), sampling_rate)
    text = recognizer.transcribe(waveform, rate)
    if not text:
        name = repr(str(model)) if isinstance(model, (str, os.PathLike)) else "the recognizer"
        raise ValueError(
            f"{name} recognizes no words in the recording of {len(waveform) / rate:.1f} s; give one with "
            "speech in it, another model, or the transcript."
        )
    return text
