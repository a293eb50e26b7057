"""Captions: the word that is heard is marked in the script; subtitles, and how Chromium shows them over the audio."""

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browser.test_speak import POSITION, download, speak
from dia_hf.speech.subtitles import format_subtitles, make_cues
from dia_hf.speech.timestamps import TimedText
from serving.test_body import events_of

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from page_screenshots import show_subtitles

SCRIPT = "[S1] Hello, I am Dia. [S2] Welcome, Dia. 😀 What can you do?\n[S1] I can read and I can sing."
HEARD = ".dia-colors mark.dia-heard"
SEEK = "(seconds) => document.querySelector('dia-speak').player.seek(seconds)"
WATCH = """() => {
    window.marked = [];
    const note = () => {
        const text = document.querySelector(".dia-heard")?.textContent;
        if (text) window.marked.push([document.querySelector("dia-speak").player.position, text]);
    };
    new MutationObserver(note).observe(document.querySelector(".dia-colors"), { childList: true });
}"""
CUES = """() => {
    const { cues } = document.querySelector("video").textTracks[0];
    return [...cues].map((cue) => [cue.startTime, cue.endTime]);
}"""
ACTIVE = """async (time) => {
    const video = document.querySelector("video");
    const seeked = new Promise((resolve) => video.addEventListener("seeked", resolve, { once: true }));
    video.currentTime = time;
    await seeked;
    await new Promise(requestAnimationFrame);
    return [...video.textTracks[0].activeCues].map((cue) => cue.getCueAsHTML().textContent);
}"""


def words_of(running, script, seed):
    """The words of a script, as the server tells them."""
    fields = {"stream_format": "sse", "response_format": "pcm", "word_timestamps": True, "sample_rate": 16000}
    events = events_of(running.speak(input=script, seed=seed, **fields).text.splitlines())
    return [word for event in events for word in event.get("words", [])]


def timed(words):
    names = ("word", "start", "end", "start_char", "end_char", "speaker")
    return [TimedText(*(word[name] for name in names)) for word in words]


def test_the_word_that_is_heard_is_marked(server, visit):
    """No word was marked, or another one than is heard, or one behind a character of two UTF-16 units was shifted."""
    page = visit(server)
    speak(page, SCRIPT, seed=7)
    words = words_of(server, SCRIPT, 7)
    assert len(words) > 9 and {word["word"] for word in words} <= set(SCRIPT.split())
    page.locator("#dia-toggle").filter(has_text="Pause").click()
    heard = [word for word in words if word["start"] < word["end"]]
    assert {word["word"] for word in words if word not in heard} <= {"😀"}  # which may take no time
    for word in heard:
        page.evaluate(SEEK, (word["start"] + word["end"]) / 2)
        expect(page.locator(HEARD)).to_have_text(re.compile(rf"^{re.escape(word['word'])}$"))
    page.evaluate(SEEK, 0)
    expect(page.locator(HEARD)).to_have_count(int(words[0]["start"] == 0))
    page.evaluate(WATCH)
    page.locator("#dia-toggle").click()
    page.wait_for_function(f"{POSITION} > {words[4]['end']}")
    told = page.evaluate("window.marked")
    assert {text for _, text in told} >= {words[2]["word"], words[3]["word"]}
    for position, text in told:  # while it is played
        assert any(word["word"] == text and word["start"] - 0.05 <= position <= word["end"] + 0.05 for word in words)
    page.locator("#dia-toggle").click()
    page.get_by_label("Script", exact=True).fill("[S1] Another text.")
    page.evaluate(SEEK, (words[0]["start"] + words[0]["end"]) / 2)
    expect(page.locator(HEARD)).to_have_count(0)


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_are_saved(server, visit, kind):
    """Subtitles of the page differed from those of the library."""
    page = visit(server)
    speak(page, SCRIPT, seed=7)
    name, content = download(page, kind)
    assert name == f"dia-7.{kind}"
    assert content.decode() == format_subtitles(timed(words_of(server, SCRIPT, 7)), f".{kind}")


def test_captions_can_be_switched_off(server, visit):
    """A request asked for times although the user wants none, or subtitles without times were an empty file."""
    page = visit(server)
    asked = []
    page.on("request", lambda request: asked.append(request.post_data) if "speech" in request.url else None)
    page.get_by_label("Captions").uncheck()
    speak(page, SCRIPT, seed=7)
    assert "word_timestamps" not in json.loads(asked[-1])
    page.get_by_label("Format of the file").select_option("vtt")
    page.locator("#dia-download").click()
    expect(page.locator("dia-speak .dia-alert")).to_contain_text("Check Captions")


def test_chromium_shows_our_subtitles(server, chromium):
    """A cue was shown at another time than its words are heard, or its text was read as markup."""
    words = timed(words_of(server, SCRIPT, 7))
    words[0] = replace(words[0], text="<b>&amp;")
    audio = server.speak(input=SCRIPT, seed=7, response_format="wav", stream=False).content
    page = chromium.new_page()
    try:
        show_subtitles(page, audio, format_subtitles(words, ".vtt"))
        cues = make_cues(words)
        found = page.evaluate(CUES)
        assert len(found) == len(cues) >= 3
        for cue, times in zip(cues, found, strict=True):
            assert times == pytest.approx((cue.start, cue.end), abs=0.001)
            assert page.evaluate(ACTIVE, (cue.start + cue.end) / 2) == [cue.text]
        for before, cue in itertools.pairwise(cues):
            if cue.start - before.end > 0.1:  # a pause
                assert page.evaluate(ACTIVE, (before.end + cue.start) / 2) == []
    finally:
        page.close()
