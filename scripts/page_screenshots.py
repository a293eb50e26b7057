"""Take the screenshots of the page for the documentation: `python scripts/page_screenshots.py [FOLDER]`.

Starts a server of the miniature with voices of its own. Needs `pip install "dia-hf[serve,ui]" playwright` and Chromium;
Gradio brings Pillow.
"""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from urllib.request import Request, urlopen

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Page, Route, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = "[S1] Hello, I am Dia. [S2] Welcome, Dia. (laughs) What can you do?\n[S1] I can read and I can sing."
WRONG = "[S1] Good morning, my friend. (laugh) [S3] Hello!\n[S2] What day is it today?"
VOICES = {"anna": "[S2] I can read and I can sing.", "ben": "[S1] I have a dog and a cat."}
SUBTITLES_PAGE = """<!doctype html>
<meta charset="utf-8">
<style>
  body { margin: 0; background: #0f172a; }
  video { display: block; width: 100vw; height: 100vh; }
  video::cue { font-size: 24px; }
</style>
<video src="data:video/webm;base64,VIDEO" controls muted>
  <track src="speech.vtt" kind="subtitles" srclang="en" label="English" default>
</video>
"""
FRAME_RATE = 25  # of the picture that subtitles are shown over
WIDE, NARROW = (1180, 900), (375, 812)


def main() -> None:
    """Take all screenshots."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    with tempfile.TemporaryDirectory() as voices:
        port = Path(voices) / "port"
        command = [sys.executable, "-m", "dia_hf_command", "serve", "--ui", "--port", "0", "--port-file", str(port)]
        server = subprocess.Popen([*command, "--voices", str(Path(voices) / "saved")])
        try:
            while not (port.exists() and port.read_text().endswith("\n")):
                time.sleep(0.1)
            take_all(f"http://127.0.0.1:{port.read_text().strip()}", folder, Path(voices))
        finally:
            server.terminate()
            server.wait()


def take_all(server: str, folder: Path, work: Path) -> None:
    """Take the screenshots of a server."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (width, height), colors, script in (
            ("page", WIDE, "light", SCRIPT),
            ("page-dark", WIDE, "dark", WRONG),
            ("page-narrow", NARROW, "light", SCRIPT),
        ):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colors)
            page.goto(f"{server}/ui/")
            page.get_by_text("ready", exact=True).wait_for(timeout=300_000)
            if name == "page":
                save_voices(page, server, work)
                page.get_by_label("Voice of S2").select_option("anna")
            speak(page, script)
            page.screenshot(path=folder / f"{name}.png")
            if name == "page":
                page.get_by_role("tab", name="Voices").click()
                page.get_by_role("button", name="Delete ben").wait_for()
                page.screenshot(path=folder / "page-voices.png", clip={"x": 0, "y": 0, "width": width, "height": 700})
            page.close()
        take_subtitles(browser.new_page(viewport={"width": 720, "height": 220}), server, folder)
        browser.close()
    for file in [*folder.glob("page*.png"), folder / "subtitles.png"]:  # a palette: a third of the size
        Image.open(file).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            file, optimize=True
        )


def take_subtitles(page: Page, server: str, folder: Path) -> None:
    """Take a screenshot of subtitles over the audio, as Chromium shows them."""
    body = {"input": SCRIPT, "seed": 7, "response_format": "wav", "stream_format": "sse", "word_timestamps": True}
    audio, words = b"", []
    for line in post(server, "speech", body).decode().splitlines():
        event = json.loads(line.removeprefix("data: ")) if line else {}
        audio, words = audio + base64.b64decode(event.get("audio", "")), words + event.get("words", [])
    subtitles = post(server, "subtitles", {"words": words, "response_format": "vtt"})
    show_subtitles(page, audio, subtitles.decode())
    page.evaluate(f"document.querySelector('video').currentTime = {(words[0]['start'] + words[1]['end']) / 2}")
    page.wait_for_function("document.querySelector('video').readyState === 4")
    page.wait_for_timeout(2000)
    page.screenshot(path=folder / "subtitles.png")


def show_subtitles(page: Page, audio: bytes, subtitles: str) -> None:
    """Load audio of a wav file and WebVTT in a page of an address that does not exist."""
    content = SUBTITLES_PAGE.replace("VIDEO", base64.b64encode(add_picture(audio)).decode("ascii"))
    files = {
        "page.html": (content.encode(), "text/html"),
        "speech.vtt": (subtitles.encode(), "text/vtt"),
    }

    def answer(route: Route) -> None:
        content, kind = files[route.request.url.rpartition("/")[2]]
        route.fulfill(body=content, content_type=kind)

    page.route("http://subtitles.test/**", answer)
    page.goto("http://subtitles.test/page.html")
    page.wait_for_function("document.querySelector('track').readyState === 2")
    page.wait_for_function("document.querySelector('video').readyState >= 2")


def add_picture(audio: bytes) -> bytes:
    """Make a video of audio and a dark picture: over audio alone, Chromium shows no subtitles."""
    content = io.BytesIO()
    with av.open(io.BytesIO(audio)) as source, av.open(content, "w", format="webm") as video:
        picture = video.add_stream("libvpx", rate=FRAME_RATE, width=720, height=220, pix_fmt="yuv420p")
        sound = video.add_stream("libopus", rate=48_000, layout="mono")
        seconds = 0.0
        for frame in source.decode(audio=0):
            seconds += frame.samples / frame.sample_rate
            video.mux(sound.encode(frame))
        frame = av.VideoFrame.from_ndarray(np.full((220, 720, 3), (15, 23, 42), np.uint8), format="rgb24")
        for index in range(math.ceil(seconds * FRAME_RATE)):
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            video.mux(picture.encode(frame))
        video.mux([*sound.encode(None), *picture.encode(None)])
    return content.getvalue()


def post(server: str, path: str, body: dict) -> bytes:
    """Send a request to the server's API."""
    headers = {"content-type": "application/json"}
    return urlopen(Request(f"{server}/v1/audio/{path}", json.dumps(body).encode(), headers)).read()


def save_voices(page: Page, server: str, work: Path) -> None:
    """Save the miniature's own speech as voices, in the page."""
    page.get_by_role("tab", name="Voices").click()
    for name, text in VOICES.items():
        body = {"input": text, "seed": 4, "response_format": "wav", "stream": False}
        file = work / f"{name}.wav"
        file.write_bytes(post(server, "speech", body))
        page.get_by_label("Recording", exact=True).set_input_files(file)
        page.get_by_label("Transcript").fill(text[5:])
        page.get_by_label("Name").fill(name)
        page.get_by_label("The speaker has agreed").check()
        page.get_by_role("button", name="Save voice").click()
        page.get_by_role("button", name=f"Delete {name}").wait_for()
    page.get_by_role("tab", name="Speak").click()


def speak(page: Page, script: str) -> None:
    """Speak a script with a fixed seed, and pause in the middle."""
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Script", exact=True).fill(script)
    page.locator("#dia-speak").click()
    page.wait_for_function("/seed/.test(document.querySelector('.dia-status').textContent)", timeout=300_000)
    page.wait_for_function("document.querySelector('dia-speak').player.position > 1.5")
    page.locator("#dia-toggle").click()
    page.evaluate("document.querySelector('dia-speak').player.seek(1.5)")
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main()
