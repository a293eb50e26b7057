"""Fixtures for the tests of data: folders of recordings, and the number of encoded clips."""

import pytest
import soundfile as sf

from data.inputs import write_rows
from dia_hf.audio.dac import DacCodec


@pytest.fixture
def recordings(tmp_path, tone):
    """A folder of three recordings."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(3):
        sf.write(folder / f"{number}.wav", tone(0.1, 16000, pitch=200 + 50 * number), 16000)
    return folder


@pytest.fixture
def make_source(tmp_path, tone):
    """Write a folder of clips, each with its own pitch: `make_source(text_1, text_2, …)`; take and return rows."""

    def make(*texts, name="recordings", seconds=1.2, header=("file_name", "text")):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows = []
        for number, text in enumerate(texts):
            sf.write(folder / f"{number:02d}.wav", tone(seconds, 16000, pitch=150 + 10 * number), 16000)
            rows.append([f"{number:02d}.wav", *([text] if isinstance(text, str) else text)])
        write_rows(folder, rows, header)
        return folder

    return make


@pytest.fixture
def num_encoded(monkeypatch):
    """Count the clips that are passed to the codec: a list with one number."""
    count = [0]
    encode = DacCodec.encode

    def counting(self, waveforms):
        count[0] += len(waveforms)
        return encode(self, waveforms)

    monkeypatch.setattr(DacCodec, "encode", counting)
    return count
