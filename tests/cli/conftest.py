"""Fixtures for the tests of several verbs."""

import pytest

from dia_hf.speech.voices import VoiceLibrary


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("DIA_HF_VOICES", str(tmp_path / "voices"))
    return VoiceLibrary()
