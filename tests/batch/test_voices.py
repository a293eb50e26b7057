"""Voices that rows name."""

import numpy as np
import pytest
import soundfile as sf
import torch

from dia_hf.batch.rows import BatchRow
from dia_hf.batch.voices import RowVoices
from dia_hf.speech import Voice, VoiceLibrary


def row_of(text="[S2] Hi. [S1] Yes.", **fields):
    return BatchRow(1, "a", "audio/0000/a.wav", text, **fields)


@pytest.fixture
def voice(dia):
    codec = dia.processor.codec
    codes = torch.zeros(20, codec.num_codebooks, dtype=torch.long)
    return Voice(codes, "Hello.", codec.fingerprint, codec.sampling_rate, codec.hop_length)


@pytest.fixture
def voices(tmp_path, voice):
    VoiceLibrary(tmp_path / "library").add("anna", voice)
    voice.save(tmp_path / "ben.safetensors")
    return RowVoices(tmp_path / "texts.csv", tmp_path / "library")


def test_a_voice_is_that_of_the_first_speaker(voices, voice, dia):
    """One voice for a row was the voice of [S1], who spoke second."""
    assert voices.load(row_of(voices="Anna"), dia.processor) == {"[S2]": voice}
    assert voices.load(row_of("Hi.", voices="anna"), dia.processor) == {"[S1]": voice}
    assert voices.load(row_of(), dia.processor) is None


def test_voices_by_speaker_name_and_file(voices, voice, dia):
    """A path was looked up in the working directory instead of the table's folder; "default" was an unknown voice."""
    row = row_of(voices={"S1": "ben.safetensors", "[S2]": "default"})
    assert voices.load(row, dia.processor) == {"[S1]": voice}


def test_a_voice_of_two_speakers_is_for_both(tmp_path, voices, voice, dia):
    """A voice whose transcript has two speakers was refused for being that of one."""
    both = Voice(voice.codes, "[S1] Hello. [S2] Hi.", voice.codec, voice.sampling_rate, voice.hop_length)
    VoiceLibrary(tmp_path / "library").add("both", both)
    assert voices.load(row_of(voices="both"), dia.processor) == both


def test_a_recording_is_encoded_once(tmp_path, voices, dia, tone, monkeypatch):
    """Each of a thousand rows with one recording encoded it anew."""
    sf.write(tmp_path / "carl.wav", tone(4, 16000), 16000)
    row = row_of(audio_prompt="carl.wav", audio_prompt_transcript="Hello, I am Dia, and this is how I sound.")
    assert voices.find(row) == ""
    (loaded,) = voices.load(row, dia.processor).values()
    assert loaded.seconds == pytest.approx(4, abs=0.1) and np.ptp(loaded.codes.numpy()) > 0
    monkeypatch.setattr(Voice, "from_audio_with_doubts", None)
    assert voices.load(row, dia.processor) == {"[S2]": loaded}


def test_missing_voices_are_known_without_a_model(voices):
    """A voice that does not exist was found when its row was spoken, hours after the start."""
    with pytest.raises(ValueError, match=r"there is no voice 'nobody' in the library '.*library'; add it"):
        voices.find(row_of(voices={"S1": "anna", "S2": "nobody"}))
    with pytest.raises(ValueError, match=r"there is no voice 'x\.safetensors' at '.*x\.safetensors'"):
        voices.find(row_of(voices="x.safetensors"))
    with pytest.raises(ValueError, match=r"`audio_prompt` is 'x\.wav', and there is no file"):
        voices.find(row_of(audio_prompt="x.wav", audio_prompt_transcript="A."))


def test_the_hash_is_that_of_the_content(tmp_path, voices, voice):
    """A voice that was replaced under its name left old and new audio in one folder."""
    before = voices.find(row_of(voices="anna"))
    assert before == voices.find(row_of(voices="ben.safetensors")) != ""
    other = Voice(voice.codes + 1, "Hello.", voice.codec, voice.sampling_rate, voice.hop_length)
    VoiceLibrary(tmp_path / "library").add("anna", other, force=True)
    assert RowVoices(tmp_path / "texts.csv", tmp_path / "library").find(row_of(voices="anna")) != before
