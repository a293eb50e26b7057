"""Voices in the page: from a file and from the microphone; used, listened to, deleted."""

import re

import pytest
from playwright.sync_api import expect


@pytest.fixture
def voices(server, visit):
    """The page with the tab of the voices open; all saved ones are deleted afterwards."""
    page = visit(server)
    page.get_by_role("tab", name="Voices").click()
    yield page
    for voice in server.http.get("/v1/audio/voices").json()["data"]:
        if voice["type"] == "audio_sample":
            server.http.delete(f"/v1/audio/voices/{voice['id']}")


def recording(server, seconds=5.0):
    """The miniature's own voice, which it can clone."""
    text = "[S2] I can read and I can sing. I have a dog and a cat and a bird."
    content = server.speak(input=text, seed=4, response_format="wav", stream=False, max_seconds=seconds).content
    return {"name": "mine.wav", "mimeType": "audio/wav", "buffer": content}


def save(page, name, transcript="I can read and I can sing."):
    page.get_by_label("Transcript").fill(transcript)
    page.get_by_label("Name").fill(name)
    page.get_by_label("The speaker has agreed").check()
    page.get_by_role("button", name="Save voice").click()


def saved(page):
    return page.get_by_label("Saved voices").get_by_role("listitem")


def test_a_voice_of_a_file(voices, server):
    """A voice could not be cloned in the page: upload, save, use, listen, delete."""
    page = voices
    page.get_by_label("Recording", exact=True).set_input_files(recording(server))
    page.wait_for_function("document.querySelector('dia-voices audio').duration > 1")  # to be heard before it is saved
    save(page, "anna")
    expect(saved(page)).to_contain_text("anna")
    page.get_by_role("button", name="Listen to anna").click()
    page.wait_for_function("document.querySelectorAll('dia-voices audio')[1].duration > 0.1")

    page.get_by_role("tab", name="Speak").click()
    page.get_by_label("Voice of S1").select_option("anna")
    sent = []
    page.on("request", lambda request: request.url.endswith("/speech") and sent.append(request.post_data_json))
    page.locator("#dia-speak").click()
    expect(page.locator(".dia-status").first).to_contain_text("seed")
    assert sent[0]["voices"] == {"S1": "anna"}
    page.get_by_role("tab", name="History").click()
    expect(page.get_by_label("Clips", exact=True)).to_contain_text("S1: anna")

    page.get_by_role("tab", name="Voices").click()
    page.get_by_role("button", name="Delete anna").click()
    page.get_by_role("button", name="Keep").click()
    expect(saved(page)).to_contain_text("anna")
    page.get_by_role("button", name="Delete anna").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(saved(page)).to_have_text("There are none yet.")
    page.get_by_role("tab", name="Speak").click()
    expect(page.get_by_label("Voice of S1")).to_have_value("")


def test_a_voice_of_the_microphone(voices, server):
    """The server could not read what a browser records."""
    page = voices
    page.locator("#dia-record").click()
    expect(page.locator("dia-voices .dia-status")).to_have_text(re.compile("Recording: ([3-9]|..) s"))
    page.locator("#dia-record").click()
    expect(page.locator("dia-voices .dia-status")).to_contain_text("Recorded.")
    save(page, "beep")
    expect(saved(page)).to_contain_text("beep")
    assert server.http.get("/v1/audio/voices").json()["voices"][0]["name"] == "beep"


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ("recording", "There is no recording."),
        ("name", "The voice has no name."),
        ("consent", "Clone a voice only if its speaker has agreed"),
        ("transcript", "the transcript of the recording is missing"),
    ],
)
def test_a_voice_that_lacks_something(voices, server, lacks, told):
    """A voice was saved without consent; or an error was lost."""
    page = voices
    if lacks != "recording":
        page.get_by_label("Recording", exact=True).set_input_files(recording(server))
    if lacks != "consent":
        page.get_by_label("The speaker has agreed").check()
    page.get_by_label("Name").fill("" if lacks == "name" else "anna")
    page.get_by_label("Transcript").fill("" if lacks == "transcript" else "I can read.")
    page.get_by_role("button", name="Save voice").click()
    expect(page.locator("dia-voices [role=alert]").first).to_contain_text(told, ignore_case=True)
    expect(saved(page)).to_have_text("There are none yet.")
    expect(page.get_by_label("Name")).to_have_value("" if lacks == "name" else "anna")  # nothing is lost


def test_a_file_that_is_no_audio(voices):
    """A file of another kind ended in a number."""
    page = voices
    file = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no audio"}
    page.get_by_label("Recording", exact=True).set_input_files(file)
    save(page, "anna")
    expect(page.locator("dia-voices [role=alert]").first).to_contain_text("notes.txt")


def test_a_microphone_that_is_not_allowed(server, chromium, visit):
    """A refused microphone showed nothing, or the name of an exception."""
    page = visit(server)
    page.evaluate("""() => {
        navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotAllowedError"));
    }""")
    page.get_by_role("tab", name="Voices").click()
    page.locator("#dia-record").click()
    expect(page.locator("dia-voices [role=alert]").first).to_contain_text("Allow it, or upload a file.")


def test_recordings_are_as_the_microphone_gives_them(voices):
    """Noise suppression and gain control of the browser changed the voice that was to be cloned."""
    page = voices
    page.evaluate("""() => {
        const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = (wanted) => { window.wanted = wanted; return original(wanted); };
    }""")
    page.locator("#dia-record").click()
    expect(page.locator("#dia-record")).to_have_text("Stop")
    page.locator("#dia-record").click()
    assert set(page.evaluate("Object.values(window.wanted.audio)")) == {False}
