"""LoRA adapters of a served model: each has an engine of its own, which is loaded when a request names it.

An adapter is merged into a copy of the base model, because the fast path computes with packed weights. So a loaded
adapter takes as much memory as the base model; the codec is shared.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from .._extras import import_extra
from ..conversion.adapters import locate_adapter
from ..speech.dia import Dia
from ..speech.engine import SpeechEngine

__all__ = ["AdapterCache", "AdapterEngines", "AdapterLoader", "find_adapters", "find_engine"]

logger = logging.getLogger(__name__)


def find_adapters(folders: Mapping[str, str | os.PathLike]) -> dict[str, Path]:
    """Find the folders of adapters.

    Args:
        folders (`Mapping[str, str]`): Name, which requests give as their `model`, to folder or Hub id.

    Raises:
        FileNotFoundError: If a folder has no adapter.
        ImportError: If there are adapters, and PEFT is not installed.
    """
    if folders:
        import_extra("peft")
    found = {}
    for name, folder in folders.items():
        try:
            found[name] = locate_adapter(folder).resolve()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapter {name!r}: {error} Give a folder or Hub id of what PEFT wrote, such as `adapter` of a "
                "training run."
            ) from error
    return found


async def find_engine(engine: SpeechEngine | AdapterEngines, model: str) -> SpeechEngine:
    """Return the engine of a request by its `model`: that of an adapter, or of the base model for any other name."""
    return await engine.find(model) if isinstance(engine, AdapterEngines) else engine


class AdapterLoader:
    """Loads an adapter into an engine; blocking, from any thread.

    Args:
        base (`Dia`): The served model, of which device, dtype and codec are used.
        model (`str`): Its folder or Hub id.
        folders (`Mapping[str, Path]`): From `find_adapters`.
        quantization (`str`, *optional*): Scheme of the base model.
        max_batch_size (`int`), max_queue (`int`, *optional*): Those of the engine.
    """

    def __init__(
        self,
        base: Dia,
        model: str,
        folders: Mapping[str, Path],
        quantization: str | None,
        max_batch_size: int,
        max_queue: int | None,
    ) -> None:
        self._base, self._model, self.folders = base, model, folders
        self._quantization, self._limits = quantization, (max_batch_size, max_queue)

    def __call__(self, name: str) -> SpeechEngine:
        """Load an adapter, and generate once.

        Raises:
            ValueError: If the adapter does not fit the model.
        """
        begin = time.perf_counter()
        base = self._base
        options: dict[str, Any] = {"adapter": self.folders[name], "quantization": self._quantization}
        try:
            model = Dia.from_pretrained(self._model, base.compute_dtype, base.device, load_dac=False, **options).model
        except ValueError as error:  # of the server's files, and no fault of the request
            raise RuntimeError(str(error)) from error
        engine = SpeechEngine(Dia(model, base.processor), *self._limits)
        engine.warm_up()
        logger.info("adapter %r loaded in %.1f s", name, time.perf_counter() - begin)
        return engine


class AdapterCache:
    """The engines of the adapters that were used last.

    Args:
        load (`Callable[[str], SpeechEngine]`): Loads one.
        max_loaded (`int`, defaults to 2): Engines to keep; the least recently used one makes place for another, after
            its requests have ended.

    Raises:
        ValueError: If `max_loaded` is not above 0.
    """

    def __init__(self, load: Callable[[str], SpeechEngine], max_loaded: int = 2) -> None:
        if max_loaded < 1:
            raise ValueError(f"`max_loaded` is {max_loaded}; give at least 1.")
        self._load, self._max_loaded = load, max_loaded
        self._engines: OrderedDict[str, SpeechEngine] = OrderedDict()
        self._lock = asyncio.Lock()  # one adapter is loaded at a time

    async def __call__(self, name: str) -> SpeechEngine:
        """Return the engine of an adapter."""
        if name not in self._engines:
            # To its end, if the client goes meanwhile: an engine that is not in the table would stay in memory.
            return await asyncio.shield(self._make(name))
        self._engines.move_to_end(name)
        return self._engines[name]

    async def _make(self, name: str) -> SpeechEngine:
        async with self._lock:
            if name not in self._engines:
                if len(self._engines) >= self._max_loaded:
                    _, oldest = self._engines.popitem(last=False)
                    await asyncio.to_thread(oldest.close)
                    del oldest
                self._engines[name] = await asyncio.to_thread(self._load, name)
            self._engines.move_to_end(name)
            return self._engines[name]


class AdapterEngines:
    """The engine of a model and those of its adapters, as one to the server.

    Args:
        base (`SpeechEngine`): Engine of all requests that name no adapter.
        load (`Callable[[str], Awaitable[SpeechEngine]]`): Returns the engine of an adapter, such as an `AdapterCache`.
        names (`Collection[str]`): Names of the adapters.

    Attributes:
        dia, max_batch_size, num_active, num_queued: Those of the base model; the numbers are sums over all engines.
    """

    def __init__(
        self, base: SpeechEngine, load: Callable[[str], Awaitable[SpeechEngine]], names: Collection[str]
    ) -> None:
        self._base, self._load, self.names = base, load, tuple(names)
        self.dia, self.max_batch_size = base.dia, base.max_batch_size
        self._loaded: WeakValueDictionary[str, SpeechEngine] = WeakValueDictionary()  # `load` keeps or drops them

    async def find(self, model: str) -> SpeechEngine:
        """Return the engine of a request by its `model`: an adapter's, or that of the base model for any other name."""
        if model not in self.names:
            return self._base
        self._loaded[model] = engine = await self._load(model)
        return engine

    @property
    def num_active(self) -> int:
        """Chunks of text in all batches."""
        return sum(engine.num_active for engine in self._all())

    @property
    def num_queued(self) -> int:
        """Requests that wait for a slot."""
        return sum(engine.num_queued for engine in self._all())

    def warm_up(self) -> None:
        """Warm up the base model; an adapter is warmed up when it is loaded."""
        self._base.warm_up()

    def close(self, timeout: float | None = None) -> None:
        """Close all engines, see `SpeechEngine.close`."""
        end = None if timeout is None else time.monotonic() + timeout
        for engine in self._all():
            engine.close(None if end is None else max(0.0, end - time.monotonic()))

    def _all(self) -> list[SpeechEngine]:
        return [self._base, *self._loaded.values()]
