"""Faults for tests of storage: system calls that fail or kill the process at the n-th call, and damage to files."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate")
"""The system calls through which the package changes the disk."""

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


class Sweep:
    """Whether the fault was reached, so that a sweep over n knows when it is past the last call."""

    def __init__(self) -> None:
        self.calls = 0
        self.fired = False


@contextlib.contextmanager
def at_call(n: int, act: Callable[[str], None], *, lasting: bool = False) -> Iterator[Sweep]:
    """Run `act(name)` instead of the n-th call, counted from 1 over all of CALLS, or from the n-th on (`lasting`)."""
    sweep = Sweep()

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            sweep.calls += 1
            if sweep.calls == n or (lasting and sweep.calls > n):
                sweep.fired = True
                act(name)
            return original(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        yield sweep


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A temporary folder, in memory where there is such a file system: a sweep syncs thousands of times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def fail(code: int) -> Callable[[str], None]:
    """An act that raises the OSError `code`."""

    def act(name: str) -> None:
        raise OSError(code, os.strerror(code), name)

    return act


def kill(_: str) -> None:
    """An act that ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(body: Callable[[], None]) -> int:
    """Run `body` in a forked process, wait, and return 0, 1 where it raised, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            body()
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_call(n: int, body: Callable[[], None]) -> bool:
    """Run `body` in a process that is killed at its n-th system call; False where it ends before."""

    def fatal() -> None:
        with at_call(n, kill):
            body()

    status = in_child(fatal)
    assert status in (0, -signal.SIGKILL), "the process failed by itself"
    return status != 0


def _flip(position: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position(len(data))] ^= 0x10
        path.write_bytes(data)

    return damage


def _cut(length: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: length(len(data))])

    return damage


def _zero_block(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(len(data[middle : middle + 4096]))
    path.write_bytes(data)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def _folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _link_to_itself_elsewhere(path: Path) -> None:
    """The right bytes behind a link: refused all the same, since a link can lead out of the folder."""
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flip first byte": _flip(lambda size: 0),
    "flip middle byte": _flip(lambda size: size // 2),
    "flip last byte": _flip(lambda size: size - 1),
    "truncate to 0": _cut(lambda size: 0),
    "truncate to 1": _cut(lambda size: 1),
    "truncate to 8": _cut(lambda size: 8),
    "truncate to half": _cut(lambda size: size // 2),
    "truncate by 1": _cut(lambda size: size - 1),
    "append a byte": _append,
    "zero a block": _zero_block,
    "delete": Path.unlink,
    "folder instead": _folder_instead,
    "link loop": _link_loop,
    "link out": _link_to_itself_elsewhere,
    "pipe instead": _pipe_instead,
}
"""What can happen to a file, by name."""
