"""Voices in a store, by fsspec's store in memory."""

import fsspec
import pytest

pytest.importorskip("fastapi")

import torch

from dia_hf import Dia
from dia_hf.serving.voice_store import RemoteVoiceLibrary, is_address, open_library
from dia_hf.serving.voices import ServedVoices
from dia_hf.speech.voices import Voice

VOICE = Voice(torch.zeros(431, 9, dtype=torch.long), "[S1] Hello.", "0123", 44100, 512)


@pytest.fixture
def address(tmp_path):
    """The address of a folder in a store that does not exist yet."""
    return f"memory://{tmp_path.name}/voices"


@pytest.fixture
def store():
    return fsspec.filesystem("memory")


def test_addresses(tmp_path):
    """A path was taken for an address, or an address for a folder that was then made."""
    assert is_address("s3://bucket/voices")
    assert not any(map(is_address, (None, tmp_path, "voices", "C:\\voices")))
    assert open_library(tmp_path).folder == tmp_path


def test_a_voice_of_one_server_is_that_of_another(address):
    """A server knew its own voices only, or went on with a voice that another one had deleted or replaced."""
    one, two = RemoteVoiceLibrary(address, max_age=0), RemoteVoiceLibrary(address, max_age=0)
    assert list(one) == list(two) == []
    one.add("anna", VOICE)
    assert two.get("Anna") == VOICE
    other = Voice(VOICE.codes[:100], "[S1] Other.", "0123", 44100, 512)
    two.add("anna", other, force=True)
    assert one.get("anna") == other
    two.remove("anna")
    assert list(one) == list(two) == []


def test_a_listing_has_an_age(address, monkeypatch):
    """Each request listed the store."""
    library = RemoteVoiceLibrary(address, max_age=3600)
    listed = []
    monkeypatch.setattr(library._store, "ls", lambda *_, **__: listed.append(1) or [])
    for _ in range(5):
        assert library.find("anna") is None
    assert not listed
    library.refresh()
    assert listed == [1]


def test_a_name_is_taken_in_the_store(address):
    """A voice of another server was replaced without a word."""
    one, two = RemoteVoiceLibrary(address, max_age=3600), RemoteVoiceLibrary(address, max_age=3600)
    one.add("anna", VOICE)
    with pytest.raises(ValueError, match="already a voice 'anna'"):
        two.add("Anna", VOICE)


def test_an_upload_that_fails(address, monkeypatch):
    """A voice that had not reached the store was listed until the server ended, and lost then."""
    library = RemoteVoiceLibrary(address, max_age=3600)

    def fail(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(library._store, "put_file", fail)
    with pytest.raises(OSError, match="no space"):
        library.add("anna", VOICE)
    assert list(library) == []


def test_a_replacement_that_fails(address, monkeypatch):
    """The voice that was to be replaced was in the store still, and not found any more."""
    library = RemoteVoiceLibrary(address, max_age=0)
    library.add("anna", VOICE)
    assert library.get("anna") == VOICE

    def fail(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(library._store, "put_file", fail)
    with pytest.raises(OSError, match="no space"):
        library.add("anna", Voice(VOICE.codes[:100], "[S1] Other.", "0123", 44100, 512), force=True)
    assert library.get("anna") == VOICE


def test_the_mirror_is_read_during_an_upload_or_a_removal(address, monkeypatch):
    """A request at that moment deleted the file from the mirror, and the upload or the removal failed."""
    library = RemoteVoiceLibrary(address, max_age=3600)
    for name in ("put_file", "rm_file"):
        work = getattr(library._store, name)
        monkeypatch.setattr(
            library._store,
            name,
            lambda *args, work=work, **rest: (library.refresh(), work(*args, **rest), library.refresh()),
        )
    library.add("anna", VOICE)
    assert library.get("anna") == VOICE
    library.remove("anna")
    assert list(library) == []


def test_a_store_that_does_not_answer(address, monkeypatch, caplog):
    """A store that was away for a while ended every request, or its voices were forgotten."""
    library = RemoteVoiceLibrary(address, max_age=0)
    library.add("anna", VOICE)
    assert list(library) == ["anna"]

    def fail(*_, **__):
        raise OSError("timed out")

    with monkeypatch.context() as patch:
        patch.setattr(library._store, "ls", fail)
        assert [list(library) for _ in range(3)] == [["anna"]] * 3
    assert caplog.text.count("timed out") == 1
    assert list(library) == ["anna"]


def test_a_server_finds_a_voice_that_another_has_just_added(address):
    """A client that added a voice and used it at once was told by another replica that there is none."""
    dia = Dia.from_pretrained()
    codec = dia.processor.codec
    voice = Voice(VOICE.codes, "[S1] Hello.", codec.fingerprint, codec.sampling_rate, codec.hop_length)
    served = ServedVoices(dia, address)
    served.library.max_age = 3600
    RemoteVoiceLibrary(address).add("anna", voice)
    assert served.resolve("anna") == voice
    served.delete("anna")
    assert list(RemoteVoiceLibrary(address)) == []


def test_other_files_are_left_alone(address, store):
    """A file that is no voice was downloaded, or ended the server."""
    library = RemoteVoiceLibrary(address, max_age=0)
    for name in ("README.md", ".hidden.safetensors", "folder/ben.safetensors"):
        store.pipe_file(f"{library._root}/{name}", b"x")
    library.add("anna", VOICE)
    assert list(library) == ["anna"] and len(list(library.folder.glob("*.safetensors"))) == 1


def test_unusable_addresses():
    """A missing package ended the server with a traceback that did not say what to install."""
    with pytest.raises(ValueError, match=r"nope://x.*not known"):
        RemoteVoiceLibrary("nope://x")
    with pytest.raises(ImportError, match=r"s3://x.*s3fs"):
        RemoteVoiceLibrary("s3://x/y")
