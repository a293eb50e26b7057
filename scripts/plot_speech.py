"""Draw speech: `python scripts/plot_speech.py AUDIO PNG` puts waveform and spectrogram of a file on one picture.

It is see-through, in a grey that shows on a light page and on a dark one. README's picture is made by it.
"""

import sys
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dia_hf.audio.io import read_audio

INK = "#808080"  # as far from white as from black
WINDOW = 0.032  # seconds: long enough to tell a voice's harmonics apart, short enough for its consonants
FLOOR = -80  # decibels below the loudest


def plot_speech(audio: str, png: str) -> None:
    """Draw the file `audio`, its channels taken together, into the file `png`, of 1200 x 500 pixels."""
    channels, rate = read_audio(audio)
    samples = channels.mean(axis=0)
    size = min(len(samples), int(WINDOW * rate))
    if size < 2:
        raise ValueError(f"{audio!r} has {len(samples)} samples; give a file with something to see.")
    seconds = len(samples) / rate

    figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 3])
    above.plot(np.arange(len(samples)) / rate, samples, color="#2a8fd0", linewidth=0.6)
    above.set(ylim=np.array([-1.05, 1.05]) * max(float(np.abs(samples).max()), 1e-3), ylabel="amplitude")

    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: max(1, len(samples) // 1200)]
    levels = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))
    levels = 20 * np.log10(np.maximum(levels / max(float(levels.max()), 1e-9), 10 ** (FLOOR / 20)))
    extent = (size / 2 / rate, seconds - size / 2 / rate, 0, rate / 2000)
    below.imshow(levels.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=FLOOR, vmax=0)
    below.set(xlim=(0, seconds), xlabel="seconds", ylabel="kHz", facecolor="black")

    for panel in (above, below):
        panel.tick_params(colors=INK)
        panel.spines[:].set_color(INK)
        for label in (panel.xaxis.label, panel.yaxis.label):
            label.set_color(INK)
    above.set_facecolor("none")
    drawn = BytesIO()
    figure.savefig(drawn, format="png", facecolor="none")
    # 256 colors are enough for the eye, and a fifth of the bytes.
    Image.open(drawn).quantize(256, method=Image.Quantize.FASTOCTREE).save(png, format="PNG", optimize=True)


if __name__ == "__main__":
    plot_speech(*sys.argv[1:])
