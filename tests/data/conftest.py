"""Recordings that the tests of sources, clips and segments share."""

import pytest
import soundfile as sf


@pytest.fixture
def recordings(tmp_path, tone):
    """A folder of three recordings."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(3):
        sf.write(folder / f"{number}.wav", tone(0.1, 16000, pitch=200 + 50 * number), 16000)
    return folder
