"""The page in headless Chromium: `make test-ui`. `make test` leaves this folder out, as it needs a browser."""

import shutil
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")
from playwright.sync_api import expect, sync_playwright

from dia_hf import Dia
from dia_hf.serving.voices import ServedVoices
from dia_hf.speech.engine import SpeechEngine
from serving.conftest import start
from serving.fakes import FakeEngine, Script

MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SECONDS = 60  # that a test waits for what it expects; on an idle machine it comes within one
expect.set_options(timeout=1000 * SECONDS)


@pytest.fixture(scope="session")
def dia():
    return Dia.from_pretrained()


@pytest.fixture(scope="session")
def server(dia, tmp_path_factory):
    """A server of the miniature, with the page."""
    engine = SpeechEngine(dia, max_batch_size=4)
    running = start(engine, ServedVoices(dia, tmp_path_factory.mktemp("voices")), page=dia)
    engine.warm_up()
    yield running
    running.stop()


@pytest.fixture
def serve(dia, tmp_path):
    """Start servers whose engine speaks as a test says: `serve(Script(...), settings=...)`."""
    started = []

    def serve(script=None, **options):
        engine = FakeEngine(script or Script())
        engine.dia = dia  # for the checks of scripts; its rate is the fake's as well
        started.append(start(engine, ServedVoices(dia, tmp_path / "voices"), page=dia, **options))
        return started[-1]

    yield serve
    for running in started:
        running.engine.release()
        if running.thread.is_alive():
            running.stop()


@pytest.fixture(scope="session")
def chromium():
    """A browser; a missing one is an error, because nothing else would be tested here."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "there is no chromium: scripts/install_chromium.sh installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *MICROPHONE])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open the page of a server: `visit(running)`. At the end: no error in the page, no request to another host."""
    contexts, known, asked, errors = [], {""}, set(), []  # "": blobs of the page itself

    def note(message):
        if "Content Security Policy" in message.text:
            errors.append(message.text)

    def visit(running, **options):
        known.add(f"127.0.0.1:{running.port}")
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}} | options)
        contexts.append(context)
        context.set_default_timeout(1000 * SECONDS)
        context.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", note)
        page.goto(f"{running.url}/ui/")
        expect(page.locator("#dia-speak")).to_be_enabled()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert asked <= known
    assert errors == []


@pytest.fixture
def wait():
    """Wait for a condition that is not in the page, while the page goes on."""

    def wait(page, condition):
        for _ in range(50 * SECONDS):
            if condition():
                return
            page.wait_for_timeout(20)
        pytest.fail(f"it did not come to that within {SECONDS} s")

    return wait
