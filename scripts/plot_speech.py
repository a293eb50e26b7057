"""Plot speech: `python scripts/plot_speech.py AUDIO PNG` plots the waveform and the spectrogram of a file.

The background is transparent, and the labels are in a grey that is readable on light and dark pages. Makes the picture
of the README.
"""

import sys
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dia_hf.audio.io import read_audio

INK = "#808080"  # equally visible on white and black
WINDOW = 0.032  # seconds: resolves both the harmonics of a voice and its consonants
FLOOR = -80  # decibels relative to the maximum


def plot_speech(audio: str, png: str) -> None:
    """Plot the file `audio`, mixed to mono, to the file `png` of 1200 x 500 pixels."""
    channels, rate = read_audio(audio)
    samples = channels.mean(axis=0)
    size = min(len(samples), int(WINDOW * rate))
    if size < 2:
        raise ValueError(f"{audio!r} has {len(samples)} samples; give a longer file.")
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
    # 256 colors look the same, at a fifth of the size.
    Image.open(drawn).quantize(256, method=Image.Quantize.FASTOCTREE).save(png, format="PNG", optimize=True)


if __name__ == "__main__":
    plot_speech(*sys.argv[1:])
