import pytest
import torch

from dia_hf.engine import memory
from dia_hf.engine.memory import free_memory, num_fitting

CPU = torch.device("cpu")


class Report:
    """Substitute for `/proc/meminfo`."""

    def __init__(self, text):
        self.text = text

    def __call__(self, path):
        return self

    def exists(self):
        return self.text is not None

    def read_text(self, encoding):
        return self.text


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("MemTotal:  9 kB\nMemAvailable:   2048 kB\nHugePages_Total:  0\n", 2048 * 1024),
        ("MemTotal:  9 kB\n", None),
        (None, None),
    ],
    ids=["Linux", "an old Linux", "elsewhere"],
)
def test_free_memory_of_a_cpu(monkeypatch, report, expected):
    """Kilobytes read as bytes; or an error on a machine without this report."""
    monkeypatch.setattr(memory, "Path", Report(report))
    assert free_memory(CPU) == expected


def test_free_memory_of_other_devices_is_unknown():
    """The host's free memory was used as an accelerator's."""
    assert free_memory(torch.device("meta")) is None


def test_free_memory_of_a_gpu(monkeypatch):
    """Memory cached by torch counted as used, so that little fits in the second call."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    assert free_memory(torch.device("cuda")) == 1200


@pytest.mark.parametrize(
    ("free", "expected"), [(None, 64), (0, 1), (99, 1), (1000, 6), (10**9, 64)], ids=lambda value: str(value)
)
def test_how_many_fit(monkeypatch, free, expected):
    """A batch of 0 samples, of all the memory, or without a limit."""
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    monkeypatch.setattr(memory, "_SHARE", 0.6)
    assert num_fitting(100, CPU) == expected
