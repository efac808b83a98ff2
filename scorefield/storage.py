"""Everything that is written to disk, and everything that is read back from it without trust.

Writing: all state goes through `write_bytes` or `write_folder`. Both write beside the target under a name that begins
with `.tmp-`, fsync, rename, and fsync the folder, so that a reader, or the next process after a power cut, sees the
old content or the new one and nothing between. What the operating system refuses (full, read-only, an input/output
error) becomes a `StorageError` that names the path, the reason and the bytes that were needed. Logs are the one
exception to the rename: they grow by whole lines (`AppendLog`), are synced when a checkpoint is made, and are cut
back to it (`truncate_log`) on resume.

Reading: sizes are bounded before anything is allocated, links are not followed, JSON is strict, and what does not fit
is a `RefusedFileError` that says what was expected and what was found. Nothing is mapped into memory: a mapped file
that is truncated under its reader kills the process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from scorefield.errors import RefusedFileError, StorageError

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders begin; whatever carries it may be deleted when nobody writes."""

LOG_LIMIT = 4 << 30
"""The largest log, in bytes, that is read back."""

_FIXES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EFBIG: "raise the file size limit (ulimit -f) or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.EEXIST: "choose a path whose parents are folders",
}
_NO_FILE = {
    errno.ENOENT: "nothing",
    errno.ENOTDIR: "nothing",
    errno.ELOOP: "a link",
    errno.EISDIR: "a folder",
    errno.ENXIO: "a special file",
}


# Hashes and room


def sha256(*parts: bytes | memoryview) -> str:
    """The SHA-256 of the concatenated `parts`, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def free_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes this user may still write where `path` is, or will be. Raises OSError."""
    nearest = Path(path).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    status = os.statvfs(nearest)
    return status.f_bavail * status.f_frsize


def require_space(path: str | os.PathLike[str], needed: int) -> None:
    """Raise StorageError unless `needed` bytes are free where `path` is, or will be."""
    with storage_errors("write into", path, needed):
        if free_bytes(path) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def storage_errors(action: str, path: str | os.PathLike[str], needed: int = 0) -> Iterator[None]:
    """Turn an OSError into a StorageError: "cannot {action} {path}: why, bytes needed, bytes free; what to do"."""
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
        room = f", {needed:,} bytes needed{_free_text(path)}" if needed else ""
        fix = _FIXES.get(error.errno or 0, "check the disk and its file system")
        text = f"cannot {action} {os.fspath(path)!r}: {error.strerror or error} ({code}){room}; {fix}"
        raise StorageError(text) from error


def _free_text(path: str | os.PathLike[str]) -> str:
    try:
        return f", {free_bytes(path):,} free"
    except OSError:
        return ""


# Writing


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the content of the file `path` by `data`, whole or not at all. Raises StorageError."""
    path = Path(path)
    temporary = _temporary(path)
    with storage_errors("write", path, len(data)), _removed_on_failure(temporary):
        _write_file(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)


def write_folder(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Replace the folder `path` by one with `files` (name → content), whole or not at all. Raises StorageError.

    A folder that is there already is moved aside before the new one takes its name: two renames, and a process killed
    between them leaves neither. So replace only what can be made again; new names, the common case, have no such gap.
    """
    path = Path(path)
    temporary = _temporary(path)
    with storage_errors("write", path, sum(map(len, files.values()))), _removed_on_failure(temporary):
        temporary.mkdir()
        for name, data in files.items():
            _write_file(temporary / name, data)
        sync_folder(temporary)
        _move_into_place(temporary, path)


def remove(path: str | os.PathLike[str]) -> None:
    """Delete a file or folder so that no moment shows half of it: it loses its name first. Raises StorageError."""
    path = Path(path)
    with storage_errors("remove", path):
        condemned = _temporary(path)
        path.replace(condemned)
        sync_folder(path.parent)
        _delete(condemned)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete what killed writers left anywhere under `folder`; only while nobody writes there. Raises StorageError."""
    with storage_errors("clean", folder):
        for root, folders, files in os.walk(folder):
            for name in [name for name in (*folders, *files) if name.startswith(TEMPORARY)]:
                _delete(Path(root, name))
            folders[:] = [name for name in folders if not name.startswith(TEMPORARY)]


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    # Cut, so that the longest name a file system takes (255 bytes) still has a temporary one.
    return path.with_name(f"{TEMPORARY}{path.name[:40]}-{secrets.token_hex(4)}")


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _move_into_place(temporary: Path, path: Path) -> None:
    if not os.path.lexists(path):
        temporary.replace(path)
        sync_folder(path.parent)
        return
    old = _temporary(path)
    path.replace(old)
    try:
        temporary.replace(path)
    except OSError:
        old.replace(path)
        raise
    sync_folder(path.parent)
    _delete(old)


@contextlib.contextmanager
def _removed_on_failure(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            _delete(temporary)
        raise


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# Logs: one JSON object a line, in the order of their "step"


class AppendLog:
    """A growing file of JSON lines. A line is written whole or, where the disk refuses it, not at all.

    Numbers that JSON has no word for (infinite, not a number) are written as null.
    Raises StorageError on opening, appending and syncing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with storage_errors("open", self.path):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._size = os.fstat(self._descriptor).st_size
            sync_folder(self.path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; it survives the death of the process from here on, and a power cut after `sync`."""
        line = _line(record)
        with storage_errors("append to", self.path, len(line)):
            try:
                _write_all(self._descriptor, line)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(line)

    def sync(self) -> None:
        """Make every line so far survive a power cut."""
        with storage_errors("sync", self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; nothing may be appended afterwards."""
        os.close(self._descriptor)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def truncate_log(path: str | os.PathLike[str], keep: int) -> None:
    """Cut a log back to the lines whose "step" is at most `keep`, atomically; a torn last line goes too.

    Steps only grow, so lines are read from the end until one may stay; a log that is not there stays so.
    Raises StorageError, and RefusedFileError where the log is no file.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    data = read_bytes(path, LOG_LIMIT)
    end = len(data)
    while end:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        if _may_stay(data[begin:end], keep):
            break
        end = begin
    if end < len(data):
        write_bytes(path, data[:end])


def _line(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(record, allow_nan=False)
    except ValueError:
        text = json.dumps(_null_for_non_finite(record), allow_nan=False)
    return text.encode() + b"\n"


def _null_for_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _null_for_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_non_finite(item) for item in value]
    return value


def _may_stay(line: bytes, keep: int) -> bool:
    try:
        step = parse_json(line, "a line of the log").get("step")
    except RefusedFileError:
        return False
    return line.endswith(b"\n") and isinstance(step, int) and step <= keep


# Reading


def refused(path: str | os.PathLike[str], expected: str, found: str) -> RefusedFileError:
    """The error for a file that is damaged, hostile or of another format, in one line."""
    return RefusedFileError(f"{os.fspath(path)!r}: expected {expected}, found {found}")


@contextlib.contextmanager
def open_regular(path: str | os.PathLike[str], limit: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `limit` bytes; links, folders, pipes and devices are refused without being read.

    Raises RefusedFileError for what is not such a file, StorageError where the disk fails while it is read.
    """
    with storage_errors("read", path), _open_without_following(path) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise refused(path, "a file", "a special file")
        if status.st_size > limit:
            raise refused(path, f"at most {limit:,} bytes", f"{status.st_size:,} bytes")
        yield file


def _open_without_following(path: str | os.PathLike[str]) -> BinaryIO:
    # Not blocking: a pipe put in a file's place would otherwise wait for its writer for ever.
    more = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return open(path, "rb", opener=lambda path, flags: os.open(path, flags | more))
    except OSError as error:
        if error.errno in _NO_FILE:
            raise refused(path, "a file", _NO_FILE[error.errno]) from error
        raise


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises RefusedFileError, StorageError."""
    with open_regular(path, limit) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size)
    if len(data) != size:
        raise refused(path, f"{size:,} bytes", f"{len(data):,} bytes")
    return data


# JSON


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """`value` as JSON, spelled in one way only: keys sorted, indented by two, ASCII, a newline at the end.

    Raises ValueError for numbers that are not finite, TypeError for what JSON has no word for, keys included.
    """
    _require_text_keys(value)
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def parse_json(data: bytes, name: str | os.PathLike[str], max_depth: int = 20) -> dict[str, Any]:
    """The object that `data` holds in strict JSON: UTF-8, no key twice, finite numbers, at most `max_depth` deep.

    `name` says in the RefusedFileError what was read.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise refused(name, "strict JSON", str(error)[:200]) from error
    if not isinstance(value, dict):
        raise refused(name, "a JSON object", f"a {type(value).__name__}")
    if _is_deeper(value, max_depth):
        raise refused(name, f"JSON nested at most {max_depth} deep", "more")
    return value


def read_json(path: str | os.PathLike[str], max_bytes: int = 1 << 20, max_depth: int = 20) -> dict[str, Any]:
    """The object in a file of strict JSON, see `parse_json`. Raises RefusedFileError, StorageError."""
    return parse_json(read_bytes(path, max_bytes), path, max_depth)


def _require_text_keys(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"JSON needs keys that are strings, got {key!r}")
            _require_text_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_text_keys(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]}")
    return number


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(item, depth - 1) for item in items)
