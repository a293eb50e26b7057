"""Output folder of a run."""

import json
from dataclasses import asdict

import pytest

from dia_hf.atomic_write import LOCK
from dia_hf.batch.output import BatchFolder, key_of
from dia_hf.batch.rows import Failure
from dia_hf.batch.speak import Entry

SETTINGS = {"format": "wav", "options": {"top_p": 0.5}}


def entry_of(row_id, folder):
    """Return the entry of a row whose file is written."""
    (folder / f"{row_id}.wav").touch()
    return Entry(row_id, f"{row_id}.wav", "Grüße, \ud83d", 1.0, 7, 1, "stop", None, "0" * 64, f"digest of {row_id}")


def ids_in(folder):
    return [json.loads(line)["id"] for line in (folder / "metadata.jsonl").read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that has spoken three rows and did not finish."""
    folder = tmp_path / "speech"
    output = BatchFolder(folder)
    with output.held():
        output.open(SETTINGS)
        for row_id in "cab":
            output.add(entry_of(row_id, folder))
    return folder


def test_what_a_run_has_spoken_is_known_to_the_next(folder):
    """A row was spoken again, or a lone surrogate in a text made the manifest unreadable."""
    output = BatchFolder(folder)
    with output.held():
        output.open(SETTINGS)
        assert {key: done.digest for key, done in output.done.items()} == {key_of(i): f"digest of {i}" for i in "abc"}
        assert output.num_missing == 0
    assert json.loads((folder / "metadata.jsonl").read_bytes().splitlines()[0]) == asdict(entry_of("c", folder))


@pytest.mark.parametrize("num_bytes", [1, 20, 150])
def test_a_half_written_line_is_done_again(folder, num_bytes):
    """A process that was killed while it wrote a line left a manifest that no later run could read or continue."""
    manifest = folder / "metadata.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + whole.splitlines(keepends=True)[0][:num_bytes])
    output = BatchFolder(folder)
    with output.held():
        output.open(SETTINGS)
        output.add(entry_of("d", folder))
    assert ids_in(folder) == ["c", "a", "b", "d"]


def test_the_end_sorts_the_manifest_and_drops_what_was_replaced(folder):
    """The order of the manifest was that in which rows happened to be done, and a row that was redone stood twice."""
    output = BatchFolder(folder)
    with output.held():
        output.open(SETTINGS)
        output.add(entry_of("a", folder))
        output.finish([key_of(i) for i in "abx"], [Failure(3, "x", "no")], {"rows": 3})
    assert ids_in(folder) == ["a", "b"]
    assert json.loads((folder / "failed.jsonl").read_text()) == {"row": 3, "id": "x", "error": "no"}
    assert json.loads((folder / "report.json").read_text()) == {"rows": 3}
    assert {path.name for path in folder.iterdir() if path.suffix != ".wav"} == {
        "batch.json", "failed.jsonl", "metadata.jsonl", "report.json",
    }  # fmt: skip


def test_a_missing_file_is_not_done(folder):
    """A file that was deleted stayed in the manifest, and was never made again."""
    (folder / "a.wav").unlink()
    output = BatchFolder(folder)
    with output.held():
        output.open(SETTINGS)
        assert output.num_missing == 1 and sorted(output.done) == sorted([key_of("b"), key_of("c")])


def test_a_damaged_manifest_is_named(folder):
    """A damaged line was dropped without a word, or ended in a traceback."""
    (folder / "metadata.jsonl").write_bytes(b'{"id": "a"}\n')
    output = BatchFolder(folder)
    with pytest.raises(ValueError, match=r"metadata\.jsonl' is damaged in line 1 .*remove the line"), output.held():
        output.open(SETTINGS)


def test_other_settings_are_refused(folder):
    """A run that was resumed with another format or model mixed two kinds of audio in one folder."""
    output = BatchFolder(folder)
    said = r"was begun with the `format` 'wav', and this run has 'mp3'; give the same, or another folder"
    with pytest.raises(ValueError, match=said), output.held():
        output.open({**SETTINGS, "format": "mp3"})
    with pytest.raises(ValueError, match="`weights` None, and this run has 'abc'"), output.held():
        output.open({**SETTINGS, "weights": "abc"})


def test_other_folders_are_refused(tmp_path, folder):
    """Audio was written among files of the user's, or into a folder in which another run worked."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with (
        pytest.raises(ValueError, match=r"mine' is not empty and was not made by"),
        BatchFolder(tmp_path / "mine").held(),
    ):
        pass
    with pytest.raises(ValueError, match="is a file"), BatchFolder(tmp_path / "mine" / "letter.txt").held():
        pass
    with BatchFolder(folder).held():
        with pytest.raises(ValueError, match="another process works in"), BatchFolder(folder).held():
            pass
        assert (folder / LOCK).exists()
    assert not (folder / LOCK).exists()


def test_a_run_that_ends_before_its_start_leaves_nothing(tmp_path):
    """A mistake in the arguments left an empty folder."""
    with pytest.raises(KeyError), BatchFolder(tmp_path / "new").held():
        raise KeyError
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_of_the_user_stays(tmp_path):
    """A mistake in the arguments removed a folder that had been there before, or failed to, as for a mounted one."""
    with pytest.raises(KeyError), BatchFolder(tmp_path).held():
        raise KeyError
    assert tmp_path.exists()
