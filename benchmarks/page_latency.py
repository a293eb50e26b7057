"""Time from the server's first chunk to the first sound in the page, in headless Chromium.

The page marks three moments (User Timing): its request, the first bytes of the response, and the time at which the
first sample leaves the audio device, by the clock of its AudioContext with the device's latency. Needs
`pip install "dia-hf[ui]" playwright` and Chromium; prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

_SCRIPT = "[S1] Hello, I am Dia. [S2] Welcome, Dia. What can you do? [S1] I can read and I can sing."
_MARKS = ("dia-request", "dia-first-bytes", "dia-first-sound")
_DEVICE = """() => {
    const { context } = document.querySelector("dia-speak").player;
    return [context.sampleRate, context.baseLatency, context.outputLatency];
}"""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=20)
    parser.add_argument("--model", default="miniature")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        command = [sys.executable, "-m", "dia_hf_command", "serve", "--ui", "--model", args.model, "--port", "0"]
        server = subprocess.Popen([*command, "--port-file", str(port), "--voices", folder], stderr=subprocess.DEVNULL)
        try:
            while not (port.exists() and port.read_text().endswith("\n")):
                assert server.poll() is None, "the server ended"
                time.sleep(0.1)
            rows, device = measure(f"http://127.0.0.1:{port.read_text().strip()}/ui/", args.utterances)
        finally:
            server.terminate()
            server.wait()
    rate, base, output = device
    latency = 1000 * (output or base)
    print(f"Load average {os.getloadavg()[0]:.1f}; {rate} Hz; latency of the device {latency:.0f} ms.\n")
    print("| milliseconds | median | highest of", args.utterances, "|\n|---|---|---|")
    names = ("request to first bytes", "first bytes to first sound")
    for name, times in zip(names, zip(*rows, strict=True), strict=True):
        print(f"| {name} | {statistics.median(times):.0f} | {max(times):.0f} |")


def measure(address: str, num_utterances: int) -> tuple[list[tuple[float, float]], Any]:
    """Speak in the page; return two times of each utterance in milliseconds, and facts of the audio device."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("ready", exact=True).wait_for(timeout=300_000)
        page.get_by_label("Script", exact=True).fill(_SCRIPT)
        rows = []
        for _ in range(num_utterances):
            page.locator("#dia-speak").click()
            page.wait_for_function("/seed/.test(document.querySelector('.dia-status').textContent)", timeout=300_000)
            page.wait_for_function("document.querySelector('dia-speak').player.position > 0.1")
            request, first_bytes, sound = (
                page.evaluate("(name) => performance.getEntriesByName(name).at(-1).startTime", name) for name in _MARKS
            )
            rows.append((first_bytes - request, sound - first_bytes))
        device = page.evaluate(_DEVICE)
        browser.close()
    return rows, device


if __name__ == "__main__":
    main()
