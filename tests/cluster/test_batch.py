"""`dia-hf batch --ray`: the rows of one table, on actors of Ray. Run by `make test-ray`."""

import os
import tempfile

import pytest
import ray

from batch.tables import files_of, short_rows, write_table
from dia_hf import MINIATURE, Dia
from dia_hf.batch import BatchSettings, run_batch
from dia_hf.batch.ray import run_batch_on_ray
from dia_hf.ray_cluster import cluster


@pytest.fixture(scope="module", autouse=True)
def own_cluster():
    """The cluster that a run starts where there is none, for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="dia") as folder:  # short: sockets
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([os.path.abspath("src"), os.environ.get("PYTHONPATH", "")]))
        with cluster():
            yield


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "texts.jsonl", [*short_rows(70), {"id": "bad", "text": ""}])


def test_actors_write_the_bytes_of_one_machine(tmp_path, table):
    """The bytes of a row depended on the actor; or rows of a run that was interrupted were not found by the next."""
    settings = BatchSettings("flac", seed=3)
    write_table(tmp_path / "first.jsonl", short_rows(5))
    run_batch(Dia.from_pretrained(device="cpu"), tmp_path / "first.jsonl", tmp_path / "cluster", settings)
    report = run_batch_on_ray(
        MINIATURE, table, tmp_path / "cluster", settings, num_actors=2, device="cpu", max_batch_size=4
    )
    assert (report.num_new, report.num_done, [failure.id for failure in report.failures]) == (65, 70, ["bad"])
    run_batch(Dia.from_pretrained(device="cpu"), table, tmp_path / "local", settings)
    assert files_of(tmp_path / "cluster") == files_of(tmp_path / "local")
    assert ray.is_initialized()  # the caller's cluster stays


def test_a_cluster_that_is_too_small(tmp_path, table):
    """More actors than the cluster has cores waited for them without end."""
    with pytest.raises(ValueError, match=r"`num_actors` is 9999, and the cluster has \d+ CPUs; give at most as many"):
        run_batch_on_ray(MINIATURE, table, tmp_path / "speech", num_actors=9999, device="cpu")


def test_an_error_of_an_actor_is_told_in_a_line(tmp_path, table):
    """The error was a traceback of Ray's; or rows of a disk that is full were failures of their own."""
    with pytest.raises(OSError, match=r"^there is no folder or file '.*nowhere'; give one"):
        run_batch_on_ray(tmp_path / "nowhere", table, tmp_path / "speech", device="cpu")
    assert not (tmp_path / "speech").exists()
    write_table(tmp_path / "one.jsonl", short_rows(1))
    dia = Dia.from_pretrained(device="cpu")
    run_batch(dia, write_table(tmp_path / "none.jsonl", [{"text": ""}]), tmp_path / "speech")
    (tmp_path / "speech" / "audio").touch()  # where the folder should be
    with pytest.raises(OSError, match=r"nothing was written: .*row-0\.wav"):
        run_batch_on_ray(MINIATURE, tmp_path / "one.jsonl", tmp_path / "speech", device="cpu")
