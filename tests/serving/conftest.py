"""Servers on 127.0.0.1: of the fake engine, and of the miniature."""

import threading
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai

from dia_hf import Dia
from dia_hf.serving import Server, ServerSettings, ServerStatus, create_app
from dia_hf.serving.voices import ServedVoices
from dia_hf.speech.engine import SpeechEngine
from serving.fakes import FakeEngine, FakeVoices, Script


@dataclass
class Running:
    """A server in a thread, and clients of it."""

    server: Server
    engine: Any
    voices: Any
    status: ServerStatus
    thread: threading.Thread

    def __post_init__(self):
        self.url = f"http://127.0.0.1:{self.server.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)

    @property
    def port(self):
        return self.server.port

    def openai(self, **options):
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0} | options)

    def speak(self, **fields):
        return self.http.post("/v1/audio/speech", json={"input": "Hello, I am Dia.", **fields})

    def stream(self, **fields):
        return self.http.stream("POST", "/v1/audio/speech", json={"input": "Hello, I am Dia.", **fields})

    def stop(self):
        self.http.close()
        self.server.force_exit = True  # no test waits for requests that another one left
        self.server.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()


def start(engine, voices, settings=None, status=None, page=None, **options):
    """Start a server, with the page for the model `page` if one is given."""
    status = status or ServerStatus()
    app = create_app(engine, voices, settings or ServerSettings(), status)
    if page is not None:
        from dia_hf.serving.page import mount_page

        mount_page(app, page, settings)
    server = Server(app, engine, status, port=0, **options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    return Running(server, engine, voices, status, thread)


@pytest.fixture
def serve():
    """Start servers of the fake engine: `serve(script, settings=ServerSettings(...))`."""
    started = []

    def serve(script=None, settings=None, **options):
        running = start(FakeEngine(script or Script()), FakeVoices(), settings, **options)
        started.append(running)
        return running

    yield serve
    for running in started:
        running.engine.release()
        running.stop()


@pytest.fixture(scope="session")
def _shared():
    running = start(FakeEngine(), FakeVoices())
    yield running
    running.stop()


@pytest.fixture
def fake(_shared):
    """A server of the fake engine; a test sets `fake.engine.script`."""
    _shared.engine.script = Script()
    _shared.engine.is_released = False
    _shared.engine.handles.clear()
    _shared.voices.asked.clear()
    yield _shared
    _shared.engine.release()
    for handle in list(_shared.engine.handles):
        assert handle.ended.wait(30)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory):
    """A server of the miniature."""
    dia = Dia.from_pretrained()
    engine = SpeechEngine(dia, max_batch_size=4)
    running = start(engine, ServedVoices(dia, tmp_path_factory.mktemp("voices")))
    yield running
    running.stop()
