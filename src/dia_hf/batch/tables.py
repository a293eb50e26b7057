"""Tables of requests, read row by row, so that memory does not grow with their length: JSON lines, CSV, Parquet.

A record is what the row has for each column; for a row that cannot be read, the reason. The tables of recordings for
training (`data/sources.py`) have more forms, and are read whole.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .._extras import import_extra
from ..data.rows import RowError
from ..text_files import first_line, is_deep

__all__ = ["Record", "check_table", "read_records"]

Record = tuple[int, dict[str, Any] | RowError]
"""Number of a row from 1, without the header (in JSON lines that of the line), and its cells by column."""

_DELIMITERS = {".csv": (",", ";"), ".tsv": ("\t",)}
_ROWS_AT_ONCE = 256  # of Parquet


def read_records(path: Path, columns: Iterable[str]) -> Iterator[Record]:
    """Read a table row by row.

    Args:
        path (`Path`): Ends in .jsonl, .csv, .tsv or .parquet. Text is UTF-8, with or without a byte order mark.
        columns (`Iterable[str]`): Columns that are used; the others of a Parquet file are not read, and are `None`.

    Yields:
        `Record`: The rows in their order; blank lines are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has another ending, or cannot be read as a whole.
        ImportError: If it is Parquet and pyarrow is not installed.
    """
    check_table(path)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _read_json_lines(path)
    if suffix in _DELIMITERS:
        return _read_csv(path, _DELIMITERS[suffix])
    return _read_parquet(path, set(columns))


def check_table(path: Path) -> None:
    """Check that a table is there and has a known ending.

    Raises:
        FileNotFoundError, ValueError: If not.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table at {str(path)!r}.")
    if path.suffix.lower() not in (".jsonl", *_DELIMITERS, ".parquet"):
        raise ValueError(
            f"{str(path)!r} has the ending {path.suffix!r}; give a table in .jsonl, .csv, .tsv or .parquet."
        )


def _read_json_lines(path: Path) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> dict[str, Any] | RowError:
    try:
        record = json.loads(line.decode("utf-8").rstrip("\r\n"))
        is_unusable = is_deep(record)
    except UnicodeDecodeError as error:
        return RowError("unreadable_row", f"the line is not in UTF-8 (byte {error.start + 1}); save it as UTF-8.")
    except json.JSONDecodeError as error:  # whose own message counts the lines of this one line
        return RowError("unreadable_row", f"the line is no JSON ({error.msg} at character {error.pos + 1}).")
    except (ValueError, RecursionError) as error:
        return RowError("unreadable_row", f"the line is no JSON ({first_line(error)}).")
    if is_unusable or not isinstance(record, dict):
        kind = "nested too deeply" if is_unusable else f"a {type(record).__name__}"
        return RowError("unreadable_row", f"the line is {kind}; it must be an object with a text.")
    return record


def _read_csv(path: Path, delimiters: tuple[str, ...]) -> Iterator[Record]:
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(delimiters, key=head.count)
            # Strict: otherwise an unclosed quote makes one text of all following rows.
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            names = Counter(map(str.strip, reader.fieldnames or ()))
            if repeated := [name for name, count in names.items() if name and count > 1]:
                raise ValueError(f"{str(path)!r} has several columns {repeated[0]!r}; rename or remove all but one.")
            for number, cells in enumerate(reader, start=1):
                yield number, _check_cells(cells, delimiter)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is not in UTF-8 (byte 0x{error.object[error.start]:02x} after row {number}); save it as "
            "UTF-8."
        ) from error
    except csv.Error as error:
        raise ValueError(
            f"{str(path)!r} cannot be read after row {number} ({error}); check for an unclosed quote."
        ) from error


def _check_cells(cells: dict[Any, Any], delimiter: str) -> dict[str, Any] | RowError:
    extra = cells.pop(None, None)
    if extra is not None:
        return RowError(
            "extra_cells",
            f"the row has {len(extra)} cells more than the table has columns; put a text that contains {delimiter!r} "
            "in quotes.",
        )
    return {name.strip(): value for name, value in cells.items()}


def _read_parquet(path: Path, columns: set[str]) -> Iterator[Record]:
    import_extra("pyarrow")
    from pyarrow import ArrowException, parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            unused = dict.fromkeys(name for name in names if name not in columns)
            used = [name for name in names if name in columns]
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=used):
                for record in batch.to_pylist():
                    number += 1
                    yield number, {**unused, **record}
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read after row {number} ({first_line(error)}).") from error
