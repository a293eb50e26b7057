"""Runs over tables: resumed after any end, with the same bytes."""

import json
import random
from pathlib import Path

import pytest
import torch

from batch.tables import files_of, short_rows, write_table
from dia_hf.batch import BatchSettings, run_batch
from dia_hf.batch.rows import Failure
from dia_hf.batch.run import run_table
from dia_hf.batch.speak import Entry
from dia_hf.batch.voices import RowVoices
from dia_hf.data.sources import open_source
from dia_hf.speech.voices import Voice
from kills import killed


def manifest_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(dia, tmp_path, seed):
    """A row was lost, spoken twice, or had other bytes after a kill; or half a file was left."""
    rows = [*short_rows(60), {"id": "bad", "text": ""}]
    table = write_table(tmp_path / "texts.jsonl", rows)
    run_batch(dia, table, tmp_path / "whole", max_batch_size=8)
    expected = files_of(tmp_path / "whole")
    assert len(manifest_of(tmp_path / "whole")) == 60

    draw, folder = random.Random(seed), tmp_path / "killed"
    for _ in range(2):  # about six changes of the disk a row
        assert killed(lambda: run_batch(dia, table, folder, max_batch_size=8), draw.randrange(5, 150))
    num_kept = len((folder / "metadata.jsonl").read_bytes().splitlines()) if folder.exists() else 0
    report = run_batch(dia, table, folder, max_batch_size=8)
    assert files_of(folder) == expected
    assert report.num_done == 60 and report.num_new >= 60 - num_kept and report.num_rows == 61


def test_a_second_run_has_nothing_to_do(dia, tmp_path, monkeypatch):
    """A finished run was done again, or its report lost what was spoken before."""
    table = write_table(tmp_path / "texts.csv", short_rows(3))
    first = run_batch(dia, table, tmp_path / "speech")
    before = files_of(tmp_path / "speech")
    monkeypatch.setattr("dia_hf.batch.run.SpeechEngine", None)
    second = run_batch(dia, table, tmp_path / "speech")
    assert files_of(tmp_path / "speech") == before
    assert (second.num_done, second.num_new, second.speed) == (3, 0, 0.0)
    assert second.seconds == first.seconds == first.new_seconds and first.finish_reasons == {"length": 3}
    assert json.loads((tmp_path / "speech" / "report.json").read_text())["done"] == 3


def test_rows_that_are_added_or_were_wrong(dia, tmp_path):
    """A corrected row stayed a failure; or a table that had grown could not be continued."""
    rows = short_rows(3)
    table = write_table(tmp_path / "texts.jsonl", [rows[0], {"id": rows[1]["id"], "text": ""}])
    first = run_batch(dia, table, tmp_path / "speech")
    assert first.failures == [Failure(2, "row-1", "`text` is missing; give the text to speak.")]
    assert "1 failed; such as\n    row 2 (row-1): `text` is missing" in str(first)
    write_table(table, rows)
    second = run_batch(dia, table, tmp_path / "speech")
    assert (second.num_new, second.failures) == (2, []) and (tmp_path / "speech" / "failed.jsonl").read_text() == ""
    run_batch(dia, table, tmp_path / "whole")
    assert files_of(tmp_path / "speech") == files_of(tmp_path / "whole")


def test_rows_that_have_changed_need_consent(dia, tmp_path):
    """Another table with the same ids replaced the audio of the first one."""
    rows = short_rows(4)
    table = write_table(tmp_path / "texts.jsonl", rows)
    run_batch(dia, table, tmp_path / "speech")
    before = files_of(tmp_path / "speech")
    rows[1]["text"] = "[S2] Yes, I am Dia."
    write_table(table, rows[:3])
    with pytest.raises(ValueError, match=r"1 rows \('row-1'\) ask for something else and 1 are gone; .*`force`"):
        run_batch(dia, table, tmp_path / "speech")
    assert files_of(tmp_path / "speech") == before
    report = run_batch(dia, table, tmp_path / "speech", force=True)
    assert (report.num_new, report.num_done) == (1, 3)
    assert [entry["text"] for entry in manifest_of(tmp_path / "speech")] == [row["text"] for row in rows[:3]]
    assert (tmp_path / "speech" / "audio" / "0000" / "row-3.wav").exists()  # nothing is deleted


def test_rows_that_cannot_be_spoken_any_more_are_told_with_the_reason(dia, tmp_path):
    """After the voice of a row had been deleted, a run said that the row was gone, and not why."""
    rows = [{"id": "one", "text": "[S1] Hello.", "voice": "v.safetensors"}, *short_rows(1)]
    codec, codes = dia.processor.codec, torch.zeros(8, dia.processor.codec.num_codebooks, dtype=torch.long)
    Voice(codes, "Hi.", codec.fingerprint, codec.sampling_rate, codec.hop_length).save(tmp_path / "v.safetensors")
    table = write_table(tmp_path / "texts.jsonl", rows)
    run_batch(dia, table, tmp_path / "speech")
    (tmp_path / "v.safetensors").unlink()
    with pytest.raises(ValueError, match=r"1 rows .* cannot be spoken any more \(row 1 \(one\): there is no voice"):
        run_batch(dia, table, tmp_path / "speech")
    assert len(manifest_of(tmp_path / "speech")) == 2


def test_an_interruption_keeps_what_is_spoken(dia, tmp_path, monkeypatch):
    """Control-C lost rows, or left the folder locked."""
    from dia_hf.batch.output import BatchFolder

    table, added = write_table(tmp_path / "texts.jsonl", short_rows(20)), []

    def add(self, entry):
        if len(added) == 5:
            raise KeyboardInterrupt
        added.append(entry)
        add_entry(self, entry)

    add_entry = BatchFolder.add
    monkeypatch.setattr(BatchFolder, "add", add)
    with pytest.raises(KeyboardInterrupt):
        run_batch(dia, table, tmp_path / "speech", max_batch_size=4)
    monkeypatch.undo()
    assert len(manifest_of(tmp_path / "speech")) == 5
    assert run_batch(dia, table, tmp_path / "speech").num_new == 15
    run_batch(dia, table, tmp_path / "whole")
    assert files_of(tmp_path / "speech") == files_of(tmp_path / "whole")


def test_missing_files_are_told_and_made_again(dia, tmp_path):
    """A deleted file stayed missing."""
    table = write_table(tmp_path / "texts.jsonl", short_rows(3))
    run_batch(dia, table, tmp_path / "speech")
    before = files_of(tmp_path / "speech")
    (tmp_path / "speech" / "audio" / "0000" / "row-1.wav").unlink()
    with pytest.warns(UserWarning, match="1 files of the manifest in .*speech' are missing; their rows are"):
        assert run_batch(dia, table, tmp_path / "speech").num_new == 1
    assert files_of(tmp_path / "speech") == before


def test_another_seed_or_model_is_refused(dia, tmp_path):
    """Half of a folder had the seed of one run, half that of another."""
    table = write_table(tmp_path / "texts.jsonl", short_rows(1))
    run_batch(dia, table, tmp_path / "speech")
    with pytest.raises(ValueError, match="was begun with the `seed` 0, and this run has 1"):
        run_batch(dia, table, tmp_path / "speech", BatchSettings(seed=1))
    weight = dia.model.logits_dense.weight
    before = weight.detach().clone()
    try:
        weight.data.mul_(1.01)
        with pytest.raises(ValueError, match="was begun with the `weights`"):
            run_batch(dia, table, tmp_path / "speech")
    finally:
        weight.data.copy_(before)


def test_tables_without_rows(dia, tmp_path):
    """An empty table, or none, left a folder."""
    table = tmp_path / "texts.csv"
    with pytest.raises(FileNotFoundError, match="there is no table at"):
        run_batch(dia, table, tmp_path / "speech")
    table.write_text("id,text\n")
    with pytest.raises(ValueError, match=r"texts\.csv' has no rows"):
        run_batch(dia, table, tmp_path / "speech")
    assert not (tmp_path / "speech").exists()


def test_the_manifest_is_data_for_training(dia, tmp_path):
    """`dia-hf prepare` did not find the texts of the audio that `dia-hf batch` had made."""
    rows = short_rows(2)
    run_batch(dia, write_table(tmp_path / "texts.jsonl", rows), tmp_path / "speech")
    found = list(open_source(tmp_path / "speech").rows)
    assert [(row.id, row.text) for row in found] == [(row["id"], row["text"]) for row in rows]
    assert [Path(row.audio).name for row in found] == ["row-0.wav", "row-1.wav"]


def run_with(speak, folder, num_rows):
    from contextlib import nullcontext

    table = write_table(folder / "texts.jsonl", [{"text": "Hi."}] * num_rows)
    voices = RowVoices(table)
    return run_table(table, folder / "speech", BatchSettings(), voices, {}, lambda: nullcontext(speak))


def test_a_fault_that_is_not_in_the_rows_ends_the_run(tmp_path):
    """A device that was gone made a million rows failures, one after the other."""

    def speak(rows):
        for row, _ in rows:
            yield Failure(row.number, row.id, "RuntimeError: no device", is_foreseen=False)

    with pytest.raises(
        RuntimeError, match=r"the last 100 rows failed, the last of them \('000100'\) with RuntimeError"
    ):
        run_with(speak, tmp_path, 200)


def test_the_order_of_results_does_not_matter(tmp_path):
    """The manifest and the failures had the order in which actors had been ready."""

    def speak(rows):
        for row, digest in list(rows)[::-1]:
            if row.number % 2:
                yield Failure(row.number, row.id, "no")
            else:
                (tmp_path / "speech" / f"{row.id}.wav").touch()
                yield Entry(row.id, f"{row.id}.wav", row.text, 1.5, 0, 1, "implausible", "a doubt", "", digest)

    report = run_with(speak, tmp_path, 5)
    assert [entry["id"] for entry in manifest_of(tmp_path / "speech")] == ["000002", "000004"]
    assert [failure.row for failure in report.failures] == [1, 3, 5]
    assert (report.num_implausible, report.seconds, report.to_dict()["failed"]) == (2, 3.0, 3)
    assert "2 are implausible or cut at a limit" in str(report)
