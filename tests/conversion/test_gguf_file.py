"""GGUF files: values by the package `gguf`, headers that lie, files that end too early."""

import struct
import sys
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dia_hf.conversion.gguf_file import GgufFile, is_gguf
from dia_hf.conversion.weights import Weights


def write(file, rows, **keys):
    writer = gguf.GGUFWriter(str(file), "test")
    for key, value in keys.items():
        add = {str: writer.add_string, list: writer.add_array, float: writer.add_float32, int: writer.add_uint32}
        add[type(value)](key, value)
    for name, array, kind in rows:
        raw = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(array, raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_0", "Q4_0", "Q5_1", "Q4_1"])
def test_tensors_of_every_type(tmp_path, kind):
    """Dimensions were reversed, or blocks assigned to the wrong rows."""
    array = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)
    write(tmp_path / "x.gguf", [("a", array, "F32"), ("x", array, kind), ("row", array[0, 0], kind)])
    raw = gguf.GGMLQuantizationType[kind]
    expected = gguf.quants.dequantize(gguf.quants.quantize(array, raw), raw)
    opened = GgufFile(tmp_path / "x.gguf")
    assert list(opened) == ["a", "x", "row"]
    assert opened.shape("x") == (3, 5, 64) and opened.kind("x") == kind
    read = opened.read("x")
    assert read.dtype == opened.dtype("x")
    assert torch.equal(read.float(), torch.from_numpy(np.array(expected)))
    assert torch.equal(opened.read("row").float(), torch.from_numpy(np.array(expected))[0, 0])


def test_keys(tmp_path):
    """Arrays and strings came back as numpy objects, or as their bytes."""
    keys = {"number": 7, "fraction": 0.5, "text": "é", "numbers": [1, 2, 3], "texts": ["a", "b"]}
    write(tmp_path / "x.gguf", [("a", np.zeros(3, dtype=np.float32), "F32")], **keys)
    fields = GgufFile(tmp_path / "x.gguf").fields
    assert {name: fields[name] for name in keys} == keys


def test_it_is_recognized_by_its_content(tmp_path):
    """A file under another suffix was given to `torch.load`."""
    write(tmp_path / "x.gguf", [("a", np.ones(3, dtype=np.float32), "F32")])
    (tmp_path / "x.gguf").rename(tmp_path / "x.bin")
    assert is_gguf(tmp_path / "x.bin") and not is_gguf(tmp_path / "nowhere")
    assert torch.equal(Weights([tmp_path / "x.bin"]).read("a"), torch.ones(3))


def test_without_the_package(tmp_path, monkeypatch):
    """The error did not name the extra."""
    write(tmp_path / "x.gguf", [("a", np.ones(3, dtype=np.float32), "F32")])
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r'pip install "dia-hf\[gguf\]"'):
        Weights([tmp_path / "x.gguf"])


def entry(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def tensor(name: bytes = b"a", dims=(4,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return struct.pack("<Q", len(name)) + name + sizes + struct.pack("<IQ", kind, offset)


def header(num_tensors=0, num_fields=0, version=3, rest=b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_fields) + rest


LIES = {
    "nothing else": (b"GGUF", "it ends within its header"),
    "a version of the future": (header(version=9), "its version is 9; known are 2, 3"),
    "the other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its version is 50331648"),
    "huge number of tensors": (header(2**63), "tells of 9223372036854775808 tensors"),
    "huge number of keys": (header(0, 2**40), "tells of 1099511627776 key-value pairs"),
    "many keys that are not there": (header(0, 90_000), "it ends within its header"),
    "a long key": (header(0, 1, rest=struct.pack("<Q", 2**62)), "it ends within its header"),
    "a long string": (header(0, 1, rest=entry(b"x", 8, struct.pack("<Q", 2**50))), "it ends within its header"),
    "a huge array": (header(0, 1, rest=entry(b"x", 9, struct.pack("<IQ", 0, 2**60))), "elements of an array"),
    "an array that ends": (header(0, 1, rest=entry(b"x", 9, struct.pack("<IQ", 8, 90_000))), "it ends within"),
    "an array of arrays": (header(0, 1, rest=entry(b"x", 9, struct.pack("<IQ", 9, 1))), "an array of arrays"),
    "an unknown type": (header(0, 1, rest=entry(b"x", 77, b"")), "a value of the unknown type 77"),
    "a key twice": (header(0, 2, rest=2 * entry(b"x", 4, b"\1\0\0\0")), "Duplicate"),
    "a key that is no text": (header(0, 1, rest=entry(b"\xff\xfe", 4, b"\1\0\0\0")), "utf-8"),
    "many dimensions": (header(1, rest=tensor(dims=[1] * 90)), "90 dimensions; at most 4"),
    "a huge tensor": (header(1, rest=tensor(dims=(2**40, 2**20))), "elements, in a file of"),
    "sizes whose product overflows": (header(1, rest=tensor(dims=(2**32, 2**32))), "elements, in a file of"),
    "a tensor that is not there": (header(1, rest=tensor(dims=(100,))), "truncated"),
    "a tensor beyond the end": (header(1, rest=tensor(offset=2**40) + bytes(64)), "truncated"),
    "an unknown kind of tensor": (header(1, rest=tensor(kind=999) + bytes(64)), "999"),
    "a kind without values": (
        header(1, rest=tensor(dims=(4,), kind=24) + bytes(64)),
        "I8, which cannot be dequantized",
    ),
    "blocks cut through": (header(1, rest=tensor(dims=(33,), kind=8) + bytes(256)), "multiple of Q8_0"),
    "a tensor twice": (header(2, rest=2 * tensor() + bytes(256)), "duplicated tensor"),
}


@pytest.mark.parametrize("kind", LIES)
def test_headers_that_lie(tmp_path, kind):
    """A count of 2**60 elements was allocated one by one, or the error was a traceback of the package."""
    content, message = LIES[kind]
    (tmp_path / "x.gguf").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"x\.gguf.*{message}"):
            Weights([tmp_path / "x.gguf"])
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "x.gguf"
    rows = [
        (name, np.arange(64, dtype=np.float32).reshape(2, 32), kind) for name, kind in (("a", "F32"), ("b", "Q8_0"))
    ]
    write(file, rows, number=7, texts=["a", "b"])
    return file


@given(st.data())
def test_a_file_that_is_cut_or_changed(whole, tmp_path_factory, data):
    """Some cut or changed byte led to an error of numpy's or of the package's, or to values from beyond the end."""
    content = bytearray(whole.read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("cut") / "x.gguf"
    file.write_bytes(b"GGUF" + content[4:])
    try:
        opened = GgufFile(file)
    except ValueError:
        return
    for name in opened:
        assert tuple(opened.read(name).shape) == opened.shape(name)
