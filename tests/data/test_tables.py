"""Tables as records: recognized by their beginning, read row by row."""

import csv
import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.data.tables import open_file, peek_columns

NAMES = st.lists(st.from_regex(r"[a-z_]{2,8}", fullmatch=True), min_size=1, max_size=5, unique=True)


@given(NAMES, st.sampled_from([".csv", ".tsv", ".jsonl", ".json"]), st.booleans())
def test_the_beginning_tells_the_columns(tmp_path_factory, names, suffix, has_mark):
    """A table in a folder was not recognized, or for other columns than it has."""
    row = dict.fromkeys(names, "x")
    written = json.dumps([row, row], indent=1) if suffix == ".json" else json.dumps(row) + "\n"
    if suffix in (".csv", ".tsv"):
        file = io.StringIO(newline="")
        csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",").writerows(
            [["text", *names], ["a", *row.values()]]
        )
        written = file.getvalue()
    path = tmp_path_factory.mktemp("tables") / f"clips{suffix}"
    path.write_text(written, "utf-8-sig" if has_mark else "utf-8", newline="")
    table = open_file(path, path.parent, set())
    assert peek_columns(path, set()) == table.column_names == ["text"] * (suffix in (".csv", ".tsv")) + names
    assert len(list(table.records)) == table.num_rows


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"{", b"[[", b"[" * 100_000, b'"text"', b"null", b"[1, 2]"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_other_files_are_no_tables(tmp_path, content, suffix):
    """Another JSON file in a folder of recordings ended the run."""
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert peek_columns(tmp_path / f"a{suffix}", set()) == []
    assert peek_columns(tmp_path, set()) == peek_columns(tmp_path / "gone.csv", set()) == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_are_not_held(tmp_path, suffix):
    """A table of a million rows took ten times its size in memory, before the first clip was read."""
    path = tmp_path / f"clips{suffix}"
    rows = [{"path": f"{number}.wav", "text": f"Row {number}.", "speaker": "anna"} for number in range(20_000)]
    lines = (
        map(json.dumps, rows) if suffix == ".jsonl" else ["path,text,speaker", *(",".join(r.values()) for r in rows)]
    )
    path.write_text("\n".join(lines))
    tracemalloc.start()
    try:
        table = open_file(path, tmp_path, set())
        assert sum(record["speaker"] == "anna" for _, _, record in table.records) == table.num_rows == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * path.stat().st_size
