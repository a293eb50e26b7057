"""Rows to audio files."""

import hashlib
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from batch.tables import short_rows, write_table
from dia_hf.audio.io import read_audio, read_metadata
from dia_hf.batch import BatchSettings
from dia_hf.batch.rows import FORMATS_OF_FILES, Failure, read_rows
from dia_hf.batch.speak import RowSpeaker, seed_of
from dia_hf.batch.voices import RowVoices
from dia_hf.speech import SpeechEngine
from waiting import wait_for


def speaker_of(engine, folder, **settings):
    return RowSpeaker(engine, folder, BatchSettings(**settings), RowVoices(folder / "texts.jsonl"))


def rows_of(folder, rows, **settings):
    table = write_table(folder / "texts.jsonl", rows)
    return [(row, row.digest) for row in read_rows(table, BatchSettings(**settings))]


def spoken(dia, folder, rows, max_batch_size=4, **settings):
    """Speak rows; return the results by id."""
    with SpeechEngine(dia, max_batch_size) as engine:
        results = list(speaker_of(engine, folder, **settings).speak(rows_of(folder, rows, **settings)))
    return {result.id: result for result in results}


def test_a_row_does_not_depend_on_the_others(dia, tmp_path):
    """The audio of a row depended on the batch, on the order, or on the rows that an earlier run had spoken."""
    rows = short_rows(8)
    for name in ("all", "back", "one"):
        (tmp_path / name).mkdir()
    entries = spoken(dia, tmp_path / "all", rows)
    backwards = spoken(dia, tmp_path / "back", rows[::-1], max_batch_size=3)
    alone = {}
    for row in rows:
        alone |= spoken(dia, tmp_path / "one", [row], max_batch_size=1)
    for row_id, entry in entries.items():
        path = tmp_path / "all" / entry.file_name
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry.sha256 == backwards[row_id].sha256 == alone[row_id].sha256
        assert entry.seed == seed_of(0, row_id) and entry.finish_reason == "length"
    assert len({entry.sha256 for entry in entries.values()}) == len(rows)  # each has noise of its own


def test_what_a_file_says_of_itself(dia, tmp_path):
    """A file that was moved out of its folder did not tell what it says."""
    (entry,) = spoken(dia, tmp_path, [{"id": "a", "text": "[S1] Hello.", "seed": 3, "max_seconds": 0.3}]).values()
    assert read_metadata(tmp_path / entry.file_name) == {"id": "a", "text": "[S1] Hello.", "seed": 3}
    assert (entry.seed, entry.attempts, entry.text) == (3, 1, "[S1] Hello.")
    assert entry.doubt.startswith("the sound is cut at `max_seconds` (0.3)")


@pytest.mark.parametrize("name", FORMATS_OF_FILES)
def test_each_format_has_the_same_bytes_again(dia, tmp_path, name):
    """Ogg streams have a random number, so the same rows gave other bytes each time."""
    rows = [{"id": "a", "text": "[S1] Hello.", "max_seconds": 0.4}]
    first, again = (spoken(dia, tmp_path, rows, format=name)["a"] for _ in range(2))
    assert first == again
    if name != "aac":  # which libsndfile does not read
        assert read_audio(tmp_path / first.file_name)[0].shape[1] > 0


def test_sound_options(dia, tmp_path):
    """An option of a row or of the run had no effect."""
    rows = [
        {"id": str(speed), "text": "[S1] Hello.", "seed": 1, "max_seconds": 0.48, "speed": speed} for speed in (1, 2)
    ]
    rows.append({"id": "loud", "text": "[S1] Hello.", "seed": 1, "loudness": -30})
    entries = spoken(dia, tmp_path, rows, sample_rate=24000)
    assert entries["1"].seconds == pytest.approx(0.48) and entries["2"].seconds == pytest.approx(0.24)
    waveforms = {}
    for row_id, entry in entries.items():
        (waveforms[row_id],), rate = read_audio(tmp_path / entry.file_name)
        assert rate == 24000 and len(waveforms[row_id]) == pytest.approx(24000 * entry.seconds, abs=3)
    assert np.std(waveforms["loud"]) < 0.7 * np.std(waveforms["1"])


class FakeHandle:
    """Request whose audio has a fixed end."""

    def __init__(self, request, reason):
        self.request, self.finish_reason, self.doubt = request, reason, None if reason == "stop" else "a doubt"
        self.chunks = [] if reason == "empty" else [np.full(8000, 0.1, np.float32)]
        if reason == "empty":
            self.finish_reason = "implausible"

    def __iter__(self):
        if self.finish_reason == "error":
            raise RuntimeError("the device is gone")
        return iter(self.chunks)

    def cancel(self):
        self.finish_reason = "canceled"


class FakeEngine:
    """Engine whose requests end for the given reasons, one after the other."""

    max_batch_size = 1

    def __init__(self, *reasons):
        self.reasons, self.requests = list(reasons), []
        self.dia = SimpleNamespace(processor=None, sampling_rate=16000)

    def submit(self, request):
        self.requests.append(request)
        return FakeHandle(request, self.reasons.pop(0))


def test_implausible_rows_are_spoken_again_with_other_seeds(tmp_path):
    """A row that came out as noise stayed so, though another seed would have spoken it."""
    row = {"id": "a", "text": "[S1] Hello."}
    for reasons, attempts in [(["stop"], 1), (["implausible", "length", "stop"], 3), (["implausible"] * 3, 3)]:
        engine = FakeEngine(*reasons)
        (entry,) = speaker_of(engine, tmp_path).speak(rows_of(tmp_path, [row]))
        seeds = [request.seed for request in engine.requests]
        assert seeds == [seed_of(0, "a", attempt) for attempt in range(attempts)] and len(set(seeds)) == attempts
        assert (entry.seed, entry.attempts, entry.finish_reason) == (seeds[-1], attempts, reasons[-1])


def test_rows_that_are_not_spoken_again(tmp_path):
    """A row's own seed was replaced, or a limit that the row sets was taken for an error of the model."""
    for row, reason in [({"seed": 7}, "implausible"), ({"max_seconds": 1}, "length")]:
        engine = FakeEngine(reason)
        (entry,) = speaker_of(engine, tmp_path).speak(rows_of(tmp_path, [{"id": "a", "text": "Hi.", **row}]))
        assert entry.finish_reason == reason and entry.attempts == 1


def test_rows_that_fail(dia, tmp_path):
    """One row without sound, or with a text that the model cannot read, ended the run."""
    engine = FakeEngine("empty", "empty", "empty", "error", "stop")
    rows = [{"id": name, "text": "Hi."} for name in "abc"]
    speaker = speaker_of(engine, tmp_path)
    failed, broken, good = (next(speaker.speak([row])) for row in rows_of(tmp_path, rows))
    assert failed == Failure(1, "a", f"a doubt (seed {seed_of(0, 'a', 2)}).")
    assert broken == Failure(2, "b", "RuntimeError: the device is gone", is_foreseen=False)
    assert good.id == "c"
    rows = [{"id": "a", "text": "Hi, \u0001 Dia."}, {"id": "b", "text": "Hi.", "voice": "nobody"}]
    rows.append({"id": "c", "text": "Hi.", "voices": {"S7": "default"}, "max_seconds": 1e-9})
    results = spoken(dia, tmp_path, rows)
    assert all(isinstance(result, Failure) and result.is_foreseen for result in results.values())
    assert "no voice 'nobody'" in results["b"].error and "`max_seconds` is 1e-09" in results["c"].error


def test_a_full_disk_ends_the_run(tmp_path):
    """A full disk made each of the rows that were left a failure of its own."""
    (tmp_path / "audio").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="nothing was written"):
        list(speaker_of(FakeEngine("stop"), tmp_path).speak(rows_of(tmp_path, [{"id": "a", "text": "Hi."}])))


def test_a_missing_package_ends_the_run(tmp_path, monkeypatch):
    """Without pyloudnorm, each row of a million was generated, and then a failure."""
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    rows = rows_of(tmp_path, [{"id": "a", "text": "Hi.", "loudness": -20}])
    with pytest.raises(ImportError, match=r"dia-hf\[audio\]"):
        list(speaker_of(FakeEngine("stop"), tmp_path).speak(rows))


def test_rows_are_read_as_far_as_they_are_worked_on(dia, tmp_path):
    """All rows of the table were in the engine's queue at once."""
    table, taken = rows_of(tmp_path, short_rows(40)), []

    def rows():
        for row in table:
            taken.append(row)
            yield row

    with SpeechEngine(dia, max_batch_size=2) as engine:
        results = speaker_of(engine, tmp_path).speak(rows())
        next(results)
        assert len(taken) == 8  # twice the batch, and four
        next(results)
        assert len(taken) == 9
        results.close()
        wait_for(lambda: engine.num_active == 0)


def test_an_end_cancels_what_is_in_work(dia, tmp_path):
    """Control-C waited for the rows in work, which may be long dialogues."""
    texts = [{"id": "a", "text": "[S1] Hello."}]
    texts += [{"id": str(i), "text": "[S1] Hello, I am Dia. " * 200} for i in range(2)]
    with SpeechEngine(dia, max_batch_size=4) as engine:
        results = speaker_of(engine, tmp_path).speak(rows_of(tmp_path, texts))
        assert next(results).id == "a"
        results.close()
        wait_for(lambda: engine.num_active == 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dia-batch")]
    assert [path.stem for path in tmp_path.rglob("*.wav")] == ["a"]
