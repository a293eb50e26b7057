"""Tables, files and plots of known figures."""

import dataclasses
import json
import sys

import pytest

from dia_hf.bench import tables
from dia_hf.bench.parity import LogitError, ParityReport
from dia_hf.bench.speed import Milliseconds, Speed, SpeedReport


def make_speed_report():
    ours = Speed("dia_hf", None, Milliseconds(10, 9, 12), 2.5, 30, 1.5, 0.5, 3.0, 260, 2**30, 10**7, 5.0)
    theirs = Speed("transformers, eager", None, Milliseconds(25, 20, 30), 1, 31, 2, 1, 3.0, limit_ms=5.0)
    gone = Speed("transformers, static + compiled", "not on this device")
    settings = {"batch_size": 2, "text_bytes": 100, "frames": 64, "dtype": "bfloat16", "device": "cpu", "threads": 1}
    settings |= {"sampling": {"do_sample": True}, "repeats": 3}
    return SpeedReport(settings, 100.0, 2e9, 10**9, [ours, theirs, gone])


def make_parity_report():
    error = LogitError(0.5, 0.25, 0.125, [0.75, 1.0])
    return ParityReport(2, 24, error, dataclasses.replace(error, relative_rms=0.5), [0.1, 0.2], [3, None])


def cells(table, line):
    row = next(row for row in table.splitlines() if row.strip().startswith(line))
    return row.strip().removeprefix(line).split("  ")[1:]


def values(table, line):
    return [cell.strip() for cell in cells(table, line) if cell.strip()]


def test_speed_table():
    """A figure was in the wrong row, or divided by the wrong seconds."""
    table = tables.speed_table(make_speed_report())
    assert values(table, "step, ms (median)") == ["10.00", "25.00"]
    assert values(table, "p10 to p90") == ["9.00 to 12.00", "20.00 to 30.00"]
    assert values(table, "speedup, step") == ["2.50", "1.00"]
    assert values(table, "limit / step") == ["50.0%", "20.0%"]
    # Two samples at 100 frames a second are 20 ms of audio a step.
    assert values(table, "× real time, steps") == ["2", "0.8"]
    assert values(table, "× real time, call") == ["2", "1.5"]
    assert values(table, "× real time, with codec") == ["1.5", "1"]
    assert values(table, "peak memory, MB") == ["1074", "-"]
    assert "transformers, static + compiled: not on this device" in table
    assert "batch 2, 100 bytes of text, 64 frames, bfloat16 on cpu, threads 1, sampling, iterations 3" in table
    assert "2.0 GB/s" in table


def test_noise_is_told():
    """Load that varies within a measurement distorts the ratios, without a note in the table."""
    quiet = make_speed_report()
    assert "noisy" not in tables.speed_table(quiet)
    quiet.candidates[0].step.p90 = 27
    assert "dia_hf: noisy, p90 is 3.0 × p10" in tables.speed_table(quiet)


def test_columns_are_aligned():
    """Columns were not aligned with their headers."""
    table = tables.speed_table(make_speed_report()).split("\n\n")[1].splitlines()
    ends = {len(row) for row in table if not row.endswith("-")}
    assert len(ends) == 1


def test_parity_table():
    """A figure was in the column of another scheme."""
    exact = make_parity_report()
    exact.greedy_differs_at, exact.kl_divergence = [None, None], [0.0, 0.0]
    table = tables.parity_table({"int4": make_parity_report(), "bfloat16": exact})
    assert values(table, "against float32") == ["int4", "bfloat16"]
    assert values(table, "conditional logits: relative rms") == ["1.25e-01", "1.25e-01"]
    assert values(table, "guided logits: relative rms") == ["5.00e-01", "5.00e-01"]
    assert values(table, "channel 0: KL, nats") == ["1.00e-01", "0.00e+00"]
    assert values(table, "channel 0: same best token") == ["75.0%", "75.0%"]
    assert values(table, "greedy codes differ from frame") == ["3 never", "never never"]


def test_json_holds_all_figures(tmp_path):
    """A figure of the table was missing in the JSON file."""
    speed, parity = make_speed_report(), {"int8": make_parity_report()}
    file = tmp_path / "new" / "bench.json"
    tables.write_json(file, tables.environment("cpu"), speed=speed, parity=parity)
    read = json.loads(file.read_text("utf-8"))
    assert read["speed"] == dataclasses.asdict(speed)
    assert read["parity"]["int8"] == dataclasses.asdict(parity["int8"])
    machine = read["machine"]
    assert machine["cpu"] and machine["cores"] >= 1 and machine["memory_bytes"] > 1e8
    assert machine["gpu"] is None
    assert set(machine["versions"]) == {"python", "torch", "transformers", "dia_hf"}


def test_plot(tmp_path):
    """The plot had a bar of 0 ms, the fastest, for a candidate that did not run."""
    pytest.importorskip("matplotlib")
    file = tmp_path / "steps.svg"
    tables.plot_steps(file, make_speed_report())
    assert "<svg" in file.read_text("utf-8")


def test_without_matplotlib(tmp_path, monkeypatch):
    """A missing package was reported without a remedy, or left a file."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        tables.plot_steps(tmp_path / "steps.png", make_speed_report())
    assert not list(tmp_path.iterdir())
