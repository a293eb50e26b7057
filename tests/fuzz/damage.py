"""Damage to bytes, JSON, safetensors, text and folders, drawn from a seeded generator."""

import copy
import json
import math
import shutil
import struct
from pathlib import Path
from random import Random

ODD_VALUES = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.5, 2**31, 2**63, 10**30, 1e308, math.inf, math.nan),
    *("", "x", "0", "-1", "44100", "float32", "é\0\n", "x" * 3000, "../../..", "/", "[S1]"),
    *([], {}, [[]], [None], [1, 2, 3], {"": None}, {"a": {"b": []}}),
]
ODD_TEXTS = [
    *(
        "",
        " ",
        "\n",
        "\0",
        "[",
        "]",
        "[S1]",
        "[S2] [S1]",
        "[S1][S2][S1]",
        "(laughs)",
        "[nl]",
        "[S999999999999]",
        "[S0]",
    ),
    *(
        "a" * 400,
        "é" * 300,
        "word " * 60,
        "[" * 300,
        "[S1" * 100,
        "\u202e\u0301\ud800"[:2],
        "\x1b[31m",
        "👩‍👩‍👧" * 20,
        "--",
        "-",
    ),
    *(
        "[S1] Hello. [S2] Hi!",
        "[s1] hello",
        "SPEAKER_00: hello",
        "[S1] 3.14 e.g. Dr. No... yes?!",
        "\ufeff[S1] Hi.\r\n",
    ),
]


def damage_bytes(draw: Random, content: bytes) -> bytes:
    """Cut, flip, fill, repeat or insert bytes; sometimes return none, or unrelated ones."""
    if not content:
        return draw.randbytes(draw.choice([1, 8, 300]))
    begin = draw.choice([0, draw.randrange(min(len(content), 64)), draw.randrange(len(content))])
    end = min(len(content), begin + draw.choice([1, 2, 4, 8, 64, 1000]))
    kind = draw.randrange(9)
    if kind == 0:
        return content[:begin]
    if kind == 1:
        return content[begin:]
    if kind == 2:
        flipped = bytearray(content)
        for _ in range(draw.choice([1, 1, 3, 50])):
            flipped[draw.choice([draw.randrange(len(content)), draw.randrange(min(64, len(content)))])] ^= (
                1 << draw.randrange(8)
            )
        return bytes(flipped)
    if kind == 3:
        return content[:begin] + draw.choice([b"\0", b"\xff", b"\x7f"]) * (end - begin) + content[end:]
    if kind == 4:
        return content[:begin] + draw.randbytes(end - begin) + content[end:]
    if kind == 5:
        return content[:end] + content[begin:]
    if kind == 6:
        return content + content[begin:end]
    if kind == 7:
        return b"" if draw.random() < 0.5 else draw.randbytes(draw.choice([1, 10, 4000]))
    return draw.choice(
        [b"null", b"[]", b"{}", b"PK\x03\x04", b"RIFF", b"\x80\x04N.", b"%PDF-1.4", b"\x89PNG\r\n", b"version https"]
    )


def _places(value: object, place: tuple = ()) -> list[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, child in children for found in _places(child, (*place, key)))]


def damage_value(draw: Random, value: object) -> object:
    """Replace, remove, rename or wrap parts of a JSON or YAML value."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        places = _places(value)
        place = draw.choice(places)
        odd = copy.deepcopy(draw.choice(ODD_VALUES))
        if not place:
            if len(places) == 1 or draw.random() < 0.1:
                value = odd
            continue
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        kind = draw.randrange(6)
        if kind == 0:
            del parent[place[-1]]
        elif kind == 1 and isinstance(parent, dict):
            parent[draw.choice(["", "x", place[-1] + "_", place[-1].upper()])] = parent.pop(place[-1])
        elif kind == 2:
            old = parent[place[-1]]
            parent[place[-1]] = draw.choice([[old], {"value": old}, str(old)])
        elif kind == 3 and isinstance(parent[place[-1]], int | float):
            number = parent[place[-1]]
            parent[place[-1]] = draw.choice(
                [-number, number + 1, number - 1, number * 2, number * 10**9, float(number)]
            )
        else:
            parent[place[-1]] = odd
    return value


def damage_json(draw: Random, content: bytes) -> bytes:
    """Damage the content of a JSON file, and sometimes its bytes."""
    if draw.random() < 0.15:
        return damage_bytes(draw, content)
    if draw.random() < 0.05:
        depth = draw.choice([10, 500, 20_000])
        return draw.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth])
    try:
        lines = [json.loads(line) for line in content.splitlines()]
        is_lines = len(lines) > 1
    except ValueError:
        is_lines = False
    if is_lines:
        lines = [damage_value(draw, line) if draw.random() < 0.5 else line for line in lines]
        return "\n".join(map(json.dumps, lines)).encode()
    try:
        return json.dumps(damage_value(draw, json.loads(content)), indent=1).encode()
    except ValueError:
        return damage_bytes(draw, content)


def damage_safetensors(draw: Random, content: bytes) -> bytes:
    """Damage the header of a safetensors file, or its bytes."""
    if len(content) < 8 or draw.random() < 0.3:
        return damage_bytes(draw, content)
    size = struct.unpack("<Q", content[:8])[0]
    try:
        header = json.loads(content[8 : 8 + size])
    except ValueError:
        return damage_bytes(draw, content)
    if draw.random() < 0.1:
        wrong = draw.choice([0, size - 1, size + 8, 2**40, 2**63, 2**64 - 1])
        return struct.pack("<Q", wrong) + content[8:]
    new = json.dumps(damage_value(draw, header)).encode()
    return struct.pack("<Q", len(new)) + new + content[8 + size :]


def damage_text(draw: Random, text: str) -> str:
    """Insert, cut or repeat pieces of a text."""
    for _ in range(draw.choice([1, 1, 2, 6])):
        begin, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        piece = draw.choice([draw.choice(ODD_TEXTS), text[begin:end], chr(draw.randrange(1, 0xD800)), ""])
        text = text[:begin] + piece + text[draw.choice([begin, end]) :]
    return text


def damage_file(draw: Random, path: Path) -> None:
    """Damage a file by its format, or replace it by other content."""
    kind = draw.random()
    if kind < 0.12:
        path.unlink()
        replacement = draw.choice(["nothing", "folder", "dangling", "loop"])
        if replacement == "folder":
            path.mkdir()
        elif replacement != "nothing":
            path.symlink_to(path.name if replacement == "loop" else "not-there")
        return
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        content = damage_json(draw, content)
    elif path.suffix == ".safetensors":
        content = damage_safetensors(draw, content)
    elif path.suffix == ".gguf":
        size = draw.choice([100, 1000, 10_000, len(content)])  # of the header, mostly
        content = damage_bytes(draw, content[:size]) + content[size:]
    elif path.suffix in (".txt", ".csv", ".tsv", ".yaml") and draw.random() < 0.7:
        content = damage_text(draw, content.decode("utf-8", "replace")).encode("utf-8", "surrogatepass")
    else:
        content = damage_bytes(draw, content)
    path.write_bytes(content)


def damage_folder(draw: Random, folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Damage one or two of a folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in keep)
    for path in draw.sample(files, min(len(files), draw.choice([1, 1, 2]))):
        damage_file(draw, path)


def copy_fresh(source: Path, target: Path) -> Path:
    """Copy a folder or file to a path that does not exist."""
    if source.is_dir():
        return Path(shutil.copytree(source, target))
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(source, target))
