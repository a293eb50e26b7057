"""Compilation of the C++ operators, and which library is loaded."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dia_hf import native
from dia_hf.native import build

SOURCES = Path(build.__file__).parent
HAS_COMPILER = sys.platform == "linux" and (shutil.which("g++") or shutil.which("clang++"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small source in place of the package's, and a loader that looks there."""
    (tmp_path / "library.cpp").write_text(
        'extern "C" { const char* dia_source_hash() { return DIA_SOURCE_HASH; } void dia_set_openmp(void*) {} }'
    )
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setattr(native, "source_hash", lambda: build.source_hash(tmp_path))
    monkeypatch.delenv("DIA_HF_NATIVE", raising=False)
    native._loaded.cache_clear()
    yield tmp_path
    native._loaded.cache_clear()


@needs_compiler
def test_every_instruction_set_is_built(folder):
    """A set without a library on the machine that has it."""
    assert set(build.build(folder)) == {folder / build.library_name(name) for name in build.VARIANTS}
    usable = [
        name for name in build.VARIANTS if native._extensions_of_this_processor().issuperset(build.VARIANTS[name])
    ]
    assert (native.variant_name(), native.unavailable_reason()) == (usable[0], None)
    assert sorted(path.suffix for path in folder.rglob("*.*")) == [".cpp", ".so", ".so", ".so"]


def test_no_compiler_is_no_error(folder, monkeypatch):
    """The package could not be installed without a compiler."""
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    assert build.build(folder) == []
    assert native.library() is None
    assert native.unavailable_reason() == "the package was built without a C++ compiler"


@needs_compiler
def test_a_source_that_does_not_compile(folder):
    """Libraries of which some are old and some new after an error."""
    build.build(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.so")}
    (folder / "library.cpp").write_text("no C++")
    with pytest.raises(subprocess.CalledProcessError) as error:
        build.build(folder)
    assert "error" in error.value.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*.so")} == before


@needs_compiler
def test_libraries_older_than_their_sources_are_not_used(folder, caplog):
    """After a change of a source, the tests ran the old operator."""
    build.build(folder)
    (folder / "simd.h").write_text("// new")
    native._loaded.cache_clear()
    assert native.library() is None
    assert "older than their sources" in native.unavailable_reason()
    assert "build.py" in caplog.text


@needs_compiler
def test_a_processor_without_the_instructions(folder, monkeypatch):
    """A library with unknown instructions ends the process."""
    build.build(folder)
    monkeypatch.setattr(native, "_extensions_of_this_processor", lambda: {"avx2", "fma", "f16c", "avx512f"})
    assert native.variant_name() == "avx2"
    native._loaded.cache_clear()
    monkeypatch.setattr(native, "_extensions_of_this_processor", set)
    assert native.library() is None
    assert native.unavailable_reason() == "this processor has no AVX2"


@needs_compiler
def test_a_library_that_cannot_be_loaded(folder):
    """A damaged library prevented `import dia_hf`."""
    for path in build.build(folder):
        path.write_bytes(path.read_bytes()[:100])
    assert native.library() is None
    assert "cannot be loaded" in native.unavailable_reason()


@pytest.mark.parametrize(("value", "match"), [("avx1024", "'avx1024'; use avx512-bf16, avx512-vnni, avx2, or 0")])
def test_an_unknown_instruction_set(folder, monkeypatch, value, match):
    """A misspelled variable was ignored without an error."""
    monkeypatch.setenv("DIA_HF_NATIVE", value)
    with pytest.raises(ValueError, match=match):
        native.library()


def test_another_openmp(folder, monkeypatch):
    """PyTorch with another OpenMP has no threads for the operators."""
    if not HAS_COMPILER:
        pytest.skip("no C++ compiler")
    build.build(folder)
    monkeypatch.setattr(native, "_openmp", lambda: None)
    assert native.library() is None
    assert "GOMP_parallel" in native.unavailable_reason()


def test_the_libraries_here_are_of_these_sources():
    """The other tests of operators would be skipped without a word."""
    if HAS_COMPILER and list(SOURCES.rglob("*.so")):
        assert native.unavailable_reason() in (None, "this processor has no AVX2", "DIA_HF_NATIVE=0")
