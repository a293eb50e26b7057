"""The page's files over a socket; `tests/browser` has them in a browser."""

import html
import json
import re
import sys

import pytest

pytest.importorskip("gradio")

from dia_hf import Dia
from dia_hf.serving import ServerSettings
from dia_hf.serving.page import mount_page
from serving.conftest import start
from serving.fakes import FakeEngine, FakeVoices


@pytest.fixture(scope="module")
def page():
    dia = Dia.from_pretrained()
    running = start(FakeEngine(), FakeVoices(), ServerSettings(model_name="m<>'\"", api_keys=("key",)), page=dia)
    yield running
    running.stop()


def about(page):
    config = json.loads(re.search(r"window\.gradio_config = (.*?);</script>", page.http.get("/ui/").text)[1])
    return json.loads(html.unescape(re.search(r'name="dia-page" content="(.*?)"', config["head"])[1]))


def test_files_need_no_key(page):
    """A browser cannot send a key for a page and its files; or the page opened the rest of the server."""
    for path in ("/ui/", "/ui/files/main.js", "/ui/files/page.css", "/ui/theme.css", "/favicon.ico"):
        answer = page.http.get(path)
        assert answer.status_code == 200 and answer.content, path
    for path in ("/v1/audio/voices", "/ui/%2e%2e/v1/audio/voices", "/metrics"):
        assert page.http.get(path).status_code in (401, 404), path
    assert page.http.post("/v1/audio/script", json={"input": "Hi."}).status_code == 401


def test_a_path_without_a_slash(page):
    """`/ui` was not found, or behind a proxy's prefix the browser was sent to another place."""
    answer = page.http.get("/ui")
    assert (answer.status_code, answer.headers["location"]) == (307, "ui/")


OTHER_PATHS = (
    "config gradio_api/info gradio_api/heartbeat/x gradio_api/file=/etc/passwd gradio_api/upload gradio_api/queue/data "
    "gradio_api/startup-events assets/%2e%2e/%2e%2e/routes.py files/%2e%2e/mount.py files/ files/nonesuch.js monitoring"
)


@pytest.mark.parametrize("path", OTHER_PATHS.split())
def test_no_other_route_of_gradio(page, path):
    """Gradio's uploads, files and queue were open to everybody, past the keys."""
    assert page.http.get(f"/ui/{path}").status_code == 404


@pytest.mark.parametrize("path", ["", "gradio_api/upload", "gradio_api/queue/join", "files/main.js"])
def test_nothing_can_be_sent(page, path):
    """A file could be stored on the server without a key."""
    answer = page.http.post(f"/ui/{path}", files={"files": ("a.txt", b"a")})
    assert answer.status_code == 405 and answer.json()["error"]["message"]


def test_a_deep_link_reads_no_file(page):
    """A query names a file of Gradio's to be read."""
    assert '"deep_link_state":"none"' in page.http.get("/ui/?deep_link=abcdef").text.replace(": ", ":")


def test_the_page_keeps_to_its_host(page):
    """A font, a script or a count of visitors was requested from another host."""
    for path in ("/ui/", "/ui/files/main.js"):
        headers = page.http.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
        assert not re.search(r"https?:|\*", headers["content-security-policy"])
        assert headers["cache-control"] == "no-cache"  # the page of the last release would call routes of this one


def test_facts_of_the_server(page):
    """The page offered formats that the server lacks, or a name of a model became markup."""
    facts = about(page)
    assert facts["model"] == "m<>'\"" and facts["needsKey"] and facts["sampleRate"] == 16_000
    assert facts["formats"] == ["mp3", "opus", "aac", "flac", "wav", "pcm"]
    assert facts["speakers"] == ["[S1]", "[S2]"]
    assert facts["defaults"] == {
        "cfg_scale": 1.3, "temperature": 0.25, "top_p": 0.9, "cfg_filter_top_k": 45.0, "speed": 1.0,
    }  # fmt: skip


def test_a_server_without_the_page(fake):
    """Files of a page that is not mounted were another error than those of any unknown route."""
    assert fake.http.get("/ui/").status_code == fake.http.get("/ui").status_code == 404


def test_without_gradio(monkeypatch):
    """The error did not say what to install."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[ui\]"'):
        mount_page(None, None)
