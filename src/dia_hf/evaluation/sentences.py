"""Sentences of an evaluation with optional references and voice prompts, from texts, tables, lists or prepared data.

Knows nothing of models; called by users and the command line.

Legend: T frames, C codebooks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..asr.wer import words_of

# Tables are read as by `dia-hf prepare`, but not with its `open_source`, which requires recordings.
from ..data.clips import find_audio, find_clip, read_clip
from ..data.prepared import load_prepared
from ..data.rows import RowError, is_missing
from ..data.tables import open_file
from ..text_files import read_text
from ..tokenization_dia import SPEAKER_TAG

__all__ = ["Prompt", "Sentence", "load_clip", "read_sentences"]

_PROMPT_COLUMN = re.compile(r"prompt_(audio|text)_speaker([1-9]\d*)", re.ASCII)
_TABLES = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True, eq=False)
class Prompt:
    """Recording of a speaker's voice.

    Args:
        audio: Recording, in the forms of `Sentence.audio`.
        text (`str`, *optional*): Its transcript. With it the model continues the voice; without it the recording only
            tells the judges how the speaker sounds.
    """

    audio: Any
    text: str | None = None


@dataclass(frozen=True, eq=False)
class Sentence:
    """Sentence to generate, with its references.

    Args:
        text (`str`): Text with speaker tags.
        audio (*optional*): Reference recording: a path, a dictionary of `array` and `sampling_rate`, or a
            `dia_hf.data.segments.Segment` of one of these.
        codes (`torch.LongTensor` of shape `[T, C]`, *optional*): Reference codes, without delay, BOS
            and EOS.
        codec (`str`, *optional*): Fingerprint of the codec of the codes; see `Codec.fingerprint`.
        prompts (`Mapping[str, Prompt]`, *optional*): Voice prompt of some or all speaker tags, `{"[S1]": Prompt(...)}`.
        id (`str`, *optional*): Name of the sentence; by default its number.

    Raises:
        ValueError: If the text has no words, a prompt belongs to no speaker tag, or the codes are no integers `[T, C]`.
    """

    text: str
    audio: Any = None
    codes: torch.Tensor | None = None
    codec: str | None = None
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not words_of(self.text):
            raise ValueError(f"the text {self.text!r} has no words; give a text such as '[S1] Hello.'.")
        if unknown := [speaker for speaker in self.prompts if not SPEAKER_TAG.fullmatch(speaker)]:
            raise ValueError(f"a prompt is given to {unknown[0]!r}; give it to a speaker tag, such as '[S1]'.")
        codes = self.codes
        if codes is not None and (codes.ndim != 2 or codes.is_floating_point() or not len(codes)):
            raise ValueError(
                f"the codes are {codes.dtype} of the shape {tuple(codes.shape)}; they must be integers of the shape "
                "[frames, codebooks]."
            )

    def load_audio(self) -> tuple[np.ndarray, int]:
        """Read the recording: samples, `[channels, N]` or in the array's own shape, and their sampling rate in hertz.

        Raises:
            ValueError: If it cannot be read.
        """
        return load_clip(self.audio)


def load_clip(audio: Any) -> tuple[np.ndarray, int]:
    """Read a recording in any form of `Sentence.audio`; see `Sentence.load_audio`."""
    return read_clip(os.fspath(audio) if isinstance(audio, os.PathLike) else audio)


def read_sentences(source: str | os.PathLike) -> list[Sentence]:
    """Read the sentences of an evaluation.

    Args:
        source (`str` or `os.PathLike`): One of

            - a .txt file with one text per line;
            - a .jsonl, .csv or .tsv table with the column `text`, and optionally `audio`: a recording, its path
              relative to the table, or a segment of one, as `dia-hf prepare` reads them; in .jsonl also `codes`: a
              list of frames, each a list of codes. Further columns are `id`, and as in TTSD-eval
              `prompt_audio_speaker1`, `prompt_text_speaker1` and so on: recordings of the voices, relative to
              `base_path` if there is such a column, and their transcripts;
            - a .lst file with one sentence per line, its fields separated by "|": that of Seed-TTS-eval, name,
              transcript of the prompt, its recording, text, and perhaps the reference; or, where the last field has
              speaker tags, name, a recording of each speaker, and the text;
            - a folder that `dia-hf prepare` wrote: texts and codes.

    Raises:
        ValueError: If there are no sentences, or a row is unusable; the error names it.
        FileNotFoundError: If the source does not exist.
        ImportError: If the source is a folder and `datasets` is not installed: `pip install "dia-hf[train]"`.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf.evaluation import read_sentences
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "sentences.txt")
    ...     _ = file.write_text("[S1] Hello. [S2] Hi!")
    ...     [sentence.text for sentence in read_sentences(file)]
    ['[S1] Hello. [S2] Hi!']

    ```
    """
    path = Path(source)
    suffix = path.suffix.lower()
    if path.is_dir():
        sentences = _read_prepared(path)
    elif not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}.")
    elif suffix == ".txt":
        lines = enumerate(read_text(path).split("\n"), start=1)
        texts = [(number, line.strip()) for number, line in lines if line.strip()]
        sentences = [_named(path, number, {"text": text}) for number, text in texts]
    elif suffix == ".lst":
        lines = enumerate(read_text(path).split("\n"), start=1)
        fields = [(number, line.strip().split("|")) for number, line in lines if line.strip()]
        sentences = [_named(path, number, _read_fields(cells)) for number, cells in fields]
    elif suffix in _TABLES:
        table = open_file(path, path.parent, {"text"})
        if "text" not in table.column_names:
            columns = ", ".join(map(repr, table.column_names)) or "(none)"
            raise ValueError(f"{str(path)!r} has the columns {columns}; a column 'text' is required.")
        sentences = [_named(path, number, record) for _, number, record in table.records]
    else:
        raise ValueError(
            f"{str(path)!r} has an unknown suffix; give .txt, .lst, {', '.join(_TABLES)} or a folder of "
            "`dia-hf prepare`."
        )
    if not sentences:
        raise ValueError(f"there are no sentences in {str(path)!r}.")
    return sentences


def _named(path: Path, number: int, record: Mapping[str, Any] | RowError) -> Sentence:
    """Make a sentence from a row; errors name the row."""
    try:
        return _read_row(record, path.parent)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}, row {number}: {error}") from error


def _read_row(record: Mapping[str, Any] | RowError, folder: Path) -> Sentence:
    if isinstance(record, RowError):
        raise record
    audio, codes = record.get("audio"), record.get("codes")
    if is_missing(audio):
        audio = None
    else:
        others = {column: value for column, value in record.items() if column not in ("audio", "text", "codes")}
        audio = find_clip(audio, folder, others)
        read_clip(audio)  # fails now instead of after the generation
    if is_missing(codes):
        codes = None
    else:
        try:
            array = np.asarray(codes)
        except ValueError as error:  # rows of different lengths
            raise ValueError("the codes are not a table; give a list of frames of equal length.") from error
        if array.dtype.kind not in "iu":
            raise ValueError(f"the codes have the dtype {array.dtype}; give a list of frames, each a list of codes.")
        codes = torch.from_numpy(array.astype(np.int64))
    name = record.get("id")
    return Sentence(
        record.get("text"),  # type: ignore[arg-type]  # `Sentence` checks its type
        audio,
        codes,
        prompts=_read_prompts(record, folder),
        id="" if is_missing(name) else str(name),
    )


def _read_prompts(record: Mapping[str, Any], folder: Path) -> dict[str, Prompt]:
    base = record.get("base_path")
    root = folder if is_missing(base) else folder / str(base)
    prompts = {}
    for column, value in record.items():
        if not column.startswith(("prompt_audio_speaker", "prompt_text_speaker")) or is_missing(value):
            continue
        if (match := _PROMPT_COLUMN.fullmatch(column)) is None:
            raise ValueError(f"the column {column!r} is that of no speaker; name it as 'prompt_audio_speaker1'.")
        recording = f"prompt_audio_speaker{match[2]}"
        if match[1] == "text":
            if is_missing(record.get(recording)):
                raise ValueError(f"{column} has the transcript of a prompt without recording; give {recording}, too.")
            continue
        audio = find_audio(value, root)
        read_clip(audio)
        text = record.get(f"prompt_text_speaker{match[2]}")
        prompts[f"[S{match[2]}]"] = Prompt(audio, None if is_missing(text) else str(text))
    return prompts


def _read_fields(cells: list[str]) -> dict[str, Any] | RowError:
    """Return the record of a line of Seed-TTS-eval or of TTSD-eval."""
    cells = [cell.strip() for cell in cells]
    if len(cells) >= 3 and SPEAKER_TAG.search(cells[-1]):
        name, *recordings, text = cells
        prompts = {f"prompt_audio_speaker{number}": path for number, path in enumerate(recordings, start=1)}
        return {"id": name, "text": text, **prompts}
    if len(cells) not in (4, 5):
        return RowError(
            "fields",
            f"the line has {len(cells)} fields; it must be name|prompt's transcript|prompt's recording|text, perhaps "
            "followed by |reference, or name|recording|recording|[S1] text [S2] text.",
        )
    name, transcript, recording, text, *reference = cells
    record = {"id": name, "text": f"[S1] {text}", "prompt_audio_speaker1": recording}
    return {**record, "prompt_text_speaker1": transcript, **({"audio": reference[0]} if reference else {})}


def _read_prepared(folder: Path) -> list[Sentence]:
    dataset, info = load_prepared(folder)
    fingerprint = info["codec"]["fingerprint"]
    return [
        Sentence(row["text"], codes=torch.from_numpy(np.asarray(row["codes"], dtype=np.int64)), codec=fingerprint)
        for row in dataset
    ]
