"""Engines of adapters: found by name, loaded once, dropped when others need the place."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi")

from dia_hf import MINIATURE, Dia
from dia_hf.serving.adapters import AdapterCache, AdapterEngines, AdapterLoader, find_adapters
from dia_hf.speech.engine import SpeechEngine, SpeechRequest
from serving.conftest import start
from serving.fakes import FakeEngine, FakeVoices, Script


class Closing(FakeEngine):
    def __init__(self):
        super().__init__(Script())
        self.num_closed = 0

    def close(self, timeout=None):
        self.num_closed += 1
        super().close(timeout)


def test_an_adapter_is_loaded_once():
    """Requests that named an adapter at the same time loaded it several times."""
    loaded = []

    def load(name):
        loaded.append(name)
        return Closing()

    async def ask():
        cache = AdapterCache(load)
        return await asyncio.gather(*(cache("anna") for _ in range(8)))

    engines = asyncio.run(ask())
    assert loaded == ["anna"] and len({id(one) for one in engines}) == 1


def test_the_least_recently_used_adapter_goes():
    """Adapters stayed in memory until there was none left, or the one in use went first."""
    engines = {}

    def load(name):
        engines[name] = Closing()
        return engines[name]

    async def ask():
        cache = AdapterCache(load, max_loaded=2)
        for name in ("a", "b", "a", "c"):
            await cache(name)
        return await cache("a")

    assert asyncio.run(ask()) is engines["a"]
    assert {name: one.num_closed for name, one in engines.items()} == {"a": 0, "b": 1, "c": 0}


def test_a_client_that_goes_during_the_loading():
    """The engine was loaded for nobody, and stayed in memory beside the one that the next request loaded."""
    loaded, is_loading, has_gone = [], threading.Event(), threading.Event()

    def load(name):
        is_loading.set()
        assert has_gone.wait(60)
        loaded.append(Closing())
        return loaded[-1]

    async def ask():
        cache = AdapterCache(load)
        going = asyncio.ensure_future(cache("anna"))
        assert await asyncio.to_thread(is_loading.wait, 60)
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        has_gone.set()
        return await cache("anna")

    assert [asyncio.run(ask())] == loaded


def test_an_adapter_that_cannot_be_loaded():
    """After an error, an adapter was never loaded again, or its place was lost."""
    tried = []

    def load(name):
        tried.append(name)
        if len(tried) == 1:
            raise RuntimeError("no memory")
        return Closing()

    async def ask():
        cache = AdapterCache(load, max_loaded=1)
        with pytest.raises(RuntimeError, match="no memory"):
            await cache("a")
        return await cache("a")

    assert asyncio.run(ask()) is not None and tried == ["a", "a"]
    with pytest.raises(ValueError, match="`max_loaded` is 0"):
        AdapterCache(load, max_loaded=0)


def test_a_request_names_an_adapter():
    """The model of a request had no effect, or an unknown one was an error."""
    base, adapted = FakeEngine(Script(num_chunks=1)), FakeEngine(Script(num_chunks=3))

    async def load(name):
        return adapted

    running = start(AdapterEngines(base, load, ["anna"]), FakeVoices())
    try:
        lengths = {model: len(running.speak(model=model, response_format="pcm").content) for model in ("dia", "anna")}
        assert lengths["anna"] == 3 * lengths["dia"] == 3 * len(running.speak(model="x", response_format="pcm").content)
        assert "anna" in [one["id"] for one in running.http.get("/v1/models").json()["data"]]
        assert running.http.get("/v1/models/anna").status_code == 200
    finally:
        running.stop()


def test_sums_over_engines():
    """The metrics and the shutdown forgot the requests of adapters."""
    base, adapted = (SimpleNamespace(num_active=2, num_queued=1, dia=None, max_batch_size=4) for _ in "12")
    closed = []
    for engine in (base, adapted):
        engine.close = lambda timeout: closed.append(timeout)

    class Loaded(threading.local):  # weak references need a class of its own
        pass

    loaded = Loaded()
    vars(loaded).update(vars(adapted))

    async def load(name):
        return loaded

    engines = AdapterEngines(base, load, ["anna"])
    assert engines.num_active == 2
    asyncio.run(engines.find("anna"))
    assert engines.num_active == 4 and engines.num_queued == 2
    engines.close(0)
    assert closed == [0, 0]


def test_folders_are_checked_at_the_start(tmp_path):
    """A misspelled folder was found by the first request that named the adapter."""
    with pytest.raises(FileNotFoundError, match=r"the adapter 'anna': .*nonesuch.*adapter_config\.json"):
        find_adapters({"anna": tmp_path / "nonesuch"})


def test_an_adapter_speaks_as_its_merged_model(tmp_path):
    """The engine of an adapter was the base model, or changed it."""
    pytest.importorskip("peft")
    import torch

    from dia_hf.training import attach_lora, merge_adapter

    base = Dia.from_pretrained()
    model = attach_lora(Dia.from_pretrained().model, {"r": 2})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(tmp_path)
    request = SpeechRequest("[S1] Hello.", seed=3, max_seconds=0.5)

    def speak(engine):
        with engine:
            return torch.cat([torch.from_numpy(chunk) for chunk in engine.submit(request)])

    before = speak(SpeechEngine(base, 1))
    adapted = speak(AdapterLoader(base, MINIATURE, find_adapters({"anna": tmp_path}), None, 1, None)("anna"))
    merged = speak(SpeechEngine(Dia(merge_adapter(MINIATURE, tmp_path), base.processor), 1))
    assert torch.equal(adapted, merged) and not torch.equal(adapted, before)
    assert torch.equal(speak(SpeechEngine(base, 1)), before)
