"""A run folder is taken by one writer at a time, and never over somebody's files."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scorefield.errors import RunInUseError, StorageError, UsageError
from scorefield.training.run_folder import RunFolder
from tests.faults import at_call, fail, in_child

HOLDER = """
import sys, time
from scorefield.training.run_folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("path", ["run", "deep/er/run", "ünï cödé 🙂", "empty", "link"])
def test_a_run_folder_is_made_or_an_empty_one_taken(tmp_path, path):
    """Broken by parents that are not made, or by refusing a folder that the user made beforehand."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    run = RunFolder(tmp_path / path)
    assert not run.exists()
    run.create()
    assert run.exists()
    assert run.checkpoints.is_dir()


def test_a_run_is_taken_again_unchanged(tmp_path):
    """Broken by a resume that empties the folder."""
    run = RunFolder(tmp_path / "run")
    run.create()
    run.log.write_bytes(b"{}\n")
    (run.path / "notes.txt").write_bytes(b"mine")
    before = tree(tmp_path)
    run.create()
    assert tree(tmp_path) == before


def test_a_run_whose_lock_file_was_lost_is_still_a_run(tmp_path):
    """Broken by copies that leave hidden files out."""
    run = RunFolder(tmp_path)
    run.create()
    run.config.write_bytes(b"{}")
    run.lock_file.unlink()
    assert run.exists()
    run.create()


@pytest.mark.parametrize("name", ["photo.png", "config.json", "model.safetensors", "checkpoints/x", ".git/x"])
def test_a_folder_with_something_else_in_it_is_refused_and_unchanged(tmp_path, name):
    """Broken by writing a run over a folder of photographs, or over a model that was trained elsewhere."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"precious")
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"is no run but holds .*; choose a new folder") as error:
        RunFolder(tmp_path).create()
    assert error.value.exit_code == 2
    assert tree(tmp_path) == before


def test_a_start_that_was_killed_is_no_obstacle(tmp_path):
    """Broken by mistaking one's own unfinished files for somebody's."""
    (tmp_path / ".tmp-config.json-0123").write_bytes(b"")
    RunFolder(tmp_path).create()


def test_a_file_is_no_run_folder(tmp_path):
    """Broken by a traceback from mkdir."""
    (tmp_path / "file").write_bytes(b"data")
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(tmp_path / "file").create()
    with pytest.raises(StorageError, match=r"cannot make the run folder .*ENOTDIR"):
        RunFolder(tmp_path / "file" / "run").create()


@pytest.mark.parametrize("n", range(1, 6))
def test_a_disk_that_refuses_is_a_storage_error(tmp_path, n):
    """Broken by any call of the creation outside of the translation of errors."""
    with at_call(n, fail(errno.EROFS)) as sweep, pytest.raises(StorageError, match=r"EROFS.*can be written"):
        RunFolder(tmp_path / "run").create()
    assert sweep.fired


def test_the_second_process_is_refused_at_once_and_told_who_has_the_run(tmp_path):
    """Broken by waiting for the lock, or by a lock that stays when its holder is killed."""
    run = RunFolder(tmp_path)
    run.create()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        begin = time.monotonic()
        with pytest.raises(RunInUseError, match=rf"in use by process {holder.pid};") as error, run.lock():
            pass
        assert time.monotonic() - begin < 1
        assert error.value.exit_code == 5
        holder.send_signal(signal.SIGKILL)
    with run.lock():
        assert run.lock_file.read_text() == f"{os.getpid()}\n"


def test_the_lock_is_released_after_an_error_and_is_not_reentrant(tmp_path):
    """Broken by a descriptor that is not closed, or by two loops of one process in one run."""
    run = RunFolder(tmp_path)
    run.create()
    with contextlib.suppress(KeyboardInterrupt), run.lock():
        with pytest.raises(RunInUseError, match=str(os.getpid())), run.lock():
            pass
        raise KeyboardInterrupt
    with run.lock():
        pass
    assert in_child(lambda: run.lock().__enter__()) == 0


def test_a_child_that_outlives_the_holder_does_not_hold_the_run(tmp_path):
    """Broken by a data worker that inherits the lock: the next start would be refused until it is gone."""
    run = RunFolder(tmp_path)
    run.create()
    reader, writer = os.pipe()

    def holder() -> None:
        with run.lock():
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.write(writer, child.to_bytes(8, "little"))
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(holder) == -signal.SIGKILL
    orphan = int.from_bytes(os.read(reader, 8), "little")
    try:
        with run.lock():
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_an_unknown_holder_and_a_link_in_place_of_the_lock(tmp_path):
    """Broken by trusting what is written in the lock file, or by locking a file elsewhere."""
    run = RunFolder(tmp_path)
    run.create()
    with run.lock():
        run.lock_file.write_bytes(b"\xff<script>\n")
        with pytest.raises(RunInUseError, match="in use by another process;"), run.lock():
            pass
    run.lock_file.unlink()
    run.lock_file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot lock"), run.lock():
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_file_without_a_pid_is_still_a_lock(tmp_path):
    """Broken by failing where a full disk has no room for the hint."""
    run = RunFolder(tmp_path)
    run.create()
    with at_call(2, fail(errno.ENOSPC)) as sweep, run.lock():
        assert sweep.fired
        with pytest.raises(RunInUseError, match="another process"), run.lock():
            pass
