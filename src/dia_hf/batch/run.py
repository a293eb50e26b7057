"""A run: the table is read once for its errors and what is left to do, and once more for the work.

The work itself is done by a function from rows to results: `RowSpeaker.speak` here, actors of Ray in `ray.py`.
"""

from __future__ import annotations

import os
import time
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..speech.dia import Dia
from ..speech.engine import SpeechEngine
from ..speech.fingerprints import fingerprint_of_model
from .output import BatchFolder, key_of
from .rows import BatchRow, BatchSettings, Failure, hash_of, read_rows
from .speak import Entry, RowSpeaker
from .voices import RowVoices

__all__ = ["BatchReport", "Speak", "identify", "run_batch", "run_table"]

Speak = Callable[[Iterable[tuple[BatchRow, str]]], Generator[Entry | Failure, None, None]]
"""Rows with their digests to results, in any order."""

_MAX_FAILURES = 100  # in a row, of unforeseen kinds: the fault is not in the rows
_NUM_NAMED = 3  # rows in an error message
_NOT_OF_SOUND = ("transformers_version", "_from_model_config", "alignment_heads")  # fields of a generation config


@dataclass(frozen=True)
class BatchReport:
    """Counts of a run.

    Attributes:
        num_rows (`int`): Rows of the table.
        num_done (`int`): Rows with an audio file.
        num_new (`int`): Rows that this run has spoken.
        seconds (`float`): Duration of all audio files.
        new_seconds (`float`): Duration of those of this run.
        elapsed (`float`): Seconds that this run took, from the first row on.
        finish_reasons (`dict[str, int]`): Number of rows of each `finish_reason`; see `Entry`.
        failures (`list[Failure]`): Rows without an audio file, in the order of the table.
    """

    num_rows: int
    num_done: int
    num_new: int
    seconds: float
    new_seconds: float
    elapsed: float
    finish_reasons: dict[str, int]
    failures: list[Failure]

    @property
    def speed(self) -> float:
        """Seconds of audio for each second of this run."""
        return self.new_seconds / self.elapsed if self.elapsed else 0.0

    @property
    def num_implausible(self) -> int:
        """Rows whose audio is implausible, or cut at a limit."""
        return self.num_done - self.finish_reasons.get("stop", 0)

    def __str__(self) -> str:
        lines = [
            f"{self.num_done} of {self.num_rows} rows have audio, {self.seconds:.1f} s; {self.num_new} of this run"
            + (f" in {self.elapsed:.1f} s ({self.speed:.2f} × real time)" if self.num_new else "")
        ]
        if self.num_implausible:
            lines.append(f"{self.num_implausible} are implausible or cut at a limit; the manifest says why")
        if self.failures:
            lines.append(f"{len(self.failures)} failed; such as")
        lines += [f"    row {failure.row} ({failure.id}): {failure.error}" for failure in self.failures[:_NUM_NAMED]]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for report.json, without the failures, which have a file of their own."""
        return {
            "rows": self.num_rows,
            "done": self.num_done,
            "failed": len(self.failures),
            "finish_reasons": dict(sorted(self.finish_reasons.items())),
            "seconds": round(self.seconds, 3),
            "last_run": {
                "rows": self.num_new,
                "seconds": round(self.new_seconds, 3),
                "elapsed": round(self.elapsed, 3),
                "speed": round(self.speed, 3),
            },
        }


def run_batch(
    dia: Dia,
    table: str | os.PathLike,
    output: str | os.PathLike,
    settings: BatchSettings | None = None,
    *,
    voices: str | os.PathLike | None = None,
    max_batch_size: int = 16,
    force: bool = False,
    verbose: bool = False,
) -> BatchReport:
    r"""Speak the rows of a table into files.

    `output` has the audio files; metadata.jsonl, the manifest, a line for each; failed.jsonl, the rows without audio;
    report.json; and batch.json, the settings. Another run with the same arguments speaks what is missing: after an
    interruption, where rows were added, and where rows failed. The audio of a row depends on the row, the settings and
    the model alone, not on other rows or their order.

    Args:
        dia (`Dia`): Model and processor.
        table (`str` or `os.PathLike`): .jsonl, .csv, .tsv or .parquet with the columns `text`, and perhaps `id`,
            `voice`, `voices`, `audio_prompt`, `audio_prompt_transcript`, `seed`, `cfg_scale`, `temperature`, `top_p`,
            `cfg_filter_top_k`, `max_seconds`, `speed` and `loudness`.
        output (`str` or `os.PathLike`): Folder, new or of an earlier run.
        settings (`BatchSettings`, *optional*): Format, seed, defaults of the rows.
        voices (`str` or `os.PathLike`, *optional*): Folder of saved voices; see `VoiceLibrary`.
        max_batch_size (`int`, defaults to 16): Chunks of text to generate at once.
        force (`bool`, defaults to `False`): Whether rows that have changed since they were spoken are spoken again, and
            those that are gone are dropped from the manifest.
        verbose (`bool`, defaults to `False`): Whether to show a progress bar.

    Returns:
        `BatchReport`: Counts, and the rows that failed.

    Raises:
        ValueError: If the table cannot be read, `output` has other contents or was begun with other settings, another
            process works in it, or rows have changed without `force`.
        FileNotFoundError: If there is no such table.
        OSError: If a file cannot be written.
        ImportError: If an option or the format needs a package that is not installed.
        RuntimeError: If 100 rows in a row fail for unforeseen reasons.

    Warns:
        UserWarning: For each column without a meaning, and if audio files of the manifest are missing.

    Example:
    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from dia_hf import Dia
    >>> from dia_hf.batch import BatchSettings, run_batch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder, "texts.csv")
    ...     _ = table.write_text("id,text\nhello,[S1] Hello.\nnothing,\n", "utf-8")
    ...     settings = BatchSettings("flac", options={"max_seconds": 0.5})
    ...     report = run_batch(Dia.from_pretrained(), table, f"{folder}/speech", settings)
    ...     files = [path.name for path in Path(folder).rglob("*.flac")]
    >>> report.num_done, report.seconds, files
    (1, 0.48, ['hello.flac'])
    >>> report.failures[0].error
    '`text` is missing; give the text to speak.'

    ```
    """
    settings = settings or BatchSettings()
    table, row_voices = Path(table), RowVoices(Path(table), voices)

    @contextmanager
    def open_speaker() -> Iterator[Speak]:
        with SpeechEngine(dia, max_batch_size) as engine:
            yield RowSpeaker(engine, Path(output), settings, row_voices).speak

    return run_table(table, Path(output), settings, row_voices, identify(dia), open_speaker, force, verbose)


def identify(dia: Dia) -> dict[str, Any]:
    """Return what determines the audio of a model, as JSON has it."""
    generation = dia.model.generation_config.to_diff_dict()
    return {
        "weights": fingerprint_of_model(dia.model),
        "codec": dia.processor.codec.fingerprint,
        "sampling_rate": dia.sampling_rate,
        "generation": {name: value for name, value in generation.items() if name not in _NOT_OF_SOUND},
    }


def run_table(
    table: Path,
    output: Path,
    settings: BatchSettings,
    voices: RowVoices,
    model: Mapping[str, Any],
    open_speaker: Callable[[], AbstractContextManager[Speak]],
    force: bool = False,
    verbose: bool = False,
) -> BatchReport:
    """Do what `run_batch` does, with any function from rows to results.

    Args:
        table, output, settings, force, verbose: See `run_batch`.
        voices (`RowVoices`): Voices of the table.
        model (`Mapping[str, Any]`): From `identify`.
        open_speaker (`Callable`): Opens the function, unless there is nothing to do.

    Raises:
        Exception: As `run_batch` does.
    """
    folder = BatchFolder(output)
    with folder.held():
        plan = _Plan(table, settings, voices, folder)
        plan.read(force, {**_as_dict(settings), **model})
        begin, num_new, new_seconds = time.perf_counter(), 0, 0.0
        if plan.num_left:
            with open_speaker() as speak, closing(_results(plan, speak(plan.rows_left()), verbose)) as entries:
                begin = time.perf_counter()
                for entry in entries:
                    folder.add(entry)
                    num_new, new_seconds = num_new + 1, new_seconds + entry.seconds
        elapsed = time.perf_counter() - begin
        done = [folder.done[key] for key in plan.keys if key in folder.done]
        plan.failures.sort(key=lambda failure: failure.row)
        report = BatchReport(
            num_rows=plan.num_rows,
            num_done=len(done),
            num_new=num_new,
            seconds=sum(one.seconds for one in done),
            new_seconds=new_seconds,
            elapsed=elapsed,
            finish_reasons=dict(Counter(one.finish_reason for one in done)),
            failures=plan.failures,
        )
        folder.finish(plan.keys, plan.failures, report.to_dict())
    return report


def _as_dict(settings: BatchSettings) -> dict[str, Any]:
    return {**vars(settings), "options": dict(settings.options)}


class _Plan:
    """Work of a run: rows, failures, and the order of the manifest.

    Attributes:
        keys (`array`): Hashes of the ids of the rows that can be spoken.
        failures (`list[Failure]`): The other ones; further ones are added by the work.
        num_rows, num_left (`int`): Rows; those that have no audio file yet.
    """

    def __init__(self, table: Path, settings: BatchSettings, voices: RowVoices, folder: BatchFolder) -> None:
        self.table, self.settings, self.voices, self.folder = table, settings, voices, folder
        self.keys, self.failures = array("Q"), list[Failure]()
        self.num_rows = self.num_left = 0

    def read(self, force: bool, settings: Mapping[str, Any]) -> None:
        """Read the table, and compare it with the folder."""
        rows = self._read(warns=True)
        first = next(rows, None)  # a table that cannot be read leaves no folder
        if first is None:
            raise ValueError(f"{str(self.table)!r} has no rows.")
        self.folder.open(settings)
        if self.folder.num_missing:
            warnings.warn(
                f"{self.folder.num_missing} files of the manifest in {str(self.folder.path)!r} are missing; their rows "
                "are spoken again.",
                stacklevel=4,
            )
        changed = []
        for row, digest in chain([first], rows):
            self.num_rows += 1
            if isinstance(row, Failure):
                self.failures.append(row)
                continue
            key = key_of(row.id)
            self.keys.append(key)
            done = self.folder.done.get(key)
            if done is not None and done.digest != digest:
                changed.append((key, row.id))
            self.num_left += done is None
        self._settle(changed, force)

    def _settle(self, changed: list[tuple[int, str]], force: bool) -> None:
        """Have changed rows spoken again, if that is wanted."""
        done = self.folder.done
        gone = done.keys() - set(self.keys)
        failed = [failure for failure in self.failures if key_of(failure.id) in gone]
        if failed and not force:
            names = "; ".join(f"row {one.row} ({one.id}): {one.error}" for one in failed[:_NUM_NAMED])
            raise ValueError(
                f"{len(failed)} rows that were spoken into {str(self.folder.path)!r} cannot be spoken any more "
                f"({names}); correct them, or give `force` (--force) to drop them from the manifest."
            )
        if (changed or gone) and not force:
            names = ", ".join(repr(row_id) for _, row_id in changed[:_NUM_NAMED])
            what = f"{len(changed)} rows ({names}) ask for something else" if changed else ""
            what += " and " * bool(changed and gone) + (f"{len(gone)} are gone" if gone else "")
            raise ValueError(
                f"since rows of {str(self.table)!r} were spoken into {str(self.folder.path)!r}, {what}; give another "
                "folder, or `force` (--force) to speak changed rows again and to drop the others from the manifest."
            )
        for key, _ in changed:
            del done[key]
        self.num_left += len(changed)

    def rows_left(self) -> Iterator[tuple[BatchRow, str]]:
        """Yield the rows without an audio file, with their digests."""
        for row, digest in self._read():
            if isinstance(row, BatchRow) and key_of(row.id) not in self.folder.done:
                yield row, digest

    def _read(self, warns: bool = False) -> Iterator[tuple[BatchRow | Failure, str]]:
        for row in read_rows(self.table, self.settings, warns):
            if isinstance(row, BatchRow):
                try:
                    yield row, hash_of(f"{row.digest} {self.voices.find(row)}")
                except (ValueError, OSError) as error:
                    yield Failure(row.number, row.id, str(error)), ""
            else:
                yield row, ""


def _results(plan: _Plan, results: Generator[Entry | Failure, None, None], verbose: bool) -> Generator[Entry]:
    """Yield the rows that were spoken, and add the others to the failures."""
    seconds, num_in_a_row = 0.0, 0
    total = len(plan.keys)
    with (
        closing(results),
        tqdm(desc="speaking", total=total, initial=total - plan.num_left, unit=" rows", disable=not verbose) as bar,
    ):
        for result in results:
            if isinstance(result, Entry):
                num_in_a_row = 0
                seconds += result.seconds
                yield result
            else:
                plan.failures.append(result)
                num_in_a_row = 0 if result.is_foreseen else num_in_a_row + 1
                if num_in_a_row == _MAX_FAILURES:
                    raise RuntimeError(
                        f"the last {num_in_a_row} rows failed, the last of them ({result.id!r}) with {result.error}"
                    )
            bar.set_postfix_str(f"{seconds / 3600:.2f} h of audio, {len(plan.failures)} failed", refresh=False)
            bar.update()
