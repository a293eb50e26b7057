import errno
import os

import pytest

from dia_hf.files import written_whole


def test_a_file_is_there_whole(tmp_path):
    """A reader saw a file that was still being written."""
    path = tmp_path / "new" / "file.txt"
    with written_whole(path) as beside:
        beside.write_text("all of it")
        assert not path.exists() and beside.parent == path.parent and beside.suffix == path.suffix
    assert path.read_text() == "all of it"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    """The last take was lost with the next one."""
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write():
        with written_whole(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    """The error named a hidden file beside, or none."""

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=r"nothing was written.*file\.txt") as info,
        written_whole(tmp_path / "file.txt") as f,
    ):
        f.write_text("all of it")
    assert info.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_readable_by_others(tmp_path):
    """Files made by `mkstemp` can be read by their owner alone."""
    before = os.umask(0o022)
    try:
        with written_whole(tmp_path / "file.txt") as beside:
            beside.write_text("for all")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644
