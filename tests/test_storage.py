"""What is written is whole or absent at every failure; what is read is checked before it is believed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefield import storage
from scorefield.errors import RefusedFileError, StorageError
from tests.faults import DAMAGE, ERRORS, at_call, fail, killed_at_call

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Writing


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("lasting", [False, True])
def test_a_failed_write_leaves_the_old_file_or_the_new_one_and_nothing_else(tmp_path, code, lasting):
    """Broken by a write in place, an OSError that slips through, or a temporary file that is left."""
    for n in itertools.count(1):
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with at_call(n, fail(code), lasting=lasting) as sweep:
            if n <= 5:  # open, write, fsync, replace; then the folder's open and fsync
                with pytest.raises(StorageError, match=rf"file'.*{errno.errorcode[code]}.*3 bytes needed"):
                    storage.write_bytes(path, b"new")
            else:
                _try_to_write(path)
        if not sweep.fired:
            break
        assert path.read_bytes() in (b"old", b"new")
        # A disk on which nothing works any more cannot be cleaned either; the next start does that.
        assert lasting or names(tmp_path) == ["file"]
        storage.remove_leftovers(tmp_path)
        assert names(tmp_path) == ["file"]
    assert n > 5


def _try_to_write(path: Path) -> None:
    with contextlib.suppress(StorageError):
        storage.write_bytes(path, b"new")


@pytest.mark.parametrize("code", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("before", [None, {"a": b"1"}])
def test_a_failed_write_of_a_folder_leaves_the_old_one_or_the_new_one(tmp_path, code, before):
    """Broken by writing into the folder itself, or by not moving the old one back when the second rename fails."""
    after = {"a": b"22", "b": b""}
    path = tmp_path / "folder"
    for n in itertools.count(1):
        if path.exists():
            storage.remove(path)
        if before is not None:
            storage.write_folder(path, before)
        with at_call(n, fail(code)) as sweep:
            try:
                storage.write_folder(path, after)
                failed = False
            except StorageError:
                failed = True
        assert failed == sweep.fired
        if not sweep.fired:
            break
        assert (content(path) if path.exists() else None) in (before, after)
        storage.remove_leftovers(tmp_path)
        assert names(tmp_path) in ([], ["folder"])
    assert n > 8
    assert content(path) == after


def test_a_killed_write_leaves_the_old_file_or_the_new_one(tmp_path):
    """Broken by any order of system calls in which a kill -9 shows half a file."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = set()
    for n in itertools.count(1):
        if not killed_at_call(n, lambda: storage.write_bytes(path, b"new")):
            break
        seen.add(path.read_bytes())
        path.write_bytes(b"old")
    storage.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["file"]
    assert n > 5
    assert seen == {b"old", b"new"}


def test_every_written_file_and_folder_is_synced_before_the_rename_and_the_parent_after(tmp_path, monkeypatch):
    """Broken by a missing fsync, which only a power cut would show."""
    events = []
    fsync, replace = os.fsync, os.replace

    def log_fsync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.split("-")[0])
        fsync(descriptor)

    def log_replace(old, new):
        events.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(os, "replace", log_replace)
    storage.write_folder(tmp_path / "folder", {"a": b"1", "b": b"2"})
    parent = tmp_path.name.split("-")[0]
    assert events == ["a", "b", ".tmp", "rename", parent]
    events.clear()
    storage.write_bytes(tmp_path / "file", b"1")
    assert events == [".tmp", "rename", parent]


def test_short_writes_are_completed(tmp_path, monkeypatch):
    """Broken by taking one write() for all of the data."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data)[:7]))
    storage.write_bytes(tmp_path / "file", bytes(range(100)))
    assert (tmp_path / "file").read_bytes() == bytes(range(100))


def test_a_file_size_limit_is_a_storage_error_that_says_how_much_was_needed(tmp_path):
    """Broken by an OSError that reaches the user, or by losing the old file to a real (not simulated) refusal."""
    storage.write_bytes(tmp_path / "file", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StorageError, match=r"EFBIG.*2,097,152 bytes needed") as error:
            storage.write_bytes(tmp_path / "file", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.exit_code == 4
    assert content(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("write", [lambda path: storage.write_bytes(path, b""), storage.AppendLog])
def test_a_file_in_place_of_the_folder_is_a_storage_error(tmp_path, write):
    """Broken by mistaking NotADirectoryError for something else than storage."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"ENOTDIR.*parents are folders"):
        write(tmp_path / "file" / "inner")


def test_an_interrupt_leaves_no_temporary_file(tmp_path):
    """Broken by cleaning up after OSErrors only."""

    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    with at_call(3, interrupt), pytest.raises(KeyboardInterrupt):
        storage.write_bytes(tmp_path / "file", b"data")
    assert names(tmp_path) == []


def test_names_as_long_as_the_file_system_takes_can_be_written(tmp_path):
    """Broken by a temporary name that is the name and more."""
    for name in ("n" * 255, "é" * 127, "🙂" * 63):
        storage.write_bytes(tmp_path / name, b"1")
    assert len(names(tmp_path)) == 3


def test_leftovers_are_removed_at_any_depth_without_following_links(tmp_path):
    """Broken by rmtree through a link, or by looking at the top only."""
    inside, outside = tmp_path / "run", tmp_path / "outside"
    (inside / "samples" / ".tmp-a").mkdir(parents=True)
    (inside / "samples" / ".tmp-a" / "x").write_bytes(b"")
    (inside / ".tmp-b").write_bytes(b"")
    (inside / "kept").write_bytes(b"")
    outside.mkdir()
    (outside / ".tmp-kept").write_bytes(b"")
    (inside / ".tmp-link").symlink_to(outside)
    (inside / "link").symlink_to(outside)
    storage.remove_leftovers(inside)
    assert names(inside) == ["kept", "link", "samples"]
    assert names(inside / "samples") == []
    assert names(outside) == [".tmp-kept"]


def test_room_is_asked_for_before_it_is_needed(tmp_path):
    """Broken by a check that always passes, or that cannot ask for a folder that is yet to be made."""
    storage.require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(StorageError, match=r"ENOSPC.*bytes needed, .* free"):
        storage.require_space(tmp_path, 1 << 62)


# Logs


def test_a_log_is_cut_back_to_the_checkpoint_and_goes_on_as_if_nothing_had_happened(tmp_path):
    """Broken by an off-by-one in the cut, by keeping a torn line, or by rewriting a line that stays."""
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 7}).encode() + b"\n" for step in range(6)]
    for torn in (b"", b'{"step": 6, "lo', b'{"step": 2}', b"\0" * 50, b"\n\n", b'{"step": "x"}\n'):
        path.write_bytes(b"".join(lines) + torn)
        storage.truncate_log(path, 3)
        assert path.read_bytes() == b"".join(lines[:4])
        with storage.AppendLog(path) as log:
            log.append({"step": 4, "loss": 4 / 7})
            log.sync()
        assert path.read_bytes() == b"".join(lines[:5])
    storage.truncate_log(path, -1)
    assert path.read_bytes() == b""


def test_a_log_that_is_not_there_stays_so(tmp_path):
    """Broken by creating an empty log."""
    storage.truncate_log(tmp_path / "log.jsonl", 3)
    assert names(tmp_path) == []


def test_a_log_that_needs_no_cut_is_not_written(tmp_path):
    """Broken by a needless rewrite, which a full disk would refuse."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    inode = path.stat().st_ino
    storage.truncate_log(path, 1)
    assert path.stat().st_ino == inode


def test_a_line_that_the_disk_refuses_leaves_no_part_of_itself(tmp_path, monkeypatch):
    """Broken by leaving the first half of a line before a full disk, on which the next line would then be glued."""
    path = tmp_path / "log.jsonl"
    write = os.write
    room = [30]

    def full(descriptor, data):
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, bytes(data)[: room[0]])
        room[0] -= written
        return written

    with storage.AppendLog(path) as log:
        monkeypatch.setattr(os, "write", full)
        log.append({"step": 1})
        with pytest.raises(StorageError, match=r"ENOSPC.*bytes needed"):
            log.append({"step": 2, "loss": 0.5})
        monkeypatch.setattr(os, "write", write)
        log.append({"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_a_number_that_is_not_finite_is_null_in_the_log(tmp_path):
    """Broken by NaN in a file that calls itself JSON, or by an exception in the middle of training."""
    with storage.AppendLog(tmp_path / "log") as log:
        log.append({"step": 1, "loss": math.nan, "by_noise": [1.5, math.inf], "more": {"x": -math.inf}})
    expected = {"step": 1, "loss": None, "by_noise": [1.5, None], "more": {"x": None}}
    assert storage.read_json(tmp_path / "log") == expected


# Reading


@pytest.mark.parametrize("kind", ["folder instead", "link loop", "link out", "pipe instead", "delete"])
def test_only_regular_files_are_read(tmp_path, kind):
    """Broken by following a link, or by waiting for the writer of a pipe."""
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "file"
    path.write_bytes(b"data")
    DAMAGE[kind](path)
    with pytest.raises(
        RefusedFileError, match=r"file': expected a file, found (a folder|a link|a special file|nothing)"
    ):
        storage.read_bytes(path, 100)


def test_a_size_is_bounded_before_anything_is_read(tmp_path):
    """Broken by reading first and measuring afterwards: the file is sparse and larger than any memory."""
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert storage.read_bytes(path, 8) == b"12345678"
    with pytest.raises(RefusedFileError, match="at most 7 bytes, found 8 bytes"):
        storage.read_bytes(path, 7)
    os.truncate(path, 1 << 42)
    with pytest.raises(RefusedFileError, match="at most"):
        storage.read_bytes(path, 1 << 30)


def test_a_disk_that_fails_while_reading_is_a_storage_error(tmp_path):
    """Broken by calling a file damaged that nobody could read."""
    (tmp_path / "file").write_bytes(b"data")
    with at_call(1, fail(errno.EIO)), pytest.raises(StorageError, match=r"cannot read .*EIO"):
        storage.read_bytes(tmp_path / "file", 100)


BAD_JSON = {
    "nothing": b"",
    "not JSON": b"{'a': 1}",
    "two documents": b"{} {}",
    "NaN": b'{"a": NaN}',
    "infinite": b'{"a": -Infinity}',
    "1e400": b'{"a": 1e400}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice, deeper": b'{"b": [{"a": 1, "a": 2}]}',
    "a list": b"[]",
    "a number": b"1",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a number of 10,000 digits": b'{"a": ' + b"9" * 10_000 + b"}",
    "21 deep": b'{"a":' * 20 + b"[]" + b"}" * 20,
    "100,000 deep": b'{"a":' + b"[" * 100_000,
    "a control character": b'{"a": "\n"}',
}


@pytest.mark.parametrize("data", BAD_JSON.values(), ids=BAD_JSON)
def test_json_is_strict(tmp_path, data):
    """Broken by json.loads as it comes: it takes NaN, 1e400 and keys twice, and overflows on depth."""
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(RefusedFileError, match=r"config.json': expected") as error:
        storage.read_json(tmp_path / "config.json")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


def test_json_of_the_allowed_depth_and_size_is_read(tmp_path):
    """Broken by limits that are off by one."""
    data = b'{"a":' * 20 + b"1" + b"}" * 20
    assert storage.parse_json(data, "it", max_depth=20)["a"]
    (tmp_path / "file").write_bytes(data)
    assert storage.read_json(tmp_path / "file", max_bytes=len(data))
    with pytest.raises(RefusedFileError):
        storage.read_json(tmp_path / "file", max_bytes=len(data) - 1)


@settings(max_examples=200)
@given(value=st.dictionaries(st.text(max_size=9), JSON, max_size=4))
def test_json_comes_back_as_it_went_and_has_one_spelling(value):
    """Broken by a lossy number, an order that depends on insertion, or text outside of ASCII."""
    data = storage.json_bytes(value)
    back = storage.parse_json(data, "it", max_depth=40)
    assert back == value
    assert storage.json_bytes(dict(reversed(back.items()))) == data
    assert data.isascii()


@pytest.mark.parametrize("value", [{1: 2}, {"a": {None: 1}}, {"a": [{2: 3}]}, {"a": object()}, {"a": {1, 2}}])
def test_what_json_has_no_word_for_is_not_written(value):
    """Broken by json.dumps as it comes: it turns a key 1 into "1", and the state comes back different."""
    with pytest.raises(TypeError):
        storage.json_bytes(value)


@settings(max_examples=300)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(data):
    """Broken by any other exception."""
    with contextlib.suppress(RefusedFileError):
        storage.parse_json(data, "it")
