import pytest

from dia_hf.text_files import decode_text, read_text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_text_of_any_editor(tmp_path, mark, end):
    """A byte order mark was read as a turn."""
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
    """Python's error names neither the file nor a remedy; UTF-16 can even be accepted."""
    path = tmp_path / "script.txt"
    path.write_bytes("Hello there.\nGrüße!\n".encode(encoding))
    with pytest.raises(
        ValueError, match=rf"script\.txt' is not in UTF-8 \({message}.*save it as UTF-8, with or without"
    ):
        read_text(path)
    with pytest.raises(ValueError, match=r"^standard input is not in UTF-8"):
        decode_text(path.read_bytes(), "standard input")


def test_no_text_at_all(tmp_path):
    """An empty file was an error, or a missing file an empty text."""
    assert decode_text(b"", "x") == "" == decode_text(b"\xef\xbb\xbf", "x")
    with pytest.raises(FileNotFoundError, match="gone"):
        read_text(tmp_path / "gone")
