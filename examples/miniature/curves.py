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
    figure, (of_codec, of_model, of_answers) = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for file in sorted(Path(work).glob("??coder.csv"), reverse=True):
        rows = list(csv.reader(file.read_text().splitlines()))
        of_codec.plot([int(row[0]) for row in rows], [float(row[1]) for row in rows], label=file.stem)
    logs: list[dict[str, float]] = []
    for part in ("model-words", "model-phrases", "model"):
        done = logs[-1]["step"] if logs else 0
        lines = [json.loads(line) for line in (Path(work) / part / "metrics.jsonl").read_text().splitlines()]
        logs += [{**line, "step": done + line["step"]} for line in lines if "loss_channel_0" in line]
    for channel in (0, 1, 4, 8):
        for plot, measure in ((of_model, "loss"), (of_answers, "accuracy")):
            values = [line[f"{measure}_channel_{channel}"] for line in logs]
            plot.plot([line["step"] for line in logs], values, label=f"channel {channel}")
    for plot, title in ((of_codec, "codec: loss"), (of_model, "model: loss"), (of_answers, "model: right answers")):
        plot.set(xlabel="steps", title=title)
        plot.legend()
    if len(of_codec.lines):
        of_codec.set_yscale("log")
    else:
        of_codec.remove()
    figure.savefig(png, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
