"""Speaking in the page: playback, seed, cancel, errors in words, progress, downloads, history."""

import io

import av
import numpy as np
import pytest
import soundfile as sf
from playwright.sync_api import expect

from dia_hf.engine import QueueFullError
from dia_hf.serving import ServerSettings
from serving.fakes import RATE, Script

HELLO = "[S1] Hello, I am Dia."
POSITION = "document.querySelector('dia-speak').player.position"


def fill(page, script, seed=None):
    page.get_by_label("Script", exact=True).fill(script)
    if seed is not None:
        page.get_by_label("Seed").fill(str(seed))


def speak(page, script=HELLO, seed=None):
    """Speak a script, and wait for its end."""
    fill(page, script, seed)
    page.locator("#dia-speak").click()
    expect(page.locator(".dia-status").first).to_contain_text("seed")


def download(page, name="wav"):
    """Save the clip in a format."""
    page.get_by_label("Format of the file").select_option(name)
    with page.expect_download() as saved:
        page.locator("#dia-download").click()
    return saved.value.suggested_filename, saved.value.path().read_bytes()


def test_speak(server, visit):
    """Nothing was spoken, or the page showed no end, no seed and no picture."""
    page = visit(server)
    expect(page.locator(".dia-state")).to_have_text("ready")
    speak(page)
    page.wait_for_function(f"{POSITION} > 0.2")
    painted = """() => {
        const canvas = document.querySelector(".dia-plots");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.some((value) => value !== 0);
    }"""
    assert page.evaluate(painted)


def test_the_first_chunk_is_heard_before_the_end(serve, visit, wait):
    """The page waited for the whole response, or for more chunks than the first one."""
    running = serve(Script(hold_after=1))
    page = visit(running)
    fill(page, HELLO)
    page.locator("#dia-speak").click()
    page.wait_for_function(f"{POSITION} >= 0.3")  # of 0.32 s
    assert not running.engine.handles[-1].is_done
    assert page.evaluate("performance.getEntriesByName('dia-first-sound').length") == 1
    running.engine.release()
    expect(page.locator(".dia-status").first).to_contain_text("1.3 s, seed 1234")
    page.wait_for_function(f"{POSITION} > 1.27")
    expect(page.get_by_role("button", name="Play")).to_be_enabled()
    assert page.evaluate("document.querySelector('dia-speak').player.numUnderruns") >= 1  # it was held
    # A steady tone: a block that was drawn before its window was complete would have all frequencies.
    columns = page.evaluate("document.querySelector('dia-speak').plots.spectrum.columns.map((column) => [...column])")
    assert len(columns) == 4 * 10 * 512 // 128 and np.ptp(np.array(columns[4:-4]), axis=0).max() < 30


def test_samples_arrive_as_they_were_sent(serve, visit):
    """Half a sample at the end of an event, or a chunk at the wrong place, was noise."""
    page = visit(serve(Script(num_chunks=7, chunk_samples=5 * 512)))
    speak(page)
    name, content = download(page)
    samples, rate = sf.read(io.BytesIO(content))
    assert (name, rate) == ("dia-1234.wav", RATE) and len(samples) == 7 * 5 * 512
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(samples)) / RATE)
    np.testing.assert_allclose(samples, expected, atol=2 / 32768)


def test_the_seed_reproduces(server, visit):
    """The seed of the page did not reach the server."""
    page = visit(server)
    clips = []
    for seed in (7, 7, 8):
        speak(page, seed=seed)
        clips.append(sf.read(io.BytesIO(download(page)[1]), dtype="int16")[0].astype(int))
    assert clips[0].shape == clips[1].shape and np.abs(clips[0] - clips[1]).max() <= 1
    assert clips[0].shape != clips[2].shape or np.abs(clips[0] - clips[2]).max() > 100


def test_settings_reach_the_server(serve, visit):
    """A slider moved, and the request was the same."""
    running = serve()
    page = visit(running)
    speak(page)
    first = running.engine.handles[-1].request
    assert (first.temperature, first.cfg_scale, first.seed, first.max_seconds) == (None, None, None, None)
    page.get_by_label("number input for Temperature").fill("0.7")
    page.get_by_label("Longest audio").fill("3.5")
    speak(page, seed=5)
    second = running.engine.handles[-1].request
    assert (second.temperature, second.cfg_scale, second.seed, second.max_seconds) == (0.7, None, 5, 3.5)


@pytest.mark.parametrize("way", ["button", "key"])
def test_cancel_frees_the_slot(serve, visit, wait, way):
    """The page stopped playing, and the server went on generating."""
    running = serve(Script(hold_after=1))
    page = visit(running)
    fill(page, HELLO)
    page.locator("#dia-speak").click()
    expect(page.get_by_role("button", name="Pause")).to_be_enabled()
    if way == "button":
        page.locator("#dia-cancel").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(".dia-status").first).to_have_text("Canceled.")
    assert running.engine.handles[-1].ended.wait(60) and running.engine.handles[-1].finish_reason == "canceled"
    wait(page, lambda: "dia_active_samples 0.0" in running.http.get("/metrics").text)
    assert len(sf.read(io.BytesIO(download(page)[1]))[0]) == 10 * 512  # what has come is not lost
    page.get_by_label("Format of the file").select_option("mp3")
    page.locator("#dia-download").click()
    expect(page.get_by_role("alert").first).to_contain_text("can be saved as wav")
    expect(page.locator("#dia-speak")).to_be_enabled()


def alert_of(page, script=HELLO):
    fill(page, script)
    page.locator("#dia-speak").click()
    expect(page.get_by_role("alert").first).to_be_visible()
    text = page.get_by_role("alert").first.inner_text()
    expect(page.locator("#dia-speak")).to_be_enabled()
    return text


def test_a_full_queue_is_told_in_words(serve, visit):
    """An error was the number 429, or nothing."""
    page = visit(serve(Script(refusal=QueueFullError("8 calls"))))
    assert alert_of(page) == "The queue is full; send the request again later. Try again in 1 s."


def test_an_error_in_the_middle_is_told_in_words(serve, visit):
    """A clip that broke off looked complete."""
    page = visit(serve(Script(error=RuntimeError("cable"))))
    assert alert_of(page).startswith("The request failed (RuntimeError); the server's log has the details of request ")
    page.get_by_role("tab", name="History").click()
    expect(page.get_by_label("Clips", exact=True)).to_contain_text("1.3 s, not complete")


def test_a_server_that_is_gone_is_told_in_words(serve, visit):
    """The page waited for ever, or showed `TypeError: Failed to fetch`."""
    running = serve()
    page = visit(running)
    running.stop()
    assert alert_of(page).startswith("The server does not answer.")
    expect(page.locator(".dia-state")).to_have_text("no answer")


@pytest.mark.parametrize(
    ("label", "value", "told"),
    [
        ("Script", "  ", "The script is empty."),
        ("Script", "[S1] ", "`input` is '[S1] ': there are no words in it."),
        ("Seed", "1.5", 'The seed is "1.5". Give a whole number'),
        ("Seed", "9" * 16, "The seed is"),
        ("Longest audio", "-1", 'The longest audio is "-1". Give a number of seconds'),
        ("number input for Temperature", "-3", "`temperature` is -3"),
    ],
)
def test_wrong_values_are_told_in_words(server, visit, label, value, told):
    """A wrong value was ignored, or ended in a number."""
    page = visit(server)
    page.get_by_label(label, exact=label == "Script").fill(value)
    page.locator("#dia-speak").click()
    expect(page.get_by_role("alert").first).to_contain_text(told)


def test_an_api_key(serve, visit):
    """A page of a server with keys could be read and not used; or the key was kept for later visitors."""
    page = visit(serve(settings=ServerSettings(api_keys=("secret",))))
    assert alert_of(page) == "This server asks for an API key. Enter it at the top of the page."
    page.get_by_label("API key").fill("wrong")
    page.get_by_label("API key").press("Enter")
    assert alert_of(page).startswith("The API key is not one of this server's.")
    page.get_by_label("API key").fill("secret")
    page.get_by_label("API key").press("Enter")
    speak(page)
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    expect(page.locator("dia-editor")).to_contain_text("1 turn, about 1 s")


def test_progress_of_a_long_script(server, visit):
    """A long script showed no progress until its end."""
    page = visit(server)
    page.evaluate("""() => {
        window.told = [];
        const status = document.querySelector(".dia-status");
        new MutationObserver(() => window.told.push(status.textContent)).observe(status, { childList: true });
    }""")
    script = "[S1] I can read and I can sing. [S2] You can come home now and eat fish.\n" * 4
    fill(page, script)
    expect(page.locator("dia-editor")).to_contain_text("3 parts")
    speak(page, script)
    told = [text for text in page.evaluate("window.told") if text.startswith("Part")]
    assert told[-1] == "Part 3 of 3 …" and len(told) >= 2
    expect(page.get_by_label("Parts of the script")).to_be_hidden()


def test_each_format_can_be_saved(server, visit):
    """A format of the server was missing in the page, or the file was of another one."""
    page = visit(server)
    speak(page, seed=3)
    names = page.get_by_label("Format of the file").locator("option").all_inner_texts()
    assert sorted(names) == ["aac", "flac", "mp3", "opus", "pcm", "srt", "vtt", "wav"]
    wav = sf.read(io.BytesIO(download(page)[1]))[0]
    for name in set(names) - {"srt", "vtt"}:  # subtitles, of test_captions.py
        file, content = download(page, name)
        assert file == f"dia-3.{name}"
        if name == "pcm":
            seconds = len(content) / 2 / 24_000
        else:
            with av.open(io.BytesIO(content)) as container:
                frames = list(container.decode(audio=0))
            seconds = sum(frame.samples for frame in frames) / frames[0].sample_rate
        assert seconds == pytest.approx(len(wav) / RATE, abs=0.25), name


def test_history(serve, visit):
    """A clip was lost with the next one; or its settings could not be had again."""
    page = visit(serve())
    page.get_by_label("number input for Guidance", exact=True).fill("2")
    speak(page, "[S1] Hello.", seed=11)
    page.get_by_label("number input for Guidance", exact=True).fill("4")
    speak(page, "[S2] Good morning.", seed=12)
    page.get_by_role("tab", name="History").click()
    rows = page.get_by_label("Clips", exact=True).get_by_role("listitem")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("1.3 s · seed 11")
    rows.nth(1).get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('dia-history audio').duration > 1.2")
    rows.nth(1).get_by_role("button", name="Use again").click()
    expect(page.get_by_label("Script", exact=True)).to_have_value("[S1] Hello.")
    expect(page.get_by_label("Seed")).to_have_value("11")
    expect(page.get_by_label("number input for Guidance", exact=True)).to_have_value("2")
    page.get_by_role("tab", name="History").click()
    page.get_by_role("button", name="Clear the history").click()
    page.get_by_role("button", name="Keep").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Clear the history").click()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_label("Clips", exact=True)).to_contain_text("Nothing has been spoken yet.")


def test_seeking(serve, visit):
    """What had been spoken could be heard once, from the beginning, only."""
    page = visit(serve(Script(num_chunks=20)))  # 6.4 s
    speak(page)
    plot = page.get_by_label("Position in the speech")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] * 0.75, "y": 20})
    page.wait_for_function(f"{POSITION} > 4.7")
    page.get_by_role("button", name="Pause").click()
    plot.press("Home")
    plot.press("ArrowRight")
    assert page.evaluate(POSITION) == pytest.approx(1, abs=0.01)
    expect(plot).to_have_attribute("aria-valuetext", "1.0 seconds")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function(f"{POSITION} > 1.2")
