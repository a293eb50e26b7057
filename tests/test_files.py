import errno
import os

import pytest

from dia_hf.files import decode_text, read_text, written_whole


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


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_text_of_any_editor(tmp_path, mark, end):
    """A byte order mark was a turn of its own, and read aloud."""
    path = tmp_path / "script.txt"
    path.write_bytes(mark + end.join([b"[S1] Hello.", "[S2] Grüße, 世界!".encode(), b""]))
    assert read_text(path) == "[S1] Hello.\n[S2] Grüße, 世界!\n"


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "it looks like UTF-16"),
        ("utf-16-le", "it looks like UTF-16"),
        ("utf-16-be", "it looks like UTF-16"),
        ("utf-32", "it looks like UTF-16"),
        ("cp1252", "byte 0xfc in line 2; it looks like cp1252"),
    ],
)
def test_text_in_another_encoding(tmp_path, encoding, message):
    """Python's words name a codec and a byte, and neither the file nor what to do; UTF-16 can even pass."""
    path = tmp_path / "script.txt"
    path.write_bytes("Hello there.\nGrüße!\n".encode(encoding))
    with pytest.raises(
        ValueError, match=rf"script\.txt' is not in UTF-8 \({message}.*save it as UTF-8, with or without"
    ):
        read_text(path)
    with pytest.raises(ValueError, match=r"^standard input is not in UTF-8"):
        decode_text(path.read_bytes(), "standard input")


def test_no_text_at_all(tmp_path):
    """An empty file is an empty text, and one that is missing an error of its own kind."""
    assert decode_text(b"", "x") == "" == decode_text(b"\xef\xbb\xbf", "x")
    with pytest.raises(FileNotFoundError, match="gone"):
        read_text(tmp_path / "gone")
