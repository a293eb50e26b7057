"""Import of saved voices: a folder of recordings, each with its transcript in a .txt file of the same name beside it.

All voices are made before the first one is saved, so that a folder with a fault can be corrected and imported again.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path

from tqdm.auto import tqdm

from ..data.clips import AUDIO_SUFFIXES
from ..processing_dia import DiaProcessor
from ..text_files import first_line, read_text
from .voices import Voice, VoiceLibrary, check_name, name_key

__all__ = ["VoiceImportError", "import_voices"]

_LISTED = 3  # problems in the error's own text


class VoiceImportError(ValueError):
    """Recordings that cannot be imported.

    Attributes:
        problems (`dict[str, str]`): What is wrong with each, by the name of its file.
        summary (`str`): The message without the problems.
    """

    def __init__(self, problems: Mapping[str, str], num_recordings: int, num_saved: int = 0) -> None:
        self.problems = dict(problems)
        some = "; ".join(f"{name}: {reason.removesuffix('.')}" for name, reason in list(problems.items())[:_LISTED])
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        saved = "none was saved" if not num_saved else f"{num_saved} were saved"
        self.summary = f"{len(problems)} of {num_recordings} recordings cannot be imported, and {saved}"
        super().__init__(f"{self.summary}: {some}{more}.")


def import_voices(
    folder: str | os.PathLike,
    processor: DiaProcessor,
    library: VoiceLibrary | None = None,
    force: bool = False,
    verbose: bool = False,
) -> dict[str, Voice]:
    """Make a saved voice of each recording of a folder, and save them under the names of the files.

    Args:
        folder (`str` or `os.PathLike`): Folder of recordings, such as anna.wav or anna.m4a, each with its transcript in
            UTF-8 beside it: anna.txt. Other files, hidden ones and folders inside are ignored.
        processor (`DiaProcessor`): Processor, with the codec of the model.
        library (`VoiceLibrary`, *optional*): Library that the voices are saved in; the user's own unless given.
        force (`bool`, defaults to `False`): Whether to replace existing voices of these names.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `dict[str, Voice]`: The voices by name, sorted.

    Raises:
        NotADirectoryError: If there is no such folder.
        VoiceImportError: If any recording cannot be imported: its name is impossible, exists, or occurs twice; its
            transcript is missing; or as `Voice.from_audio` does. All of them are listed, and no voice is saved. Only if
            saving itself fails, some are.
        ValueError: If there are no recordings.

    Warns:
        UserWarning: As `Voice.from_audio`, with the name of the file; for a .txt file without a recording.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from dia_hf import MINIATURE, DiaProcessor, VoiceLibrary
    >>> from dia_hf.audio.io import write_audio
    >>> from dia_hf.speech import import_voices
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_audio(f"{folder}/anna.wav", np.sin(np.arange(4 * 44100) / 20, dtype=np.float32), 44100)
    ...     _ = Path(folder, "anna.txt").write_text("This is how I sound.", "utf-8")
    ...     library = VoiceLibrary(f"{folder}/voices")
    ...     import_voices(folder, DiaProcessor.from_pretrained(MINIATURE), library)
    {'anna': <Voice of 4.0 s: 'This is how I sound.'>}

    ```
    """
    if not os.path.isdir(folder):  # nor is an empty name the current one
        raise NotADirectoryError(
            f"there is no folder {os.fspath(folder)!r}; give one with recordings and their transcripts."
        )
    folder, library = Path(folder), VoiceLibrary() if library is None else library
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    recordings = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not recordings:
        raise ValueError(
            f"there are no recordings in {str(folder)!r}; put some there, such as anna.wav or anna.m4a, each with its "
            "transcript beside it: anna.txt."
        )
    names, problems = _find_names(recordings, library, force)
    transcripts: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() == ".txt":
            transcripts.setdefault(unicodedata.normalize("NFC", path.stem), []).append(path)
    for stem in sorted(transcripts.keys() - set(names.values())):
        warnings.warn(f"{transcripts[stem][0].name} is left out: there is no recording of its name.", stacklevel=2)
    texts: dict[Path, str] = {}
    for path in recordings:
        try:
            found = transcripts.get(names[path], [])
            if not found:
                raise ValueError(f"its transcript is missing: write it to {path.stem}.txt beside it.")
            if len(found) > 1:
                raise ValueError(f"it has several transcripts, {', '.join(text.name for text in found)}; leave one.")
            texts[path] = read_text(found[0]).strip()
            if not texts[path]:
                raise ValueError(f"{found[0].name} is empty; write the words of the recording there.")
        except (OSError, ValueError) as error:
            problems.setdefault(path.name, first_line(error, 300))
    if problems:  # before the recordings are encoded
        raise VoiceImportError(problems, len(recordings))
    voices: dict[str, Voice] = {}
    for path in tqdm(recordings, desc="importing", unit=" voices", disable=not verbose):
        try:
            voices[names[path]], doubts = Voice.from_audio_with_doubts(path, texts[path], processor)
        except (OSError, ValueError, ImportError) as error:
            problems[path.name] = first_line(error, 300)
            continue
        for doubt in doubts:
            warnings.warn(f"{path.name}: {doubt}", stacklevel=2)
    if problems:
        raise VoiceImportError(problems, len(recordings))
    voices = dict(sorted(voices.items()))
    for name, voice in voices.items():
        try:
            library.add(name, voice, force)
        except (OSError, ValueError) as error:  # a full disk, or another process that has added the name meanwhile
            problems[name] = first_line(error, 300)
    if problems:
        raise VoiceImportError(problems, len(recordings), len(recordings) - len(problems))
    return voices


def _find_names(recordings: list[Path], library: VoiceLibrary, force: bool) -> tuple[dict[Path, str], dict[str, str]]:
    """Return the name of each recording's voice, and what is wrong with names, by file."""
    names: dict[Path, str] = {}
    problems: dict[str, str] = {}
    first: dict[str, Path] = {}
    for path in recordings:
        names[path] = unicodedata.normalize("NFC", path.stem)
        same = first.setdefault(name_key(names[path]), path)
        try:
            check_name(names[path])
        except ValueError as error:
            problems[path.name] = f"{error} Rename the file."
            continue
        if same is not path:
            problems[path.name] = f"{same.name} has the same name; rename one of them."
        elif not force and (existing := library.find(names[path])) is not None:
            problems[path.name] = (
                f"there is a voice {existing.stem!r} already; rename the file, or replace it: `force=True` (--force)."
            )
    return names, problems
