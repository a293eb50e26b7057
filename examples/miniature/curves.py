"""Draw how the losses fell: `python curves.py WORK PNG`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(work: str, png: str) -> None:
    """Draw the codec's two trainings, unless it is the embedded one, and the model's."""
    of_codecs = sorted(Path(work).glob("??coder.csv"), reverse=True)
    num_plots = 2 + bool(of_codecs)
    figure, plots = plt.subplots(1, num_plots, figsize=(4.4 * num_plots, 3.6), layout="constrained")
    of_model, of_answers = plots[-2:]
    for file in of_codecs:
        rows = list(csv.reader(file.read_text().splitlines()))
        plots[0].plot([int(row[0]) for row in rows], [float(row[1]) for row in rows], label=file.stem)
    logs: list[dict[str, float]] = []
    for part in ("model-words", "model-phrases", "model"):
        done = logs[-1]["step"] if logs else 0
        lines = [json.loads(line) for line in (Path(work) / part / "metrics.jsonl").read_text().splitlines()]
        logs += [{**line, "step": done + line["step"]} for line in lines if "loss_channel_0" in line]
    for channel in (0, 1, 4, 8):
        for plot, measure in ((of_model, "loss"), (of_answers, "accuracy")):
            values = [line[f"{measure}_channel_{channel}"] for line in logs]
            plot.plot([line["step"] for line in logs], values, label=f"channel {channel}")
    for plot, title in zip(plots[::-1], ("model: right answers", "model: loss", "codec: loss"), strict=False):
        plot.set(xlabel="steps", title=title)
        plot.legend()
    if of_codecs:
        plots[0].set_yscale("log")
    figure.savefig(png, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
