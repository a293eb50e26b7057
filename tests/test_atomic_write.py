import errno
import fcntl
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from dia_hf import atomic_write as module
from dia_hf.atomic_write import (
    atomic_write,
    atomic_write_folder,
    find_held,
    locked,
    remove_stale_lock,
)
from kills import kill_everywhere


def test_a_file_is_there_whole(tmp_path):
    """A reader found an incomplete file."""
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as beside:
        beside.write_text("all of it")
        assert not path.exists() and beside.parent == path.parent and beside.suffix == path.suffix
    assert path.read_text() == "all of it"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(tmp_path, error):
    """An existing file was lost when writing failed."""
    path = tmp_path / "file.txt"
    path.write_text("before")

    def write():
        with atomic_write(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    """The error named a hidden file, or none."""

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=r"nothing was written.*file\.txt") as info,
        atomic_write(tmp_path / "file.txt") as f,
    ):
        f.write_text("all of it")
    assert info.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_readable_by_others(tmp_path):
    """Files of `mkstemp` are readable by their owner alone."""
    before = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "file.txt") as beside:
            beside.write_text("for all")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o644


def test_a_replaced_file_keeps_its_mode(tmp_path):
    """Replacing a file changed its mode."""
    path = tmp_path / "file.txt"
    for mode in (0o600, 0o664):
        path.write_text("before")
        path.chmod(mode)
        with atomic_write(path) as beside:
            beside.write_text("after")
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("after", mode)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_a_link(tmp_path, is_there):
    """The link was replaced by a file, and its target was not."""
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "file.txt", tmp_path / "link.txt"
    if is_there:
        target.write_text("before")
    link.symlink_to(target)
    with atomic_write(link) as beside:
        beside.write_text("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_pipe_is_not_replaced(tmp_path):
    """`-o /dev/null` as root replaced the device by a file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"device or a pipe.*pipe"), atomic_write(tmp_path / "pipe"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


def write_file(path, text="after"):
    with atomic_write(path) as beside:
        beside.write_text(text)


def test_a_file_after_a_kill(tmp_path):
    """Each killed run left a hidden file permanently."""
    path = tmp_path / "file.txt"
    for _ in kill_everywhere(lambda: path.write_text("before"), lambda: write_file(path)):
        assert path.read_text() in ("before", "after")
        write_file(path, "again")
        assert path.read_text() == "again"
        assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_that_is_being_written_is_no_leftover(tmp_path):
    """The second of two writers removed the hidden file of the first one."""
    path = tmp_path / "file.txt"
    with atomic_write(path) as first:
        first.write_text("first")
        write_file(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"]


def test_a_lock(tmp_path):
    """Two runs used one folder; after a removed lock, two processes entered at once."""
    lock = tmp_path / ".lock"
    with locked(lock), pytest.raises(ValueError, match="somebody"), locked(lock, "somebody is here."):
        pass
    assert list(tmp_path.iterdir()) == []
    inside = []

    def enter(number):
        with locked(lock):
            inside.append(number)
            assert len(inside) == 1
            time.sleep(0.001)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(enter, range(50)))) == 50
    assert list(tmp_path.iterdir()) == []


def make_folder(path, names):
    path.mkdir(parents=True)
    for name in names:
        (path / name).write_text(name)


def write_folder(path, names=("new", "more"), force=True):
    with atomic_write_folder(path, force) as folder:
        for name in names:
            (folder / name).write_text(name)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_after_a_kill(tmp_path, is_there):
    """A kill between the two renames left the folder under a hidden name permanently."""
    path = tmp_path / "place" / "folder"

    def prepare():
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        if is_there:
            make_folder(path, ["old"])

    for _ in kill_everywhere(prepare, lambda: write_folder(path)):
        kept = [file.name for file in tmp_path.rglob("old")]
        is_new = path.is_dir() and names_in(path) == ["more", "new"]
        assert not is_there or is_new or kept == ["old"]
        write_folder(path)
        assert names_in(path) == ["more", "new"]
        assert names_in(path.parent) == ["folder"]


def test_a_folder_is_put_back_after_a_kill(tmp_path):
    """After a kill, the next run without `--force` wrote a new folder instead of restoring the old one."""
    path = tmp_path / "folder"

    def prepare():
        shutil.rmtree(path, ignore_errors=True)
        make_folder(path, ["old"])

    for _ in kill_everywhere(prepare, lambda: write_folder(path)):
        with pytest.raises(ValueError, match="--force"):
            write_folder(path, force=False)
        assert names_in(path) in (["old"], ["more", "new"])
        assert names_in(tmp_path) == ["folder"]


def test_a_folder_made_anew_after_a_kill(tmp_path):
    """A folder that the user had created after a kill, or the old one, was removed."""
    path = tmp_path / "folder"
    make_folder(tmp_path / ".dia-hf-old-folder", ["old"])
    make_folder(tmp_path / ".dia-hf-new-folder", ["half"])
    make_folder(path, ["mine"])
    with pytest.raises(ValueError, match=r"\.dia-hf-old-folder"):
        write_folder(path)
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["half", "mine", "old"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_folder_when_a_rename_fails(tmp_path, monkeypatch, error, place):
    """Ctrl-C between the two renames lost the folder."""
    make_folder(tmp_path / "folder", ["old"])
    rename, calls = os.rename, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 1 + place // 2 and place % 2 == 0:
            raise error
        rename(*args)
        if len(calls) == 1 + place // 2:
            raise error

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(type(error)):
        write_folder(tmp_path / "folder")
    assert names_in(tmp_path / "folder") == (["more", "new"] if place == 3 else ["old"])
    assert names_in(tmp_path) == ([".dia-hf-old-folder", "folder"] if place == 3 else ["folder"])


def test_two_write_one_folder(tmp_path):
    """The renames of two processes interleaved."""
    with atomic_write_folder(tmp_path / "folder") as folder:
        (folder / "first").touch()
        with pytest.raises(ValueError, match="another process"):
            write_folder(tmp_path / "folder")
    assert names_in(tmp_path / "folder") == ["first"]
    assert names_in(tmp_path) == ["folder"]


def test_modes_and_links_of_a_folder(tmp_path):
    """Modes of files and folders changed, and a link was replaced by a folder."""
    before = os.umask(0o027)
    try:
        with atomic_write_folder(tmp_path / "folder") as folder:
            os.close(os.open(folder / "weights", os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    place = tmp_path / "folder"
    assert [path.stat().st_mode & 0o777 for path in (place, place / "weights")] == [0o750, 0o640]
    place.chmod(0o700)
    (tmp_path / "link").symlink_to(place)
    write_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names_in(place) == ["more", "new"]
    assert place.stat().st_mode & 0o777 == 0o700


def test_what_is_held(tmp_path):
    """A folder was replaced that held the source of the copy, behind a link."""
    make_folder(tmp_path / "models" / "source", ["weights"])
    (tmp_path / "link").symlink_to(tmp_path / "models")
    (tmp_path / "blob").symlink_to(tmp_path / "models" / "source" / "weights")
    held = str(tmp_path / "models" / "source")
    for folder in ("models", "models/source", "link", "link/source/../../models"):
        assert find_held(tmp_path / folder, [None, tmp_path / "nowhere", held]) == held
    assert find_held(tmp_path / "models", [tmp_path / "blob"]) == str(tmp_path / "blob")
    assert find_held(held, [tmp_path / "models", tmp_path / "link"]) is None
    assert find_held(tmp_path / "nowhere", [held]) is None


def test_a_stale_lock_goes_and_a_held_one_stays(tmp_path):
    """A command that was killed after writing left its lock, and a repeated call never removed it."""
    lock = tmp_path / "lock"
    remove_stale_lock(lock)
    lock.touch()
    remove_stale_lock(lock)
    assert not lock.exists()
    with locked(lock):
        remove_stale_lock(lock)
        assert lock.exists()


def test_a_lock_on_windows(tmp_path, monkeypatch):
    """Without `fcntl`, two runs in one folder both went ahead."""

    def locking(handle, mode, num_bytes):
        assert (mode, num_bytes, os.lseek(handle, 0, os.SEEK_CUR)) == ("LK_NBLCK", 1, 0)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    monkeypatch.setattr(module, "fcntl", None)
    monkeypatch.setattr(module, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="LK_NBLCK"))
    lock = tmp_path / ".lock"
    entered = threading.Event()

    def enter():
        with locked(lock):
            entered.set()

    waiting = threading.Thread(target=enter)
    with locked(lock):
        with pytest.raises(ValueError, match="somebody"), locked(lock, "somebody is here."):
            pass
        waiting.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    waiting.join()
    assert list(tmp_path.iterdir()) == []
    write_folder(tmp_path / "folder")
    write_file(tmp_path / "file")
    assert names_in(tmp_path) == ["file", "folder"]
