"""Recordings and transcripts to a dataset of text and codes on disk, with a report of what was kept and what not.

A row goes through two gates: its text is made ready for the tokenizer, with tags, and its audio is read, levelled,
trimmed and encoded. What fails is written down and the rest goes on. Codes are cached under the hash of the audio, so
that a run that was stopped, or a source that has grown, costs only what is new; the dataset is written from the cache.
Knows nothing of batches, delay or models; called by users and by the command line.

Legend: N samples, T frames, C codebooks.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import logging
import math
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import tempfile
import threading
import unicodedata
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors
from tqdm.auto import tqdm

from ..codec import Codec
from ..feature_extraction_dia import DiaFeatureExtractor
from ..files import written_whole
from ..processing_dia import DiaProcessor
from ..sound import measure_loudness, normalize_loudness, trim_silence
from ..tokenization_dia import DiaTokenizer
from .report import Clip, Notice, PrepareReport, plot_report, write_jsonl
from .source import AUDIO_SUFFIXES, Row, RowError, digest_audio, import_datasets, is_missing, open_source, read_clip

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["PrepareSettings", "load_prepared", "prepare_dataset"]

logger = logging.getLogger(__name__)

_VERSION = 1  # of prepared.json
_CACHE_VERSION = 1  # of what is done to audio: a change makes all cached codes stale
_CACHE_MARK = "CACHEDIR.TAG"  # https://bford.info/cachedir/: backups leave such a folder out
_CACHE_NOTE = """\
Signature: 8a477f597d28d172789f06886806bc55
# Codes of clips, kept by `dia-hf prepare`. They can be deleted; the next run then encodes all clips again.
"""
_DATASET_FILES = ("data-*.arrow", "state.json", "dataset_info.json")
_CLIPS_PER_JOB = 16
_FRAMES_PER_PASS_ON_GPU = 4096  # by the figure of `Codec`, 8 GB with the published one
_SILENT = -60.0  # dBFS: what never gets louder holds no speech
_LOUDNESS_SECONDS = 0.4  # below, BS.1770 knows no loudness
_PHONE_RATE = 16000  # hertz: below, the upper half of what the codec can say is missing
_FULL_SCALE, _CLIPPED_SHARE = 0.999, 1e-4
_MAX_TAGS = 8  # id 9 is the tab
_SPEAKER_TAG = re.compile(r"\[S\d+\]")
_TAG = re.compile(r"\[[^\[\]\s]+\]")
_LEADING_TAG = re.compile(r"(\[[^\[\]\s]+\]) ?")
_NUMBER = re.compile(r"[\d\s.,:;%/+-]*\d[\d\s.,:;%/+-]*")
_TAG_HINT = "declare it: `extra_tags` (--extra-tag)"


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What `prepare_dataset` looks for, does and refuses.

    Args:
        audio_column, text_column, speaker_column, language_column, id_column (`str`, *optional*): Names of the
            columns. Those of audio, text, speaker and id are found by the usual names unless given; a language is
            used only if it is asked for, and puts a tag such as "[nl]" before the text.
        speaker_tags (`Mapping[str, str]`): The tag of each speaker, such as `{"anna": "[S1]", "ben": "[S2]"}`, for
            texts without a tag. Without it they get "[S1]", whoever speaks.
        extra_tags (`Sequence[str]`): Further tags that stand in texts, such as "[S3]". They and those of languages, in
            the order in which they come up, take the ids after the tokenizer's own.
        loudness (`float`, *optional*, defaults to -23.0): In LUFS, with pyloudnorm; `None` leaves it alone.
        keep_silence (`float`, *optional*, defaults to 0.1): Seconds of silence that stay at both ends; `None` cuts
            nothing off.
        min_seconds (`float`, defaults to 0.5): Shorter clips are rejected, measured without silence at the ends.
        max_seconds (`float`, *optional*, defaults to 60.0): Longer ones, too, and all that are twice as long with
            silence; `None` lets all pass.
        min_characters_per_second, max_characters_per_second (`float`, default to 3.0 and 40.0): Outside, text and
            audio do not belong together.

    Raises:
        ValueError: If a number is out of range, or a tag no word in brackets.
    """

    audio_column: str | None = None
    text_column: str | None = None
    speaker_column: str | None = None
    language_column: str | None = None
    id_column: str | None = None
    speaker_tags: Mapping[str, str] = field(default_factory=dict)
    extra_tags: Sequence[str] = ()
    loudness: float | None = -23.0
    keep_silence: float | None = 0.1
    min_seconds: float = 0.5
    max_seconds: float | None = 60.0
    min_characters_per_second: float = 3.0
    max_characters_per_second: float = 40.0

    def __post_init__(self) -> None:
        for tag in (*self.speaker_tags.values(), *self.extra_tags):
            _check_tag(tag)
        if self.loudness is not None and not -70 <= self.loudness <= 0:
            raise ValueError(f"`loudness` is {self.loudness} LUFS; it is between -70 and 0, or None.")
        if self.keep_silence is not None and not 0 <= self.keep_silence < math.inf:
            raise ValueError(f"`keep_silence` is {self.keep_silence} s; it is 0 or more, or None.")
        for name, low, high in (
            ("seconds", self.min_seconds, math.inf if self.max_seconds is None else self.max_seconds),
            ("characters_per_second", self.min_characters_per_second, self.max_characters_per_second),
        ):
            if not 0 <= low < high:
                raise ValueError(f"`min_{name}` is {low} and `max_{name}` {high}; they are 0 or more, in this order.")


def _check_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{tag!r} is no tag; a tag is a word in square brackets, such as '[S3]' or '[nl]'.")


class _Texts:
    """Makes texts ready for the tokenizer; learns the tags of languages as they come up."""

    def __init__(self, tokenizer: DiaTokenizer, settings: PrepareSettings) -> None:
        self._max_length = int(tokenizer.model_max_length)
        self._speaker_tags = settings.speaker_tags
        self.tags: list[str] = []
        for tag in (*tokenizer.speaker_tokens, *settings.extra_tags):
            self._declare(tag)
        for speaker, tag in self._speaker_tags.items():
            if tag not in self.tags:
                raise ValueError(
                    f"`speaker_tags` gives {speaker!r} the tag {tag!r}, but the tags are {', '.join(self.tags)}; "
                    f"{_TAG_HINT}."
                )

    def _declare(self, tag: str) -> None:
        if tag not in self.tags:
            if len(self.tags) == _MAX_TAGS:
                raise ValueError(
                    f"{', '.join(self.tags)} and {tag} are more than the {_MAX_TAGS} tags that Dia can tell apart."
                )
            self._tokenizer = DiaTokenizer(max_length=self._max_length, speaker_tokens=[*self.tags, tag])
            self.tags.append(tag)

    def _is_speaker(self, tag: str) -> bool:
        return tag in self.tags and (_SPEAKER_TAG.fullmatch(tag) is not None or tag in self._speaker_tags.values())

    def make(self, raw: Any, speaker: str | None, language: str | None) -> str:
        """Return the text with its tags, in Unicode's composed form, blanks and line ends as single blanks."""
        if isinstance(raw, RowError):
            raise raw
        if is_missing(raw):
            raise RowError("empty_text", "the transcript is empty.")
        if isinstance(raw, (int, float)) or (isinstance(raw, str) and _NUMBER.fullmatch(raw.strip())):
            raise RowError(
                "text_is_number",
                f"the transcript is the number {str(raw).strip()}; name the column of the text, or write it out.",
            )
        if not isinstance(raw, str):
            raise RowError("text_not_string", f"the transcript is a {type(raw).__name__}; it must be a string.")
        text = " ".join(unicodedata.normalize("NFC", raw).split())
        if text.lower().endswith(AUDIO_SUFFIXES) and (" " not in text or re.search(r"[/\\]", text)):
            raise RowError("text_is_path", f"the transcript is a file's name, {text!r}; name the column of the text.")
        tags = _TAG.findall(text)
        for tag in tags:
            if _SPEAKER_TAG.fullmatch(tag) and tag not in self.tags:
                raise RowError("unknown_tag", f"{tag} is none of {', '.join(self.tags)}; {_TAG_HINT}.")
        if self.num_characters(text) == 0:
            raise RowError("empty_text", f"the transcript {text!r} has no words.")
        if language is not None:
            tag = language if _TAG.fullmatch(language) else f"[{language}]"
            if not _TAG.fullmatch(tag):
                raise RowError("unknown_language", f"the language is {language!r}; it is one word, such as 'nl'.")
            self._declare(tag)
            text = text if tag in tags else f"{tag} {text}"
        if not any(self._is_speaker(tag) for tag in tags):
            # After the tags of languages and the like, which stand at the very beginning.
            begin = 0
            while (match := _LEADING_TAG.match(text, begin)) and match[1] in self.tags:
                begin = match.end()
            text = f"{text[:begin]}{self._tag_of(speaker)} {text[begin:]}"
        self._check(text)
        return text

    def _tag_of(self, speaker: str | None) -> str:
        if not self._speaker_tags:
            return self.tags[0]
        if speaker is None or speaker not in self._speaker_tags:
            raise RowError(
                "speaker_without_tag",
                f"the speaker {speaker!r} has no tag among those of {', '.join(map(repr, self._speaker_tags))}; give "
                "all speakers one: `speaker_tags` (--speaker-tag).",
            )
        return self._speaker_tags[speaker]

    def _check(self, text: str) -> None:
        for character in text:
            # The lowest bytes are padding and tags, lone surrogates are no UTF-8.
            if ord(character) < 9 or unicodedata.category(character) == "Cs":
                raise RowError("unreadable_text", f"the transcript holds the character U+{ord(character):04X}.")
        length = len(self._tokenizer.tokenize(text))
        if length > self._max_length:
            raise RowError(
                "text_too_long",
                f"the transcript has {length} ids (UTF-8 bytes, a tag counting as one); Dia reads {self._max_length}.",
            )

    def num_characters(self, text: str) -> int:
        """Count the characters that are no tags and no blanks at the ends."""
        for tag in self.tags:
            text = text.replace(tag, " ")
        return len(" ".join(text.split()))


@dataclass(frozen=True)
class _Pending:
    """A row whose text has passed."""

    place: int
    row: Row
    text: str
    num_characters: int


@dataclass(frozen=True)
class _Recording:
    """What was found in a clip's audio. Its codes are in the cache."""

    key: str
    seconds: float
    seconds_before: float
    sampling_rate: int
    loudness: float | None
    clipped: float  # share of the samples
    is_new: bool = False


class _Cache:
    """Codes and what else was found, a file a clip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> _Recording | None:
        try:
            with safe_open(self._path(key), framework="np") as file:
                return _Recording(key, **json.loads((file.metadata() or {})["recording"]))
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None  # a damaged file is as good as none

    def read_codes(self, key: str) -> np.ndarray:
        with safe_open(self._path(key), framework="np") as file:
            return file.get_tensor("codes")

    def put(self, recording: _Recording, codes: np.ndarray) -> None:
        found = {name: value for name, value in asdict(recording).items() if name not in ("key", "is_new")}
        with written_whole(self._path(recording.key)) as beside:
            beside.write_bytes(to_safetensors({"codes": codes}, {"recording": json.dumps(found)}))


class _Encoder:
    """Turns the audio of some rows into cached codes, those that are new in one batch."""

    def __init__(
        self, model: Any, extractor: DiaFeatureExtractor, settings: PrepareSettings, cache: Path, device: str | None
    ) -> None:
        place = next(model.parameters()).device
        wanted = place if device is None else torch.device(device)
        if wanted.type != place.type or wanted.index not in (None, place.index):
            model = copy.deepcopy(model).to(wanted)  # the caller's own stays where it is
        self._codec = Codec(model) if wanted.type == "cpu" else Codec(model, _FRAMES_PER_PASS_ON_GPU)
        self._extractor = extractor
        self._settings = settings
        self._cache = _Cache(cache)
        done = [_CACHE_VERSION, settings.loudness, settings.keep_silence]
        self._salt = f"{json.dumps(done)} {self._codec.fingerprint} {self._codec.sampling_rate}".encode()

    def __call__(self, rows: Sequence[tuple[Any, int]]) -> list[_Recording | RowError]:
        """Encode.

        Args:
            rows: The audio of each, and the characters of its text.
        """
        found: list[_Recording | RowError] = []
        new: list[tuple[int, torch.Tensor]] = []
        for audio, num_characters in rows:
            try:
                key = hashlib.blake2b(self._salt + digest_audio(audio), digest_size=20).hexdigest()
                cached = self._cache.get(key)
                recording, waveform = self._read(key, audio) if cached is None else (cached, None)
                self._check(recording.seconds, num_characters)
                if waveform is not None:
                    new.append((len(found), torch.from_numpy(np.ascontiguousarray(waveform))))
                found.append(recording)
            except RowError as error:
                found.append(error)
        for (place, _), codes in zip(new, self._codec.encode([waveform for _, waveform in new]), strict=True):
            encoded = found[place]
            assert isinstance(encoded, _Recording)
            self._cache.put(encoded, codes.numpy().astype(np.int16))
        return found

    def _read(self, key: str, audio: Any) -> tuple[_Recording, np.ndarray]:
        """Read, resample, level and trim a clip."""
        settings, rate = self._settings, self._extractor.sampling_rate
        # Half of it may be silence; what is longer still costs no reading.
        unread = None if settings.max_seconds is None else 2 * settings.max_seconds
        samples, own_rate = read_clip(audio, unread)
        if samples.size == 0:
            raise RowError("unreadable_audio", "it holds 0 samples.")
        if samples.dtype.kind == "f" and not np.isfinite(samples).all():
            count = np.count_nonzero(~np.isfinite(samples))
            raise RowError("nan", f"{count} of {samples.size} samples are NaN or infinite.")
        try:
            (recorded,) = self._extractor.load_waveforms([{"array": samples, "sampling_rate": own_rate}])
        except (ValueError, RuntimeError) as error:
            raise RowError("unreadable_audio", str(error)) from error
        if trim_silence(recorded, rate, _SILENT).size == 0:
            raise RowError("silent", f"all of its {len(recorded) / rate:.1f} s are silent (below {_SILENT:.0f} dBFS).")
        waveform, loudness = recorded, None
        if settings.loudness is not None and len(recorded) >= _LOUDNESS_SECONDS * rate:
            measured = measure_loudness(recorded, rate)
            loudness = round(measured, 2) if math.isfinite(measured) else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that the peaks forbid the whole gain
                waveform = normalize_loudness(recorded, rate, settings.loudness)
        if settings.keep_silence is not None:
            waveform = trim_silence(waveform, rate, keep=settings.keep_silence)
        if waveform.size == 0:
            raise RowError("silent", f"all of its {len(recorded) / rate:.1f} s are silent.")
        full = np.iinfo(samples.dtype).max if samples.dtype.kind == "i" else 1.0
        clipped = float(np.mean(np.abs(samples.astype(np.float64)) >= _FULL_SCALE * full))
        seconds, before = len(waveform) / rate, len(recorded) / rate
        return _Recording(key, seconds, before, own_rate, loudness, clipped, is_new=True), waveform

    def _check(self, seconds: float, num_characters: int) -> None:
        settings = self._settings
        if seconds < settings.min_seconds:
            raise RowError("too_short", f"the clip has {seconds:.2f} s; it needs {settings.min_seconds} s.")
        if settings.max_seconds is not None and seconds > settings.max_seconds:
            raise RowError(
                "too_long", f"the clip has {seconds:.1f} s; at most are {settings.max_seconds} s: cut it at pauses."
            )
        speed = num_characters / seconds
        low, high = settings.min_characters_per_second, settings.max_characters_per_second
        if not low <= speed <= high:
            code = "text_too_short_for_audio" if speed < low else "text_too_long_for_audio"
            raise RowError(
                code,
                f"{num_characters} characters in {seconds:.1f} s are {speed:.1f} a second, not {low:g} to {high:g}; "
                "is it the transcript of this clip?",
            )


# Of a process of the pool: what encodes, and what says that nothing more is wanted.
_encoder: _Encoder | None = None
_is_over: Any = None


def _begin_process(is_over: Any, model: Path, *arguments: Any) -> None:
    global _encoder, _is_over
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C reaches all processes; the first one ends the others
    threading.Thread(target=_end_with_first, daemon=True).start()
    torch.set_num_threads(1)
    _encoder, _is_over = _Encoder(pickle.loads(model.read_bytes()), *arguments), is_over


def _end_with_first() -> None:
    """End this process when the first one is gone; killed, that can no longer end the others."""
    first = multiprocessing.parent_process()
    assert first is not None
    first.join()
    os._exit(1)


def _encode_in_process(rows: Sequence[tuple[Any, int]]) -> list[_Recording | RowError]:
    assert _encoder is not None
    return [] if _is_over.is_set() else _encoder(rows)


def _run_jobs(
    pending: Iterator[_Pending], num_proc: int, model: Any, *arguments: Any
) -> Iterator[tuple[_Pending, _Recording | RowError]]:
    """Encode what is pending, in its order."""
    jobs = iter(lambda: list(islice(pending, _CLIPS_PER_JOB)), [])

    def rows_of(job: Sequence[_Pending]) -> list[tuple[Any, int]]:
        return [(item.row.audio, item.num_characters) for item in job]

    if num_proc == 1:
        encoder = _Encoder(model, *arguments)
        for job in jobs:
            yield from zip(job, encoder(rows_of(job)), strict=True)
        return
    context = multiprocessing.get_context("spawn")  # a fork would break CUDA and the threads of torch
    is_over = context.Event()
    with tempfile.TemporaryDirectory() as folder:
        # The codec goes over as a file. Torch would take a file descriptor for each tensor, and a pipe that is filled
        # for a process that dies as it begins blocks for good.
        file = Path(folder, "codec.pickle")
        file.write_bytes(pickle.dumps(model))
        pool = ProcessPoolExecutor(num_proc, context, _begin_process, (is_over, file, *arguments))
        running: deque[tuple[list[_Pending], Future]] = deque()
        try:
            for job in jobs:
                running.append((job, pool.submit(_encode_in_process, rows_of(job))))
                if len(running) > 2 * num_proc:
                    done, future = running.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in running:
                yield from zip(done, future.result(), strict=True)
        except BrokenProcessPool as error:
            raise OSError(
                f"one of the {num_proc} processes has died: for lack of memory (try fewer), or because the script that "
                'began them does not do so under `if __name__ == "__main__":`. What is encoded is kept.'
            ) from error
        finally:
            is_over.set()  # jobs that a process has taken can no longer be cancelled
            pool.shutdown(wait=True, cancel_futures=True)


class _Run:
    """One pass over a source: what is kept and what is said of each row."""

    def __init__(self, texts: _Texts) -> None:
        self.texts = texts
        self.num_rows = 0
        self._kept: dict[int, tuple[Row, Clip, float]] = {}  # by place, with the share that is clipped
        self._rejected: dict[int, Notice] = {}
        self._first: dict[str, Row] = {}
        self._num_encoded = 0
        self._seconds = 0.0

    def read(self, rows: Iterable[Row], bar: tqdm) -> Iterator[_Pending]:
        """Yield the rows whose text, id and path will do."""
        for place, row in enumerate(rows):
            self.num_rows += 1
            try:
                text = self.texts.make(row.text, row.speaker, row.language)
                if isinstance(row.audio, RowError):
                    raise row.audio
                known = replace(row, audio=None, text=None)  # not to hold what it weighs
                first = self._first.setdefault(row.id, known)
                if first is not known:
                    where = f"row {first.number}" + ("" if first.source == row.source else f" of {first.source}")
                    raise RowError("duplicate_id", f"the id {row.id!r} is that of {where}, too.")
            except RowError as error:
                self._reject(place, row, error, bar)
                continue
            yield _Pending(place, row, text, self.texts.num_characters(text))

    def finish(self, item: _Pending, found: _Recording | RowError, bar: tqdm) -> None:
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
        self._kept[item.place] = replace(row, audio=_file_of(row), text=None), clip, found.clipped
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
        rejected = [self._rejected[place] for place in sorted(self._rejected)]
        warned = [notice for row, clip, clipped in kept for notice in self._warn(row, clip, clipped)]
        return PrepareReport(source, self.num_rows, [clip for _, clip, _ in kept], rejected, warned, self._num_encoded)

    def _warn(self, row: Row, clip: Clip, clipped: float) -> Iterator[Notice]:
        if clip.sampling_rate < _PHONE_RATE:
            reason = f"it was recorded at {clip.sampling_rate} Hz, and the voice will sound like that."
            yield _notice(row, "low_sampling_rate", reason)
        if clipped > _CLIPPED_SHARE:
            yield _notice(row, "clipping", f"{clipped:.2%} of its samples are at full scale: it is distorted.")
        # Only now is it known which tags there are.
        if brackets := [tag for tag in dict.fromkeys(_TAG.findall(clip.text)) if tag not in self.texts.tags]:
            reason = f"{', '.join(brackets)} will be read as letters; if it is a tag, {_TAG_HINT}."
            yield _notice(row, "unknown_brackets", reason)


def _file_of(row: Row) -> str | None:
    return row.audio if isinstance(row.audio, str) else None


def _notice(row: Row, code: str, reason: str) -> Notice:
    return Notice(row.source, row.number, row.id, _file_of(row), code, reason)


def prepare_dataset(
    source: Any,
    dest: str | os.PathLike,
    processor: DiaProcessor,
    settings: PrepareSettings | None = None,
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
        source: A folder, a table, a dataset: see `dia_hf.training.source.open_source`.
        dest (`str` or `os.PathLike`): Folder to be made, or made by an earlier run. `load_prepared` opens it, and
            so does `datasets.load_from_disk`.
        processor (`DiaProcessor`): With the tokenizer and the codec of the model to be trained.
        settings (`PrepareSettings`, *optional*): What else to choose.
        split, config (`str`, *optional*): Of a dataset with several.
        num_proc (`int`, defaults to 1): Processes that encode, each with a codec of its own and one thread. Above 1, a
            script has to call this under `if __name__ == "__main__":`.
        device (`str`, *optional*): Where to encode; where the processor's codec is unless given.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `PrepareReport`: What was kept and what not. Also in `dest`, as report.json, .md and .png.

    Raises:
        ValueError: If no clip is usable, `dest` holds something else, there are more than eight tags; and as
            `open_source` does.
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
    >>> from dia_hf.training import load_prepared, prepare_dataset
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
    settings = settings if settings is not None else PrepareSettings()
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
            "`pyloudnorm` is not installed (`pip install dia-hf[audio]`); clips stay as loud as they are.", stacklevel=2
        )
        done = replace(settings, loudness=None)
    folder = Path(dest)
    _check_dest(folder)
    columns = {role: getattr(settings, f"{role}_column") for role in ("audio", "text", "speaker", "language", "id")}
    opened = open_source(source, columns, split, config)
    run = _Run(_Texts(processor.tokenizer, settings))
    cache = folder / "cache"
    with written_whole(cache / _CACHE_MARK) as beside:
        beside.write_text(_CACHE_NOTE, "utf-8")
    model = processor.audio_tokenizer
    with tqdm(desc="preparing", total=opened.num_rows, unit=" clips", disable=not verbose) as bar:
        pending = run.read(opened.rows, bar)
        for item, found in _run_jobs(pending, num_proc, model, extractor, done, cache, device):
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
        "speaker_tokens": run.texts.tags,
        "settings": {**_fields(done), "source": opened.name, "split": split, "config": config},
        "num_clips": len(report.clips),
        "seconds": round(report.seconds, 3),
    }
    return _write(folder, report, info)


def _fields(settings: PrepareSettings) -> dict[str, Any]:
    """Return the settings as JSON can carry them."""
    return {**vars(settings), "speaker_tags": dict(settings.speaker_tags), "extra_tags": list(settings.extra_tags)}


def _check_dest(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file; give a folder.")
    is_ours = (folder / "prepared.json").is_file() or (folder / "cache" / _CACHE_MARK).is_file()
    if folder.is_dir() and not is_ours and any(folder.iterdir()):
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
    """Write the dataset beside the old one, take its place, and say last that the folder is complete."""
    for left in folder.glob(".new-*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    new = folder / f".new-{uuid.uuid4().hex}"
    try:
        _write_dataset(new, report.clips, _Cache(folder / "cache"), info["codec"]["num_codebooks"])
        (folder / "prepared.json").unlink(missing_ok=True)
        for pattern in _DATASET_FILES:
            for path in folder.glob(pattern):
                path.unlink()
        for path in (new / "dataset").iterdir():
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    write_jsonl(folder / "rejected.jsonl", report.rejected)
    write_jsonl(folder / "warnings.jsonl", report.warnings)
    try:
        plot_report(folder / "report.png", report)
    except ImportError:
        (folder / "report.png").unlink(missing_ok=True)
        report = replace(report, notes=["no report.png: it takes matplotlib."])
    _write_json(folder / "report.json", report.to_dict())
    with written_whole(folder / "report.md") as beside:
        beside.write_text(report.to_markdown(), "utf-8", errors="backslashreplace")
    _write_json(folder / "prepared.json", info)
    return report


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with written_whole(path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8", errors="backslashreplace")


def _write_dataset(folder: Path, clips: Sequence[Clip], cache: _Cache, num_codebooks: int) -> None:
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
        ValueError: If it is no such folder, not complete, or made by a newer version.
        ImportError: If `datasets` is missing.
    """
    folder = Path(folder)
    path = folder / "prepared.json"
    if not path.is_file():
        if (folder / "cache" / _CACHE_MARK).is_file():
            raise ValueError(f"{str(folder)!r} is not complete; run `dia-hf prepare` again, which goes on from there.")
        raise ValueError(f"{str(folder)!r} holds no prepared clips; make them: dia-hf prepare SOURCE {str(folder)!r}.")
    info = json.loads(path.read_text("utf-8"))
    if info.get("version") != _VERSION:
        raise ValueError(
            f"{str(folder)!r} is in version {info.get('version')} of the format; this dia_hf reads version {_VERSION}: "
            "update it."
        )
    return import_datasets().load_from_disk(str(folder)), info
