"""Rows and recordings for the tests of data."""

import csv

import numpy as np

RATE = 44100
TEXT = "This is what is said."


def write_rows(folder, rows, header=("file_name", "text")):
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def sound(samples, rate=RATE):
    return {"array": np.asarray(samples, dtype=np.float32), "sampling_rate": rate}
