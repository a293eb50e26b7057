"""The script that draws README's image."""

import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from dia_hf.audio.io import write_audio

SCRIPT = Path(__file__).parent.parent / "scripts" / "plot_speech.py"


@pytest.fixture
def plot(monkeypatch):
    """Run the script as `python scripts/plot_speech.py …` does, in this process."""

    def run(*args):
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, args)])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_picture_of_a_tone(tmp_path, plot, rate):
    """A tone was drawn at another height than its frequency, or the image was too large for a page."""
    sound, png = tmp_path / "tone.wav", tmp_path / "tone.png"
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(2 * rate)
    write_audio(sound, (0.5 * np.sin(2 * np.pi * 2000 * np.arange(2 * rate) / rate) + hiss).astype(np.float32), rate)
    plot(sound, png)
    assert struct.unpack(">II", png.read_bytes()[16:24]) == (1200, 500)
    assert png.stat().st_size < 150_000
    picture = np.asarray(Image.open(png).convert("RGBA")).astype(int)
    assert picture[0, 0, 3] == 0, "a page in another color has a box on it"
    below = picture[195:452, 640]  # a column of the lower panel; magma's brightness rises with the level
    loudest = 1 - np.argmax(below[:, :3].sum(axis=1)) / len(below)
    assert loudest * rate / 2 == pytest.approx(2000, abs=rate / 2 * 0.02)


def test_nothing_to_draw(tmp_path, plot):
    """An empty file gave an empty image."""
    sf.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    with pytest.raises(ValueError, match="0 samples"):
        plot(tmp_path / "empty.wav", tmp_path / "empty.png")
    assert not (tmp_path / "empty.png").exists()
