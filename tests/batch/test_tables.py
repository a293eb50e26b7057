"""Tables, read row by row."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.tables import write_table
from dia_hf.batch.rows import FIELDS
from dia_hf.batch.tables import read_records
from dia_hf.data.rows import RowError

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=20)
ROWS = st.lists(st.fixed_dictionaries({"id": CELLS.filter(len), "text": CELLS}), min_size=1, max_size=5)


def read(path):
    return list(read_records(path, FIELDS))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@given(rows=ROWS)
def test_the_same_rows_from_each_format(tmp_path_factory, suffix, rows):
    """A comma, a quote or a letter beyond ASCII in a text was read as something else in one of the formats."""
    path = write_table(tmp_path_factory.mktemp("table") / f"texts{suffix}", rows)
    assert read(path) == list(enumerate(rows, start=1))


def test_a_table_is_not_read_ahead(tmp_path):
    """A table of a million rows was read whole before the first row was spoken, in ten times its size of memory."""
    path = tmp_path / "texts.csv"
    path.write_bytes(b"id,text\n" + b"a,Hello.\n" * 100_000 + b"\xff\n")
    assert list(islice(read_records(path, FIELDS), 2)) == [(i, {"id": "a", "text": "Hello."}) for i in (1, 2)]
    with pytest.raises(ValueError, match=r"texts\.csv' is not in UTF-8 .byte 0xff after row"):
        read(path)


def test_lines_that_cannot_be_read_are_errors_of_their_rows(tmp_path):
    """One bad line of a million ended the run before it began."""
    path = tmp_path / "texts.jsonl"
    lines = [b'\xef\xbb\xbf{"text": "Hello."}', b"", b"{", b'{"text": "\xff"}', b'["Hello."]', b"[" * 99 + b"]" * 99]
    path.write_bytes(b"\n".join(lines) + b'\n{"text": "Yes."}')
    records = dict(read(path))
    assert records.pop(1) == {"text": "Hello."} and records.pop(7) == {"text": "Yes."}
    assert {number: error.code for number, error in records.items()} == dict.fromkeys([3, 4, 5, 6], "unreadable_row")
    assert records[3].reason.endswith("at character 2).")  # of the line; it said "line 2"
    assert "not in UTF-8" in records[4].reason and "a list; it must be an object" in records[5].reason


def test_rows_of_csv_that_cannot_be_right(tmp_path):
    """A text with a comma and without quotes lost its second half; an unclosed quote made one text of all rows."""
    path = tmp_path / "texts.csv"
    path.write_text("id,text\na,Hello, Dia.\nb,Yes.\n")
    (_, error), (_, good) = read(path)
    assert isinstance(error, RowError) and "1 cells more" in error.reason and good == {"id": "b", "text": "Yes."}
    path.write_text("id,text,note,text ,,\na,Hello.,,,,\n")
    with pytest.raises(ValueError, match=r"texts.csv' has several columns 'text'"):
        read(path)
    path.write_text('id,text\na,Hello.\nb,"Yes.\nc,Hello.\n')
    with pytest.raises(ValueError, match=r"cannot be read after row 1 .*unclosed quote"):
        read(path)


def test_a_table_of_a_spreadsheet_with_semicolons(tmp_path):
    """Spreadsheets of many countries write semicolons and a byte order mark; all of a row was one column."""
    path = tmp_path / "texts.csv"
    path.write_text("id; text\na;Hello, Dia.\n", "utf-8-sig")
    assert read(path) == [(1, {"id": "a", "text": "Hello, Dia."})]


def test_other_columns_of_parquet_are_named_and_not_read(tmp_path):
    """A column of audio was read into memory, or its name was not there to be warned of."""
    path = write_table(tmp_path / "texts.parquet", [{"text": "Hello.", "audio": b"0" * 1000}])
    assert read(path) == [(1, {"audio": None, "text": "Hello."})]


def test_files_that_are_no_tables(tmp_path):
    """The error of a library did not name the file or what to give instead."""
    with pytest.raises(FileNotFoundError, match=r"there is no table at '.*none\.csv'"):
        read(tmp_path / "none.csv")
    (tmp_path / "texts.xlsx").touch()
    with pytest.raises(ValueError, match=r"ending '\.xlsx'; give a table in \.jsonl, \.csv, \.tsv or \.parquet"):
        read(tmp_path / "texts.xlsx")
    (tmp_path / "texts.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"texts\.parquet' cannot be read after row 0"):
        read(tmp_path / "texts.parquet")
