"""Tables in tests."""

import csv
import json


def write_table(path, rows):
    """Write rows, dictionaries of text and numbers, in the format of the path's ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), path)
    else:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def short_rows(number):
    """Return rows of different texts that the miniature speaks within half a second."""
    texts = ["[S1] Hello.", "[S2] Welcome, Dia.", "[S1] Yes.", "[S1] Hello. [S2] Yes.", "I am Dia."]
    return [
        {"id": f"row-{i}", "text": texts[i % len(texts)], "max_seconds": 0.2 + 0.05 * (i % 3)} for i in range(number)
    ]


def files_of(folder):
    """Return the content of all files of a folder by path, without the report, which has times."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "report.json"
    }
