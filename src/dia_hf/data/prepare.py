"""Data preparation: recordings and transcripts to a dataset of text and codes on disk, with a report.

Each row takes two steps: its text is normalized for the tokenizer (`transcripts.py`), and its audio is encoded
(`encoding.py`). Rows that fail are listed in the report, and the run continues. Codes are cached, so that another run
after an interruption, or with more rows, encodes only new clips; the dataset is written from the cache. Knows nothing
of batches, delay or models; called by users and the command line.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .._extras import import_extra
from ..assets import MINIATURE
from ..atomic_write import LOCK, atomic_write, find_held, is_leftover, locked
from ..processing_dia import DiaProcessor
from .clips import file_of
from .config import TAG, PrepareConfig
from .dialogues import JoinCounts, join_turns
from .encoding import Cache, Pending, Recording, encode_rows
from .prepare_report import Clip, Issue, PrepareReport, plot_report, write_jsonl
from .prepared import CACHE_MARK, VERSION, tags_of
from .rows import Row, RowError
from .sources import open_source
from .tables import USUAL_COLUMNS
from .transcripts import TAG_HINT, Texts

__all__ = ["prepare_dataset"]

logger = logging.getLogger(__name__)

_CACHE_NOTE = """\
Signature: 8a477f597d28d172789f06886806bc55
# Codes of clips, cached by `dia-hf prepare`. They can be deleted; the next run then encodes all clips again.
"""
_CLIPPED_SHARE = 1e-4  # of the samples: audible above this
_PHONE_RATE = 16000  # hertz: below this, the upper half of the codec's frequency range is missing


class _Run:
    """State of one run over a source: kept clips, rejected rows and warnings."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.num_rows = 0
        self._kept: dict[int, tuple[Row, Clip, float]] = {}  # by position, with the share of clipped samples
        self._rejected: dict[int, Issue] = {}
        self._first: dict[str, tuple[int, Row]] = {}  # by id, with its position
        self._repeated: dict[int, int] = {}  # position of a row to that of the first row with its id
        self._num_encoded = 0
        self._seconds = 0.0

    def read(self, rows: Iterable[Row], bar: tqdm) -> Iterator[Pending]:
        """Yield the rows with a valid text, id and path."""
        for position, row in enumerate(rows):
            self.num_rows += 1
            try:
                text = self.texts.make(row.text, row.speaker, row.language)
                if isinstance(row.audio, RowError):
                    raise row.audio
                known = replace(row, audio=None, text=None)  # without the audio, which may be large
                first_position, first = self._first.setdefault(row.id, (position, known))
                if first is not known:
                    self._repeated[position] = first_position
                    where = f"row {first.number}" + ("" if first.source == row.source else f" of {first.source}")
                    raise RowError("duplicate_id", f"{where} has the same id, {row.id!r}.")
            except RowError as error:
                self._reject(position, row, error, bar)
                continue
            yield Pending(position, row, text, self.texts.num_characters(text))

    def finish(self, item: Pending, found: Recording | RowError, bar: tqdm) -> None:
        """Keep or reject an encoded clip."""
        row = item.row
        if isinstance(found, RowError):
            self._reject(item.position, row, found, bar)
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
            speakers=row.speakers or (() if row.speaker is None else (row.speaker,)),
            session=row.session,
        )
        self._kept[item.position] = replace(row, audio=file_of(row.audio), text=None), clip, found.clipped
        self._num_encoded += found.is_new
        self._seconds += found.seconds
        self._show(bar)

    def _reject(self, position: int, row: Row, error: RowError, bar: tqdm) -> None:
        logger.info("%s row %d: %s", row.source, row.number, error.reason)
        self._rejected[position] = _issue(row, error.code, error.reason)
        self._show(bar)

    def _show(self, bar: tqdm) -> None:
        bar.set_postfix_str(f"{self._seconds / 3600:.2f} h, {len(self._rejected)} rejected", refresh=False)
        bar.update()

    def report(self, source: str) -> PrepareReport:
        """Return the report, in the order of the source."""
        kept = [self._kept[position] for position in sorted(self._kept)]
        rejected = [self._explain(position) for position in sorted(self._rejected)]
        warned = [issue for row, clip, clipped in kept for issue in self._warn(row, clip, clipped)]
        return PrepareReport(source, self.num_rows, [clip for _, clip, _ in kept], rejected, warned, self._num_encoded)

    def _explain(self, position: int) -> Issue:
        """Add to a duplicate id whether the first row with it was rejected, which is known only at the end."""
        issue = self._rejected[position]
        if self._repeated.get(position) not in self._rejected:
            return issue
        return replace(issue, reason=f"{issue.reason.removesuffix('.')}, and was rejected.")

    def _warn(self, row: Row, clip: Clip, clipped: float) -> Iterator[Issue]:
        if clip.sampling_rate < _PHONE_RATE:
            reason = f"it was recorded at {clip.sampling_rate} Hz; the voice will have this bandwidth."
            yield _issue(row, "low_sampling_rate", reason)
        if clipped > _CLIPPED_SHARE:
            yield _issue(row, "clipping", f"{clipped:.2%} of its samples are at full scale: the clip is distorted.")
        # Only now are all tags known.
        if brackets := [tag for tag in dict.fromkeys(TAG.findall(clip.text)) if tag not in self.texts.tags]:
            reason = f"{', '.join(brackets)} will be read as letters; if it is a tag, {TAG_HINT}."
            yield _issue(row, "unknown_brackets", reason)


def _issue(row: Row, code: str, reason: str) -> Issue:
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
    use_ray: bool = False,
    device: str | None = None,
    verbose: bool = False,
) -> PrepareReport:
    """Make a dataset of text and codes from recordings and their transcripts.

    Each clip is read, mixed to mono, resampled, loudness-normalized, trimmed of silence at its ends, filtered and
    encoded. Unusable rows are listed in `dest`/rejected.jsonl with file, row and reason, and the run continues.

    Another run with the same `dest` encodes only new clips: after an interruption, or when rows were added or
    transcripts corrected. The same source and settings give the same dataset in the source's order, for any number of
    processes; codes are equal up to the rounding of the codec's arithmetic.

    Args:
        source: Folder, table or dataset: see `dia_hf.data.sources.open_source`.
        dest (`str` or `os.PathLike`): Output folder, new or of an earlier run. `load_prepared` and
            `datasets.load_from_disk` open it.
        processor (`DiaProcessor`): Processor with the tokenizer and the codec of the model to be trained.
        settings (`PrepareConfig`, *optional*): Further settings.
        split, config (`str`, *optional*): Split and config of a dataset that has several.
        num_proc (`int`, defaults to 1): Number of encoding processes, each with its own codec and one thread. Above 1,
            a script must call this function under `if __name__ == "__main__":`.
        use_ray (`bool`, defaults to `False`): Whether to encode in `num_proc` actors of Ray instead of processes, each
            with a GPU or its share of the cores: on the cluster of `RAY_ADDRESS`, or on one of this machine. On several
            machines, recordings and `dest` are in folders that all of them share.
        device (`str`, *optional*): Device for encoding; by default that of the processor's codec.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `PrepareReport`: Kept and rejected rows. Also written to `dest` as report.json, .md and .png.

    Raises:
        ValueError: If no clip is usable, `dest` has other contents or contains the source, another process writes
            there, or no id is left for a tag; and as `open_source`.
        FileNotFoundError: If the source does not exist.
        ImportError: If `datasets` is not installed.
        OSError: If a file cannot be written, or a process dies. Clips encoded so far are kept.
        RuntimeError: If an actor fails.

    Warns:
        UserWarning: If pyloudnorm is not installed: loudness is not normalized then.

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
    import_extra("datasets")
    settings = settings if settings is not None else PrepareConfig()
    if num_proc < 1:
        raise ValueError(f"`num_proc` is {num_proc}; it must be 1 or more.")
    codec, extractor = processor.codec, processor.feature_extractor
    if codec.sampling_rate != extractor.sampling_rate:
        raise ValueError(
            f"the sampling rate of the codec is {codec.sampling_rate} Hz, that of the feature extractor "
            f"{extractor.sampling_rate} Hz; they must be equal."
        )
    done = settings
    if settings.loudness is not None and importlib.util.find_spec("pyloudnorm") is None:
        warnings.warn(
            '`pyloudnorm` is not installed (`pip install "dia-hf[audio]"`); the loudness of clips is not normalized.',
            stacklevel=2,
        )
        done = replace(settings, loudness=None)
    folder = Path(dest)
    _check_dest(folder)
    texts, counts = Texts(processor.tokenizer, settings), JoinCounts()
    opened = open_source(
        source,
        {role: getattr(settings, f"{role}_column") for role in USUAL_COLUMNS},
        split,
        config,
        audio_root=settings.audio_root,
        tiers=settings.tiers,
        tags=texts.tokenizer.speaker_tokens,
        speaker_tags=settings.speaker_tags,
    )
    if isinstance(source, str | os.PathLike) and find_held(folder, [source]) is not None:
        raise ValueError(
            f"{str(folder)!r} contains the source {os.fspath(source)!r}; the output would be mixed with it. Give "
            "another folder."
        )
    run = _Run(texts)
    cache = folder / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"another process is preparing {str(folder)!r}; wait for it, or give another folder."):
        with atomic_write(cache / CACHE_MARK) as beside:
            beside.write_text(_CACHE_NOTE, "utf-8")
        model = processor.audio_tokenizer
        with tqdm(desc="preparing", total=opened.num_rows, unit=" clips", disable=not verbose) as bar:
            max_length = int(texts.tokenizer.model_max_length)
            rows = join_turns(opened.rows, settings, texts.tokenizer.speaker_tokens, max_length, counts)
            pending = run.read(rows, bar)
            for item, found in encode_rows(pending, num_proc, use_ray, model, extractor, done, cache, device):
                run.finish(item, found, bar)
        report = replace(run.report(opened.name), layout=opened.layout, joined=counts if counts.num_turns else None)
        if settings.join_turns is None and (number := _count_conversations(report.clips)):
            note = f"{number} sessions have several speakers: `join_turns` (--join-turns) makes dialogues of them."
            report = replace(report, notes=[note])
        if settings.join_turns and not counts.num_turns:
            note = "nothing was joined (--join-turns): no row has a session, or is a segment of a recording."
            report = replace(report, notes=[note])
        if not report.clips:
            write_jsonl(folder / "rejected.jsonl", report.rejected)
            raise ValueError(_explain_nothing(report, folder))
        info = {
            "version": VERSION,
            "codec": {
                "fingerprint": codec.fingerprint,
                "sampling_rate": codec.sampling_rate,
                "hop_length": codec.hop_length,
                "num_codebooks": codec.num_codebooks,
            },
            "model": _name_of(processor),
            **tags_of(run.texts.tokenizer),
            "settings": {**_fields(done), "source": opened.name, "split": split, "config": config},
            "num_clips": len(report.clips),
            "seconds": round(report.seconds, 3),
        }
        return _write(folder, report, info)


def _count_conversations(clips: Iterable[Clip]) -> int:
    """Count the sessions whose clips have different speakers."""
    speakers: dict[str, set[str]] = {}
    for clip in clips:
        if clip.session is not None and len(clip.speakers) == 1:
            speakers.setdefault(clip.session, set()).update(clip.speakers)
    return sum(len(names) > 1 for names in speakers.values())


def _name_of(processor: DiaProcessor) -> str | None:
    """Return the checkpoint of a processor: a Hub id, "miniature", or the absolute path of a folder."""
    name = str(getattr(processor.tokenizer, "name_or_path", "") or "")
    if not name or name == MINIATURE:
        return "miniature" if name else None
    return os.path.abspath(name) if os.path.isdir(name) else name


def _fields(settings: PrepareConfig) -> dict[str, Any]:
    """Return the settings as JSON-serializable values."""
    tags = settings.extra_tags
    extra_tags = dict(tags) if isinstance(tags, Mapping) and any(tags.values()) else list(tags)
    values = {"speaker_tags": dict(settings.speaker_tags), "extra_tags": extra_tags, "tiers": list(settings.tiers)}
    return {**vars(settings), **values}


def _check_dest(folder: Path) -> None:
    """Raise `ValueError` if a folder has other contents."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; give a folder.")
    if not folder.is_dir() or (folder / "prepared.json").is_file() or (folder / "cache" / CACHE_MARK).is_file():
        return
    # A run that was killed before it wrote the marker leaves nothing else.
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
    examples = {code: next(issue for issue in report.rejected if issue.code == code) for code, _ in counts}
    reasons = "; ".join(
        f"{count} × {code} (row {examples[code].row}: {examples[code].reason.rstrip('.')})" for code, count in counts
    )
    return (
        f"none of the {report.num_rows} rows of {report.source!r} can be used: {reasons}. All of them are listed in "
        f"{str(folder / 'rejected.jsonl')!r}."
    )


def _write(folder: Path, report: PrepareReport, info: Mapping[str, Any]) -> PrepareReport:
    """Write the new dataset beside the old one, and switch to it by writing prepared.json last.

    Data files are named by their content, so that old and new ones can coexist; readers open the files that
    prepared.json lists.
    """
    for left in folder.glob(".new-*"):  # left by a run that was killed
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
        report = replace(report, notes=[*report.notes, "report.png was not written: install matplotlib."])
    _write_json(folder / "report.json", report.to_dict())
    with atomic_write(folder / "report.md") as beside:
        beside.write_text(report.to_markdown(), "utf-8", errors="backslashreplace")
    _write_json(folder / "prepared.json", {**info, "data_files": names})
    for path in folder.glob("data-*.arrow"):
        if path.name not in names:
            path.unlink()
    return report


def _name_by_content(dataset: Path) -> dict[str, Any]:
    """Rename the data files of a dataset on disk by their content, and return its state.json with the new names.

    The fingerprint is a hash of the content; that of `datasets` is random.
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
    """Write the dataset clip by clip: the codes of a thousand hours are 5 GB."""
    from datasets import Array2D, Dataset, Features, Sequence, Value
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
            "speakers": Sequence(Value("string")),
            "session": Value("string"),
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
