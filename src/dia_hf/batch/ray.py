"""Runs on a cluster: rows divided by Ray Data between actors, one for each device, each with an engine.

The driver reads the table, and writes the manifest as the rows come back; actors write the audio files, so the output
folder is one that all machines share. The rows have the same bytes as on one machine, on the same kind of device.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..assets import MINIATURE
from ..ray_cluster import cluster, resources_of
from ..speech.dia import Dia
from ..speech.engine import SpeechEngine, share_cores
from ..text_files import first_line
from .rows import BatchRow, BatchSettings, Failure
from .run import BatchReport, Speak, identify, run_table
from .speak import Entry, RowSpeaker
from .tables import check_table
from .voices import RowVoices

__all__ = ["run_batch_on_ray"]

_BLOCKS_AT_ONCE = 2  # of an actor: the batch stays full while the last rows of one block are spoken
_LOGGERS = ("ray", "ray.data")
_ERRORS = {"OSError": OSError, "ImportError": ImportError}


@dataclass(frozen=True)
class _Worker:
    """Arguments of an actor: the model, its device, and the run."""

    model: str
    compute_dtype: str | None
    device: str | None
    quantization: str | None
    max_batch_size: int
    num_cores: int
    table: Path
    output: Path
    settings: BatchSettings
    voices: Path | None

    def load(self) -> Dia:
        logging.getLogger("transformers").setLevel(logging.ERROR)
        dia = Dia.from_pretrained(self.model, self.compute_dtype, self.device, quantization=self.quantization)
        share_cores(dia, self.num_cores)
        return dia


class _Actor:
    """Actor of Ray Data: an engine, for blocks of rows in several threads."""

    def __init__(self, worker: _Worker) -> None:
        engine = SpeechEngine(worker.load(), worker.max_batch_size)
        voices = RowVoices(worker.table, worker.voices)
        self._speaker = RowSpeaker(engine, worker.output, worker.settings, voices)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, list[str]]:
        rows = [(BatchRow(**json.loads(row)), str(digest)) for row, digest in zip(*block.values(), strict=True)]
        results = []
        try:
            for result in self._speaker.speak(rows):
                results.append({"kind": type(result).__name__, **asdict(result)})
        except Exception as error:  # as a result, because Ray makes a long traceback of it
            kind = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), "")
            results.append({"kind": kind, "message": first_line(error, 500)})
        return {"result": [json.dumps(result) for result in results]}


def _identify(worker: _Worker) -> dict[str, Any]:
    return identify(worker.load())


def run_batch_on_ray(
    model: str | os.PathLike,
    table: str | os.PathLike,
    output: str | os.PathLike,
    settings: BatchSettings | None = None,
    *,
    num_actors: int | None = None,
    compute_dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    voices: str | os.PathLike | None = None,
    max_batch_size: int = 16,
    force: bool = False,
    verbose: bool = False,
) -> BatchReport:
    """Speak the rows of a table into files on a cluster, as `run_batch` does on one device.

    Args:
        model (`str` or `os.PathLike`): Checkpoint, which each machine loads.
        table, output, voices (`str` or `os.PathLike`): As in `run_batch`; on several machines in a folder that they
            share.
        settings (`BatchSettings`, *optional*): As in `run_batch`.
        num_actors (`int`, *optional*): Number of actors, each with a model. Default: one for each GPU of the cluster;
            without GPUs one, which has all processor cores.
        compute_dtype, device, quantization (`str`, *optional*): See `Dia.from_pretrained`.
        max_batch_size (`int`, defaults to 16): Chunks of text that an actor generates at once.
        force, verbose (`bool`): As in `run_batch`.

    Returns:
        `BatchReport`: Counts, and the rows that failed.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the cluster is too small for `num_actors`; and as `run_batch` does.
        FileNotFoundError, OSError: As `run_batch` does.
        RuntimeError: If an actor fails; and as `run_batch` does.
    """
    settings = settings or BatchSettings()
    table, output = Path(table).absolute(), Path(output).absolute()
    check_table(table)
    voices = None if voices is None else Path(voices).absolute()
    with cluster() as ray:
        number, resources = resources_of(ray, num_actors, device)
        worker = _Worker(
            model=str(Path(model).absolute()) if os.path.isdir(model) and str(model) != MINIATURE else str(model),
            compute_dtype=compute_dtype,
            device=device,
            quantization=quantization,
            max_batch_size=max_batch_size,
            num_cores=resources["num_cpus"],
            table=table,
            output=output,
            settings=settings,
            voices=voices,
        )
        identity = ray.get(ray.remote(max_calls=1, **resources)(_identify).remote(worker))

        @contextmanager
        def open_speaker() -> Iterator[Speak]:
            yield lambda rows: _speak(ray, rows, worker, number, resources)

        return run_table(table, output, settings, RowVoices(table, voices), identity, open_speaker, force, verbose)


def _speak(
    ray: Any,
    rows: Iterable[tuple[BatchRow, str]],
    worker: _Worker,
    num_actors: int,
    resources: Mapping[str, int],
) -> Generator[Entry | Failure, None, None]:
    """Divide rows between actors, and yield the results block by block as they come."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    blocks = list(_blocks(rows, 2 * worker.max_batch_size))
    compute = ray.data.ActorPoolStrategy(
        size=num_actors, max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE, enable_true_multi_threading=True
    )
    results = ray.data.from_arrow(blocks).map_batches(
        _Actor, fn_constructor_args=(worker,), batch_size=None, batch_format="numpy", compute=compute, **resources
    )
    for block in results.iter_batches(batch_size=None, prefetch_batches=0):
        for result in map(json.loads, block["result"]):
            kind = result.pop("kind")
            if "message" in result:
                raise _ERRORS.get(kind, RuntimeError)(result["message"])
            yield (Entry if kind == "Entry" else Failure)(**result)


def _blocks(rows: Iterable[tuple[BatchRow, str]], num_rows: int) -> Iterator[Any]:
    """Yield tables of Arrow, a block each."""
    from pyarrow import Table

    rows = iter(rows)
    while block := list(islice(rows, num_rows)):
        yield Table.from_pydict(
            {"row": [json.dumps(asdict(row)) for row, _ in block], "digest": [digest for _, digest in block]}
        )
