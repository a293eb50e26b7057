"""Corpora: folders in the layouts of well-known corpora, recognized by their files and read as tables.

LibriSpeech, LibriTTS, VCTK, ESD and Kaldi. Called by `sources.py`, which reads the columns of the tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..text_files import read_text
from .clips import AUDIO_SUFFIXES
from .rows import RowError
from .tables import Table

__all__ = ["find_corpus", "select_split"]

_Records = Iterator[tuple[str, int, Mapping[str, Any] | RowError]]
_SPLIT = re.compile(r"(train|dev|test|valid|validation|eval|evaluation)([-_.]\w+)*")
_MICROPHONE = re.compile(r"_mic\d$")


def find_corpus(folder: Path, files: Sequence[Path], split: str | None) -> Table | None:
    """Return the table of a corpus, or `None` if a folder has none of the known layouts.

    Args:
        folder (`Path`): The folder.
        files (`Sequence[Path]`): All files below it, sorted.
        split (`str`, *optional*): Names of the splits to read, joined by "+".

    Raises:
        ValueError: If a split must be chosen, or is not there.
    """
    for name, columns, find in _LAYOUTS:
        if found := find(folder, files):
            chosen = select_split(found, lambda path: _split_of(folder, path), split, str(folder))
            read = _READERS[name]
            return Table(
                folder.name, columns, read(folder, chosen, files), None, folder, folder, layout=name, has_splits=True
            )
    return None


def select_split(
    found: Sequence[Path], split_of: Callable[[Path], str | None], split: str | None, name: str
) -> list[Path]:
    """Return the files of the chosen splits; without splits, or with a single one, all of them.

    Raises:
        ValueError: If a split must be chosen, or is not there.
    """
    there = list(dict.fromkeys(part for path in found if (part := split_of(path)) is not None))
    if split is None and len(there) <= 1:
        return list(found)
    wanted = [] if split is None else split.split("+")
    missing = [part for part in wanted if part not in there]
    if split is None or missing:
        asked = f"no split {missing[0]!r}, but " if missing else ""
        raise ValueError(
            f"{name!r} has {asked}{', '.join(map(repr, there)) or 'no splits'}; choose one, or several joined by '+': "
            "`split` (--split)."
        )
    return [path for path in found if split_of(path) in wanted]


def _split_of(folder: Path, path: Path) -> str | None:
    parts = path.relative_to(folder).parts[:-1]
    return next((part for part in parts if _SPLIT.fullmatch(part)), None)


def _lines_of(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _read_lists(
    folder: Path, lists: Iterable[Path], record_of: Callable[[Path, str], Mapping[str, Any] | RowError]
) -> _Records:
    """Read a record from each line of text files; a file that is not in UTF-8 is one unusable row."""
    for path in lists:
        name = path.relative_to(folder).as_posix()
        try:
            for number, line in _lines_of(path):
                yield name, number, record_of(path, line)
        except (OSError, ValueError) as error:
            yield name, 1, RowError("unreadable_text", str(error))


def _find_librispeech(folder: Path, files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.name.endswith(".trans.txt")]


def _read_librispeech(folder: Path, lists: Sequence[Path], files: Sequence[Path]) -> _Records:
    def record_of(path: Path, line: str) -> Mapping[str, Any] | RowError:
        name, _, text = line.partition(" ")
        audio = f"{path.parent.relative_to(folder).as_posix()}/{name}"
        chapter = path.name.removesuffix(".trans.txt")
        return {"audio": audio, "text": text, "speaker": name.split("-")[0], "session": chapter}

    return _read_lists(folder, lists, record_of)


def _find_libritts(folder: Path, files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.name.endswith(".normalized.txt")]


def _read_libritts(folder: Path, texts: Sequence[Path], files: Sequence[Path]) -> _Records:
    for path in texts:
        name = path.relative_to(folder).as_posix()
        audio = name.removesuffix(".normalized.txt")
        speaker, _, chapter = Path(audio).name.partition("_")
        record = {"audio": audio, "speaker": speaker, "session": f"{speaker}_{chapter.split('_')[0]}"}
        yield name, 1, {**record, "text": _text_of(path)}


def _text_of(path: Path) -> str | RowError:
    try:
        return read_text(path)
    except FileNotFoundError:
        return RowError("missing_text", f"there is no file {str(path)!r}.")
    except (OSError, ValueError) as error:
        return RowError("unreadable_text", str(error))


def _find_vctk(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the recordings of the first microphone, or of the only one, below a folder `wav48…` beside `txt`."""
    chosen: dict[Path, Path] = {}
    for path in files:
        if path.suffix.lower() in AUDIO_SUFFIXES and _vctk_base(path) is not None:
            chosen.setdefault(path.with_name(_MICROPHONE.sub("", path.stem)), path)
    return [path for path in chosen.values() if (base := _vctk_base(path)) and (base / "txt").is_dir()]


def _vctk_base(path: Path) -> Path | None:
    place = path.parent.parent
    return place.parent if place.name.startswith("wav48") else None


def _read_vctk(folder: Path, recordings: Sequence[Path], files: Sequence[Path]) -> _Records:
    for path in recordings:
        base, speaker = _vctk_base(path), path.parent.name
        assert base is not None
        text = _text_of(base / "txt" / speaker / f"{_MICROPHONE.sub('', path.stem)}.txt")
        name = path.relative_to(folder).as_posix()
        yield name, 1, {"audio": name, "text": text, "speaker": speaker}


def _find_esd(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Return the lists of speakers: 0011/0011.txt beside folders of recordings."""
    lists = [path for path in files if path.suffix == ".txt" and path.stem == path.parent.name]
    return [path for path in lists if _is_esd(path)]


def _is_esd(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(256).removeprefix(b"\xef\xbb\xbf")
    return re.match(rb"%s_\d+[\t ]" % re.escape(os.fsencode(path.stem)), head.lstrip()) is not None


def _read_esd(folder: Path, lists: Sequence[Path], files: Sequence[Path]) -> _Records:
    parents = {path.parent for path in lists}
    recordings: dict[tuple[str, str], Path] = {}
    for path in files:
        if path.suffix.lower() in AUDIO_SUFFIXES and (home := parents & set(path.parents)):
            recordings[home.pop().name, path.stem] = path

    def record_of(path: Path, line: str) -> Mapping[str, Any] | RowError:
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) not in (2, 3):
            return RowError("unreadable_row", f"the line has {len(cells)} cells between tabs; it must have 3.")
        name, speaker = cells[0], path.stem
        found = recordings.get((speaker, name))
        audio = None if found is None else found.relative_to(folder).as_posix()
        if found is None:
            audio = f"{path.parent.relative_to(folder).as_posix()}/{name}.wav"
        emotion = cells[2] if len(cells) == 3 else None
        return {"audio": audio, "text": cells[1], "speaker": speaker, "emotion": emotion}

    return _read_lists(folder, lists, record_of)


def _find_kaldi(folder: Path, files: Sequence[Path]) -> list[Path]:
    return [path for path in files if path.name == "wav.scp" and (path.parent / "text").is_file()]


def _read_kaldi(folder: Path, lists: Sequence[Path], files: Sequence[Path]) -> _Records:
    for path in lists:
        place, name = path.parent, path.relative_to(folder).with_name("text").as_posix()
        try:
            maps = {
                file: dict(_pair(line) for _, line in _lines_of(place / file)) if (place / file).is_file() else {}
                for file in ("wav.scp", "utt2spk", "segments")
            }
            for number, line in _lines_of(place / "text"):
                yield name, number, _kaldi_record(*_pair(line), maps)
        except (OSError, ValueError) as error:
            yield name, 1, RowError("unreadable_text", str(error))


def _pair(line: str) -> tuple[str, str]:
    key, *rest = line.split(maxsplit=1)
    return key, rest[0] if rest else ""


def _kaldi_record(key: str, text: str, maps: Mapping[str, Mapping[str, str]]) -> Mapping[str, Any] | RowError:
    recording, times = key, {}
    if maps["segments"]:
        fields = maps["segments"].get(key, "").split()
        if len(fields) != 3:
            return RowError("unclear_segment", f"'segments' has no line `{key} recording begin end`.")
        recording, times = fields[0], {"start": fields[1], "end": fields[2]}
    audio = maps["wav.scp"].get(recording)
    if audio is None:
        return RowError("missing_audio", f"'wav.scp' has no recording {recording!r}.")
    if audio.endswith("|"):
        reason = f"'wav.scp' has a command for {recording!r}, which is not run; write its output to a file."
        return RowError("audio_not_path", reason)
    return {"audio": audio, "text": text, "speaker": maps["utt2spk"].get(key), "id": key, "session": recording, **times}


_LAYOUTS: tuple[tuple[str, Sequence[str], Callable[[Path, Sequence[Path]], list[Path]]], ...] = (
    ("LibriSpeech", ("audio", "text", "speaker", "session"), _find_librispeech),
    ("LibriTTS", ("audio", "text", "speaker", "session"), _find_libritts),
    ("VCTK", ("audio", "text", "speaker"), _find_vctk),
    ("ESD", ("audio", "text", "speaker", "emotion"), _find_esd),
    ("Kaldi", ("audio", "text", "speaker", "id", "session", "start", "end"), _find_kaldi),
)
"""Name, columns, and finder of each layout; a finder returns the files that its reader takes."""
_READERS: Mapping[str, Callable[[Path, Sequence[Path], Sequence[Path]], _Records]] = {
    "LibriSpeech": _read_librispeech,
    "LibriTTS": _read_libritts,
    "VCTK": _read_vctk,
    "ESD": _read_esd,
    "Kaldi": _read_kaldi,
}
