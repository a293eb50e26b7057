"""Import of a folder of recordings as voices."""

import numpy as np
import pytest
import soundfile as sf

from dia_hf.speech import voice_import
from dia_hf.speech.voice_import import VoiceImportError, import_voices
from dia_hf.speech.voices import Voice, VoiceLibrary
from phone_recordings import encode_recording

RATE = 16000
WORDS = "This is what I said in the recording."


@pytest.fixture
def folder(tmp_path, tone):
    """Two recordings, one of a telephone, and files that are none."""
    path = tmp_path / "cast"
    (path / "inside").mkdir(parents=True)
    sf.write(path / "anna.wav", tone(3.5, RATE), RATE)
    (path / "Ben-2.m4a").write_bytes(encode_recording(tone(4.0, 44100), "ipod", "aac", 44100))
    for name in ("anna", "Ben-2"):
        (path / f"{name}.txt").write_text(f"{WORDS}\n", "utf-8")
    (path / "notes.md").write_text("none of them")
    (path / ".hidden.wav").write_bytes(b"none")
    return path


@pytest.fixture
def voices(tmp_path):
    return VoiceLibrary(tmp_path / "voices")


def test_each_recording_is_a_voice(folder, voices, processor):
    """A voice differed from the one that is made of the recording alone, or had another name."""
    found = import_voices(folder, processor, voices)
    assert list(found) == ["Ben-2", "anna"] == list(voices)
    assert found["anna"] == voices.get("anna") == Voice.from_audio(folder / "anna.wav", WORDS, processor)
    assert found["Ben-2"].seconds == pytest.approx(4.0, abs=0.1)


def test_all_faults_are_told_at_once_and_nothing_is_saved(folder, voices, processor, tone, monkeypatch):
    """The first fault ended the import, with the voices before it saved and those after it unchecked."""
    voices.add("ANNA", Voice.from_audio(folder / "anna.wav", WORDS, processor))
    before = {path: path.read_bytes() for path in voices.folder.iterdir()}
    sf.write(folder / "Carl (1).wav", tone(3.5, RATE), RATE)
    sf.write(folder / "ben-2.flac", tone(3.5, RATE), RATE)
    sf.write(folder / "dora.wav", tone(3.5, RATE), RATE)
    sf.write(folder / "emil.wav", tone(3.5, RATE), RATE)
    sf.write(folder / "fritz.wav", tone(3.5, RATE), RATE)
    for name, text in (("Carl (1)", WORDS), ("ben-2", WORDS), ("emil", " \n")):
        (folder / f"{name}.txt").write_text(text, "utf-8")
    (folder / "fritz.txt").write_bytes(b"\xff\xfe\0")
    monkeypatch.setattr(Voice, "from_audio_with_doubts", lambda *args: pytest.fail("encoded before all was checked"))
    with pytest.raises(VoiceImportError, match="6 of 7 recordings cannot be imported, and none was saved") as caught:
        import_voices(folder, processor, voices)
    problems = caught.value.problems
    assert set(problems) == {"Carl (1).wav", "anna.wav", "ben-2.flac", "dora.wav", "emil.wav", "fritz.wav"}
    for name, words in {
        "anna.wav": "'ANNA' already",
        "Carl (1).wav": "cannot be called",
        "ben-2.flac": "Ben-2.m4a has the same name",
        "dora.wav": "write it to dora.txt",
        "emil.wav": "emil.txt is empty",
        "fritz.wav": "fritz.txt",
    }.items():
        assert words in problems[name]
    assert {path: path.read_bytes() for path in voices.folder.iterdir()} == before


def test_recordings_that_cannot_be_encoded(folder, voices, processor):
    """Voices were saved although a later recording was no audio, or silent."""
    (folder / "anna.wav").write_bytes(b"no audio")
    sf.write(folder / "zoe.wav", np.zeros(RATE), RATE)
    (folder / "zoe.txt").write_text(WORDS, "utf-8")
    with pytest.raises(VoiceImportError) as caught:
        import_voices(folder, processor, voices)
    assert "cannot be read as audio" in caught.value.problems["anna.wav"]
    assert "silent" in caught.value.problems["zoe.wav"]
    assert list(voices) == []


def test_transcripts_in_another_form_of_unicode(folder, voices, processor):
    """The transcript of "José" was missing, and left out, if one name came from macOS; of two, one was taken."""
    name, other = "Jose\u0301", "Jos\u00e9"
    (folder / "anna.wav").rename(folder / f"{name}.wav")
    (folder / "anna.txt").rename(folder / f"{other}.txt")
    assert list(import_voices(folder, processor, voices)) == ["Ben-2", other]
    (folder / f"{name}.TXT").write_text("Other words.")
    with pytest.raises(VoiceImportError, match="it has several transcripts, "):
        import_voices(folder, processor, voices, force=True)


def test_force_replaces(folder, voices, processor):
    """A corrected transcript could not be imported; or a voice kept its old one."""
    import_voices(folder, processor, voices)
    (folder / "anna.txt").write_text("These are other words, as I see.", "utf-8")
    with pytest.raises(VoiceImportError, match="'anna' already"):
        import_voices(folder, processor, voices)
    import_voices(folder, processor, voices, force=True)
    assert voices.get("anna").transcript == "These are other words, as I see."


def test_doubts_name_the_file(folder, voices, processor, tone):
    """A warning did not tell which of the recordings it is about."""
    sf.write(folder / "anna.wav", tone(2.0, RATE), RATE)
    (folder / "readme.txt").write_text("no transcript")
    with pytest.warns(UserWarning, match=r"anna\.wav|readme\.txt") as caught:
        import_voices(folder, processor, voices)
    messages = sorted(str(warning.message) for warning in caught)
    assert messages[0].startswith("anna.wav: the recording has 2.0 s")
    assert messages[1].startswith("readme.txt is left out")


def test_a_disk_that_is_full_at_the_end(folder, voices, processor, monkeypatch):
    """A failure while voices were saved hid which of them were."""
    add = VoiceLibrary.add

    def fail(library, name, *args):
        if name == "anna":
            raise OSError(28, "No space left on device")
        return add(library, name, *args)

    monkeypatch.setattr(VoiceLibrary, "add", fail)
    with pytest.raises(VoiceImportError, match=r"1 of 2 .* and 1 were saved: anna: .*No space left"):
        import_voices(folder, processor, voices)
    assert list(voices) == ["Ben-2"]


def test_nothing_to_import(tmp_path, voices, processor):
    """A wrong folder was a success of no voices."""
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        import_voices(tmp_path / "missing", processor, voices)
    with pytest.raises(NotADirectoryError, match="there is no folder ''"):  # and not the current one
        import_voices("", processor, voices)
    with pytest.raises(ValueError, match="no recordings"):
        import_voices(tmp_path, processor, voices)


def test_long_lists_are_shortened():
    """A thousand faults filled the screen; all of them are in `problems`."""
    error = VoiceImportError({f"{number}.wav": "x" * 300 for number in range(1000)}, 1000)
    assert len(str(error)) < 1200 and "and 997 more" in str(error) and len(error.problems) == 1000
    assert voice_import._LISTED == 3
