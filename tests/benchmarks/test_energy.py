"""The energy that `benchmarks/energy.py` reads and reports."""

import json

import pytest
import torch

import energy
from energy import EnergyMeter


def test_energy_where_a_cpu_tells(tmp_path):
    """A machine without counters has unknown energy, not none; and sub-zones are part of their package."""
    meter = EnergyMeter(torch.device("cpu"), tmp_path)
    assert meter.read() is None
    for zone, microjoules in {"intel-rapl:0": 2_000_000, "intel-rapl:1": 500_000, "intel-rapl:0:0": 7}.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{microjoules}\n")
    meter = EnergyMeter(torch.device("cpu"), tmp_path)
    assert meter.read() == 2.5
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.read() is None


def test_joules_are_of_one_frame_of_one_sample(monkeypatch, capsys):
    """Energy of a batch that is divided by the frames of one sample is a figure of nothing."""
    readings = iter([0.0, 0.0, 100.0, 124.0, 200.0, 228.0])  # the warm-up, then two calls
    monkeypatch.setattr(EnergyMeter, "read", lambda self: next(readings))
    energy.main(["--device", "cpu", "--frames", "20", "--text-bytes", "10", "--batch-size", "2", "--repeats", "2"])
    result = json.loads(capsys.readouterr().out)
    assert result["joules_per_frame"] == pytest.approx(26 / 40)


def test_a_device_without_a_counter_is_refused(monkeypatch):
    """Zero joules would read as a result."""
    monkeypatch.setattr(EnergyMeter, "read", lambda self: None)
    with pytest.raises(SystemExit, match="no energy counter"):
        energy.main(["--device", "cpu", "--frames", "20", "--text-bytes", "10"])
