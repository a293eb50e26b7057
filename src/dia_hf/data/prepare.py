"""Recordings and transcripts to a dataset of text and codes on disk, with a report of what was kept and what not.

A row goes through two gates: its text is made ready for the tokenizer (`texts.py`), and its audio becomes codes
(`encoding.py`). What fails is written down and the rest goes on. Codes are cached, so that a run that was stopped, or a
source that has grown, costs only what is new; the dataset is written from the cache. Knows nothing of batches, delay or
models; called by users and by the command line.

Legend: T frames, C codebooks.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..assets import MINIATURE
from ..atomic_write import LOCK, atomic_write, find_held, first_line, is_leftover, locked, read_json
from ..processing_dia import DiaProcessor
from .clips import file_of
from .config import TAG, PrepareConfig
from .encoding import Cache, Pending, Recording, encode_rows
from .report import Clip, Issue, PrepareReport, plot_report, write_jsonl
from .rows import Row, RowError
from .sources import import_datasets, open_source
from .transcripts import TAG_HINT, Texts

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_prepared", "prepare_dataset", "read_info"]

logger = logging.getLogger(__name__)

_VERSION = 1  # of prepared.json
_CACHE_MARK = "CACHEDIR.TAG"  # https://bford.info/cachedir/: backups leave such a folder out
_CACHE_NOTE = """\
Signature: 8a477f597d28d172789f06886806bc55
# Codes of clips, kept by `dia-hf prepare`. They can be deleted; the next run then encodes all clips again.
"""
_CLIPPED_SHARE = 1e-4  # of the samples: above, it is heard
_PHONE_RATE = 16000  # hertz: below, the upper half of what the codec can say is missing


class _Run:
    """One pass over a source: what is kept and what is said of each row."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.num_rows = 0
        self._kept: dict[int, tuple[Row, Clip, float]] = {}  # by place, with the share that is clipped
        self._rejected: dict[int, Issue] = {}
        self._first: dict[str, tuple[int, Row]] = {}  # by id, with its place
        self._repeated: dict[int, int] = {}  # place of a row to that of the first of its id
        self._num_encoded = 0
        self._seconds = 0.0

    def read(self, rows: Iterable[Row], bar: tqdm) -> Iterator[Pending]:
        """Yield the rows whose text, id and path will do."""
        for place, row in enumerate(rows):
            self.num_rows += 1
            try:
                text = self.texts.make(row.text, row.speaker, row.language)
                if isinstance(row.audio, RowError):
                    raise row.audio
                known = replace(row, audio=None, text=None)  # not to hold what it weighs
                first_place, first = self._first.setdefault(row.id, (place, known))
                if first is not known:
                    self._repeated[place] = first_place
                    where = f"row {first.number}" + ("" if first.source == row.source else f" of {first.source}")
                    raise RowError("duplicate_id", f"the id {row.id!r} is that of {where}, too.")
            except RowError as error:
                self._reject(place, row, error, bar)
                continue
            yield Pending(place, row, text, self.texts.num_characters(text))

    def finish(self, item: Pending, found: Recording | RowError, bar: tqdm) -> None:
        """Keep a clip or reject it."""
        row = item.row
        if isinstance(found, RowError):
            self._reject(item.place, row, found, bar)
            return
        clip = Clip(
            id=row.id,
            text=item.text,
            source=row.source,
            row=row.number,
            key=found.key,
            seconds=found.seconds,
            seconds_before=found.seconds_before,
            num_characters=item.num_characters,
            sampling_rate=found.sampling_rate,
            loudness=found.loudness,
            speaker=row.speaker,
        )
        self._kept[item.place] = replace(row, audio=file_of(row.audio), text=None), clip, found.clipped
        self._num_encoded += found.is_new
        self._seconds += found.seconds
        self._show(bar)

    def _reject(self, place: int, row: Row, error: RowError, bar: tqdm) -> None:
        logger.info("%s row %d: %s", row.source, row.number, error.reason)
        self._rejected[place] = _notice(row, error.code, error.reason)
        self._show(bar)

    def _show(self, bar: tqdm) -> None:
        bar.set_postfix_str(f"{self._seconds / 3600:.2f} h, {len(self._rejected)} rejected", refresh=False)
        bar.update()

    def report(self, source: str) -> PrepareReport:
        """Sum up, in the order of the source."""
        kept = [self._kept[place] for place in sorted(self._kept)]
        rejected = [self._explain(place) for place in sorted(self._rejected)]
        warned = [notice for row, clip, clipped in kept for notice in self._warn(row, clip, clipped)]
        return PrepareReport(source, self.num_rows, [clip for _, clip, _ in kept], rejected, warned, self._num_encoded)

    def _explain(self, place: int) -> Issue:
        """Say of a row whether the other one that has its id was rejected, too: now it is known."""
        notice = self._rejected[place]
        if self._repeated.get(place) not in self._rejected:
            return notice
        return replace(notice, reason=f"{notice.reason.removesuffix('.')}, which was rejected.")

    def _warn(self, row: Row, clip: Clip, clipped: float) -> Iterator[Issue]:
        if clip.sampling_rate < _PHONE_RATE:
            reason = f"it was recorded at {clip.sampling_rate} Hz, and the voice will sound like that."
            yield _notice(row, "low_sampling_rate", reason)
        if clipped > _CLIPPED_SHARE:
            yield _notice(row, "clipping", f"{clipped:.2%} of its samples are at full scale: it is distorted.")
        # Only now is it known which tags there are.
        if brackets := [tag for tag in dict.fromkeys(TAG.findall(clip.text)) if tag not in self.texts.tags]:
            reason = f"{', '.join(brackets)} will be read as letters; if it is a tag, {TAG_HINT}."
            yield _notice(row, "unknown_brackets", reason)


def _notice(row: Row, code: str, reason: str) -> Issue:
    return Issue(row.source, row.number, row.id, file_of(row.audio), code, reason)


def prepare_dataset(
    source: Any,
    dest: str | os.PathLike,
    processor: DiaProcessor,
    settings: PrepareConfig | None = None,
    *,
    split: str | None = None,
    config: str | None = None,
    num_proc: int = 1,
    device: str | None = None,
    verbose: bool = False,
) -> PrepareReport:
    """Make a dataset of text and codes of recordings and their transcripts.

    Each clip is read, mixed to mono, resampled, brought to a loudness, freed of silence at its ends, filtered and
    encoded. What cannot be used is listed in `dest`/rejected.jsonl with its file, row and reason, and the rest goes on.

    Run again with the same `dest`, it encodes only what is new: after an interruption, when rows were added or
    transcripts corrected. The same source and settings make the same dataset, in the source's order, in however many
    processes; codes are the same to the rounding of the codec's arithmetic.

    Args:
        source: A folder, a table, a dataset: see `dia_hf.data.sources.open_source`.
        dest (`str` or `os.PathLike`): Folder to be made, or made by an earlier run. `load_prepared` opens it, and
            so does `datasets.load_from_disk`.
        processor (`DiaProcessor`): With the tokenizer and the codec of the model to be trained.
        settings (`PrepareConfig`, *optional*): What else to choose.
        split, config (`str`, *optional*): Of a dataset with several.
        num_proc (`int`, defaults to 1): Processes that encode, each with a codec of its own and one thread. Above 1, a
            script has to call this under `if __name__ == "__main__":`.
        device (`str`, *optional*): Where to encode; where the processor's codec is unless given.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `PrepareReport`: What was kept and what not. Also in `dest`, as report.json, .md and .png.

    Raises:
        ValueError: If no clip is usable, `dest` holds something else or the source, or another process writes there;
            if there are more than eight tags; and as `open_source` does.
        FileNotFoundError: If there is no such source.
        ImportError: If `datasets` is missing.
        OSError: If a file cannot be written, or a process dies. What is encoded by then is kept.

    Warns:
        UserWarning: If pyloudnorm is missing, so that loudness stays as it is.

    Example:
    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from dia_hf import MINIATURE, DiaProcessor
    >>> from dia_hf.data import load_prepared, prepare_dataset
    >>> processor = DiaProcessor.from_pretrained(MINIATURE)
    >>> sound = {"array": 0.2 * np.sin(np.arange(48000) / 20), "sampling_rate": 48000}
    >>> clips = [{"audio": sound, "text": "Hello there."}, {"audio": sound, "text": ""}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = prepare_dataset(clips, folder, processor)
    ...     dataset, info = load_prepared(folder)
    ...     text = dataset[0]["text"]
    >>> text, info["num_clips"], report.rejected[0].reason
    ('[S1] Hello there.', 1, 'the transcript is empty.')

    ```
    """
    import_datasets()
    settings = settings if settings is not None else PrepareConfig()
    if num_proc < 1:
        raise ValueError(f"`num_proc` is {num_proc}; it is 1 or more.")
    codec, extractor = processor.codec, processor.feature_extractor
    if codec.sampling_rate != extractor.sampling_rate:
        raise ValueError(
            f"the codec works at {codec.sampling_rate} Hz, but the extractor at {extractor.sampling_rate}."
        )
    done = settings
    if settings.loudness is not None and importlib.util.find_spec("pyloudnorm") is None:
        warnings.warn(
            '`pyloudnorm` is not installed (`pip install "dia-hf[audio]"`); clips stay as loud as they are.',
            stacklevel=2,
        )
        done = replace(settings, loudness=None)
    folder = Path(dest)
    _check_dest(folder)
    columns = {role: getattr(settings, f"{role}_column") for role in ("audio", "text", "speaker", "language", "id")}
    opened = open_source(source, columns, split, config)
    if isinstance(source, str | os.PathLike) and find_held(folder, [source]) is not None:
        raise ValueError(
            f"{str(folder)!r} holds {os.fspath(source)!r}, which is read; what is written would mix with it. Give "
            "another folder."
        )
    run = _Run(Texts(processor.tokenizer, settings))
    cache = folder / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"another process is preparing {str(folder)!r}; wait for it, or give another folder."):
        with atomic_write(cache / _CACHE_MARK) as beside:
            beside.write_text(_CACHE_NOTE, "utf-8")
        model = processor.audio_tokenizer
        with tqdm(desc="preparing", total=opened.num_rows, unit=" clips", disable=not verbose) as bar:
            pending = run.read(opened.rows, bar)
            for item, found in encode_rows(pending, num_proc, model, extractor, done, cache, device):
                run.finish(item, found, bar)
        report = run.report(opened.name)
        if not report.clips:
            write_jsonl(folder / "rejected.jsonl", report.rejected)
            raise ValueError(_explain_nothing(report, folder))
        info = {
            "version": _VERSION,
            "codec": {
                "fingerprint": codec.fingerprint,
                "sampling_rate": codec.sampling_rate,
                "hop_length": codec.hop_length,
                "num_codebooks": codec.num_codebooks,
            },
            "model": _name_of(processor),
            "speaker_tokens": run.texts.tags,
            "settings": {**_fields(done), "source": opened.name, "split": split, "config": config},
            "num_clips": len(report.clips),
            "seconds": round(report.seconds, 3),
        }
        return _write(folder, report, info)


def _name_of(processor: DiaProcessor) -> str | None:
    """Say which checkpoint a processor is of: a name on the Hub, "miniature", or a folder by its whole path."""
    name = str(getattr(processor.tokenizer, "name_or_path", "") or "")
    if not name or name == MINIATURE:
        return "miniature" if name else None
    return os.path.abspath(name) if os.path.isdir(name) else name


def _fields(settings: PrepareConfig) -> dict[str, Any]:
    """Return the settings as JSON can carry them."""
    return {**vars(settings), "speaker_tags": dict(settings.speaker_tags), "extra_tags": list(settings.extra_tags)}


def _check_dest(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; give a folder.")
    if not folder.is_dir() or (folder / "prepared.json").is_file() or (folder / "cache" / _CACHE_MARK).is_file():
        return
    # A run that was killed before it had its mark there leaves no more than this.
    there = {path for path in folder.iterdir() if not is_leftover(path)} - {folder / "cache"}
    if (folder / "cache").is_dir():
        there |= {path for path in (folder / "cache").iterdir() if not is_leftover(path)}
    if there:
        raise ValueError(
            f"{str(folder)!r} is not empty and was not made by `dia-hf prepare`; give another folder, or empty it."
        )


def _explain_nothing(report: PrepareReport, folder: Path) -> str:
    if not report.num_rows:
        return f"{report.source!r} has no rows."
    counts = list(report.to_dict()["rejected"].items())[:3]
    examples = {code: next(notice for notice in report.rejected if notice.code == code) for code, _ in counts}
    reasons = "; ".join(
        f"{count} × {code} (row {examples[code].row}: {examples[code].reason.rstrip('.')})" for code, count in counts
    )
    return (
        f"none of the {report.num_rows} rows of {report.source!r} can be used: {reasons}. All of them are in "
        f"{str(folder / 'rejected.jsonl')!r}."
    )


def _write(folder: Path, report: PrepareReport, info: Mapping[str, Any]) -> PrepareReport:
    """Write the dataset beside the old one, and say last that the folder holds the new one: until then it is the old.

    The files of the data have names of their own, by their content, so that those of both can be there at once; whoever
    opens the folder takes those that prepared.json names.
    """
    for left in folder.glob(".new-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    new = folder / f".new-{uuid.uuid4().hex}"
    try:
        _write_dataset(new, report.clips, Cache(folder / "cache"), info["codec"]["num_codebooks"])
        state = _name_by_content(new / "dataset")
        names = [file["filename"] for file in state["_data_files"]]
        for name in [*names, "dataset_info.json"]:
            (new / "dataset" / name).replace(folder / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _write_json(folder / "state.json", state)
    write_jsonl(folder / "rejected.jsonl", report.rejected)
    write_jsonl(folder / "warnings.jsonl", report.warnings)
    try:
        plot_report(folder / "report.png", report)
    except ImportError:
        (folder / "report.png").unlink(missing_ok=True)
        report = replace(report, notes=["no report.png: it takes matplotlib."])
    _write_json(folder / "report.json", report.to_dict())
    with atomic_write(folder / "report.md") as beside:
        beside.write_text(report.to_markdown(), "utf-8", errors="backslashreplace")
    _write_json(folder / "prepared.json", {**info, "data_files": names})
    for path in folder.glob("data-*.arrow"):
        if path.name not in names:
            path.unlink()
    return report


def _name_by_content(dataset: Path) -> dict[str, Any]:
    """Rename the files of the data in a dataset on disk, and return its state.json with their names.

    `datasets` draws the fingerprint there at random; this one says what is in the files.
    """
    state = json.loads((dataset / "state.json").read_text("utf-8"))
    digest = hashlib.blake2b(digest_size=8)
    for file in state["_data_files"]:
        with open(dataset / file["filename"], "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    fingerprint = digest.hexdigest()
    for file in state["_data_files"]:
        name = file["filename"]
        file["filename"] = name.replace("data-", f"data-{fingerprint}-", 1)
        (dataset / name).rename(dataset / file["filename"])
    return {**state, "_fingerprint": fingerprint}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8", errors="backslashreplace")


def _write_dataset(folder: Path, clips: Sequence[Clip], cache: Cache, num_codebooks: int) -> None:
    """Write clip by clip: the codes of a thousand hours are 5 GB."""
    from datasets import Array2D, Dataset, Features, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features(
        {
            "id": Value("string"),
            "text": Value("string"),
            "codes": Array2D((None, num_codebooks), "int16"),
            "seconds": Value("float32"),
            "speaker": Value("string"),
            "source": Value("string"),
            "row": Value("int64"),
        }
    )
    folder.mkdir()
    with ArrowWriter(features=features, path=str(folder / "clips.arrow"), writer_batch_size=100) as writer:
        for clip in clips:
            writer.write(
                {**{name: getattr(clip, name, None) for name in features}, "codes": cache.read_codes(clip.key)}
            )
        writer.finalize()
    Dataset.from_file(str(folder / "clips.arrow")).save_to_disk(str(folder / "dataset"))


def load_prepared(folder: str | os.PathLike) -> tuple[Dataset, dict[str, Any]]:
    """Open what `prepare_dataset` has made.

    Args:
        folder (`str` or `os.PathLike`): Its `dest`.

    Returns:
        `tuple[datasets.Dataset, dict]`: The clips, with the columns `id`, `text` (with tags), `codes` (int16
        `[T, C]`, neither delayed nor framed), `seconds`, `speaker`, `source` and `row`; and what prepared.json says:
        `codec`, `speaker_tokens`, `settings`, `num_clips`, `seconds`.

    Raises:
        ValueError: If it is no such folder, not complete, damaged, or made by a newer version.
        ImportError: If `datasets` is missing.
    """
    folder = Path(folder)
    info = read_info(folder)
    names = info.pop("data_files", None)
    clips = _open_clips(folder, names)
    if len(clips) != info.get("num_clips", len(clips)):
        raise ValueError(
            f"{str(folder)!r} is damaged: its data have {len(clips)} clips, but by prepared.json there are "
            f"{info['num_clips']}; {_AGAIN}."
        )
    return clips, info


def read_info(folder: str | os.PathLike) -> dict[str, Any]:
    """Read what prepared.json says of prepared data, which are not opened.

    Raises:
        ValueError: As in `load_prepared`.
    """
    folder = Path(folder)
    path = folder / "prepared.json"
    if not path.is_file():
        if (folder / "cache" / _CACHE_MARK).is_file():
            raise ValueError(f"{str(folder)!r} is not complete; run `dia-hf prepare` again, which goes on from there.")
        raise ValueError(f"{str(folder)!r} holds no prepared clips; make them: dia-hf prepare SOURCE {str(folder)!r}.")
    info = read_json(path)
    if info.get("version") != _VERSION:
        raise ValueError(
            f"{str(folder)!r} is in version {first_line(info.get('version'), 60)} of the format; this dia_hf reads "
            f"version {_VERSION}: update it."
        )
    _check_fields(path, info, _FIELDS)
    return info


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(name, str) and name for name in value)


def _is_files(value: Any) -> bool:
    return _is_names(value) and all(os.path.basename(name) == name for name in value)


_AGAIN = "run `dia-hf prepare` again, which writes it anew"
# Where, whether it has to be there, what would do, in code and in words.
_FIELDS: tuple[tuple[str, bool, Callable[[Any], bool], str], ...] = (
    ("codec", True, lambda value: isinstance(value, dict), "an object"),
    ("codec.fingerprint", True, lambda value: isinstance(value, str), "a text"),
    ("speaker_tokens", True, _is_names, "a list of tags"),
    ("settings", False, lambda value: isinstance(value, dict), "an object"),
    ("num_clips", False, lambda value: type(value) is int and value >= 0, "a whole number"),
    ("seconds", False, lambda value: type(value) in (int, float) and 0 <= value < float("inf"), "a number"),
    ("data_files", False, _is_files, "a list of files in the folder"),
)
_STATE_FIELDS: tuple[tuple[str, bool, Callable[[Any], bool], str], ...] = (
    (
        "_data_files",
        True,
        lambda value: (
            isinstance(value, list)
            and all(isinstance(file, dict) for file in value)
            and _is_files([file.get("filename") for file in value])
        ),
        "a list of files in the folder, each with its `filename`",
    ),
)


def _check_fields(
    path: Path, content: Mapping[str, Any], fields: Iterable[tuple[str, bool, Callable[[Any], bool], str]]
) -> None:
    for name, is_needed, will_do, wanted in fields:
        value: Any = content
        for key in name.split("."):
            value = value.get(key)
        if value is None and not is_needed:
            continue
        if not will_do(value):
            raise ValueError(
                f"{str(path)!r} is damaged: its `{name}` is {first_line(json.dumps(value), 80)}, and should be "
                f"{wanted}; {_AGAIN}."
            )


def _open_clips(folder: Path, names: Sequence[str] | None) -> Dataset:
    """Open the files of the data, those that are named or else those of state.json, and check what is in them."""
    datasets = import_datasets()
    state_file = folder / "state.json"
    state = read_json(state_file)
    _check_fields(state_file, state, _STATE_FIELDS)
    written = [file["filename"] for file in state["_data_files"]]
    for name in names or written:
        if not (folder / name).is_file():
            raise ValueError(f"{str(folder)!r} is damaged: there is no {name!r} in it; {_AGAIN}.")
    if names is None or names == written:
        read_json(folder / "dataset_info.json")
    try:
        if names is None or names == written:
            clips = datasets.load_from_disk(str(folder))
        else:  # an update was stopped between state.json and prepared.json
            clips = datasets.concatenate_datasets([datasets.Dataset.from_file(str(folder / name)) for name in names])
        clips.data.table.validate(full=True)  # or what is damaged would be read from beyond the file
    except MemoryError:
        raise
    except Exception as error:  # of `datasets` and pyarrow, whatever a damaged file makes of them
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"the data in {str(folder)!r} cannot be read ({why}); {_AGAIN}.") from error
    _check_columns(folder, clips)
    return clips


def _check_columns(folder: Path, clips: Dataset) -> None:
    from pyarrow import types

    schema = clips.data.table.schema
    wanted = {"id": types.is_string, "text": types.is_string, "seconds": types.is_floating, "codes": _is_codes}
    for name, will_do in wanted.items():
        if name not in clips.column_names or schema.get_field_index(name) < 0:
            raise ValueError(f"the data in {str(folder)!r} have no column {name!r}; {_AGAIN}.")
        kind, num_missing = schema.field(name).type, clips.data.table.column(name).null_count
        if not will_do(kind):
            raise ValueError(
                f"the data in {str(folder)!r} have the column {name!r} as {first_line(kind, 80)}, which is none of "
                f"ours; {_AGAIN}."
            )
        if num_missing:
            raise ValueError(f"the data in {str(folder)!r} lack {num_missing} values of {name!r}; {_AGAIN}.")


def _is_codes(kind: Any) -> bool:
    """Whether a type of pyarrow's is that of lists of lists of whole numbers."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    for _ in range(2):
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        kind = kind.value_type
    return types.is_integer(kind)
