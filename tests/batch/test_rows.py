"""Rows of tables as requests."""

import re
import warnings
from dataclasses import asdict
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.tables import write_table
from dia_hf.batch import BatchSettings
from dia_hf.batch.rows import BatchRow, Failure, read_rows


def read(folder, rows, suffix=".jsonl", settings=None, warns=False):
    path = write_table(folder / f"texts{suffix}", rows)
    return list(read_rows(path, settings or BatchSettings(), warns))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_row_is_the_same_in_each_format(tmp_path, suffix):
    """A seed of CSV, which is text there, was refused, or gave a row other bytes than the seed of JSON."""
    row = {"id": "a", "text": "Hello.", "seed": 7, "top_p": 0.5, "cfg_filter_top_k": 20, "cfg_scale": 2}
    found = read(tmp_path, [row, {"id": "b", "text": "Yes.", "seed": None}], suffix)
    options = {"cfg_scale": 2.0, "top_p": 0.5, "cfg_filter_top_k": 20}
    assert found == [
        BatchRow(1, "a", "audio/0000/a.wav", "Hello.", seed=7, options=options),
        BatchRow(2, "b", "audio/0000/b.wav", "Yes."),
    ]


def test_voices_are_objects_or_json(tmp_path):
    """A cell of CSV cannot hold an object, and rows of Parquet have a field for each speaker of the table."""
    rows = [{"text": "Hi.", "voices": {"S2": "ben", "S1": "anna"}}, {"text": "Hi.", "voices": {"S2": "ben"}}]
    expected = [{"S1": "anna", "S2": "ben"}, {"S2": "ben"}]
    for suffix in (".jsonl", ".parquet"):
        assert [row.voices for row in read(tmp_path, rows, suffix)] == expected
    rows = [{"text": "Hi.", "voices": '{"S2": "ben"}'}, {"text": "Hi.", "voices": "ben"}]
    good, bad = read(tmp_path, rows, ".csv")
    assert good.voices == {"S2": "ben"}
    assert bad.error == '`voices` is \'ben\'; give a voice for each speaker, {"S1": "anna"}.'


def test_defaults_are_for_rows_that_say_nothing(tmp_path):
    """A default replaced the row's own value, or the voice of the run was added to a row's recording."""
    settings = BatchSettings(options={"voice": "anna", "max_seconds": 3, "temperature": 0.9})
    rows = [{"text": "Hi."}, {"text": "Hi.", "voice": "ben", "temperature": 0}]
    rows.append({"text": "Hi.", "audio_prompt": "a.wav", "audio_prompt_transcript": "A."})
    plain, own, recorded = read(tmp_path, rows, settings=settings)
    assert plain.voices == "anna" and plain.options == {"temperature": 0.9, "max_seconds": 3}
    assert own.voices == "ben" and own.options == {"temperature": 0, "max_seconds": 3}
    assert (recorded.voices, recorded.audio_prompt, recorded.audio_prompt_transcript) == (None, "a.wav", "A.")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"text": None}, "`text` is missing"),
        ({"text": "[S1] [S2]"}, r"`text` is '\[S1\] \[S2\]', which has no words"),
        ({"text": 7}, "`text` is 7, which has no words"),
        ({"seed": -1}, "`seed` is -1; give a whole number at least 0"),
        ({"seed": 1.5}, "`seed` is 1.5; give a whole number"),
        ({"seed": "x"}, "`seed` is 'x', which is no number"),
        ({"seed": True}, "`seed` is True; give a whole number"),
        ({"top_p": 0}, "`top_p` is 0; give a number above 0 and at most 1"),
        ({"temperature": 1e-4}, r"`temperature` is 0.0001; give 0 \(greedy decoding\)"),
        ({"max_seconds": "inf"}, "`max_seconds` is inf"),
        ({"max_seconds": 10**400}, "`max_seconds` is 1000.*; give a smaller number"),
        ({"speed": 3}, "`speed` is 3; give a number from 0.5 to 2"),
        ({"voice": "a", "voices": {"S1": "b"}}, "`voice` and `voices` are both given"),
        ({"voice": 7}, "`voice` is 7; give a text"),
        ({"voices": {}}, "`voices` is {}"),
        ({"audio_prompt": "a.wav"}, "`audio_prompt_transcript` is missing"),
        ({"audio_prompt_transcript": "A."}, "`audio_prompt` is missing"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_failure(tmp_path, fields, error):
    """A mistake in one row ended the run, or was found when the row was spoken, hours later."""
    bad, good = read(tmp_path, [{"text": "Hi.", **fields}, {"text": "Hi."}])
    assert isinstance(bad, Failure) and bad.row == 1 and bad.id == "000001" and re.match(error, bad.error)
    assert good.id == "000002"


def test_a_repeated_id_is_a_failure(tmp_path):
    """The second row of an id replaced the file of the first."""
    first, second = read(tmp_path, [{"id": "a", "text": "Hi."}, {"id": "a", "text": "Yes."}])
    assert first.text == "Hi." and second.error == "an earlier row has the same id; give each row its own."


def test_columns_without_a_meaning_are_told_once(tmp_path):
    """`temprature` had no effect, and nobody was told."""
    rows = [{"text": "Hi.", "temprature": 1, "source": "a"}, {"text": "Hi.", "temprature": 1}]
    with pytest.warns(UserWarning, match="has no meaning here") as told:
        read(tmp_path, rows, warns=True)
    assert sorted("did you mean 'temperature'?" in str(one.message) for one in told) == [False, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, rows)


@given(st.lists(st.text(min_size=1).filter(str.strip), unique=True, max_size=8))
def test_each_id_has_a_file_name_that_all_systems_keep_apart(tmp_path_factory, ids):
    """`../a`, `CON` or `a/b` left the folder or could not be written; `A` and `a` were one file on some systems."""
    found = read(tmp_path_factory.mktemp("table"), [{"id": one, "text": "Hi."} for one in ids])
    names = [PurePosixPath(row.file_name) for row in found]
    assert [row.id for row in found] == ids
    assert len({name.as_posix().casefold() for name in names}) == len(ids)
    for name in names:
        assert name.parts[:2] == ("audio", "0000") and len(name.parts) == 3
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{,107}\.wav", name.name)


def test_file_names_that_stay_as_they_are(tmp_path):
    """An ordinary id was made unreadable, or a name of Windows' devices was kept."""
    ids = ["LJ001-0001", "lj001-0001", "con", "a b", "x" * 101]
    names = [PurePosixPath(row.file_name).name for row in read(tmp_path, [{"id": one, "text": "Hi."} for one in ids])]
    assert names[0] == "LJ001-0001.wav"
    assert re.fullmatch(r"lj001-0001-[0-9a-f]{16}\.wav", names[1]) and re.fullmatch(r"con-[0-9a-f]{16}\.wav", names[2])
    assert re.fullmatch(r"a-b-[0-9a-f]{16}\.wav", names[3]) and re.fullmatch(r"x{60}-[0-9a-f]{16}\.wav", names[4])


def test_a_thousand_files_a_folder(tmp_path):
    """A million files in one folder are slow to list on many file systems."""
    found = read(tmp_path, [{"text": "Hi."}] * 2001)
    assert [found[i].file_name for i in (0, 998, 999, 2000)] == [
        "audio/0000/000001.wav", "audio/0000/000999.wav", "audio/0001/001000.wav", "audio/0002/002001.wav",
    ]  # fmt: skip


def test_the_digest_is_that_of_what_is_asked_for(tmp_path):
    """A corrected text kept its old audio; or a row that moved in the table was spoken again."""
    row = {"id": "a", "text": "Hi.", "temperature": 1.0}
    others = [{**row, "text": "Yes."}, {**row, "temperature": 0.9}, {**row, "seed": 1}, {**row, "voice": "a"}]
    digests = {read(tmp_path, [one])[0].digest for one in [row, *others]}
    assert len(digests) == 5
    moved = read(tmp_path, [{"text": "First."}, row])[1]
    assert moved.digest == read(tmp_path, [row])[0].digest and moved.number == 2
    assert BatchRow(**asdict(moved)) == moved  # as it is sent to an actor


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"format": "pcm"}, "`format` is 'pcm'; give one of mp3, opus, aac, flac, wav"),
        ({"sample_rate": 4000}, "`sample_rate` is 4000"),
        ({"seed": -1}, "`seed` is -1"),
        ({"max_retries": -1}, "`max_retries` is -1"),
        ({"options": {"tempo": 1}}, "there is no option 'tempo'; there are voice, cfg_scale"),
        ({"options": {"speed": 9}}, "`speed` is 9"),
    ],
)
def test_settings_are_checked(settings, error):
    """A setting out of range made each row of the table a failure."""
    with pytest.raises(ValueError, match=re.escape(error)):
        BatchSettings(**settings)
