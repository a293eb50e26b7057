"""`dia-hf ui` and `dia-hf serve --ui`, up to the socket."""

import threading
import webbrowser

import pytest

pytest.importorskip("gradio")

from cli.command import run
from cli.test_serve import loggers, never_serves  # noqa: F401 (fixtures)
from dia_hf.cli import serve
from dia_hf_command.parser import make_parser

OPTIONS = ("--port", "0", "--no-warmup")


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked to open."""
    addresses, is_opened = [], threading.Event()

    def open_page(address):
        addresses.append(address)
        is_opened.set()

    monkeypatch.setattr(webbrowser, "open", open_page)
    addresses_when_there = lambda: addresses if is_opened.wait(30) else None  # noqa: E731
    return addresses, addresses_when_there


def has_page(server):
    return any(getattr(route, "path", "") == "/ui" for route in server.config.app.routes)


def test_the_page_is_opened(tmp_path, never_serves, opened, capsys):  # noqa: F811
    """The browser opened another address than that of the server, or before there was a socket."""
    assert run("ui", *OPTIONS, "--voices", str(tmp_path), "--host", "0.0.0.0") == 0
    (server,) = never_serves
    address = f"http://localhost:{server.port}/ui/"
    assert opened[1]() == [address] and has_page(server)
    assert f"the page is at {address}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "has"), [(["ui", "--no-browser"], True), (["serve", "--ui"], True), (["serve"], False)]
)
def test_no_browser(tmp_path, never_serves, opened, args, has):  # noqa: F811
    """A server on a machine without a screen opened a browser, or had a page that nobody asked for."""
    assert run(*args, *OPTIONS, "--voices", str(tmp_path)) == 0
    assert has_page(never_serves[0]) is has and opened[0] == []


def test_the_options_are_those_of_a_server():
    """An option of `dia-hf serve` was missing in `dia-hf ui`."""
    served, shown = (vars(make_parser().parse_args([verb])) for verb in ("serve", "ui"))
    assert {**served, "verb": "ui", "no_browser": False} == {**shown, "ui": False}


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("::", "localhost"), ("0.0.0.0", "localhost"), ("gpu", "gpu")],
)
def test_addresses_for_a_browser(host, expected):
    """No browser opens http://0.0.0.0 or an IPv6 address without brackets."""
    assert serve._browsable(host) == expected
